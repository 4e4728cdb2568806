"""Facts, which a strategy starts from, and its frozen state, which it carries from round to round."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specdec.effects import Committed, Guess, Verdict
from specdec.errors import InputError

SPEED_RATIO = 3.0
"""The speed ratio where nothing is measured. Only strategies with `draft_length="auto"` ask for it."""


Curve: TypeAlias = tuple[tuple[int, float], ...]
"""What work takes by a number, such as positions: (number, time), numbers rising. It is linear between two points. Beyond the
last it goes on as between the last two, but does not fall."""

POSITIONS = (1, 2, 5, 9)
"""Positions of a forward of the target that are measured for `Costs`."""

BRANCHES = (3, 9, 18)
"""Branches of a fork that are measured for `Costs`: those of three foreseen tokens behind 1, 3 and 6 prefixes."""


def on_curve(points: Curve, numbers: ArrayLike) -> NDArray[np.float64]:
    """What work takes at each of the numbers."""
    known, times = np.array(points).T
    slope = max(0.0, (times[-1] - times[-2]) / (known[-1] - known[-2])) if len(points) > 1 else 0.0
    at = np.asarray(numbers, float)
    return np.interp(at, known, times) + slope * np.maximum(0.0, at - known[-1])


@lru_cache(1 << 14)  # not without end: each decode corrects the curves
def _at(points: Curve, number: int) -> float:
    return float(on_curve(points, number))


@dataclass(frozen=True, slots=True)
class Costs:
    """What work takes, for closed forms. Its unit is a step of the target: a forward over one position.

    `speed_ratio`   `c`: plain steps of the draft that take as long
    `windows`       a forward of the target, by its positions
    `branches`      a step of a fork, in plain steps of the draft, by its branches; and the forward that a fork begins with, by
                    its positions
    `fork`          what a fork behind no guess takes before its first token, in plain steps: a forward, and what is around it

    Raises `InputError` for a curve without points, or with numbers that do not rise.
    """

    speed_ratio: float = SPEED_RATIO
    windows: Curve = ((1, 1.0),)
    branches: Curve = ((1, 1.0),)
    fork: float = 1.0

    def __post_init__(self) -> None:
        for name, points in (("windows", self.windows), ("branches", self.branches)):
            if not points or any(one >= two for (one, _), (two, _) in pairwise(points)):
                raise InputError(f"{name} {points} is no curve: give (number, time) pairs, at least one, with rising numbers")

    def window(self, guesses: int) -> float:
        """A forward over so many guesses, and the position before them."""
        return _at(self.windows, guesses + 1)

    def draft(self, tokens: int) -> float:
        """A draft of so many tokens."""
        return tokens / self.speed_ratio

    def forks(self, guesses: int, branches: int, tokens: int) -> float:
        """A fork behind so many guesses, of so many branches, with so many tokens each."""
        begun = self.fork + _at(self.branches, guesses + 1) - _at(self.branches, 1)
        return (begun + tokens * _at(self.branches, branches)) / self.speed_ratio


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
