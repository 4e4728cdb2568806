"""Latency from what was measured of a pair: a table of one sequence, and a curve of rows for several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import map_coordinates

from sim.setup.arrays import Floats
from sim.setup.latency import Reach, forked, steps_over
from sim.setup.rows import RowsCurve
from specdec import InputError
from specdec.profile import DraftTiming, TargetTiming

FAR = 10_000_000
"""Beyond any width, batch or context."""


class LatencyTable:
    """Mean seconds of one sequence by (width, context), linear between measured values.

    Below the least measured value of an axis the seconds stay, above the largest they go on along a line. A width that was not
    measured at a context is taken from the nearest context.
    """

    def __init__(self, measured: Mapping[tuple[int, int], float]) -> None:
        axes = [sorted({key[axis] for key in measured}) for axis in range(2)]
        grid = np.array([[self._filled(measured, width, context) for context in axes[1]] for width in axes[0]])
        for axis, points in enumerate(axes):
            grid = _going_on(grid, axis, points)
            points.append(FAR)
        self._axes, self._grid = [np.array(points, float) for points in axes], grid

    @staticmethod
    def _filled(measured: Mapping[tuple[int, int], float], width: int, context: int) -> float:
        return measured[min(measured, key=lambda key: (abs(key[0] - width), abs(key[1] - context)))]

    def __call__(self, width: ArrayLike, context: ArrayLike) -> Floats:
        asked = np.broadcast_arrays(width, context)
        points = [np.interp(np.ravel(x), axis, np.arange(len(axis))) for x, axis in zip(asked, self._axes, strict=True)]
        return np.asarray(map_coordinates(self._grid, np.stack(points), order=1, mode="nearest")).reshape(asked[0].shape)


def _going_on(grid: Floats, axis: int, points: list[int]) -> Floats:
    """`grid` with a point at `FAR` on an axis, in line with its last two; flat where noise made them fall."""
    last = np.take(grid, [-1], axis)
    before = np.take(grid, [-2], axis) if len(points) > 1 else last
    slope = np.maximum(last - before, 0) / (points[-1] - points[-2] if len(points) > 1 else 1)
    return np.concatenate((grid, last + slope * (FAR - points[-1])), axis)


class Forwards:
    """Seconds of a model's forwards: of one sequence by a table, of several by one curve of rows (`RowsCurve`).

    All measured forwards are points of the curve. A token of context costs a batch what it costs one sequence, by the slope of
    the table. Raises `InputError` if nothing was measured, or nothing at batch 1.

    On a processor, a row of another sequence costs more than a row of the same window, so one curve is not enough. With
    `cells`, times of batches pass through what was measured, and follow the curve beyond. They need every width at every batch.
    """

    def __init__(self, measured: Mapping[tuple[int, int, int], float], source: str, cells: bool = False) -> None:
        alone = {(width, context): seconds for (width, batch, context), seconds in measured.items() if batch == 1}
        if not alone:
            raise InputError(f"{source} holds no measurements of one sequence: measure the pair again")
        self._alone = LatencyTable(alone)
        self._token_seconds = self._slope(alone)
        rows = [width * batch for width, batch, _ in measured]
        bare = [seconds - self._token_seconds * batch * context for (_, batch, context), seconds in measured.items()]
        self._curve = RowsCurve.fitted(rows, np.maximum(bare, min(measured.values()) / 10).tolist())
        self._over_curve = self._ratios(measured, source) if cells else None

    def _ratios(self, measured: Mapping[tuple[int, int, int], float], source: str) -> RegularGridInterpolator:
        """By batch and width: a measured time over that of the curve."""
        several = {
            (float(batch), float(width)): (seconds, context)
            for (width, batch, context), seconds in measured.items()
            if batch > 1
        }
        batches, widths = (sorted({size[axis] for size in several}) for axis in range(2))
        if not several or len(several) < len(batches) * len(widths):
            raise InputError(f"{source} lacks some width at some batch: measure the pair again, with widths in batches")
        ratios = np.array(
            [
                [several[batch, width][0] / self._together(width, batch, several[batch, width][1]) for width in widths]
                for batch in batches
            ]
        )
        ends = [np.array([0.0, *axis, FAR]) for axis in (batches, widths)]
        return RegularGridInterpolator(ends, np.pad(ratios, 1, mode="edge"))

    def _together(self, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        width, batch, context = (np.asarray(x, float) for x in (width, batch, context))
        return self._curve(width * batch) + self._token_seconds * batch * context

    @staticmethod
    def _slope(alone: Mapping[tuple[int, int], float]) -> float:
        """Seconds of a token of context, from the widths that were measured at several contexts; 0 where there is none."""
        slopes: list[float] = []
        for width in {width for width, _ in alone}:
            contexts = sorted(context for measured, context in alone if measured == width)
            if len(contexts) > 1:
                rise = alone[width, contexts[-1]] - alone[width, contexts[0]]
                slopes.append(rise / (contexts[-1] - contexts[0]))
        return max(0.0, float(np.median(slopes))) if slopes else 0.0

    def __call__(self, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        width, batch, context = (np.asarray(x, float) for x in np.broadcast_arrays(width, batch, context))
        together = self._together(width, batch, context)
        if self._over_curve is not None:
            together = together * self._over_curve((np.minimum(batch, FAR), np.minimum(width, FAR)))
        return np.where(batch > 1, together, self._alone(width, context))

    def crowded(self, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        """How many times more `width` positions cost, over a single one, in a batch than alone; 1 in a batch of 1."""
        in_batch = self._together(width, batch, context) / self._together(1, batch, context)
        return in_batch * self._together(1, 1, context) / self._together(width, 1, context)


class Measured:
    """Latency from measured forwards of the target and drafted tokens of the draft, as a `specdec.profile.Profile` holds them.

    `draft_start` is the seconds of a draft in addition to those of its tokens, and `fork_start` what a fork takes more;
    `source` is what errors call the tables; `cells` is that of `Forwards`. Without drafted tokens, nothing can be drafted.
    `reach` is how large forwards are that are not tagged *extrapolated*, `fork_reach` the most rows of a draft step over
    branches: 0 where none was timed. Raises `InputError` if nothing of the target was measured or `draft_start` is negative.
    """

    def __init__(
        self,
        target: Sequence[TargetTiming],
        draft: Sequence[DraftTiming],
        source: str = "the table",
        draft_start: float = 0.0,
        cells: bool = False,
        fork_start: float = 0.0,
    ) -> None:
        if not (isfinite(draft_start) and draft_start >= 0):
            raise InputError(f"{source}: draft_start_seconds {draft_start} is not possible: give 0 or more")
        forwards = {(one.width, one.batch, one.context): one.mean for one in target}
        tokens = {(1, one.batch, one.context): one.mean for one in draft if one.branches == 1}
        self._source = source
        self._target = Forwards(forwards, f"{source}: target_seconds", cells)
        self._draft = Forwards(tokens, f"{source}: draft_seconds", cells) if tokens else None
        self._draft_start, self._fork_start = draft_start, fork_start
        self._branched = {1: 1.0} | {
            one.branches: one.mean / float(self.draft_seconds(1, 1, one.context) - draft_start)
            for one in draft
            if one.branches > 1
        }
        branches = [one for one in draft if one.branches > 1 and one.tag != "extrapolated"]
        self.fork_reach = max((one.branches * one.batch for one in branches), default=0)
        within = [(one.width * one.batch, one.batch, one.context) for one in target if one.tag != "extrapolated"]
        self.reach = Reach(*map(max, zip(*within, strict=True))) if within else Reach(0, 0, 0)

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        tokens = np.asarray(tokens, float)
        if self._draft is None:
            if (tokens > 0).any():
                raise InputError(
                    f"{self._source} holds no draft steps: give a profile of a draft too, or a strategy without one"
                )
            return np.zeros(np.broadcast(tokens, batch, context).shape)
        return tokens * self._draft(1, batch, context) + self._draft_start * (tokens > 0)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        """A step over several branches takes what was measured, over a plain step; a forward over `rows` takes as long.

        Branches are timed for one sequence. In a batch, a step over them takes longer by as much as the curve of rows says.
        """
        if self._draft is None:
            return self.draft_seconds(steps, batch, context)
        crowd = partial(self._draft.crowded, batch=batch, context=context)
        plain = forked(lambda number: steps_over(self._branched, number) * crowd(number), rows, branches, steps)
        return plain * self._draft(1, batch, context) + (self._draft_start + self._fork_start) * (plain > 0)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.where(np.asarray(width) > 0, self._target(width, batch, context), 0.0)
