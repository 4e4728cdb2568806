"""What users and operators feel: latencies at percentiles, goodput, utilisation, waiting and saturation.

Metrics are computed from the record of a run (`sim.traffic.record.Served`), however it came about. Definitions follow the
serving benchmarks of vLLM and GuideLLM: TTFT from arrival to the first delivery, TPOT the mean time of each token after the
first, ITL the gaps between deliveries (a verified block is one delivery), E2E from arrival to the last token.
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
        """Of measured values, each counted once, or `weights` times."""
        counts = np.ones(len(seconds)) if weights is None else weights
        total = counts.sum()
        if not total:
            return cls(*[float("nan")] * 4)
        quantiles = np.quantile(seconds, (0.5, 0.9, 0.99), weights=counts, method="inverted_cdf")
        return cls(float(seconds @ counts / total), *map(float, quantiles))


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a request must meet to count as good, in seconds; `None` asks for nothing."""

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    e2e_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"objective {name} of {value:g} cannot be met: give a time above 0")

    def met(self, ttft: Floats, tpot: Floats, e2e: Floats) -> Flags:
        """Per request; an answer of one token has no TPOT (NaN) and cannot miss it."""
        met = np.ones(len(ttft), bool)
        for limit, values in zip((self.ttft_seconds, self.tpot_seconds, self.e2e_seconds), (ttft, tpot, e2e), strict=True):
            if limit is not None:
                met &= ~(values > limit)
        return met


@dataclass(frozen=True, slots=True)
class Metrics:
    """One run, measured after its warm-up.

    `ttft`, `tpot`, `itl`, `e2e`    seconds
    `requests_per_second`           finished, from the first measured arrival to the last measured finish
    `output_tokens_per_second`      over the same span
    `goodput`                       requests per second that met the objectives; `goodput_share` of all measured
    `target_utilisation`            share of the span in which the target's device worked, mean over replicas; so the draft's
    `waiting_seconds`               for a slot in the batch; `waiting_share` of all the time spent in the system
    `mean_queue`                    requests without a slot, averaged over the span
    `saturation`                    see `saturation_of`
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
    """Metrics of the requests behind the first `warm_up` share of arrivals, which met an empty system."""
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
    """The verdict on a whole run.

    *overloaded*: at the last arrival more requests are queued than a system at exactly 100 % load would leave by chance
    (three standard deviations of a random walk with one step up or down per arrival), so the queue grows with the run.
    *backlogged*: not so, but requests spend over a tenth of their time waiting for a slot. *stable*: neither.
    """
    left = int((admitted > arrival[-1]).sum())
    if left > 3 * np.sqrt(2 * len(arrival)):
        return "overloaded"
    return "backlogged" if waiting_share > BACKLOGGED_WAITING_SHARE else "stable"


def worst(verdicts: Sequence[Saturation]) -> Saturation:
    """The most severe of several verdicts."""
    return max(verdicts, key=SEVERITY.index)
