"""Searches over compiled chains: the fastest of several candidates, and where another one becomes the fastest.

A candidate is a strategy at one draft length. Candidates come from a *maker*: a strategy class or another function of
`draft_length`, or a strategy object, which has no length to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.acceptance import Acceptance, Rate
from sim.setup.arrays import Floats
from sim.setup.latency import Scaled
from sim.setup.system import System
from sim.stream.chain import RATIO_3, Compiled, compile_strategy
from sim.stream.speed import long_run_speed, plain_tokens_per_second
from specdec.errors import InputError
from specdec.report import Report, named, three_digits
from specdec.strategy import DecodingStrategy

Maker: TypeAlias = "DecodingStrategy | Callable[..., DecodingStrategy]"
Varied: TypeAlias = Literal["acceptance", "speed_ratio"]
LENGTHS = range(1, 17)
HALVINGS = 24
RATES = np.linspace(0, 1, 201)[1:-1]
ROUNDING = 1e-12


@dataclass(frozen=True)
class Choice(Report):
    """A strategy at a draft length, with its speed-up.

    `strategy`          name of the strategy
    `draft_length`      tokens; `None` (null) where the strategy has none to choose
    `speedup_over_ar`   long-run speed over autoregressive decoding
    """

    strategy: str
    draft_length: int | None
    speedup_over_ar: float

    def __str__(self) -> str:
        return named(self.strategy, {"draft_length": self.draft_length})


@dataclass(frozen=True)
class Flip(Report):
    """Where the best strategy changes, when one parameter is varied and all others stay.

    `parameter`  `acceptance` (the mean rate of all guesses) or `speed_ratio` (target step over draft step)
    `at`         value of the parameter where the best strategy changes
    `below`      the best choice just below that value
    `above`      the best choice just above that value
    """

    parameter: Varied
    at: float
    below: Choice
    above: Choice

    def __str__(self) -> str:
        what = "acceptance" if self.parameter == "acceptance" else "speed ratio"
        return f"{what} {three_digits(self.at)}: {self.below} below, {self.above} above"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A strategy to compare with others.

    `name`           of the strategy, the same at all draft lengths
    `draft_length`   tokens; `None` where there is none to choose
    `strategy`       what is compiled
    `system`         what it is compiled for; a strategy whose draft races the target is compiled for other systems again
    """

    name: str
    draft_length: int | None
    strategy: DecodingStrategy
    system: System = RATIO_3

    def __str__(self) -> str:
        return named(self.name, {"draft_length": self.draft_length})

    @cached_property
    def compiled(self) -> Compiled:
        """Its chain, compiled when it is first asked for. Raises `StrategyError` for a strategy that cannot be compiled."""
        return compile_strategy(self.strategy, self.system)

    def speedup(self, acceptance: Acceptance, system: System) -> Floats:
        """Exact long-run speed over that of autoregressive decoding; an array of the grid's shape."""
        again = self.compiled.races and system is not self.system
        compiled = compile_strategy(self.strategy, system) if again else self.compiled
        return long_run_speed(compiled, acceptance, system).tokens_per_second / plain_tokens_per_second(system)


def candidates(name: str, maker: Maker, lengths: Iterable[int] = LENGTHS, system: System = RATIO_3) -> list[Candidate]:
    """A strategy at every draft length; a strategy object is one candidate. Raises `InputError` if there is no length."""
    if isinstance(maker, DecodingStrategy):
        return [Candidate(name, None, maker, system)]
    found = [Candidate(name, length, maker(draft_length=length), system) for length in lengths]
    if not found:
        raise InputError(f"no draft length to try for {name}: give at least one")
    return found


def best_of(found: Iterable[Candidate], acceptance: Acceptance, system: System) -> Choice:
    """The fastest candidate, the first of equals (up to rounding)."""
    choices = [Choice(one.name, one.draft_length, float(one.speedup(acceptance, system))) for one in found]
    return choices[first_of_fastest(np.array([choice.speedup_over_ar for choice in choices]))]


def first_of_fastest(speeds: Floats) -> Any:
    """Where the greatest speed is along the first axis: the first of equals (up to rounding)."""
    return np.argmax(speeds >= speeds.max(axis=0) * (1 - ROUNDING), axis=0)


def acceptance_flips(found: Iterable[Candidate], acceptance: Acceptance, system: System) -> list[Flip]:
    """Mean acceptance rates at which the best strategy changes; all draft lengths of a strategy count as one strategy.

    What is varied is one factor, which the odds of every guess are multiplied by: hard guesses stay harder than easy ones.
    """
    path = Rate(0.5) if isinstance(acceptance, Rate) else acceptance  # not stuck where the rate is 0 or 1
    points = RATES if len(path.start) == 1 else RATES[::5]  # hidden states are many numbers at each point
    mean = min(max(path.mean_rate, RATES[0]), RATES[-1])
    odds = points / (1 - points) * (1 - mean) / mean
    flips = _flips("acceptance", odds, list(found), lambda at: (path.at_odds(at), system))
    return [replace(flip, at=path.at_odds(flip.at).mean_rate) for flip in flips]


def speed_ratio_flips(found: Iterable[Candidate], acceptance: Acceptance, system: System) -> list[Flip]:
    """Ratios target step / draft step from 1 to 64 at which the best strategy changes. The draft's seconds are varied."""

    def scaled(at: ArrayLike) -> tuple[Acceptance, System]:
        return acceptance, replace(system, latency=Scaled(system.latency, system.speed_ratio / np.asarray(at, float)))

    return _flips("speed_ratio", np.geomspace(1, 64, 201), list(found), scaled)


def _flips(
    parameter: Varied, grid: Floats, found: list[Candidate], setup: Callable[[ArrayLike], tuple[Acceptance, System]]
) -> list[Flip]:
    """Scan a grid for a change of the best strategy, then halve the step that holds it. Ties would make root finding fail."""

    def speedups(one: Candidate) -> Floats:
        if one.compiled.races and parameter == "speed_ratio":  # each ratio has a table of its own
            return np.array([float(one.speedup(*setup(at))) for at in grid])
        return np.broadcast_to(one.speedup(*setup(grid)), grid.shape)

    speeds = np.array([speedups(one) for one in found])
    tops = first_of_fastest(speeds)
    flips: list[Flip] = []
    for at in range(1, len(grid)):
        below, above = found[tops[at - 1]].name, found[tops[at]].name
        if below == above:
            continue
        rivals = [one for one in found if one.name in (below, above)]
        low, high = float(grid[at - 1]), float(grid[at])
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if best_of(rivals, *setup(middle)).strategy == above:
                high = middle
            else:
                low = middle
        flips.append(Flip(parameter, high, best_of(rivals, *setup(low)), best_of(rivals, *setup(high))))
    return flips
