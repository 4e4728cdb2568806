"""What a strategy starts from and carries from round to round: facts, and a frozen state."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from specdec.effects import Committed, Guess, Verdict


class Facts(Protocol):
    """What a strategy may know before it starts."""

    def speed_ratio(self) -> float:
        """`c` = target step time / draft step time (PEARL's convention). A `Pair` measures it when it is first asked."""
        ...


class KnownFacts:
    """Facts that are simply given."""

    def __init__(self, speed_ratio: float = 3.0) -> None:
        self._speed_ratio = speed_ratio

    def speed_ratio(self) -> float:
        """The ratio that was given."""
        return self._speed_ratio


@dataclass(frozen=True, slots=True)
class State:
    """Between two rounds: what is committed, what is guessed beyond it, and what the draft-length policy remembers.

    A strategy that needs more defines its own frozen dataclass with a field `committed`.
    """

    committed: Committed
    pending: Guess = Guess.empty
    memory: Hashable = None

    def then(self, verdict: Verdict, pending: Guess = Guess.empty, memory: Hashable = None) -> State:
        """The state after `verdict`."""
        return State(self.committed + verdict.tokens, pending, memory)
