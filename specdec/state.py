"""Facts, which a strategy starts from, and its frozen state, which it carries from round to round."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from specdec.effects import Committed, Guess, Verdict

SPEED_RATIO = 3.0
"""The speed ratio where nothing is measured. Only strategies with `draft_length="auto"` ask for it."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What work takes, for closed forms. Its unit is a step of the target: a forward over one position.

    `speed_ratio`   `c`: plain steps of the draft that take as long
    `guess`         what each guess adds to a forward of the target
    `branch`        what each branch but the first adds to a step of a fork, in plain steps of the draft; and what each guess
                    adds to the forward that a fork begins with
    `fork`          what a fork behind no guess takes before its first token, in plain steps: a forward, and what is around it
    """

    speed_ratio: float = SPEED_RATIO
    guess: float = 0.0
    branch: float = 0.0
    fork: float = 1.0

    def window(self, guesses: int) -> float:
        """A forward over so many guesses, and the position before them."""
        return 1 + self.guess * guesses

    def draft(self, tokens: int) -> float:
        """A draft of so many tokens."""
        return tokens / self.speed_ratio

    def forks(self, guesses: int, branches: int, tokens: int) -> float:
        """A fork behind so many guesses, of so many branches, with so many tokens each."""
        return (self.fork + self.branch * guesses + tokens * (1 + self.branch * (branches - 1))) / self.speed_ratio


class Facts(Protocol):
    """What a strategy may know before it starts."""

    def speed_ratio(self) -> float:
        """`c` = target step time / draft step time (PEARL's convention). A `Pair` measures it when it is first asked."""
        ...

    def costs(self) -> Costs:
        """What work takes, for closed forms. A `Pair` measures it when it is first asked."""
        ...


class KnownFacts:
    """Facts that are given, not measured. Without `costs`, windows and branches cost what a step does."""

    def __init__(self, speed_ratio: float = SPEED_RATIO, costs: Costs | None = None) -> None:
        self._speed_ratio, self._costs = speed_ratio, costs or Costs(speed_ratio)

    def speed_ratio(self) -> float:
        """The ratio that was given."""
        return self._speed_ratio

    def costs(self) -> Costs:
        """Those that were given."""
        return self._costs


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
