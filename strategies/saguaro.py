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
from specdec.acceptance import RANK_AFTER_REJECTION, divided
from specdec.inputs import at_least_one

ON_A_MISS = ("draft", "none")

POWER = 0.8
"""How fast misses become rare with foreseen tokens: the bundled pair's after a rejection, greedy."""


@dataclass(frozen=True)
class Saguaro(DraftingStrategy):
    """Prepare `draft_length` tokens behind the `fan_out` likeliest tokens after each number of accepted guesses.

    `on_a_miss`   `"draft"`: draft at once, while the target waits; `"none"`: go on with an empty window
    `expected`    an acceptance rate: as many branches in all are divided by position as SSD does; 0: equally many for each
    """

    name: ClassVar[str] = "saguaro"
    draft_length: AnyDraftLength = 4
    fan_out: int = 3
    on_a_miss: str = "draft"
    expected: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(fan_out=self.fan_out)
        if not (isinstance(self.expected, (int, float)) and 0 <= self.expected < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"expected {self.expected!r} is not possible: give an acceptance rate below 1, or 0 for none")
        if self.on_a_miss not in ON_A_MISS:
            raise InputError(f"on_a_miss {self.on_a_miss!r} is not possible: give one of {', '.join(ON_A_MISS)}")

    def fan_outs(self, window: int) -> tuple[int, ...]:
        """How many tokens are foreseen after 0, 1, ... `window` accepted guesses."""
        if not self.expected:
            return (self.fan_out,) * (window + 1)
        return divided(self.fan_out * (window + 1), window, self.expected, POWER)

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        """What a fork foresees is assumed as the simulator does without a measured `Foresight`."""
        if hit is None:
            *behind, last = self.fan_outs(length)
            corrected = sum(acceptance**j * (1 - (1 - RANK_AFTER_REJECTION) ** number) for j, number in enumerate(behind))
            hit = acceptance**length * (1 - (1 - acceptance) ** last) + (1 - acceptance) * corrected
        full = sum(acceptance**i for i in range(length + 1))
        seconds = max(costs.forks(length, sum(self.fan_outs(length)), length), costs.window(length))
        if self.on_a_miss == "draft":
            return full / (seconds + (1 - hit) * costs.draft(length))
        begun = 1 - (1 - acceptance) ** self.fan_out
        share = begun / (1 + begun - hit) if begun else 0.0  # of rounds that have a window
        return (1 - share + share * full) / ((1 - share) * max(costs.forks(0, self.fan_out, length), 1) + share * seconds)

    def step(self, state: State) -> Program[State]:
        length, stop = self.policy.next(state.memory)
        fork = Fork(state.committed, state.pending, self.fan_outs(len(state.pending)), length, stop)
        scores, forks = yield from Both(Score(state.committed, state.pending), fork)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        after = state.then(verdict, forks.after(verdict), self.policy.after(state.memory, verdict))
        if after.pending or self.on_a_miss == "none":
            return after
        return State(after.committed, (yield from Draft(after.committed, Guess.empty, length, stop)), after.memory)
