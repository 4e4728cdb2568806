"""PEARL: parallel speculative decoding with adaptive draft length (Liu et al., ICLR 2025, arXiv 2408.11850).

Draft and target work at the same time. While the target scores the pending window, the draft continues it with a fresh window:

* *pre-verify* (section 4.1): nothing is pending, so the target's one row tests the first fresh token;
* *post-verify* (section 4.2): the target's rows test the pending window, and the last row tests the first fresh token.

Both are the same round, with an empty or a non-empty pending window. After a rejection, all that is not verified is dropped,
and the next round is a pre-verify. After a full acceptance, the fresh window is pending next: the draft has lost no time. There
is no bonus token, since the target's last row tests the first fresh token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import Both, Costs, DraftingStrategy, Guess, Program, Score, State, Verify


@dataclass(frozen=True)
class Pearl(DraftingStrategy):
    """Draft and verify at the same time. With `draft_length="auto"`, the speed ratio, neither model waits (section 4.3)."""

    name: ClassVar[str] = "pearl"

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        post = acceptance / (1 + acceptance - acceptance**length)  # share of rounds that are a post-verify
        tokens = 1 - post + post * sum(acceptance**i for i in range(length))
        drafting = costs.draft(length)
        return tokens / ((1 - post) * max(drafting, 1) + post * max(drafting, costs.window(length - 1)))

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from Both(Score(state.committed, state.pending), self.policy.draft(state))
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        pending = fresh[1:] if verdict.complete else Guess.empty
        return state.then(verdict, pending, self.policy.after(state.memory, verdict))
