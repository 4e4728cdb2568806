"""The study of one strategy under load: requests are served in several replications; means, and intervals of the means.

How a request is served is in `sim.traffic`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.intervals import interval
from sim.traffic.metrics import Metrics, Objectives, Saturation, Summary, measure, worst
from sim.traffic.record import ONE_REPLICA, Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Traffic, Workload, streams
from specdec.inputs import at_least_one
from specdec.report import Report, share, table, three_digits
from specdec.strategy import DecodingStrategy

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


NO_OBJECTIVES = Objectives()


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
    `saturation`                 `stable`, `backlogged` or `overloaded`; the worst of all replications
    `replications`               runs with requests and acceptance draws of their own
    `simulated_requests_per_wall_second`   how fast the simulator was; differs from run to run
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
    saturation: Saturation
    replications: int
    simulated_requests_per_wall_second: float

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        more = "" if self.replications == 1 else f", means of {self.replications} replications"
        good, finished, queue = map(three_digits, (self.goodput, self.requests_per_second, self.mean_queue))
        tokens, simulated = map(three_digits, (self.output_tokens_per_second, self.simulated_requests_per_wall_second))
        return Group(
            f"[bold]Serving {self.requests:,} requests[/]: {self.saturation}{more}",
            self._latencies(),
            f"  goodput     {good} requests/s; {share(self.goodput_share)} of requests meet the objectives",
            f"  throughput  {finished} requests/s, {tokens} output tok/s",
            f"  busy        target {share(self.target_utilisation)}, draft {share(self.draft_utilisation)} of the time",
            f"  waiting     {share(self.waiting_share)} of requests' time; {queue} requests on average",
            f"  simulator   {simulated} requests per second of computing",
        )

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
    strategy: DecodingStrategy,
    acceptance: Acceptance,
    system: System,
    traffic: Traffic | Workload,
    server: Server = ONE_REPLICA,
    objectives: Objectives = NO_OBJECTIVES,
    *,
    replications: int = 1,
    seed: int = 0,
) -> Load:
    """Serve requests with a strategy, in one or several replications.

    Every replication has acceptance draws of its own and draws its `traffic` anew; a `Workload` is the same in all of them.
    Equal seeds give all strategies equal requests and equal acceptance draws. Raises `InputError` for less than 1 replication,
    or a request that no replica has the memory for, and `StrategyError` for a strategy that cannot be compiled.
    """
    at_least_one(replications=replications)
    seeds = streams(np.random.SeedSequence(seed), 2 * replications)
    workloads = [traffic if isinstance(traffic, Workload) else traffic.workload(one) for one in seeds[::2]]
    start = perf_counter()
    compiled = compile_strategy(strategy, system)
    runs = [
        measure(simulate_serving(compiled, acceptance, system, workload, server, draws), objectives)
        for workload, draws in zip(workloads, seeds[1::2], strict=True)
    ]
    return _summed_up(runs, workloads, perf_counter() - start)


def _summed_up(runs: Sequence[Metrics], workloads: Sequence[Workload], wall_seconds: float) -> Load:
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
        saturation=worst([run.saturation for run in runs]),
        replications=len(runs),
        simulated_requests_per_wall_second=sum(map(len, workloads)) / wall_seconds,
    )
