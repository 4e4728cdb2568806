"""Facts, which a strategy starts from, and its frozen state, which it carries from round to round."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from specdec.effects import Committed, Guess, Verdict

SPEED_RATIO = 3.0
"""The speed ratio where nothing is measured. Only strategies with `draft_length="auto"` ask for it."""


class Facts(Protocol):
    """What a strategy may know before it starts."""

    def speed_ratio(self) -> float:
        """`c` = target step time / draft step time (PEARL's convention). A `Pair` measures it when it is first asked."""
        ...


class KnownFacts:
    """Facts that are given, not measured."""

    def __init__(self, speed_ratio: float = SPEED_RATIO) -> None:
        self._speed_ratio = speed_ratio

    def speed_ratio(self) -> float:
        """The ratio that was given."""
        return self._speed_ratio


@dataclass(frozen=True, slots=True)
class State:
    """What a strategy keeps between two rounds.

    `committed`   the prompt, and all tokens that verdicts brought
    `pending`     guesses that follow it and are not verified yet
    `memory`      what the draft-length policy remembers

    A strategy that needs more defines a frozen dataclass of its own, with a field `committed`.
    """

    committed: Committed
    pending: Guess = Guess.empty
    memory: Hashable = None

    def then(self, verdict: Verdict, pending: Guess = Guess.empty, memory: Hashable = None) -> State:
        """The state after `verdict`: its tokens are committed; nothing is pending or remembered unless given."""
        return State(self.committed + verdict.tokens, pending, memory)
