"""Compares predictions of load with a real pair that serves it: the same arrivals, played and simulated.

Requests arrive by a Poisson process at shares of the capacity that the simulator finds, and `specdec.bench.serving` plays them
on one running `specdec.Batch`. Profiles are taken before and after every repeat, in caches of as many slots. Nothing is fitted
to what was played.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import mean, median
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Counts, Floats
from sim.setup.profiles import measured_acceptance, measured_system
from sim.setup.system import System
from sim.stream.chain import Compiled, compile_strategy
from sim.traffic.metrics import Summary
from sim.traffic.record import Server
from sim.traffic.serving import capacity_per_second, simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.machine import OtherWork
from specdec.profile import Profile, busy_sentence
from specdec.prompts import bundled
from specdec.report import Progress, Report, named, no_progress, share, table, three_digits
from specdec.strategy import DecodingStrategy, create

if TYPE_CHECKING:
    from rich.console import RenderableType

    from specdec.pair import Pair

LOADS = (0.3, 0.6, 0.85)
SEEDS = 20
"""Simulations whose means are predicted; the real run is one."""

OUTPUT_CV = 0.5
"""How much the lengths of answers vary."""

Quantities: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Compared(Report):
    """One quantity, predicted and measured.

    `quantity`    `ttft_mean`, `ttft_p90`, the same of `tpot` and `e2e` (seconds), or `output_tokens_per_second`
    `predicted`   mean over simulations of the same arrivals
    `measured`    median over repeats
    `error`       predicted over measured, minus 1
    `repeats`     what was measured in each repeat
    """

    quantity: str
    predicted: float
    measured: float
    error: float
    repeats: tuple[float, ...] = ()

    @property
    def scatter(self) -> float:
        """By how much one repeat is off the median of all, on average."""
        return mean(abs(one / self.measured - 1) for one in self.repeats) if self.repeats else 0.0


@dataclass(frozen=True)
class LoadPoint(Report):
    """One strategy at one load.

    `strategy`              name of the strategy
    `parameters`            its parameters by name
    `load`                  share of the capacity that was found by simulation before anything was played
    `requests_per_second`   that arrive
    `busy`                  share of the needed cores that other processes took meanwhile; of repeats, the median
    `compared`              what was predicted and measured
    """

    strategy: str
    parameters: Mapping[str, Any]
    load: float
    requests_per_second: float
    busy: float
    compared: tuple[Compared, ...]


@dataclass(frozen=True)
class LoadValidation(Report):
    """Load that was played on a pair and simulated; what `specdec validate --load --json` writes.

    `batch_size`   sequences that run at once
    `requests`     of each run
    `repeats`      runs of each strategy at each load
    `busy`         the largest of those of the points and of the profiles: from 0.15 on, errors say nothing
    `points`       strategies at loads
    """

    format: ClassVar[str] = "specdec.validate-load/1"

    batch_size: int
    requests: int
    repeats: int
    busy: float
    points: tuple[LoadPoint, ...]

    @property
    def errors(self) -> list[float]:
        """All signed errors."""
        return [one.error for point in self.points for one in point.compared]

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        title = f"Predicted / measured under load (batches of up to {self.batch_size}; ms and tok/s)"
        names = [_HEADINGS[one.quantity] for one in self.points[0].compared]
        made = table("strategy", "load", numbers=["busy", *names], title=title, collapse_padding=True)
        for point in self.points:
            cells = [_cell(one) for one in point.compared]
            made.add_row(
                named(point.strategy, point.parameters),
                f"{share(point.load)}\n{point.requests_per_second:.2f}/s",
                share(point.busy),
                *cells,
            )
        worst = max(self.errors, key=abs)
        said = f"Mean error {100 * mean(map(abs, self.errors)):.1f} %, largest {100 * worst:+.1f} %."
        scatter = [one.scatter for point in self.points for one in point.compared]
        if any(scatter):
            said += f" A repeat is off the median of all by {100 * mean(scatter):.1f} %, at most {100 * max(scatter):.1f} %."
        return Group(made, busy_sentence(self.busy) or said)


_HEADINGS = {
    "ttft_mean": "TTFT\nmean",
    "ttft_p90": "TTFT\nP90",
    "tpot_mean": "TPOT\nmean",
    "tpot_p90": "TPOT\nP90",
    "e2e_mean": "E2E\nmean",
    "e2e_p90": "E2E\nP90",
    "output_tokens_per_second": "tok/s",
}


def _cell(one: Compared) -> str:
    scale = 1 if one.quantity == "output_tokens_per_second" else 1000
    return f"{three_digits(scale * one.predicted)}\n{three_digits(scale * one.measured)}\n{100 * one.error:+.1f} %"


def quantities(submitted: Floats, first: Floats, finish: Floats, output: Counts) -> Quantities:
    """Means and P90 of latencies, and throughput from the first request to the last answer."""
    many = output > 1
    tpot = (finish - first)[many] / (output[many] - 1)
    found: Quantities = {}
    for name, seconds in (("ttft", first - submitted), ("tpot", tpot), ("e2e", finish - submitted)):
        summary = Summary.of(seconds)
        found |= {f"{name}_mean": summary.mean, f"{name}_p90": summary.p90}
    return found | {"output_tokens_per_second": float(output.sum() / (finish.max() - submitted[0]))}


@dataclass
class LoadComparison:
    """Strategies under load on a real pair, with profiles of the pair taken in between. Iterating runs it.

    `prompts` are token ids, taken in turn. `workloads` holds the requests of each strategy and load, once they are known.
    """

    pair: Pair
    strategies: Sequence[DecodingStrategy]
    prompts: Sequence[Sequence[int]]
    loads: Sequence[float] = LOADS
    batch_size: int = 4
    requests: int = 60
    tokens: int = 48
    repeats: int = 2
    seed: int = 0
    profiles: list[Profile] = field(default_factory=list[Profile])
    workloads: dict[tuple[int, float], Workload] = field(default_factory=dict[tuple[int, float], Workload])
    played: dict[tuple[int, float], list[Quantities]] = field(default_factory=dict[tuple[int, float], list[Quantities]])
    busy: dict[tuple[int, float], list[float]] = field(default_factory=dict[tuple[int, float], list[float]])

    def __len__(self) -> int:
        return 1 + self.repeats * (1 + len(self.loads) * len(self.strategies))

    def __iter__(self) -> Iterator[str]:
        """Run the measurement; each step says what is done next."""
        yield "measuring the models"
        self.profiles.append(self._measured(0))
        self._draw()
        for repeat in range(self.repeats):
            for load in self.loads:
                for number, strategy in enumerate(self.strategies):
                    yield f"{strategy.name} at {share(load)}, repeat {repeat + 1} of {self.repeats}"
                    self.played.setdefault((number, load), []).append(self._play(number, load, repeat))
            yield "measuring the models again"
            self.profiles.append(self._measured(repeat + 1))

    @property
    def server(self) -> Server:
        return Server(max_batch=self.batch_size, runtime="specdec")

    def _measured(self, number: int) -> Profile:
        from specdec.measure import profile  # what needs torch is imported when it is used

        lengths = sorted({len(prompt) for prompt in self.prompts})
        longest = lengths[-1] + self.tokens
        widest = max((_longest_draft(strategy) for strategy in self.strategies), default=0) + 1
        return profile(
            self.pair,
            {"prompts": [*self.prompts, *self.prompts]},
            widths=range(1, max(10, widest + 1)),
            batches=sorted({batch for batch in (2, self.batch_size // 2, self.batch_size) if batch <= self.batch_size}),
            batch_widths=sorted({1, 2, (widest + 1) // 2, widest}),
            contexts=(mean_of(lengths, self.tokens), 2 * longest),
            prompt_tokens=sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]}),
            slots=self.batch_size,
            repeats=16,
            new_tokens=self.tokens,
            seed=1000 + number,
        )

    def _models(self) -> tuple[System, Acceptance]:
        found = Profile.merged(self.profiles)
        context = mean_of([len(prompt) for prompt in self.prompts], self.tokens)
        return measured_system(found, context, cells=self.batch_size > 1), measured_acceptance(
            found, recorded=found.acceptance.runs > 0
        )

    def _draw(self) -> None:
        """The requests of each strategy at each load: the same gaps and lengths, at the rate of that load."""
        system, acceptance = self._models()
        inputs = np.array([len(prompt) for prompt in islice(cycle(self.prompts), self.requests)])
        traffic = Traffic(Arrivals(1.0), Lengths(1), Lengths(self.tokens, OUTPUT_CV), self.requests)
        drawn = traffic.workload(np.random.SeedSequence(self.seed))
        output = np.minimum(drawn.output_tokens, self.pair.draft_context_limit - int(inputs.max()) - LOOK_AHEAD)
        for number, strategy in enumerate(self.strategies):
            waiting = Workload(np.zeros(self.requests), inputs, output)
            most = capacity_per_second(compile_strategy(strategy, system), acceptance, system, waiting, self.server)
            for load in self.loads:
                self.workloads[number, load] = Workload(drawn.arrival_seconds / (load * most), inputs, output)

    def _play(self, number: int, load: float, repeat: int) -> Quantities:
        from specdec.bench.serving import Request, play
        from specdec.measure.pair import needed_cores

        workload = self.workloads[number, load]
        columns = zip(workload.arrival_seconds.tolist(), cycle(self.prompts), workload.output_tokens.tolist(), strict=False)
        requests = [Request(*row) for row in columns]
        strategy, size = self.strategies[number], self.batch_size
        play(self.pair, strategy, [Request(0.0, one.prompt, 8) for one in requests[:size]], batch_size=size)  # warms up
        others = OtherWork(needed_cores(self.pair))
        done = play(self.pair, strategy, requests, batch_size=size, seed=self.seed + 10_000 * (repeat + 1))
        self.busy.setdefault((number, load), []).append(others.share())
        return quantities(
            np.array([one.submitted_seconds for one in done]),
            np.array([one.first_token_seconds for one in done]),
            np.array([one.finish_seconds for one in done]),
            workload.output_tokens,
        )

    def report(self) -> LoadValidation:
        """What was predicted and measured; needs at least one repeat."""
        system, acceptance = self._models()
        points = [
            self._point(number, load, compile_strategy(self.strategies[number], system), acceptance, system)
            for number, load in self.workloads
        ]
        busy = max(Profile.merged(self.profiles).busy, *(point.busy for point in points))
        return LoadValidation(self.batch_size, self.requests, self.repeats, busy, tuple(points))

    def _point(self, number: int, load: float, compiled: Compiled, acceptance: Acceptance, system: System) -> LoadPoint:
        workload, strategy = self.workloads[number, load], self.strategies[number]
        runs = [simulate_serving(compiled, acceptance, system, workload, self.server, seed) for seed in range(SEEDS)]
        found = [
            quantities(run.submitted_seconds, run.first_token_seconds, run.finish_seconds, workload.output_tokens)
            for run in runs
        ]
        compared: list[Compared] = []
        for name in found[0]:
            predicted = mean(one[name] for one in found)
            repeats = tuple(one[name] for one in self.played[number, load])
            measured = median(repeats)
            compared.append(Compared(name, predicted, measured, predicted / measured - 1, repeats))
        rate = (len(workload) - 1) / float(workload.arrival_seconds[-1] - workload.arrival_seconds[0])
        busy = median(self.busy[number, load])
        return LoadPoint(strategy.name, strategy.parameters, load, rate, busy, tuple(compared))


LOOK_AHEAD = 16
"""Tokens of the context that are left for drafts."""


def mean_of(lengths: Sequence[int], tokens: int) -> int:
    """Mean tokens before a window: those of a prompt, and half of an answer."""
    return round(mean(lengths) + tokens / 2)


def _longest_draft(strategy: DecodingStrategy) -> int:
    """The draft length of a strategy, where it is a number; 8 where it is chosen while decoding."""
    length = strategy.parameters.get("draft_length", 0)
    return length if isinstance(length, int) else 8


def validate_load(
    pair: Pair,
    strategies: Sequence[DecodingStrategy] | None = None,
    prompts: Sequence[str | Sequence[int]] | None = None,
    *,
    loads: Sequence[float] = LOADS,
    batch_size: int = 4,
    requests: int = 60,
    tokens: int = 48,
    repeats: int = 2,
    seed: int = 0,
    progress: Progress = no_progress,
) -> LoadValidation:
    """Play requests on a pair at shares of its capacity, and simulate the same arrivals.

    Without `strategies`, autoregressive and speculative decoding and PEARL are served, both at draft length 4. `tokens` is the
    mean length of an answer. Each load is played `repeats` times, with other seeds of sampling. Raises `InputError` for numbers
    that are not possible, `StrategyError` for a strategy that cannot be compiled.
    """
    at_least_one(batch_size=batch_size, requests=requests, tokens=tokens, repeats=repeats)
    if requests < 2 or not loads or any(not 0 < load < 1 for load in loads):
        raise InputError(
            f"{requests} requests at loads {list(loads)} are not possible: give 2 or more, at loads between 0 and 1"
        )
    from specdec.text import prompt_tokens

    if strategies is None:
        strategies = [create("autoregressive"), create("speculative", draft_length=4), create("pearl", draft_length=4)]
    texts = [prompt_tokens(pair, prompt) for prompt in (bundled() if prompts is None else prompts)]
    comparison = LoadComparison(pair, strategies, texts, loads, batch_size, requests, tokens, repeats, seed)
    for _ in progress(comparison, len(comparison)):
        pass
    return comparison.report()
