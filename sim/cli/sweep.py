"""`specdec sweep`: a grid of strategies and loads on all cores, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from sim.cli.acceptance import ACCEPTANCE_HELP
from sim.cli.options import Seed, SystemOptions
from sim.cli.traffic import MOST_AT_ONCE, MOST_REPLICAS, TrafficOptions
from sim.study.sweep_backend import BackendName
from sim.study.sweep_backend import backend as working
from specdec.cli.console import Terminal
from specdec.cli.options import Json, Parameters
from specdec.cli.parsing import numbers, parameters, parsed_counts, parsed_lengths, refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from sim.study.sweep_point import Point
    from specdec.strategy import DecodingStrategy

axis = partial(typer.Option, rich_help_panel="Axes")
work_option = partial(typer.Option, rich_help_panel="Work")
STRATEGIES = "speculative,pearl"


@dataclass(frozen=True)
class AxisOptions:
    """What varies: lists with commas, and ranges of whole numbers."""

    strategy: Annotated[str, axis(metavar="LIST", help="Strategies, as specdec strategies lists them.")] = STRATEGIES
    draft_length: Annotated[
        str | None,
        axis(metavar="LIST", help="Draft lengths, such as 1,2,4 or 1-8, for strategies that have one; else their own."),
    ] = None
    settings: Parameters = None
    acceptance: Annotated[
        list[str] | None, axis("--acceptance", metavar="MODEL", help=f"May be repeated. {ACCEPTANCE_HELP}")
    ] = None
    rate: Annotated[
        str | None,
        axis(metavar="LIST", help="Requests per second: Poisson unless --cv is given; with --trace, its time is stretched."),
    ] = None
    concurrency: Annotated[
        str | None, axis(metavar="LIST", help="Requests open at once: each client waits for its answer (a closed loop).")
    ] = None
    replicas: Annotated[str | None, axis(metavar="LIST", help="Copies of target and draft; 1 unless given.")] = None
    max_batch: Annotated[str | None, axis(metavar="LIST", help="Sequences a replica runs at once; 256 unless given.")] = None
    cv: Annotated[float | None, axis(help="With --rate: coefficient of variation of gaps; 1 (Poisson) unless given.")] = None

    def strategies(self) -> list[DecodingStrategy]:
        """Every strategy at every length. A length for none of them is refused."""
        from specdec.strategy import STRATEGIES as KNOWN
        from specdec.strategy import DraftingStrategy, create

        lengths, chosen = parsed_lengths(self.draft_length), parameters(self.settings)
        names = list(dict.fromkeys(name.strip() for name in self.strategy.split(",")))
        drafting = [name for name in names if issubclass(KNOWN.find(name), DraftingStrategy)]
        if lengths and not drafting:
            raise InputError(f"--draft-length {self.draft_length} is for none of {self.strategy}: leave it out")
        return [
            create(name, **chosen, **more)
            for name in names
            for more in ([{"draft_length": length} for length in lengths] if name in drafting and lengths else [{}])
        ]

    def rates(self) -> list[float]:
        return [] if self.rate is None else numbers("--rate", self.rate.replace("/s", ""))

    def servers(self) -> dict[str, list[int]]:
        """The axes of the server, by the names of `grid`."""
        return {
            "clients": parsed_counts("--concurrency", self.concurrency, MOST_AT_ONCE),
            "replicas": parsed_counts("--replicas", self.replicas, MOST_REPLICAS),
            "max_batches": parsed_counts("--max-batch", self.max_batch, MOST_AT_ONCE),
        }


def without(options: type, name: str) -> Any:
    """A group of options without those that are axes."""
    hints, axes = get_type_hints(options, include_extras=True), {one.name for one in fields(AxisOptions)}
    kept = [(one.name, hints[one.name], field(default=one.default)) for one in fields(options) if one.name not in axes]
    return make_dataclass(name, kept, frozen=True)


FixedSystem = without(SystemOptions, "FixedSystem")
FixedTraffic = without(TrafficOptions, "FixedTraffic")


def sweep(
    axes: AxisOptions,
    setup: FixedSystem,  # type: ignore[valid-type]
    serving: FixedTraffic,  # type: ignore[valid-type]
    output: Annotated[
        str | None, work_option(metavar="FILE", help="Append each result as a line of JSON; run again, it goes on.")
    ] = None,
    workers: Annotated[int | None, work_option(min=1, max=MOST_REPLICAS, help="Processes; one a core unless given.")] = None,
    backend: Annotated[BackendName, work_option(help="loky: this machine. dask, ray: a cluster.")] = "loky",
    cluster: Annotated[
        str | None, work_option(metavar="ADDRESS", help="Of the cluster; a local one is started unless given.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Simulate a grid of strategies, draft lengths and loads on all cores, and mark the best of each load.

    Every point is what specdec simulate says of it, with the same requests and acceptance draws for all strategies. Results are
    appended to a file as they finish. Interrupted or killed, the same command goes on from there, on any number of workers.

    Examples:
      specdec sweep --profile profile.json --draft-length 1-8 --rate 1,2,5,10 --replicas 1-4 --output results.jsonl
      specdec sweep --profile profile.json --trace azure.csv --rate 2,4,8 --objective-ttft 500ms --output azure.jsonl
      specdec sweep --profile profile.json --strategy autoregressive,pearl --concurrency 1,8,64 --backend dask
      specdec sweep --acceptance 0.6 --acceptance 0.8 --draft-length 1-8 --draft-step 1ms --target-step 5ms
    """
    terminal = Terminal(json)
    from sim.study.sweep import sweep as study

    hardware = SystemOptions(**vars(setup))
    points = list(_points(axes, hardware, TrafficOptions(**vars(serving)), seed))
    try:
        with working(backend, workers, cluster):
            result = study(points, output=output, workers=workers, progress=terminal.follow)
    except KeyboardInterrupt as stopped:
        terminal.errors.print(f"specdec: interrupted: {stopped}" if str(stopped) else "specdec: interrupted")
        raise
    terminal.report(result)
    hardware.remark(terminal.errors)


def _points(axes: AxisOptions, setup: SystemOptions, serving: TrafficOptions, seed: int) -> Iterator[Point]:
    """The grid. The cache of a replica is the larger where no draft is loaded."""
    from sim.study.sweep_point import grid

    given = _loaded(axes, serving)
    traffic, server, objectives = given.traffic(), given.server(), given.objectives()
    more: dict[str, Any] = {**axes.servers(), "replications": given.replications or 1, "seed": seed}
    for point in grid(
        axes.strategies(),
        _acceptances(axes, setup),
        given.system(setup.system()),
        traffic,
        server,
        objectives,
        rates=axes.rates(),
        **more,
    ):
        kv_tokens = given.kv_tokens or setup.kv_tokens(drafts=point.strategy.drafts)
        yield replace(point, server=replace(point.server, kv_tokens=kv_tokens))


def _loaded(axes: AxisOptions, serving: TrafficOptions) -> TrafficOptions:
    """The options of `specdec simulate` at the first point of all axes."""
    rates, servers = axes.rates(), axes.servers()
    if rates:
        refuse({"--arrivals": serving.arrivals}, "gives one rate, and --rate several: write --rate, and --cv for bursts")
        refuse({"--time-scale": serving.time_scale}, "has no effect with --rate, which sets the speed: give one of the two")
    if axes.cv is not None and (not rates or serving.trace is not None):
        raise InputError(f"--cv {axes.cv:g} is for requests that are drawn: give --rate and no trace")
    law = f"gamma:{rates[0]},cv={1.0 if axes.cv is None else axes.cv}" if rates and serving.trace is None else serving.arrivals
    first = {name: values[0] if values else None for name, values in servers.items()}
    return replace(
        serving, arrivals=law, concurrency=first["clients"], replicas=first["replicas"], max_batch=first["max_batches"]
    )


def _acceptances(axes: AxisOptions, setup: SystemOptions) -> dict[str, Acceptance]:
    """The models of acceptance by the text that was typed."""
    texts = dict.fromkeys(axes.acceptance or [None])
    return {text or "profile": replace(setup, acceptance=text).acceptance_model() for text in texts}
