"""The study of one strategy under load: requests are served in several replications; means, and intervals of the means.

How a request is served is in `sim.traffic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import Compiled, compile_strategy
from sim.stream.run import interval
from sim.traffic.metrics import GROWTH, Metrics, Objectives, Saturation, Summary, extrapolated_share, measure, worst
from sim.traffic.record import ONE_REPLICA, Server
from sim.traffic.schedule import Several
from sim.traffic.serving import capacity_per_second, simulate_serving
from sim.traffic.workload import Traffic, Workload, streams
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.report import Report, share, table, three_digits
from specdec.strategy import DecodingStrategy

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


NO_OBJECTIVES = Objectives()

_SPANS = ((86_400, "days"), (3600, "hours"), (60, "minutes"))

SAMPLE = 2000
"""Requests at least, from which it is found out what replicas can finish."""


@dataclass(frozen=True)
class Percentiles(Report):
    """A latency in seconds, each number a mean over replications; `None` (null) where no request has it.

    `mean`           over requests
    `p50`            median of requests
    `p90`            90 % of requests take no longer
    `p99`            99 % of requests take no longer
    `mean_interval`  95 % interval of the mean; `None` for a single replication
    """

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    mean_interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, summaries: Sequence[Summary]) -> Percentiles:
        """The means of the summaries of all replications. NaN in a summary says that nothing was measured."""
        columns = {key: [getattr(summary, key) for summary in summaries] for key in asdict(summaries[0])}
        means = {key: float(np.mean(values)) for key, values in columns.items()}
        found = {key: None if np.isnan(value) else value for key, value in means.items()}
        several = len(summaries) > 1 and found["mean"] is not None
        return cls(**found, mean_interval=interval(columns["mean"]) if several else None)


@dataclass(frozen=True)
class Load(Report):
    """How requests were served. Requests of the warm-up (the first tenth) count for `requests` only.

    `requests`                   of one replication
    `ttft_seconds`               from arrival to the first tokens
    `tpot_seconds`               mean time of each token after the first
    `itl_seconds`                gaps between deliveries to a sequence; a verified window is one delivery
    `e2e_seconds`                from arrival to the last token
    `goodput`                    requests per second that met the objectives; all of them where no objective is given
    `goodput_share`              share of requests that met the objectives
    `requests_per_second`        finished requests
    `output_tokens_per_second`   tokens of finished requests
    `target_utilisation`         share of time in which the target's device works, mean over replicas
    `draft_utilisation`          the same of the draft's device
    `waiting_share`              share of requests' time spent waiting for a slot in a batch
    `mean_queue`                 requests that wait for a slot, averaged over time
    `load`                       rho: requests that arrive over those that the replicas can finish; `None` (null) in a closed
                                 loop
    `ttft_growth`                P99 of TTFT of the last tenth of the requests, over that of the first tenth
    `preemptions`                times that a request lost its place in the cache and was read again, in one replication
    `kv_share`                   share of the KV cache in use; `None` (null) without a limit
    `extrapolated_share`         share of time in forwards beyond the rows (batch x width), sequences or context that were
                                 measured; 0 for a formula
    `saturation`                 `stable`, `backlogged` or `overloaded`; the worst of all replications
    `short`                      whether arrivals span less than ten mean answers: the run has not settled
    `replications`               runs with requests and acceptance draws of their own
    `simulated_requests_per_wall_second`   how fast these requests were served, without what is computed before and
                                 after; differs from run to run. `None` (null) in a sweep
    `schedule`                   draft lengths by running batch; empty for one length
    `arrivals_per_second`        requests that arrive, a mean over replications; `None` (null) in a closed loop
    """

    requests: int
    ttft_seconds: Percentiles
    tpot_seconds: Percentiles
    itl_seconds: Percentiles
    e2e_seconds: Percentiles
    goodput: float
    goodput_share: float
    requests_per_second: float
    output_tokens_per_second: float
    target_utilisation: float
    draft_utilisation: float
    waiting_share: float
    mean_queue: float
    load: float | None
    ttft_growth: float
    preemptions: float
    kv_share: float | None
    extrapolated_share: float
    saturation: Saturation
    short: bool
    replications: int
    simulated_requests_per_wall_second: float | None
    schedule: str = ""
    arrivals_per_second: float | None = None

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        more = "" if self.replications == 1 else f", means of {self.replications} replications"
        good, finished, queue = map(three_digits, (self.goodput, self.requests_per_second, self.mean_queue))
        tokens, simulated = three_digits(self.output_tokens_per_second), self.simulated_requests_per_wall_second
        return Group(
            f"[bold]Serving {self.requests:,} requests[/]{self._arrivals()}: {self.saturation}{more}",
            *self._remarks(),
            *([f"  lengths     {self.schedule}"] if self.schedule else []),
            self._latencies(),
            f"  goodput     {good} requests/s; {share(self.goodput_share)} of requests meet the objectives",
            f"  throughput  {finished} requests/s, {tokens} output tok/s",
            f"  busy        target {share(self.target_utilisation)}, draft {share(self.draft_utilisation)} of the time",
            f"  waiting     {share(self.waiting_share)} of requests' time; {queue} requests on average",
            *([] if self.load is None else [f"  load        {share(self.load)} of what the replicas can finish"]),
            *(
                []
                if self.kv_share is None
                else [f"  KV cache    {share(self.kv_share)} in use; {self.preemptions:.0f} preemptions"]
            ),
            *([] if simulated is None else [f"  simulator   {three_digits(simulated)} requests per second of computing"]),
        )

    def _arrivals(self) -> str:
        """How many come, and within which time: a clock that was read in the wrong unit is seen here."""
        rate = self.arrivals_per_second
        if rate is None:
            return ""
        seconds = (self.requests - 1) / rate
        count, unit = next(((seconds / size, unit) for size, unit in _SPANS if seconds >= size), (seconds, "s"))
        return f" that arrive within {three_digits(count)} {unit} ({three_digits(rate)}/s)"

    def _remarks(self) -> list[str]:
        """What a reader must know before believing the figures."""
        found: list[str] = []
        if self.short:
            found.append("  [bold]too short[/]   the arrivals span less than ten mean answers: give more requests")
        if self.ttft_growth > GROWTH:
            found.append(f"  [bold]growing[/]     the wait for first tokens grew {self.ttft_growth:.0f} times within the run")
        if self.extrapolated_share > 0:
            beyond = share(self.extrapolated_share)
            found.append(f"  [bold]extrapolated[/] {beyond} of the time is in forwards beyond what was measured")
        return found

    def _latencies(self) -> Table:
        numbers = ("mean", "p50", "p90", "p99", *(["95 % interval of mean"] if self.replications > 1 else []))
        made = table("  latency in ms", numbers=numbers)
        for name, found in (
            ("time to first token (TTFT)", self.ttft_seconds),
            ("time per output token (TPOT)", self.tpot_seconds),
            ("gap between deliveries (ITL)", self.itl_seconds),
            ("end to end (E2E)", self.e2e_seconds),
        ):
            values = [
                "-" if value is None else three_digits(1e3 * value) for value in (found.mean, found.p50, found.p90, found.p99)
            ]
            if found.mean_interval is not None:
                values.append(" to ".join(three_digits(1e3 * end) for end in found.mean_interval))
            made.add_row(f"  {name}", *values)
        return made


def simulate_traffic(
    strategy: DecodingStrategy | Several,
    acceptance: Acceptance,
    system: System,
    traffic: Traffic | Workload,
    server: Server = ONE_REPLICA,
    objectives: Objectives = NO_OBJECTIVES,
    *,
    replications: int = 1,
    seed: int = 0,
) -> Load:
    """Serve requests with a strategy, or with a schedule of lengths, in one or several replications.

    Every replication has acceptance draws of its own and draws its `traffic` anew; a `Workload` is the same in all of them.
    Equal seeds give all strategies equal requests and equal acceptance draws. Raises `InputError` for less than 1 replication,
    for a request that no replica has the memory for, and for constants, which make batches free unless it is said that they are
    (`Constant.batches_are_free`); `StrategyError` for a strategy that cannot be compiled.
    """
    at_least_one(replications=replications)
    if isinstance(system.latency, Constant) and not system.latency.batches_are_free:
        raise InputError(
            "constant step times make batches and prompts free, so they say nothing about load: give a profile or a GPU, or "
            "say that batches are free (--batches-are-free)"
        )
    seeds = streams(np.random.SeedSequence(seed), 2 * replications)
    workloads = [traffic if isinstance(traffic, Workload) else traffic.workload(one) for one in seeds[::2]]
    compiled = compile_strategy(strategy, system) if isinstance(strategy, DecodingStrategy) else strategy
    load = load_of(compiled, acceptance, system, traffic, server)
    start = perf_counter()
    served = [
        simulate_serving(compiled, acceptance, system, workload, server, draws)
        for workload, draws in zip(workloads, seeds[1::2], strict=True)
    ]
    wall_seconds = perf_counter() - start
    runs = [measure(one, objectives, load=load) for one in served]
    beyond = [extrapolated_share(one, system.latency) for one in served]
    schedule = "" if isinstance(strategy, DecodingStrategy) else str(strategy)
    rates = [rate for one in workloads if server.clients is None and (rate := one.rate_per_second) is not None]
    arrivals = float(np.mean(rates)) if rates else None
    return replace(_summed_up(runs, workloads, load, beyond, wall_seconds), schedule=schedule, arrivals_per_second=arrivals)


def load_of(
    compiled: Compiled | Several, acceptance: Acceptance, system: System, traffic: Traffic | Workload, server: Server
) -> float | None:
    """rho, the requests that arrive in a second over those that the replicas can finish; `None` in a closed loop.

    Drawn traffic counts by its law, from a sample of its requests; a trace by its own mean rate.
    """
    if server.clients is not None or (isinstance(traffic, Traffic) and traffic.arrivals is None):
        return None
    if isinstance(traffic, Traffic):
        assert traffic.arrivals is not None
        sample = replace(traffic, requests=max(traffic.requests, SAMPLE)).workload(np.random.SeedSequence(0))
        rate = traffic.arrivals.rate_per_second
    else:
        sample, rate = traffic, traffic.rate_per_second
        if rate is None:
            return None
    return rate / capacity_per_second(compiled, acceptance, system, sample, server)


def _summed_up(
    runs: Sequence[Metrics],
    workloads: Sequence[Workload],
    load: float | None,
    beyond: Sequence[float],
    wall_seconds: float,
) -> Load:
    def mean(name: str) -> float:
        return float(np.mean([getattr(run, name) for run in runs]))

    return Load(
        requests=len(workloads[0]),
        ttft_seconds=Percentiles.of([run.ttft for run in runs]),
        tpot_seconds=Percentiles.of([run.tpot for run in runs]),
        itl_seconds=Percentiles.of([run.itl for run in runs]),
        e2e_seconds=Percentiles.of([run.e2e for run in runs]),
        goodput=mean("goodput"),
        goodput_share=mean("goodput_share"),
        requests_per_second=mean("requests_per_second"),
        output_tokens_per_second=mean("output_tokens_per_second"),
        target_utilisation=mean("target_utilisation"),
        draft_utilisation=mean("draft_utilisation"),
        waiting_share=mean("waiting_share"),
        mean_queue=mean("mean_queue"),
        load=load,
        ttft_growth=mean("ttft_growth"),
        preemptions=mean("preemptions"),
        kv_share=None if np.isnan(mean("kv_share")) else mean("kv_share"),
        extrapolated_share=float(np.mean(beyond)),
        saturation=worst([run.saturation for run in runs]),
        short=any(run.short for run in runs),
        replications=len(runs),
        simulated_requests_per_wall_second=sum(map(len, workloads)) / wall_seconds,
    )
