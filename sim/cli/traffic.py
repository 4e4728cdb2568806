"""`specdec simulate` with `--arrivals` or `--trace`: options as people type them, and the numbers as JSON knows them.

It knows the syntax of options; what a request is and how it is served is in `sim.traffic.workload` and `sim.traffic.serving`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.latency import parse_seconds
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.intervals import interval
from sim.traffic.metrics import Metrics, Objectives, measure, worst
from sim.traffic.serving import Server, simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Workload, read_trace, streams
from sim.traffic.workload import Traffic as DrawnTraffic
from specdec import DecodingStrategy, InputError

ARRIVALS = re.compile(r"(?:poisson:(?P<poisson>[^,/]+)/s|gamma:(?P<gamma>[^,/]+)/s,\s*cv=(?P<cv>.+))")
LENGTHS = re.compile(r"(?P<mean>[^,]+)(?:,\s*cv=(?P<cv>.+))?")


@dataclass(frozen=True, slots=True)
class Traffic:
    """The options of a serving simulation: `arrivals` (`poisson:5/s`, `gamma:5/s,cv=2`) or `trace` (a file), exactly one.

    Lengths are token counts, `512` or `512,cv=0.5`, for drawn arrivals only; `requests` caps a trace. Objectives are durations,
    `500ms`. `server` and `objectives` are what the other fields say; all are checked when the options are made.
    """

    arrivals: str | None = None
    trace: Path | None = None
    time_scale: float = 1.0
    requests: int | None = None
    input_tokens: str = "512"
    output_tokens: str = "256"
    replicas: int = 1
    max_batch: int = 64
    kv_tokens: int | None = None
    prefill_chunk: int | None = None
    objective_ttft: str | None = None
    objective_tpot: str | None = None
    replications: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.arrivals is None) == (self.trace is None):
            raise InputError("give either --arrivals (poisson:5/s) or --trace (a file), not both and not neither")
        for option, value in (("--replications", self.replications), ("--requests", self.requests)):
            if value is not None and value < 1:
                raise InputError(f"{option} {value} is not possible: give at least 1")
        if not 0 < self.time_scale < np.inf:
            raise InputError(f"--time-scale {self.time_scale:g} is not possible: give a number above 0 (0.5 doubles the load)")
        _ = self.server, self.objectives

    @property
    def server(self) -> Server:
        return Server(self.replicas, self.max_batch, self.kv_tokens, self.prefill_chunk)

    @property
    def objectives(self) -> Objectives:
        limits = {"--objective-ttft": self.objective_ttft, "--objective-tpot": self.objective_tpot}
        return Objectives(*(None if text is None else parse_seconds(text, option) for option, text in limits.items()))

    def workloads(self, seeds: Sequence[np.random.SeedSequence]) -> list[Workload]:
        """The requests of each replication: a trace is the same in all of them, arrivals are drawn anew."""
        if self.trace is not None:
            return [read_trace(self.trace, time_scale=self.time_scale, requests=self.requests)] * len(seeds)
        drawn = parse_arrivals(self.arrivals or "")
        scaled = Arrivals(drawn.rate_per_second / self.time_scale, drawn.cv)
        inputs = parse_lengths("--input-tokens", self.input_tokens)
        outputs = parse_lengths("--output-tokens", self.output_tokens)
        return [DrawnTraffic(scaled, inputs, outputs, self.requests or 1000).workload(seed) for seed in seeds]


def simulate_traffic(strategy: DecodingStrategy, system: System, acceptance: Acceptance, traffic: Traffic) -> dict[str, Any]:
    """The serving part of `specdec simulate`'s JSON: means over replications, with 95 % intervals where there are several.

    `goodput` is in requests per second. Equal seeds give strategies equal requests and equal luck.
    """
    seeds = streams(np.random.SeedSequence(traffic.seed), 2 * traffic.replications)
    workloads = traffic.workloads(seeds[::2])
    start = perf_counter()
    compiled = compile_strategy(strategy, system)
    runs = [
        measure(simulate_serving(compiled, acceptance, system, workload, traffic.server, luck), traffic.objectives)
        for workload, luck in zip(workloads, seeds[1::2], strict=True)
    ]
    wall_seconds = perf_counter() - start
    return {
        "requests": len(workloads[0]),
        **{f"{name}_seconds": _latency(runs, name) for name in ("ttft", "tpot", "itl", "e2e")},
        "goodput": _mean(runs, "goodput"),
        **{name: _mean(runs, name) for name in NUMBERS},
        "saturation": worst([run.saturation for run in runs]),
        "replications": len(runs),
        "simulated_requests_per_wall_second": sum(map(len, workloads)) / wall_seconds,
    }


NUMBERS = (
    "goodput_share",
    "requests_per_second",
    "output_tokens_per_second",
    "target_utilisation",
    "draft_utilisation",
    "waiting_share",
    "mean_queue",
)


def _mean(runs: Sequence[Metrics], name: str) -> float:
    return float(np.mean([getattr(run, name) for run in runs]))


def _latency(runs: Sequence[Metrics], name: str) -> dict[str, Any]:
    """Means over runs of the mean and of each percentile; JSON knows no NaN, so what was not measured is `None`."""
    rows = [asdict(getattr(run, name)) for run in runs]
    values = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    found: dict[str, Any] = {key: None if np.isnan(value) else value for key, value in values.items()}
    if len(runs) > 1 and found["mean"] is not None:
        found["mean_interval"] = list(interval([row["mean"] for row in rows]))
    return found


def parse_arrivals(text: str) -> Arrivals:
    """`poisson:5/s` or `gamma:5/s,cv=2`."""
    found = ARRIVALS.fullmatch(text.strip())
    if not found:
        raise InputError(f"--arrivals {text!r} is not understood: write poisson:5/s, or gamma:5/s,cv=2, or give --trace FILE")
    return Arrivals(_number("--arrivals", found["poisson"] or found["gamma"]), _number("--arrivals", found["cv"] or "1"))


def parse_lengths(option: str, text: str) -> Lengths:
    """`512` or `512,cv=0.5`."""
    found = LENGTHS.fullmatch(text.strip())
    if not found:
        raise InputError(f"{option} {text!r} is not understood: write 512, or 512,cv=0.5")
    return Lengths(_number(option, found["mean"]), _number(option, found["cv"] or "0"))


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option}: {text!r} is not a number: write for example 5") from None
