"""Elastic PEARL: PEARL (Liu et al., ICLR 2025, arXiv 2408.11850) without a draft length.

While the target scores the pending window, the draft goes on after it until the target answers. The tokens made by then are the
fresh window. So no speed has to be measured, and a longer forward of the target gets a longer draft.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import DecodingStrategy, Draft, Guess, Program, Race, Score, State, Verify
from specdec.inputs import at_least_one


@dataclass(frozen=True)
class Elastic(DecodingStrategy):
    """Draft until the target answers, at most `most_drafted` tokens; verify as PEARL does."""

    name: ClassVar[str] = "elastic"
    most_drafted: int = 16

    def __post_init__(self) -> None:
        at_least_one(most_drafted=self.most_drafted)

    def step(self, state: State) -> Program[State]:
        drafting = Draft(state.committed, state.pending, self.most_drafted)
        scores, fresh = yield from Race(Score(state.committed, state.pending), drafting)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)
