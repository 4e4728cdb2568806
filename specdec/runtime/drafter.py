"""The drafter: whatever answers the requests to the draft's lane. `Worker` is one model; others may be made of several.

A lane makes its drafter from a `NewDrafter`, a value that can be pickled, since a process lane makes it in another process.
A drafter holds no strategy, and draws no random numbers: requests bring them. The rules that its answers obey:

1. Texts are whole contexts in the target's tokens, and so are its answers. What it reads instead is its own affair.
2. `Drafting.q` has the rows over the target's vocabulary that the tokens were really sampled from. Tokens that were computed
   are `certain` and have none.
3. A token may depend on the text, on earlier tokens and on the request's own uniforms, and on nothing else of the target's.

Heads on the target's states (EAGLE, MTP) were held against this interface on paper. They need what the target's last forward
computed: hidden states of one or more layers, for each position since the last request. `ScoreRequest` would ask for them,
`Scoring` would carry them beside `p`, and `sides.DraftSide` would hand on those of the slot in one more field of `DraftRequest`
and `ForkRequest`, as a tensor of shape (positions, width). `begin` gets those of the prompt the same way, so the target's
`begin` must come first. The states of tokens that were rejected are cut off by the context, as caches are. A head shares the
target's embedding and output matrix, so its `NewDrafter` holds the target too, and it works inline or in a thread. The methods
stay as they are. Under `Both` and `Race` the states are a round old: what such a head loses there is the strategy's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from transformers import PreTrainedModel

from specdec.runtime.messages import Drafting, DraftRequest, Forking, ForkRequest
from specdec.sampling import Sampling


class Drafter(Protocol):
    """Drafts for the decodes of one batch at a time.

    `asks_mode`  whether modules of its models are called, whose answer depends on their mode (training or evaluation)
    """

    asks_mode: bool

    @property
    def why_eager(self) -> str | None:
        """Why forwards are transformers' own, launched operation by operation; `None` where they are not."""
        ...

    def begin(self, sampling: Sampling, prompt: Sequence[int], slot: int = 0, size: int = 1) -> None:
        """Start a sequence in one of `size` slots. Another `size` than before ends all sequences."""
        ...

    def draft(self, requests: Sequence[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        """Continue every context. A racing draft ends with the token in progress once the target has `answered`."""
        ...

    def fork(self, requests: Sequence[ForkRequest]) -> list[Forking]:
        """Prepare branches for every request. A drafter that cannot raises a `StrategyError` that names what can."""
        ...

    def branch(self, slot: int, number: int, branch: int) -> list[Drafting]:
        """A branch of the slot's newest fork, which has that number, with its rows."""
        ...

    def forget(self) -> None:
        """Empty the caches."""
        ...


class NewDrafter(Protocol):
    """What a lane makes its drafter from. It can be pickled, if a process lane is to take it.

    `models`       all models at work. The lane goes by the device of the first; `Pair` watches each for changes
    `vocabulary`   entries of a row: the target's tokens
    """

    @property
    def models(self) -> tuple[PreTrainedModel, ...]: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def why_eager(self) -> str | None:
        """What the drafter will answer, before it is made."""
        ...

    def __call__(self) -> Drafter: ...
