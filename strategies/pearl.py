"""PEARL: parallel speculative decoding with adaptive draft length (Liu et al., ICLR 2025, arXiv 2408.11850).

Draft and target do not take turns. While the target scores the pending window, the draft goes on behind it:

* *pre-verify* (section 4.1): nothing is pending, so the target's one row tests the first token being drafted;
* *post-verify* (section 4.2): the window drafted before is tested, and the first fresh token behind it with the last row.

Both are the same round, with an empty or a non-empty pending window. After a rejection everything unverified is dropped and
the next round is a pre-verify; after acceptance the draft has never stopped, so a run of accepted tokens may be of any
length. There is no bonus token: the target's last row was spent on the first fresh token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import Both, DraftingStrategy, Guess, Program, Score, State, Verify


@dataclass(frozen=True)
class Pearl(DraftingStrategy):
    """Draft and verify at the same time. `draft_length="auto"` is the speed ratio: neither model waits (section 4.3)."""

    name: ClassVar[str] = "pearl"

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from Both(Score(state.committed, state.pending), self.policy.draft(state))
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        pending = fresh[1:] if verdict.complete else Guess.empty
        return state.then(verdict, pending, self.policy.update(state.memory, verdict))
