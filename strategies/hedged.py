"""Hedged PEARL: PEARL (arXiv 2408.11850) with several fresh windows, one for each likely first token.

PEARL's fresh window begins with a guess of the target's next token, and is lost if the target rejects it. Here the draft
prepares a window behind each of the `fan_out` likeliest ones, all in the same steps, and the target samples its own. If it is
one of them, its window is pending next. This is a `Fork` at one position, after all pending guesses; SpecBranch (arXiv
2506.01979) branches there too, and its released code chooses the branch by `p`, which biases the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import AnyDraftLength, Both, Costs, DraftingStrategy, Fork, Program, Score, State, Verify
from specdec.inputs import at_least_one


@dataclass(frozen=True)
class Hedged(DraftingStrategy):
    """Draft and verify at the same time; hedge the first fresh token by `fan_out` branches of `draft_length` tokens."""

    name: ClassVar[str] = "hedged"
    draft_length: AnyDraftLength = 4
    fan_out: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(fan_out=self.fan_out)

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        """A forked token is assumed to be the target's as often as a guess is accepted."""
        hit = 1 - (1 - acceptance) ** self.fan_out if hit is None else hit
        full = hit / (1 + hit - acceptance**length * hit)
        tokens = 1 - full + full * sum(acceptance**i for i in range(length + 1))
        seconds = [max(costs.forks(n, self.fan_out, length), costs.window(n)) for n in (0, length)]
        return tokens / ((1 - full) * seconds[0] + full * seconds[1])

    def step(self, state: State) -> Program[State]:
        at_the_end = (0,) * len(state.pending) + (self.fan_out,)
        fork = Fork(state.committed, state.pending, at_the_end, *self.policy.next(state.memory))
        scores, forks = yield from Both(Score(state.committed, state.pending), fork)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        return state.then(verdict, forks.after(verdict), self.policy.after(state.memory, verdict))
