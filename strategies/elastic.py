"""Elastic PEARL: PEARL (Liu et al., ICLR 2025, arXiv 2408.11850) without a draft length.

The draft goes on after the pending window until the target answers. The tokens that it made by then are the fresh window. So
neither model has to be measured, and a longer target forward gets a longer draft. Since the clock decides how many these are,
the same seed may give other tokens; their law stays the target's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import DecodingStrategy, Draft, Guess, Program, Race, Score, State, Verify
from specdec.lengths import longest_draft


@dataclass(frozen=True)
class Elastic(DecodingStrategy):
    """Draft until the target answers, at most `most_drafted` tokens; verify as PEARL does."""

    name: ClassVar[str] = "elastic"
    most_drafted: int = 16

    def __post_init__(self) -> None:
        longest_draft(most_drafted=self.most_drafted)

    def step(self, state: State) -> Program[State]:
        drafting = Draft(state.committed, state.pending, self.most_drafted)
        scores, fresh = yield from Race(Score(state.committed, state.pending), drafting)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)
