"""Speculative decoding whose draft is halved after a rejection and grows by a token when all of it was accepted.

The rule is that of TCP's congestion window (Jacobson 1988): probe gently, retreat fast. It needs no measurement: where the
draft agrees with the target the window grows, where it does not it soon is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from specdec import Committed, DecodingStrategy, Draft, Facts, Guess, InputError, Program, Score, Verify


@dataclass(frozen=True)
class Window:
    """What is carried from round to round: the text, and how many tokens to draft next."""

    committed: Committed
    length: int


@dataclass(frozen=True)
class Backoff(DecodingStrategy):
    """Draft `first` tokens, then half as many or one more, never above `most`."""

    name: ClassVar[str] = "backoff"
    first: int = 4
    most: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.most:
            raise InputError(f"first {self.first} and most {self.most} do not fit: give 1 <= first <= most")

    def init(self, prompt: Committed, facts: Facts) -> Window:
        return Window(prompt, self.first)

    def step(self, state: Window) -> Program[Window]:
        guess = yield from Draft(state.committed, Guess.empty, state.length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        length = min(state.length + 1, self.most) if verdict.complete else max(state.length // 2, 1)
        return Window(state.committed + verdict.tokens, length)
