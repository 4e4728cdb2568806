"""A bandit over draft lengths: try each, and come back to those that gave most tokens for the time (arXiv 2505.15141, UCBSpec).

Length `g` is an arm. Its reward is tokens per second of a round, whose seconds follow from `g` and the speed ratio, so no clock
is needed. The next length has the highest `mean + sqrt(exploration * ln(rounds) / plays)`, where `plays` counts the arm's own
rounds. The release divides by the rounds of *all* arms, so that its bonus is the same for all, and it never explores again.
Rewards are shares of the best that any arm could give, by the seconds of a round without an accepted guess: about 0 to 1.

A round's arm is the length of the guess that it tested. A strategy that drafts while it verifies tests what it drafted a round
before, or one token alone after a rejection.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import TypeAlias

from specdec import DraftLength, LengthFacts, Verdict
from specdec.inputs import between
from specdec.lengths import longest_draft

Arm: TypeAlias = tuple[float, int, int]
"""Reward of one token in a round of this length, rounds of this length, and tokens of those rounds."""


@dataclass(frozen=True, slots=True)
class Bandit(DraftLength):
    """Learn which length from 1 to `most` pays; a higher `exploration` tries the others more often."""

    most: int = 8
    exploration: float = 0.02

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        between(0, 100, exploration=self.exploration)

    def init(self, facts: LengthFacts) -> tuple[Arm, ...]:
        lengths = range(1, self.most + 1)
        best = max(facts.closed_form(1.0, length) for length in lengths)
        # where nothing is accepted, a round commits one token, and the closed form is rounds for each step of the target
        return tuple((facts.closed_form(0.0, length) / best, 0, 0) for length in lengths)

    def length(self, memory: tuple[Arm, ...]) -> int:
        rounds = sum(plays for _, plays, _ in memory)

        def score(length: int) -> float:
            worth, plays, tokens = memory[length - 1]
            return worth * tokens / plays + sqrt(self.exploration * log(rounds) / plays) if plays else float("inf")

        return max(range(1, self.most + 1), key=score)

    def update(self, memory: tuple[Arm, ...], verdict: Verdict) -> tuple[Arm, ...]:
        index = min(len(verdict.guess), self.most) - 1
        worth, plays, tokens = memory[index]
        return (*memory[:index], (worth, plays + 1, tokens + len(verdict.tokens)), *memory[index + 1 :])
