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

from specdec import AnyDraftLength, Both, Costs, Draft, DraftingStrategy, Fork, Guess, InputError, Program, Score, State, Verify
from specdec.inputs import at_least_one

ON_A_MISS = ("draft", "none")

RANK_AFTER_REJECTION = 0.6
"""Chance of each further token after a rejection: the bundled pair's, greedy."""


@dataclass(frozen=True)
class Saguaro(DraftingStrategy):
    """Prepare `draft_length` tokens behind the `fan_out` likeliest tokens after each number of accepted guesses.

    `on_a_miss`   `"draft"`: draft at once, while the target waits; `"none"`: go on with an empty window
    """

    name: ClassVar[str] = "saguaro"
    draft_length: AnyDraftLength = 4
    fan_out: int = 3
    on_a_miss: str = "draft"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(fan_out=self.fan_out)
        if self.on_a_miss not in ON_A_MISS:
            raise InputError(f"on_a_miss {self.on_a_miss!r} is not possible: give one of {', '.join(ON_A_MISS)}")

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        """What a fork foresees is assumed as the simulator does without a measured `Foresight`."""
        complete, after_all = acceptance**length, 1 - (1 - acceptance) ** self.fan_out
        if hit is None:
            hit = complete * after_all + (1 - complete) * (1 - (1 - RANK_AFTER_REJECTION) ** self.fan_out)
        full = sum(acceptance**i for i in range(length + 1))
        seconds = max(costs.forks(length, self.fan_out * (length + 1), length), costs.window(length))
        if self.on_a_miss == "draft":
            return full / (seconds + (1 - hit) * costs.draft(length))
        share = after_all / (1 + after_all - hit)  # of rounds that have a window
        return (1 - share + share * full) / ((1 - share) * max(costs.forks(0, self.fan_out, length), 1) + share * seconds)

    def step(self, state: State) -> Program[State]:
        length, stop = self.policy.next(state.memory)
        fork = Fork(state.committed, state.pending, self.fan_out, length, stop)
        scores, forks = yield from Both(Score(state.committed, state.pending), fork)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        after = state.then(verdict, forks.after(verdict), self.policy.update(state.memory, verdict))
        if after.pending or self.on_a_miss == "none":
            return after
        return State(after.committed, (yield from Draft(after.committed, Guess.empty, length, stop)), after.memory)
