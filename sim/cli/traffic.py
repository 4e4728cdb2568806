"""Options of requests and servers, and the values of `sim.traffic` that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.traffic.trace import TimeUnit, read_trace
from specdec.cli.parsing import refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.system import System
    from sim.traffic.metrics import Objectives
    from sim.traffic.record import Server
    from sim.traffic.schedule import Several
    from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
    from specdec.strategy import DecodingStrategy

ARRIVALS = re.compile(r"(?:poisson:(?P<poisson>[^,/]+)(?:/s)?|gamma:(?P<gamma>[^,/]+)(?:/s)?,\s*cv=(?P<cv>.+))")
SCHEDULE = re.compile(r"adaptive:(?P<most>[1-9]\d?)|(?P<tiers>(?:(?:[1-9]\d?|off)@\d+,\s*)*(?:[1-9]\d?|off))")
LENGTHS = re.compile(r"(?P<mean>[^,]+)(?:,\s*cv=(?P<cv>.+))?")
REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS = 1000, "512", "256"
MAX_BATCH, ITERATION_TOKENS = 256, 2048
MOST_REPLICAS, MOST_REQUESTS = 10_000, 10_000_000
"""What can be simulated in memory."""
MOST_AT_ONCE = 100_000
"""The most sequences of a batch, and clients."""


serving_option = partial(typer.Option, rich_help_panel="Serving (needs --arrivals, --trace or --concurrency)")


@dataclass(frozen=True)
class TrafficOptions:
    """Requests to serve, and what serves them; none of it unless `arrivals` or `trace` is given."""

    arrivals: Annotated[str | None, serving_option(metavar="LAW", help="Requests to draw: poisson:5/s, or gamma:5/s,cv=2.")] = (
        None
    )
    trace: Annotated[Path | None, serving_option(metavar="FILE", help="Requests from a trace file.")] = None
    time_unit: Annotated[
        TimeUnit | None, serving_option(help="With --trace: unit of its clock, where the file does not say it.")
    ] = None
    columns: Annotated[
        str | None,
        serving_option(metavar="ROLE=NAME", help="With --trace: its columns, as arrival=NAME,input=NAME,output=NAME."),
    ] = None
    drop_failed: Annotated[
        bool | None, serving_option("--drop-failed", help="With --trace: leave out requests without an answer.")
    ] = None
    time_scale: Annotated[float | None, serving_option(help="Stretch the arrivals; 0.5 doubles the load.")] = None
    requests: Annotated[
        int | None,
        serving_option(min=1, max=MOST_REQUESTS, help=f"Take so many requests: {REQUESTS}, or the whole trace, unless given."),
    ] = None
    input_tokens: Annotated[
        str | None, serving_option(metavar="N", help=f"With --arrivals: prompt length, such as {INPUT_TOKENS} or 512,cv=0.5.")
    ] = None
    output_tokens: Annotated[
        str | None, serving_option(metavar="N", help=f"With --arrivals: answer length, such as {OUTPUT_TOKENS} or 256,cv=1.")
    ] = None
    replicas: Annotated[
        int | None, serving_option(min=1, max=MOST_REPLICAS, help="Copies of target and draft; 1 unless given.")
    ] = None
    max_batch: Annotated[
        int | None, serving_option(min=1, max=MOST_AT_ONCE, help=f"Sequences a replica runs at once; {MAX_BATCH} unless given.")
    ] = None
    kv_tokens: Annotated[
        int | None,
        serving_option(
            min=1,
            max=10**12,
            help="Tokens of text that the KV cache of a replica holds; no limit, or what fits on --gpu, unless given.",
        ),
    ] = None
    iteration_tokens: Annotated[
        int | None,
        serving_option(min=1, max=10**9, help=f"Tokens of an iteration, prompts included; {ITERATION_TOKENS} unless given."),
    ] = None
    cached_share: Annotated[float | None, serving_option(help="Share of each prompt that prefix caching spares.")] = None
    concurrency: Annotated[
        int | None, serving_option(min=1, max=MOST_AT_ONCE, help="Requests open at once: each client waits for its answer.")
    ] = None
    client_delay: Annotated[str | None, serving_option(metavar="TIME", help="Way of a request to the engine.")] = None
    lag: Annotated[
        int | None,
        serving_option(min=0, max=MOST_AT_ONCE, help="Planned iterations that a new request misses; 0 unless given."),
    ] = None
    routing: Annotated[str | None, serving_option(metavar="RULE", help="shortest-queue (default) or round-robin.")] = None
    antiphase: Annotated[
        bool | None, serving_option("--antiphase", help="Draft one half of the batch while the other is verified; two devices.")
    ] = None
    batches_are_free: Annotated[
        bool | None, serving_option("--batches-are-free", help="Let constant step times hold for any batch and prompt.")
    ] = None
    objective_ttft: Annotated[str | None, serving_option(metavar="TIME", help="Limit of the time to the first token.")] = None
    objective_tpot: Annotated[str | None, serving_option(metavar="TIME", help="Limit of the time per further token.")] = None
    objective_e2e: Annotated[str | None, serving_option(metavar="TIME", help="Limit of the time to the last token.")] = None
    replications: Annotated[
        int | None, serving_option(min=1, max=MOST_REPLICAS, help="Runs with acceptance draws of their own; 1 unless given.")
    ] = None

    def traffic(self) -> Traffic | Workload | None:
        """The requests, or `None` where none are asked for. Options that would have no effect are refused."""
        from sim.traffic.workload import Arrivals, Traffic

        if self.arrivals is None and self.trace is None and self.concurrency is None:
            others = {f"--{field.name.replace('_', '-')}": getattr(self, field.name) for field in fields(self)}
            refuse(others, "has no effect without requests to serve: give --arrivals, --trace or --concurrency too")
            return None
        scale = 1.0 if self.time_scale is None else self.time_scale
        if not 0 < scale < inf:
            raise InputError(f"--time-scale {scale:g} is not possible: give a number above 0 (0.5 doubles the load)")
        if self.trace is not None:
            lengths = {"--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens}
            refuse({"--arrivals": self.arrivals, **lengths}, f"has no effect with --trace {self.trace}: give one of the two")
            return read_trace(
                self.trace,
                time_scale=scale,
                requests=self.requests,
                time_unit=self.time_unit,
                columns=None if self.columns is None else parse_columns(self.columns),
                drop_failed=bool(self.drop_failed),
            )
        of_traces = {"--time-unit": self.time_unit, "--columns": self.columns, "--drop-failed": self.drop_failed}
        refuse(of_traces, "has no effect without a trace: give --trace FILE too, or leave it out")
        drawn = None if self.arrivals is None else parse_arrivals(self.arrivals)
        if drawn is None:
            refuse({"--time-scale": self.time_scale}, "has no effect without arrivals: give --arrivals or --trace too")
        return Traffic(
            None if drawn is None else Arrivals(drawn.rate_per_second / scale, drawn.cv),
            parse_lengths("--input-tokens", INPUT_TOKENS if self.input_tokens is None else self.input_tokens),
            parse_lengths("--output-tokens", OUTPUT_TOKENS if self.output_tokens is None else self.output_tokens),
            REQUESTS if self.requests is None else self.requests,
        )

    def server(self, kv_tokens: int | None = None) -> Server:
        """What serves the requests. `kv_tokens` is the cache's size where `--kv-tokens` does not say it."""
        from sim.setup.latency import parse_seconds
        from sim.traffic.record import Server

        delay = None if self.client_delay is None else parse_seconds(self.client_delay, "--client-delay")
        given = {
            "replicas": self.replicas,
            "max_batch": self.max_batch,
            "kv_tokens": kv_tokens if self.kv_tokens is None else self.kv_tokens,
            "iteration_tokens": self.iteration_tokens,
            "cached_share": self.cached_share,
            "clients": self.concurrency,
            "client_seconds": delay,
            "lag_iterations": self.lag,
            "routing": self.routing,
            "antiphase": self.antiphase,
        }
        return Server(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def system(self, system: System) -> System:
        """The system, with constants that hold for any batch where `--batches-are-free` says so."""
        from sim.setup.latency import Constant

        if not self.batches_are_free:
            return system
        if not isinstance(system.latency, Constant):
            raise InputError("--batches-are-free is for --draft-step and --target-step: leave it out")
        return replace(system, latency=replace(system.latency, batches_are_free=True))

    def objectives(self) -> Objectives:
        """What a request must meet to count as good."""
        from sim.setup.latency import parse_seconds
        from sim.traffic.metrics import Objectives

        limits = self.limits.items()
        return Objectives(*(None if text is None else parse_seconds(text, option) for option, text in limits))

    @property
    def limits(self) -> dict[str, str | None]:
        """What a request must meet, as it was typed, by option."""
        return {
            "--objective-ttft": self.objective_ttft,
            "--objective-tpot": self.objective_tpot,
            "--objective-e2e": self.objective_e2e,
        }


def parse_arrivals(text: str) -> Arrivals:
    """`poisson:5/s` or `gamma:5/s,cv=2`; `/s` may be left out."""
    from sim.traffic.workload import Arrivals

    found = ARRIVALS.fullmatch(text.strip())
    if not found:
        raise InputError(f"--arrivals {text!r} is not understood: write poisson:5/s, or gamma:5/s,cv=2, or give --trace FILE")
    return Arrivals(_number("--arrivals", found["poisson"] or found["gamma"]), _number("--arrivals", found["cv"] or "1"))


def parse_columns(text: str) -> dict[str, str]:
    """`arrival=NAME,input=NAME,output=NAME`, or some of them."""
    parts = [part.partition("=") for part in text.split(",")]
    found = {role.strip(): name.strip() for role, equals, name in parts if equals and name.strip()}
    if len(found) < len(parts):
        raise InputError(f"--columns {text!r} is not understood: write arrival=NAME,input=NAME,output=NAME")
    return found


def parse_lengths(option: str, text: str) -> Lengths:
    """`512` or `512,cv=0.5`."""
    from sim.traffic.workload import Lengths

    found = LENGTHS.fullmatch(text.strip())
    if not found:
        raise InputError(f"{option} {text!r} is not understood: write 512, or 512,cv=0.5")
    return Lengths(_number(option, found["mean"]), _number(option, found["cv"] or "0"))


def parse_schedule(text: str, strategy: DecodingStrategy, system: System) -> Several:
    """`4@16,2@64,off`: lengths, and up to how many running sequences each is used. `adaptive:6`: of lengths 6 to 1, and off."""
    from sim.stream.chain import compile_strategy
    from sim.traffic.schedule import OFF_FACTOR, AdaptiveSchedule, Schedule
    from specdec.strategy import DraftingStrategy, create

    if not isinstance(strategy, DraftingStrategy):
        raise InputError(f"--schedule {text} is a choice of draft lengths, and {strategy.name} has none: leave it out")
    found = SCHEDULE.fullmatch(text.strip())
    if not found:
        raise InputError(f"--schedule {text!r} is not understood: write 4@16,2@64,off, or adaptive:6")
    tiers = [part.partition("@") for part in (found["tiers"] or "").split(",")]
    lengths = (
        [0 if tier == "off" else int(tier) for tier, _, _ in tiers] if found["tiers"] else [*range(int(found["most"]), -1, -1)]
    )
    chosen = [replace(strategy, draft_length=length) if length else create("autoregressive") for length in lengths]
    chains = [compile_strategy(one, system) for one in chosen]
    slower = [1.0 if length else OFF_FACTOR for length in lengths]
    if not found["tiers"]:
        return AdaptiveSchedule(chains, slower)
    return Schedule(chains, [int(border) for _, _, border in tiers[:-1]], slower)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option}: {text!r} is not a number: write for example 5") from None
