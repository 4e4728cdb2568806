"""Autoregressive decoding: one token for each forward of the target. All other strategies must have its law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import DecodingStrategy, Guess, Program, Score, State, Verify


@dataclass(frozen=True)
class Autoregressive(DecodingStrategy):
    """Sample each token from the target."""

    name: ClassVar[str] = "autoregressive"
    drafts: ClassVar[bool] = False

    def step(self, state: State) -> Program[State]:
        scores = yield from Score(state.committed, Guess.empty)
        verdict = yield from Verify(scores, Guess.empty, bonus=True)
        return state.then(verdict)
