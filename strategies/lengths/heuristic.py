"""The heuristic of transformers: two tokens more after a full acceptance, else one less.

Source: `AssistedCandidateGenerator.update_candidate_strategy` of transformers, schedule `"heuristic"`. There the length has no
upper bound. Here it has one, as in the release of SVIP (arXiv 2411.18462): so memories are finitely many, and can be compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from specdec import DraftLength, LengthFacts, Verdict
from specdec.inputs import at_least_one
from specdec.lengths import longest_draft


@dataclass(frozen=True, slots=True)
class Heuristic(DraftLength):
    """Begin with `first` tokens; two more after a full acceptance, at most `most`; else one less, at least 1."""

    first: int = 5
    most: int = 20

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        at_least_one(first=self.first)

    def init(self, facts: LengthFacts) -> int:
        return min(self.first, self.most)

    def length(self, memory: int) -> int:
        return memory

    def update(self, memory: int, verdict: Verdict) -> int:
        return min(memory + 2, self.most) if verdict.complete else max(memory - 1, 1)
