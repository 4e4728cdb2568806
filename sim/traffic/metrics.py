"""Metrics of a serving run: percentiles of latencies, goodput, utilisation, waiting and saturation.

They are computed from the record of a run (`sim.traffic.record.Served`). Definitions follow the serving benchmarks of vLLM and
GuideLLM: TTFT is the time from arrival to the first delivery, TPOT the mean time of each token after the first, ITL the gaps
between deliveries (a verified window is one delivery), E2E the time from arrival to the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.setup.arrays import Flags, Floats
from sim.traffic.record import Served
from specdec import InputError

Saturation: TypeAlias = Literal["stable", "backlogged", "overloaded"]
SEVERITY: tuple[Saturation, ...] = ("stable", "backlogged", "overloaded")

BACKLOGGED_WAITING_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and percentiles of one latency, in seconds; NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Floats, weights: NDArray[Any] | None = None) -> Summary:
        """The summary of measured values, shape (n,), each counted once or, if given, `weights` times."""
        counts = np.ones(len(seconds)) if weights is None else weights
        total = counts.sum()
        if not total:
            return cls(*[float("nan")] * 4)
        quantiles = np.quantile(seconds, (0.5, 0.9, 0.99), weights=counts, method="inverted_cdf")
        return cls(float(seconds @ counts / total), *map(float, quantiles))


@dataclass(frozen=True, slots=True)
class Objectives:
    """Limits in seconds that a request must meet to count for goodput; `None` is no limit.

    `ttft_seconds`   of the time to the first tokens
    `tpot_seconds`   of the mean time of each token after the first
    `e2e_seconds`    of the time to the last token

    Raises `InputError` for a limit that is not above 0.
    """

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    e2e_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"objective {name} of {value:g} cannot be met: give a time above 0")

    def met(self, ttft: Floats, tpot: Floats, e2e: Floats) -> Flags:
        """Shape (n,): whether each request meets all limits. An answer of one token has no TPOT (NaN) and cannot miss it."""
        met = np.ones(len(ttft), bool)
        for limit, values in zip((self.ttft_seconds, self.tpot_seconds, self.e2e_seconds), (ttft, tpot, e2e), strict=True):
            if limit is not None:
                met &= ~(values > limit)
        return met


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of one run after its warm-up. The span is from the first measured arrival to the last measured finish.

    `requests`                     measured requests
    `ttft`, `tpot`, `itl`, `e2e`   latencies in seconds
    `requests_per_second`          finished requests over the span
    `output_tokens_per_second`     tokens of finished requests over the span
    `goodput`                      requests per second that meet the objectives
    `goodput_share`                share of requests that meet the objectives
    `target_utilisation`           share of the span in which the target's device works, mean over replicas
    `draft_utilisation`            the same of the draft's device
    `waiting_seconds`              mean time that a request waits for a slot in a batch
    `waiting_share`                share of requests' time spent waiting for a slot
    `mean_queue`                   requests that wait for a slot, averaged over the span
    `saturation`                   `stable`, `backlogged` or `overloaded`, see `saturation_of`
    """

    requests: int
    ttft: Summary
    tpot: Summary
    itl: Summary
    e2e: Summary
    requests_per_second: float
    output_tokens_per_second: float
    goodput: float
    goodput_share: float
    target_utilisation: float
    draft_utilisation: float
    waiting_seconds: float
    waiting_share: float
    mean_queue: float
    saturation: Saturation


def measure(served: Served, objectives: Objectives = Objectives(), warm_up: float = 0.1) -> Metrics:
    """Metrics of a run, without the first `warm_up` share of its requests, which met an empty system.

    Raises `InputError` unless that share is at least 0 and less than 1.
    """
    if not 0 <= warm_up < 1:
        raise InputError(f"warm-up share {warm_up:g} is not possible: give at least 0 and less than 1")
    first = int(warm_up * len(served.workload))
    arrival = served.workload.arrival_seconds[first:]
    output = served.workload.output_tokens[first:]
    finish = served.finish_seconds[first:]
    ttft = served.first_token_seconds[first:] - arrival
    e2e = finish - arrival
    waiting = served.admitted_seconds[first:] - arrival
    many = output > 1
    tpot = np.where(many, (e2e - ttft) / np.maximum(output - 1, 1), np.nan)
    start, end = float(arrival[0]), float(finish.max())
    span = end - start
    good = objectives.met(ttft, tpot, e2e)
    gaps, deliveries = served.gaps_between(start, end)
    target, draft = served.busy_seconds(start, end)
    return Metrics(
        requests=len(arrival),
        ttft=Summary.of(ttft),
        tpot=Summary.of(tpot[many]),
        itl=Summary.of(gaps, deliveries),
        e2e=Summary.of(e2e),
        requests_per_second=len(arrival) / span,
        output_tokens_per_second=float(output.sum()) / span,
        goodput=float(good.sum()) / span,
        goodput_share=float(good.mean()),
        target_utilisation=min(target / span, 1.0),  # the iteration under way at the start is counted whole
        draft_utilisation=min(draft / span, 1.0),
        waiting_seconds=float(waiting.mean()),
        waiting_share=float(waiting.sum() / e2e.sum()),
        mean_queue=float(waiting.sum()) / span,
        saturation=saturation_of(served.workload.arrival_seconds, served.admitted_seconds, float(waiting.sum() / e2e.sum())),
    )


def saturation_of(arrival: Floats, admitted: Floats, waiting_share: float) -> Saturation:
    """Whether a run keeps up with its arrivals.

    *overloaded*: at the last arrival more requests are queued than a system at exactly 100 % load would leave by chance
    (three standard deviations of a random walk with one step up or down per arrival), so the queue grows with the run.
    *backlogged*: not overloaded, but requests spend over a tenth of their time waiting for a slot. *stable*: neither.
    """
    left = int((admitted > arrival[-1]).sum())
    if left > 3 * np.sqrt(2 * len(arrival)):
        return "overloaded"
    return "backlogged" if waiting_share > BACKLOGGED_WAITING_SHARE else "stable"


def worst(found: Sequence[Saturation]) -> Saturation:
    """The most severe of several saturations."""
    return max(found, key=SEVERITY.index)
