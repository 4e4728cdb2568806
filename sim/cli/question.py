"""What `specdec plan` is asked: methods, requests, objectives and limits, as options, and the same options written out again.

A saved plan holds the options that made it, so that it can be checked and made again. They are written from the values, not
from what was typed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.acceptance import OF_PROFILE, tag_of
from sim.cli.options import Placement, SystemOptions
from sim.cli.traffic import INPUT_TOKENS, OUTPUT_TOKENS, TrafficOptions
from specdec.cli.grouped import with_grouped_options
from specdec.cli.parsing import refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.planning.methods import Method
    from sim.planning.objectives import Objective
    from sim.traffic.workload import Traffic, Workload

_QUANTITIES = {"ttft": "time to the first token", "tpot": "time of each further token", "e2e": "time to the last token"}
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
objective_option = partial(typer.Option, rich_help_panel="Objectives")
method_option = partial(typer.Option, rich_help_panel="Methods")
search_option = partial(typer.Option, rich_help_panel="Search")
PLANNED_REQUESTS = 3000
TENSOR_PARALLEL = (1, 2, 4, 8)
"""Numbers of GPUs that a target is tried on."""

ObjectiveOptions = make_dataclass(
    "ObjectiveOptions",
    [
        (
            f"{quantity}_{statistic}",
            Annotated[
                str | None,
                objective_option(
                    metavar="TIME",
                    help=f"Limit of the {what}: {'its mean' if statistic == 'mean' else f'{statistic[1:]} % of requests'}.",
                ),
            ],
            None,
        )
        for quantity, what in _QUANTITIES.items()
        for statistic in _STATISTICS
    ],
    frozen=True,
)
"""A limit for each latency and statistic: `--ttft-p99`, `--tpot-mean`, ..."""


@dataclass(frozen=True)
class SourceOptions:
    """Runs of engines, and the names of models."""

    runs: Annotated[
        list[Path] | None,
        method_option(
            "--from",
            metavar="PATH",
            help="Files or folders of engines and benchmark tools, see specdec import; may be repeated.",
        ),
    ] = None
    dataset: Annotated[str | None, method_option(help="With --from: the prompts whose acceptance counts.")] = None
    method: Annotated[
        str | None,
        method_option(help="With --from: what files do not say. Else: how guesses are made, draft_model unless given."),
    ] = None
    target: Annotated[str | None, method_option(help="Name of the target, for flags and texts.")] = None
    draft: Annotated[str | None, method_option(help="Name of the draft.")] = None
    exchange: Annotated[
        str | None,
        method_option(metavar="TIME", help="Way of a round's tokens between two devices, there and back; 0.3ms unless given."),
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """What may be used, and what is tried."""

    price: Annotated[float | None, search_option(help="Of a GPU in an hour.")] = None
    max_gpus: Annotated[int, search_option(min=1, max=10_000, help="GPUs at most.")] = 64
    strategy: Annotated[
        list[str] | None, search_option(help="To try with a draft; may be repeated. speculative and pearl unless given.")
    ] = None
    batch_limit: Annotated[
        list[int] | None, search_option(min=1, max=100_000, help="Batch limit to try; may be repeated. 256 unless given.")
    ] = None
    schedules: Annotated[bool, search_option("--schedules/--no-schedules", help="Try lengths by running batch.")] = True


@dataclass(frozen=True)
class Question:
    """All groups of options of a plan."""

    sources: SourceOptions
    setup: SystemOptions
    serving: TrafficOptions
    wanted: Any
    search: SearchOptions

    @classmethod
    def parsed(cls, arguments: Sequence[str]) -> Question:
        """The question that these arguments ask, as the command line reads them."""
        found: list[Question] = []

        def keep(
            sources: SourceOptions,
            setup: SystemOptions,
            serving: TrafficOptions,
            wanted: ObjectiveOptions,  # type: ignore[valid-type]
            search: SearchOptions,
        ) -> None:
            found.append(cls(sources, setup, serving, wanted, search))

        app = typer.Typer(add_completion=False)
        app.command()(with_grouped_options(keep))
        app(list(arguments), standalone_mode=False)
        return found[0]

    def arguments(self) -> tuple[str, ...]:
        """The options that ask this question again."""
        return tuple(
            text
            for group in (self.sources, self.setup, self.serving, self.wanted, self.search)
            for field in fields(group)
            if getattr(group, field.name) != field.default
            for text in _written(
                "--from" if field.name == "runs" else f"--{field.name.replace('_', '-')}", getattr(group, field.name)
            )
        )

    def files(self) -> dict[str, str]:
        """SHA-256 of every file that is read, by path; of a model's folder that is its config.json alone."""
        named = [*(self.sources.runs or ()), self.serving.trace, self.setup.profile]
        paths = [Path(one) for one in named if one is not None and Path(one).exists()]
        models = [Path(one) for one in (self.setup.target_config, self.setup.draft_config) if one is not None]
        paths += [model / "config.json" if model.is_dir() else model for model in models]
        every = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*"))) if file.is_file()]
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in every}

    def objectives(self) -> tuple[Objective, ...]:
        from sim.planning.objectives import objectives_of

        return objectives_of({field.name.replace("_", "-"): getattr(self.wanted, field.name) for field in fields(self.wanted)})

    def traffic(self, times: int = 1) -> Traffic | Workload:
        """The requests; `times` as many for a check."""
        fixed = {"--replicas": self.serving.replicas, "--replications": self.serving.replications}
        refuse(fixed, "has no effect on a plan, which finds the replicas: leave it out")
        refuse(self.serving.limits, "is not for plans: give --ttft-p99, --tpot-p99 or the like")
        refuse({"--max-batch": self.serving.max_batch}, "is tried by a plan: give --batch-limit, one or several")
        if self.serving.arrivals is None and self.serving.trace is None:
            raise InputError("a plan needs requests that arrive: give --arrivals poisson:5/s or --trace FILE")
        serving = self.serving
        if serving.requests is None and serving.trace is None:
            serving = replace(serving, requests=PLANNED_REQUESTS)
        found = serving.traffic()
        assert found is not None
        return found if times == 1 else found.repeated(times)

    def methods(self) -> tuple[Method, ...]:
        """The methods to plan with. Options that would have no effect are refused."""
        self._refuse_ignored()
        if self.sources.runs:
            given = {**self.setup.given(), "--profile": self.setup.profile, "--acceptance": self.setup.acceptance}
            refuse(
                {name: value for name, value in given.items() if name not in ("--gpu", "--target-gpus")},
                "has no effect with --from: give one of the two",
            )
            from sim.planning.from_runs import methods_from_runs

            found = methods_from_runs(
                self.sources.runs,
                dataset=self.sources.dataset,
                known={
                    "method": self.sources.method,
                    "target": self.sources.target,
                    "draft": self.sources.draft,
                    "gpu": self.setup.gpu,
                    "gpus": self.setup.target_gpus,
                },
                exchange_seconds=self._exchange,
                kv_tokens=self.serving.kv_tokens,
            )
        else:
            refuse({"--dataset": self.sources.dataset}, "has no effect without --from: leave it out")
            found = self._from_setup()
        return found if self.setup.placement is None else _placed(found, self.setup.placement)

    def _refuse_ignored(self) -> None:
        """Refuse what a plan decides by itself, and what its source of step times holds already."""
        devices = {"--network": self.setup.network, "--together": self.setup.together, "--antiphase": self.serving.antiphase}
        refuse(devices, "is not for plans, which try placements of their own: leave it out, or give --exchange")
        if self._method == "ar":
            raise InputError(f"--method {self.sources.method} drafts nothing, and is planned anyway: leave it out")
        refuse({"--context": self.setup.context}, "has no effect on a plan, whose traffic says what is held: leave it out")
        source = "--from" if self.sources.runs else "--profile" if self.setup.profile is not None else None
        if source is not None:
            fixed = {"--overhead": self.setup.overhead, "--jitter": self.setup.jitter}
            refuse({**fixed, "--batches-are-free": self.serving.batches_are_free}, f"has no effect with {source}: leave it out")

    @property
    def _method(self) -> str:
        """How guesses are made."""
        from sim.engines.run import DRAFT_MODEL
        from sim.engines.stated import method_name

        return method_name(self.sources.method or DRAFT_MODEL)

    @property
    def _exchange(self) -> float:
        from sim.planning.methods import EXCHANGE_SECONDS
        from sim.setup.latency import parse_seconds

        return EXCHANGE_SECONDS if self.sources.exchange is None else parse_seconds(self.sources.exchange, "--exchange")

    @property
    def timed(self) -> SystemOptions:
        """The options of step times: those of a profile hold for the GPUs that it is of, which a plan counts."""
        if self.setup.profile is None:
            return self.setup
        return replace(self.setup, target_gpus=None, draft_gpus=None)

    def _from_setup(self) -> tuple[Method, ...]:
        """The methods of a profile, of a GPU, or of constants.

        Estimates for a GPU are tried on each number of GPUs that the target fits on, unless one is given, or a step that was
        measured on one.
        """
        if not self.setup.computed or self.setup.target_gpus is not None or self.setup.anchor:
            return self._on(self.setup)
        found: dict[str, Method] = {}
        refused: InputError | None = None
        for gpus in (number for number in TENSOR_PARALLEL if number <= self.search.max_gpus):
            try:
                methods = self._on(replace(self.setup, target_gpus=gpus, placement=None))  # the target may fit alone
            except InputError as error:
                refused = error
                continue
            for one in methods:
                first = found.get(one.name)
                found[one.name] = one if first is None else replace(one, places=(*first.places, *one.places))
        if not found:
            raise refused or InputError(f"--max-gpus {self.search.max_gpus} leaves no GPU for the target: give more")
        return tuple(found.values())

    def _on(self, setup: SystemOptions) -> tuple[Method, ...]:
        """The methods on GPUs, or with steps, that are given."""
        from sim.engines.run import DRAFT_MODEL
        from sim.planning.methods import methods_of, methods_of_systems
        from specdec.acceptance import Tag
        from specdec.profile import Profile

        name, acceptance = self._method, self.timed.acceptance_model()
        if setup.profile is not None:
            profile, own = Profile.read(setup.profile), setup.acceptance in (None, *OF_PROFILE)
            if profile.together is None and name != DRAFT_MODEL:
                refuse({"--draft-gpus": setup.draft_gpus}, f"has no effect on {name}, which is on the target's: leave it out")
            return methods_of(
                {name: profile},
                exchange_seconds=self._exchange,
                target_gpus=setup.target_gpus,
                draft_gpus=setup.draft_gpus,
                acceptance=acceptance,
                acceptance_tag=profile.acceptance.tag if own else tag_of(setup.acceptance),
                draft=self.sources.draft,
                provenance={"step times": setup.profile, "acceptance": setup.acceptance or setup.profile},
            )
        together = replace(setup, placement="shared", draft_gpus=None)
        accepted = tag_of(setup.acceptance)
        words = {"step times": f"{setup.gpu or setup.latency or 'as given'}" + (", anchored" if setup.anchor else "")}
        words["acceptance"] = f"{setup.acceptance} as {'given' if accepted == 'assumed' else 'published'}"
        shared = pool = None
        try:
            shared, pool = self.serving.system(together.system()), together.kv_tokens(drafts=True)
        except InputError as error:
            if setup.placement == "shared":
                raise
            words["shared placement"] = f"not possible: {error}"
        apart, alone = self.serving.system(replace(setup, placement=None).system()), setup.kv_tokens(drafts=False)
        tags: dict[str, Tag] = {"step": getattr(apart.latency, "tag", "assumed"), "acceptance": accepted}
        if alone is not None:
            tags["kv_tokens"] = "table"
        return methods_of_systems(
            shared,
            apart,
            acceptance,
            name=name,
            draft=self.sources.draft or setup.draft_config or "draft",
            target_gpus=setup.target_gpus or 1,
            draft_gpus=setup.draft_gpus or 1,
            shared_kv_tokens=pool,
            kv_tokens=alone,
            draft_kv_tokens=setup.draft_kv_tokens,
            exchange_seconds=self._exchange,
            tags=tags,
            provenance=words,
        )

    @property
    def target_name(self) -> str:
        """Name of the target: as given, or as the files have it."""
        if self.sources.target or self.setup.target_config:
            return self.sources.target or self.setup.target_config or ""
        if self.sources.runs:
            from sim.engines.reading import read_runs

            return read_runs(self.sources.runs, method=self.sources.method)[0].target
        if self.setup.profile is not None:
            from specdec.profile import Profile

            return Profile.read(self.setup.profile).pair.target
        return ""

    def traffic_words(self) -> str:
        """The requests in words."""
        serving = self.serving
        if serving.trace is not None:
            scale = "" if serving.time_scale is None else f", times x {serving.time_scale:g}"
            return f"{serving.trace}{scale}"
        lengths = f"prompts {serving.input_tokens or INPUT_TOKENS}, answers {serving.output_tokens or OUTPUT_TOKENS}"
        return f"{serving.arrivals}, {lengths}; assumed"

    def kv_known(self, methods: Sequence[Method]) -> Mapping[str, str]:
        """A word on caches whose size nobody gave."""
        unknown = [one.name for one in methods if one.places[0].kv_tokens is None]
        if self.serving.kv_tokens is not None or not unknown:
            return {}
        return {"KV cache": f"unknown for {', '.join(unknown)}, taken as no limit: give --kv-tokens"}


def _placed(methods: Sequence[Method], placement: Placement) -> tuple[Method, ...]:
    """The methods, in the places that were asked for alone. One without such a place is left out, and the others say so.

    Raises `InputError` where no method that drafts has one.
    """
    kept = "shared" if placement == "shared" else "own device"
    places = {one: tuple(place for place in one.places if place.name == kept or one.name == "ar") for one in methods}
    left_out = [one for one in methods if not places[one]]
    there = ", ".join(f"{one.name} no place, which has {', '.join(place.name for place in one.places)}" for one in left_out)
    if left_out and all(one.name == "ar" for one in methods if places[one]):
        if placement == "shared" and "shared placement" in left_out[0].provenance:
            raise InputError(f"--placement shared is {left_out[0].provenance['shared placement']}")
        raise InputError(f"--placement {placement} leaves {there}: leave it out")
    words = {"left out": f"--placement {placement} leaves {there}"} if left_out else {}
    return tuple(replace(one, places=places[one], provenance={**one.provenance, **words}) for one in methods if places[one])


def _written(option: str, value: Any) -> Iterator[str]:
    """An option as arguments."""
    if value is True:
        yield option
    elif value is False:
        yield f"--no-{option[2:]}"
    else:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            yield from (option, str(one))
