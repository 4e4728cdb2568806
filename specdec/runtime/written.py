"""String-level exact match (SLEM): a draft of another family writes text, which the target's tokenizer cuts into tokens.

These tokens are certain guesses. The token rule accepts each with probability `p`, whatever wrote it, so the output law is the
target's as long as nothing that wrote it looked at the verification's random numbers. The draft writes greedily here: it uses
no random numbers at all, and its likeliest text is the best guess. Source: Timor et al. 2025, arXiv 2502.05202, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from specdec.errors import StrategyError
from specdec.runtime.cache import context_limit
from specdec.runtime.messages import Drafting, DraftRequest, Forking, ForkRequest
from specdec.runtime.translation import Reader, Vocabularies
from specdec.runtime.vocabulary import embedding_size
from specdec.runtime.worker import NewWorker, Worker
from specdec.sampling import Sampling


class TextDrafter:
    """A `Drafter` by a model with tokens of its own, of which any may differ from the target's.

    A request for `length` tokens is answered by the text of `length` tokens of the draft's, cut after `length` of the target's.
    A stop rule sees the draft's own rows and tokens. Logits processors do not reach the draft: they count in target tokens.
    """

    def __init__(self, worker: Worker, limit: int, known: int, vocabularies: Vocabularies) -> None:
        self._worker, self._limit, self._vocabularies = worker, limit, vocabularies
        self._reader = Reader(vocabularies, max(1, limit - limit // 8), known)  # so that a draft fits behind what it reads
        self.asks_mode = worker.asks_mode

    @property
    def why_eager(self) -> str | None:
        """That of the model."""
        return self._worker.why_eager

    def begin(self, sampling: Sampling, prompt: Sequence[int], slot: int = 0, size: int = 1) -> None:
        """Start a sequence. Its sampling is the target's affair."""
        self._worker.begin(Sampling(temperature=0), self._reader.read(slot, prompt) if prompt else (), slot, size)

    def draft(self, requests: Sequence[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        """Continue every text."""
        own: list[DraftRequest] = []
        for one in requests:
            context = self._reader.read(one.slot, one.context)
            own.append(one._replace(context=context, length=min(one.length, self._limit - len(context)), uniforms=()))
        return [self._translated(one, found) for one, found in zip(requests, self._worker.draft(own, answered), strict=True)]

    def _translated(self, request: DraftRequest, found: Drafting) -> Drafting:
        spelling, ends = self._vocabularies.draft, self._vocabularies.target.ends
        end = next((i for i, token in enumerate(found.tokens) if token in spelling.special), len(found.tokens))
        text = b"".join([spelling.tokens.get(token, b"") for token in found.tokens[:end]])
        tokens = self._vocabularies.continued(request.context, text)
        if ends is not None and found.tokens[end : end + 1] == [spelling.ends]:
            tokens.append(ends)
        return Drafting(tokens[: request.length], None, found.busy_seconds, found.failure, certain=True)

    def fork(self, requests: Sequence[ForkRequest]) -> list[Forking]:
        """Refused: what the target will say is foreseen by rows over its own tokens."""
        raise StrategyError(
            "a draft that writes text foresees no tokens of the target's, which this strategy's Fork asks for: "
            "take a strategy without forks, or draft common tokens"
        )

    def branch(self, slot: int, number: int, branch: int) -> list[Drafting]:
        """There is none."""
        raise StrategyError("a draft that writes text has prepared no branch")

    def forget(self) -> None:
        """Empty the caches."""
        self._worker.forget()


@dataclass(frozen=True, eq=False)
class NewTextDrafter:
    """What a lane makes a `TextDrafter` from, as a `NewDrafter`. `vocabulary` is the target's, the worker's the draft's."""

    worker: NewWorker
    vocabulary: int
    vocabularies: Vocabularies

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """That of the worker."""
        return self.worker.models

    @property
    def why_eager(self) -> str | None:
        """What the drafter will answer."""
        return self.worker.why_eager

    def __call__(self) -> TextDrafter:
        model = self.worker.model
        return TextDrafter(self.worker(), context_limit(model), embedding_size(model), self.vocabularies)
