"""Compute the best length from counted acceptance: the highest closed form of the strategy that drafts.

Each round tells how many guesses were accepted, and whether one was rejected. Both counts fade by a factor `fading` a round, so
that a change of the text is noticed within about `1 / (1 - fading)` rounds. Their ratio estimates the acceptance rate (maximum
likelihood). The length is the one with the highest `closed_form` of the strategy at that rate and the measured speed ratio.
Source of the choice: Leviathan et al. (arXiv 2211.17192), section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from specdec import DraftLength, LengthFacts, Verdict
from specdec.inputs import between
from specdec.lengths import longest_draft

Memory: TypeAlias = tuple[tuple[int, ...], float, float]
"""The best length at each rate of the grid, and the faded counts of accepted guesses and of tested ones."""

GRID = 40
"""Steps of the grid of acceptance rates."""


@dataclass(frozen=True, slots=True)
class ClosedForm(DraftLength):
    """Draft as many tokens, up to `most`, as are best at the counted acceptance; begin as at the rate `first`."""

    most: int = 16
    first: float = 0.7
    fading: float = 0.95

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        between(0, 1, first=self.first)
        between(0.5, 1, fading=self.fading)

    def init(self, facts: LengthFacts) -> Memory:
        def best(rate: float) -> int:
            return max(range(1, self.most + 1), key=lambda length: facts.closed_form(rate, length))

        return tuple(best(step / GRID) for step in range(GRID + 1)), self.first, 1.0

    def length(self, memory: Memory) -> int:
        best, accepted, tested = memory
        return best[round(GRID * accepted / tested)]

    def update(self, memory: Memory, verdict: Verdict) -> Memory:
        best, accepted, tested = memory
        new = verdict.accepted + (not verdict.complete)
        if not new:
            return memory
        return best, self.fading * accepted + verdict.accepted, self.fading * tested + new
