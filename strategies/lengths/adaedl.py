"""AdaEDL: end a draft where a bound on the acceptance of the next token is low (arXiv 2410.18351).

The bound is `1 - sqrt(weight * H(q))`, with the entropy `H` of the draft's row in nats and a weight of 0.2. A draft ends behind
a token with a bound below a limit (the paper's lambda). The limit follows the acceptance rate, as in Draft & Verify (arXiv
2309.08168, and its release): it rises by a tenth of `step` while the smoothed rate is below `target`, and falls by as much
above; a draft that reached its full length does not lower it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from specdec import DraftLength, LengthFacts, StopRule, Verdict
from specdec.inputs import between
from specdec.lengths import AboveEntropy, longest_draft

Memory: TypeAlias = tuple[float, float]
"""The limit, and the smoothed acceptance rate."""


@dataclass(frozen=True, slots=True)
class AdaEdl(DraftLength):
    """Draft up to `most` tokens; end behind a token with a bound below the limit, which begins at `limit`."""

    most: int = 16
    limit: float = 0.4
    target: float = 0.9
    step: float = 0.01
    weight: float = 0.2

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        between(0, 1, limit=self.limit, target=self.target, step=self.step)
        between(1e-6, 100, weight=self.weight)

    def init(self, facts: LengthFacts) -> Memory:
        return self.limit, 0.0

    def stop(self, memory: Memory) -> StopRule:
        return AboveEntropy(max(0.0, 1 - memory[0]) ** 2 / self.weight)

    def length(self, memory: Memory) -> int:
        return self.most

    def update(self, memory: Memory, verdict: Verdict) -> Memory:
        tested = len(verdict.guess)
        limit, rate = memory[0], 0.5 * memory[1] + 0.5 * verdict.accepted / tested
        change = 1 if rate < self.target else 0 if tested >= self.most else -1
        return 0.9 * limit + 0.1 * (limit + change * self.step), rate
