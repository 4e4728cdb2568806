"""Measured latencies of a pair: seconds of a draft step, of target windows by width, medians of interleaved repeats."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from specdec.runtime.lane import Lane
from specdec.sampling import Sampling

CONTEXT_TOKENS = 128
"""Length of the made-up context at which steps are timed."""


def step_seconds(lane: Lane, repeats: int = 12) -> float:
    """Median seconds of a step of width 1, measured where the lane works."""
    return window_seconds(lane, [1], repeats)[1]


def window_seconds(lane: Lane, widths: Sequence[int], repeats: int = 12) -> dict[int, float]:
    """Median seconds of a forward over each width, interleaved so that drifts of the machine hit all alike."""
    base = [2 + i % 50 for i in range(CONTEXT_TOKENS)]
    lane.submit("begin", Sampling(temperature=0), 0, base)()
    seconds: dict[int, list[float]] = {width: [] for width in widths}
    for repeat in range(repeats + 2):
        for width in widths:
            context = [*base, *(1 + (repeat + i) % 50 for i in range(width))]
            scoring = lane.submit("score", context, width)()
            if repeat >= 2:  # the first ones warm up
                seconds[width].append(scoring.busy_seconds)
    return {width: median(values) for width, values in seconds.items()}
