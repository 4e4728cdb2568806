"""SVIP: end a draft where the draft model itself is uncertain (arXiv 2411.18462).

A draft ends behind a token whose row has `sqrt(weight * H(q)) > threshold`: the root bounds how far the target may be from the
draft, with the entropy `H` in nats. The doubtful token is kept, as in the release. Its weight is 0.15, its threshold 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec import DraftLength, StopRule
from specdec.inputs import between
from specdec.lengths import AboveEntropy, longest_draft


@dataclass(frozen=True, slots=True)
class Svip(DraftLength):
    """Draft up to `most` tokens; end behind a token with `sqrt(weight * H(q)) > threshold`."""

    most: int = 16
    threshold: float = 0.3
    weight: float = 0.15

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        between(0, 100, threshold=self.threshold)
        between(1e-6, 100, weight=self.weight)

    def stop(self, memory: Any) -> StopRule:
        return AboveEntropy(self.threshold**2 / self.weight)

    def length(self, memory: Any) -> int:
        return self.most
