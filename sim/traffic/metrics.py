"""Metrics of a serving run: percentiles of latencies, goodput, utilisation, waiting and saturation.

They are computed from the record of a run (`sim.traffic.record.Served`). Definitions follow the serving benchmarks of vLLM and
GuideLLM: TTFT is the time from arrival to the first delivery, TPOT the mean time of each token after the first, ITL the gaps
between deliveries (a verified window is one delivery), E2E the time from arrival to the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.setup.arrays import Flags, Floats
from sim.setup.latency import Latency, fork_reach, reach
from sim.traffic.record import Served
from specdec import InputError

Saturation: TypeAlias = Literal["stable", "backlogged", "overloaded"]
SEVERITY: tuple[Saturation, ...] = ("stable", "backlogged", "overloaded")

WARM_UP = 0.1
"""Share of the requests, the first ones, that do not count."""

BACKLOGGED_WAITING_SHARE = 0.1

GROWTH = 10.0
"""How many times its beginning a TTFT grows in a run before the run counts as falling behind."""

SHORT = 10.0
"""A run whose arrivals span less than this many mean answers has not settled."""


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
    `preemptions`                  times that a request lost its place in the cache and was read again
    `kv_share`                     share of the KV cache in use, mean over time and replicas; NaN without a limit
    `ttft_growth`                  P99 of TTFT of the last tenth of the requests, over that of the first tenth
    `saturation`                   `stable`, `backlogged` or `overloaded`, see `saturation_of`
    `short`                        whether the arrivals span less than ten mean answers, so that the run has not settled
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
    preemptions: int
    kv_share: float
    ttft_growth: float
    saturation: Saturation
    short: bool


class Latencies(NamedTuple):
    """Seconds of each request after the warm-up, shape (n,); `tpot` is NaN for an answer of one token."""

    ttft: Floats
    tpot: Floats
    e2e: Floats


def latencies_of(served: Served, warm_up: float = WARM_UP) -> Latencies:
    """The latencies of a run, without the first `warm_up` share of its requests."""
    first = int(warm_up * len(served.workload))
    arrival = served.submitted_seconds[first:]
    output = served.workload.output_tokens[first:]
    ttft, e2e = served.first_token_seconds[first:] - arrival, served.finish_seconds[first:] - arrival
    return Latencies(ttft, np.where(output > 1, (e2e - ttft) / np.maximum(output - 1, 1), np.nan), e2e)


def measure(
    served: Served, objectives: Objectives = Objectives(), warm_up: float = WARM_UP, load: float | None = None
) -> Metrics:
    """Metrics of a run, without the first `warm_up` share of its requests, which met an empty system.

    `load` is rho, the requests that arrive over those that the replicas can finish in the same time, if it is known. Raises
    `InputError` unless that share is at least 0 and less than 1.
    """
    if not 0 <= warm_up < 1:
        raise InputError(f"warm-up share {warm_up:g} is not possible: give at least 0 and less than 1")
    first = int(warm_up * len(served.workload))
    arrival = served.submitted_seconds[first:]
    output = served.workload.output_tokens[first:]
    finish = served.finish_seconds[first:]
    ttft, tpot, e2e = latencies_of(served, warm_up)
    waiting = served.admitted_seconds[first:] - arrival
    start, end = float(arrival[0]), float(finish.max())
    span = end - start
    good = objectives.met(ttft, tpot, e2e)
    done, server = served.iterations, served.server
    within = done.between(start, end)
    seconds, deliveries = (column[within].astype(float) for column in (done.seconds, done.deliveries))
    target, draft = (
        done.each * float(busy[within].sum(dtype=float)) / server.replicas for busy in (done.target_seconds, done.draft_seconds)
    )
    used = done.each * float(done.blocks[within] @ seconds) / server.replicas
    blocks = 0 if server.kv_tokens is None else server.kv_tokens // server.block_tokens
    waiting_share, growth = float(waiting.sum() / e2e.sum()), growth_of(ttft)
    return Metrics(
        requests=len(arrival),
        ttft=Summary.of(ttft),
        tpot=Summary.of(tpot[output > 1]),
        itl=Summary.of(seconds, deliveries),
        e2e=Summary.of(e2e),
        requests_per_second=len(arrival) / span,
        output_tokens_per_second=float(output.sum()) / span,
        goodput=float(good.sum()) / span,
        goodput_share=float(good.mean()),
        target_utilisation=min(target / span, 1.0),  # the iteration under way at the start is counted whole
        draft_utilisation=min(draft / span, 1.0),
        waiting_seconds=float(waiting.mean()),
        waiting_share=waiting_share,
        mean_queue=float(waiting.sum()) / span,
        preemptions=int(served.preemptions[first:].sum()),
        kv_share=min(used / span / blocks, 1.0) if blocks else float("nan"),
        ttft_growth=growth,
        saturation=saturation_of(waiting_share, growth, load),
        short=server.clients is None and float(arrival[-1]) - start < SHORT * float(e2e.mean()),
    )


def extrapolated_share(served: Served, latency: Latency) -> float:
    """Share of time in iterations beyond what was measured of the target, or of the draft's branches."""
    done, most = served.iterations, reach(latency)
    beyond = (done.rows > most.rows) | (done.running > most.sequences) | (done.held > most.context * done.running)
    beyond |= (done.fork_rows > 0) & (done.fork_rows > fork_reach(latency))
    seconds = done.seconds.astype(float)
    return float(seconds[beyond].sum() / seconds.sum())


def growth_of(ttft: Floats) -> float:
    """P99 of the last tenth of the values, over that of the first tenth; 1 where there are fewer than 20."""
    tenth = len(ttft) // 10
    if tenth < 2:
        return 1.0
    first, last = (float(np.quantile(part, 0.99)) for part in (ttft[:tenth], ttft[-tenth:]))
    return last / first if first > 0 else 1.0


def saturation_of(waiting_share: float, ttft_growth: float, load: float | None) -> Saturation:
    """Whether replicas keep up with their requests.

    *overloaded*: more requests arrive than the replicas can finish (`load` of 1 or more). *backlogged*: not overloaded, but
    requests spend over a tenth of their time waiting for a slot, or wait over ten times longer at the end of the run than at
    its beginning. *stable*: neither.
    """
    if load is not None and load >= 1:
        return "overloaded"
    return "backlogged" if waiting_share > BACKLOGGED_WAITING_SHARE or ttft_growth > GROWTH else "stable"


def worst(found: Sequence[Saturation]) -> Saturation:
    """The most severe of several saturations."""
    return max(found, key=SEVERITY.index)
