"""Confidence intervals by Student's t: of a mean, and of the mean difference of two strategies on the same seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from sim.setup.arrays import Floats
from specdec import InputError


def student_t(samples: int, confidence: float) -> float:
    """Half the width of the interval for the mean of so many samples, in standard errors of that mean."""
    return float(stdtrit(samples - 1, (1 + confidence) / 2))


def interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of independent replications. Raises `InputError` for fewer than two."""
    if len(values) < 2:
        raise InputError(f"{len(values)} replication has no interval: give at least 2")
    half = float(student_t(len(values), confidence) * (np.std(values, ddof=1) / np.sqrt(len(values))))
    mean = float(np.mean(values))
    return mean - half, mean + half


def paired_interval(
    left: Sequence[float] | Floats, right: Sequence[float] | Floats, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the mean of `left - right`, replication by replication.

    What both have in common cancels (common random numbers). Raises `InputError` for fewer than two, or unequally many.
    """
    if len(left) != len(right):
        raise InputError(f"{len(left)} and {len(right)} replications cannot be paired: run both on the same seeds")
    return interval(np.subtract(left, right), confidence)
