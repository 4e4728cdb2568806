"""The pace of a machine: how much longer everything takes on it than in the profiles, at each moment of a run.

A core of a shared machine changes its speed from one second to the next, and queues multiply that. The pace is found from how
long the steps of a run took, each compared with steps of the same run that are alike: of as many sequences, and at the same
place in a round. So where it rises and falls does not depend on what a step costs, nor on how many sequences there are. Its
level does: it is such that the simulation works as long as the run did, so an error that all costs share is not seen at a run's
own pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from sim.setup.arrays import Counts, Floats

if TYPE_CHECKING:
    from specdec.bench.serving import Step

WINDOW = 6
"""Steps that share one pace: as many as a machine keeps its speed for. On two shared cores, how much longer a step is than
others like it correlates by 0.8 with the next step, 0.4 with the fifth, and 0.1 with the twentieth."""
ROUNDS = 100
"""How often paces and costs of steps are fitted in turn. They no longer change then."""
FAR = 1e9
"""Seconds after the last window, in which nothing happens any more."""


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
        """The pace of a run, at level 1: that of each `WINDOW` steps, where steps that are alike have 1 on average."""
        seconds = np.array([step.end_seconds - step.begin_seconds - step.prompt_seconds for step in steps])
        kinds = np.array([2 * step.sequences + step.delivered for step in steps])
        windows = np.minimum(np.arange(len(steps)) // WINDOW, max(0, len(steps) // WINDOW - 1))
        paces = np.ones(windows[-1] + 1)
        costs = np.ones(kinds.max() + 1)
        for _ in range(ROUNDS):
            costs = _ratio(kinds, seconds, paces[windows])
            paces = _ratio(windows, seconds, costs[kinds])
        paces *= costs[kinds].sum() / seconds.sum()
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


STEADY = Pace(np.array([]), np.array([]))
"""The machine of the profiles."""


def _ratio(groups: Counts, above: Floats, below: Floats) -> Floats:
    """The sum of `above` over that of `below` in each group; 1 for a group of none."""
    one, other = np.bincount(groups, above), np.bincount(groups, below)
    return np.divide(one, other, out=np.ones(len(one)), where=other > 0)
