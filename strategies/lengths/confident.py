"""End a draft behind a token that the draft itself thought unlikely: the dynamic speculation of transformers.

The threshold is fitted again after each round, to the probabilities `q` of the tokens that were accepted and of those that were
rejected: it is the point of their ROC curve with the least cost, three for an accepted token below it, one for a rejected token
above it, both as shares. Source: `AssistedCandidateGenerator.update_candidate_strategy` of transformers. There all tokens of an
answer count; here the last `samples`, so that the policy forgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType
from typing import TypeAlias

from specdec import DraftLength, LengthFacts, StopRule, Verdict
from specdec.inputs import between
from specdec.lengths import BelowConfidence, longest_draft

Memory: TypeAlias = tuple[tuple[float, bool], ...]
"""Tested tokens, the newest last: the probability `q` of each, and whether it was accepted."""

FEWEST = 6
"""Tokens that a fit needs; both kinds must be among them."""


@dataclass(frozen=True, slots=True)
class Confident(DraftLength):
    """Draft up to `most` tokens; end behind one with `q < threshold`, which is fitted to `samples` tokens (0: never)."""

    most: int = 8
    threshold: float = 0.4
    samples: int = 64

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        between(0, 2, threshold=self.threshold)
        if self.samples != 0:
            longest_draft(samples=self.samples)

    def init(self, facts: LengthFacts) -> Memory:
        return ()

    def stop(self, memory: Memory) -> StopRule:
        accepted = [q for q, passed in memory if passed]
        rejected = [q for q, passed in memory if not passed]
        if len(memory) < FEWEST or not (accepted and rejected):
            return BelowConfidence(self.threshold)

        def cost(threshold: float) -> float:
            kept_in_vain = sum(q >= threshold for q in rejected) / len(rejected)
            return kept_in_vain + 3 * sum(q < threshold for q in accepted) / len(accepted)

        return BelowConfidence(min(sorted({q for q, _ in memory}, reverse=True), key=cost))

    def length(self, memory: Memory) -> int:
        return self.most

    def update(self, memory: Memory, verdict: Verdict) -> Memory:
        if not self.samples:
            return memory
        tested = enumerate(verdict.guess.drafted[: verdict.accepted + 1])
        known = [(one, i < verdict.accepted) for i, one in tested if not isinstance(one.q, (str, NoneType))]
        return (*memory, *[(float(one.q[one.token]), passed) for one, passed in known])[-self.samples :]
