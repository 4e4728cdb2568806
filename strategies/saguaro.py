"""Saguaro (SSD): speculation about the verification (arXiv 2603.03251).

While the target verifies the pending window, the draft prepares a continuation for each likely *outcome*: how many guesses are
accepted, and which token the target adds. If the outcome was foreseen, the next window is ready at once, and the bonus token of
speculative decoding is kept. If not, there is nothing to verify: the draft makes a window now, or the next round has none.

The continuation is chosen by the outcome alone, whichever outcomes are foreseen. So each of its tokens has the law `q` that it
was sampled from, and the output law is the target's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import AnyDraftLength, Both, Draft, DraftingStrategy, Fork, Guess, InputError, Program, Score, State, Verify
from specdec.inputs import at_least_one

ON_A_MISS = ("draft", "none")


@dataclass(frozen=True)
class Saguaro(DraftingStrategy):
    """Prepare `draft_length` tokens behind the `fan_out` likeliest tokens after each number of accepted guesses.

    `on_a_miss`   `"draft"`: draft at once, while the target waits; `"none"`: go on with an empty window
    """

    name: ClassVar[str] = "saguaro"
    draft_length: AnyDraftLength = 4
    fan_out: int = 2
    on_a_miss: str = "draft"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(fan_out=self.fan_out)
        if self.on_a_miss not in ON_A_MISS:
            raise InputError(f"on_a_miss {self.on_a_miss!r} is not possible: give one of {', '.join(ON_A_MISS)}")

    def step(self, state: State) -> Program[State]:
        length = self.policy.length(state.memory)
        fork = Fork(state.committed, state.pending, self.fan_out, length)
        scores, forks = yield from Both(Score(state.committed, state.pending), fork)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        after = state.then(verdict, forks.after(verdict), self.policy.update(state.memory, verdict))
        if after.pending or self.on_a_miss == "none":
            return after
        return State(after.committed, (yield from Draft(after.committed, Guess.empty, length)), after.memory)
