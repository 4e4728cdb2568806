"""Seconds of a forward by its rows, the positions of all its sequences together.

A GPU reads the weights once in a forward, however many rows there are. So seconds hardly rise with rows while memory is what
limits, and rise in proportion once arithmetic does (the knee). Windows of one sequence and batches of many are points of the
same curve: batch x width rows. What the cache adds depends on the tokens that are read from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from sim.setup.arrays import Floats
from specdec import InputError


@dataclass(frozen=True, eq=False)
class RowsCurve:
    """Seconds that never fall with rows: linear between knots, level before the first one, a line beyond the last.

    `rows`      shape (knots,): rising, above 0
    `seconds`   shape (knots,): at each of them
    `beyond`    seconds of a further row
    """

    rows: Floats
    seconds: Floats
    beyond: float

    def __call__(self, rows: ArrayLike) -> Floats:
        rows = np.asarray(rows, float)
        known = np.interp(rows, self.rows, self.seconds)
        return known + self.beyond * np.maximum(rows - self.rows[-1], 0)

    @classmethod
    def fitted(cls, rows: Sequence[float], seconds: Sequence[float]) -> RowsCurve:
        """The curve that is nearest to measured points (least squares of their logarithms).

        Beyond the last point it rises as from its middle to its end. Raises `InputError` without points, and for seconds that
        are not above 0.
        """
        if not len(rows) or not (np.isfinite(seconds) & (np.asarray(seconds) > 0)).all():
            raise InputError("a curve needs points of more than 0 seconds: measure the pair again")
        knots, which = np.unique(np.asarray(rows, float), return_inverse=True)
        counts = np.bincount(which)
        means = np.bincount(which, np.log(np.asarray(seconds, float))) / counts
        fitted = np.exp(isotonic_regression(means, weights=counts.astype(float)).x)
        middle = len(knots) // 2 if len(knots) > 1 else 0
        rise = (fitted[-1] - fitted[middle]) / (knots[-1] - knots[middle]) if knots[-1] > knots[middle] else 0.0
        return cls(knots, fitted, float(rise))
