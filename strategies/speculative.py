"""Speculative decoding: the draft guesses, then the target verifies.

Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1; Chen et al. 2023 (arXiv 2302.01318).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import AnyDraftLength, Costs, DraftingStrategy, Program, Score, State, Verify


@dataclass(frozen=True)
class Speculative(DraftingStrategy):
    """Draft `draft_length` tokens, verify them in one forward, and add a bonus token if all are accepted."""

    name: ClassVar[str] = "speculative"
    draft_length: AnyDraftLength = 4

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        return sum(acceptance**i for i in range(length + 1)) / (costs.draft(length) + costs.window(length))

    def step(self, state: State) -> Program[State]:
        guess = yield from self.policy.draft(state)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict, memory=self.policy.after(state.memory, verdict))
