"""The pace of a machine: how much longer everything takes on it than in the profiles, at each moment of a run.

A core of a shared machine changes its speed from one second to the next, and queues multiply that. The pace is found from how
long the steps of a run took, each compared with other steps of the same run and as many sequences. So it tells of the machine
alone: not of what a step costs, nor how many sequences there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np

from sim.setup.arrays import Counts, Floats

if TYPE_CHECKING:
    from specdec.bench.serving import Step

WINDOW = 50
"""Steps that have one pace. Fewer would tell of what happens in a step, more of less than a second."""
ROUNDS = 100
"""In which paces and costs of steps are fitted in turn. They no longer change then."""
LEVELS, LEVEL_ERROR = 10, 1e-3
"""Steps in which a level is found at most, and by how much its seconds of work may be off."""


@dataclass(frozen=True, eq=False)
class Pace:
    """Seconds of a machine for one of the profiles: `paces[i]` until `ends[i]`, 1 after the last; all times `level`.

    `ends`    rising, in wall seconds since the start of a run
    `paces`   above 0, around 1
    """

    ends: Floats
    paces: Floats
    level: float = 1.0

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Self:
        """The pace of a run, at level 1: that of each `WINDOW` steps, where others of as many sequences have 1 on average."""
        seconds = np.array([step.end_seconds - step.begin_seconds - step.prompt_seconds for step in steps])
        sequences = np.array([step.sequences for step in steps])
        windows = np.minimum(np.arange(len(steps)) // WINDOW, max(0, len(steps) // WINDOW - 1))
        paces = np.ones(windows[-1] + 1)
        costs = np.ones(sequences.max() + 1)
        for _ in range(ROUNDS):
            costs = _ratio(sequences, seconds, paces[windows])
            paces = _ratio(windows, seconds, costs[sequences])
        paces *= costs[sequences].sum() / seconds.sum()
        ends = np.array([step.end_seconds for step in steps])
        return cls(np.append(ends[np.flatnonzero(np.diff(windows))], ends[-1]), paces)

    @property
    def variation(self) -> float:
        """Standard deviation of the pace over the windows of a run, over its mean."""
        return float(self.paces.std() / self.paces.mean()) if len(self.paces) else 0.0

    def machine(self, wall: Floats) -> Floats:
        """Seconds of the profiles that pass in `wall` seconds from the start."""
        knots, passed = self._knots
        return np.interp(wall, knots, passed)

    def wall(self, machine: Floats) -> Floats:
        """The inverse of `machine`."""
        knots, passed = self._knots
        return np.interp(machine, passed, knots)

    @property
    def _knots(self) -> tuple[Floats, Floats]:
        knots = np.concatenate(([0.0], self.ends, [self.ends[-1] + FAR if len(self.ends) else FAR]))
        return knots, np.append(0.0, np.cumsum(np.diff(knots) / np.append(self.paces, 1.0) / self.level))


FAR = 1e9
"""Seconds after the last window, in which nothing happens any more."""
STEADY = Pace(np.array([]), np.array([]))
"""The machine of the profiles."""


def _ratio(groups: Counts, above: Floats, below: Floats) -> Floats:
    """The sum of `above` over that of `below` in each group; 1 for a group of none."""
    one, other = np.bincount(groups, above), np.bincount(groups, below)
    return np.divide(one, other, out=np.ones(len(one)), where=other > 0)


class Works(Protocol):
    """What takes a machine some seconds of work."""

    @property
    def working_seconds(self) -> float: ...


W = TypeVar("W", bound=Works)


def with_work(at: Callable[..., W], working_seconds: float, pace: Pace) -> tuple[float, W]:
    """The level of `pace` at which `at(pace=...)` works for as many seconds, and what it is then.

    A slower machine has more sequences in each forward, so seconds of work grow less than the level: it is found in a few
    steps.
    """
    found = at(pace=pace)
    for _ in range(LEVELS):
        longer = working_seconds / found.working_seconds
        if abs(longer - 1) < LEVEL_ERROR:
            break
        pace = replace(pace, level=pace.level * longer)
        found = at(pace=pace)
    return pace.level, found
