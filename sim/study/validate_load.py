"""Compares predictions of load with a real pair that serves it: the same arrivals, played and simulated.

Requests arrive by a Poisson process at shares of the capacity that the simulator finds, and `specdec.bench.serving` plays them
on one running `specdec.Batch`. Profiles are taken before and after every repeat, in caches of as many slots. Nothing of a
prediction is fitted to what was played.

A machine may be slower in a run than in the profiles, or a run may accept fewer guesses, and queues multiply that. So each run
is simulated once more on a machine of its own *pace* (`sim.study.pace`): what remains is the error of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Counts, Floats
from sim.setup.profiles import measured_acceptance, measured_system
from sim.setup.system import System
from sim.stream.chain import Compiled, compile_strategy
from sim.study.load_report import Compared, LoadPoint, LoadValidation
from sim.study.pace import STEADY, Pace
from sim.traffic.metrics import Summary
from sim.traffic.record import Iterations, Server
from sim.traffic.serving import capacity_per_second, simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.machine import OtherWork
from specdec.profile import Profile
from specdec.prompts import bundled
from specdec.report import Progress, no_progress, share
from specdec.strategy import DecodingStrategy, create

if TYPE_CHECKING:
    from specdec.pair import Pair

LOADS = (0.3, 0.6, 0.85)
SEEDS = 20
"""Simulations whose means are predicted; the real run is one."""

OUTPUT_CV = 0.5
"""How much the lengths of answers vary."""

Quantities: TypeAlias = dict[str, float]


def quantities(submitted: Floats, first: Floats, finish: Floats, output: Counts) -> Quantities:
    """Means and P90 of latencies, and throughput from the first request to the last answer."""
    many = output > 1
    tpot = (finish - first)[many] / (output[many] - 1)
    found: Quantities = {}
    for name, seconds in (("ttft", first - submitted), ("tpot", tpot), ("e2e", finish - submitted)):
        summary = Summary.of(seconds)
        found |= {f"{name}_mean": summary.mean, f"{name}_p90": summary.p90}
    return found | {"output_tokens_per_second": float(output.sum() / (finish.max() - submitted[0]))}


@dataclass(frozen=True)
class Run:
    """One strategy that was played at one load: what was measured, seconds of work, the machine's pace, and the share that
    other processes took."""

    measured: Quantities
    working_seconds: float
    pace: Pace
    busy: float


@dataclass(frozen=True)
class Predicted:
    """The same by simulations: means, standard deviations of one run, and mean seconds of work."""

    quantities: Quantities
    deviations: Quantities
    working_seconds: float


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
    runs: dict[tuple[int, float], list[Run]] = field(default_factory=dict[tuple[int, float], list[Run]])

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
                    self.runs.setdefault((number, load), []).append(self._play(number, load, repeat))
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

    def _play(self, number: int, load: float, repeat: int) -> Run:
        from specdec.bench.serving import Request, play
        from specdec.measure.pair import needed_cores

        workload = self.workloads[number, load]
        columns = zip(workload.arrival_seconds.tolist(), cycle(self.prompts), workload.output_tokens.tolist(), strict=False)
        requests = [Request(*row) for row in columns]
        strategy, size = self.strategies[number], self.batch_size
        play(self.pair, strategy, [Request(0.0, one.prompt, 8) for one in requests[:size]], batch_size=size)  # warms up
        others = OtherWork(needed_cores(self.pair))
        played = play(self.pair, strategy, requests, batch_size=size, seed=self.seed + 10_000 * (repeat + 1))
        busy, done = others.share(), played.answers
        measured = quantities(
            np.array([one.submitted_seconds for one in done]),
            np.array([one.first_token_seconds for one in done]),
            np.array([one.finish_seconds for one in done]),
            workload.output_tokens,
        )
        return Run(measured, played.working_seconds, Pace.of(played.steps), busy)

    @property
    def whole_repeats(self) -> int:
        """Repeats in which every strategy was played at every load."""
        return min((len(self.runs.get(key, ())) for key in self.workloads), default=0)

    def report(self, *, interrupted: bool = False) -> LoadValidation:
        """What was predicted and measured in whole repeats; needs at least one."""
        system, acceptance = self._models()
        points = [
            self._point(number, load, compile_strategy(self.strategies[number], system), acceptance, system)
            for number, load in self.workloads
        ]
        profile = Profile.merged(self.profiles)
        busy = max(profile.busy, *(point.busy for point in points))
        return LoadValidation(self.batch_size, self.requests, self.whole_repeats, busy, tuple(points), profile, interrupted)

    def _point(self, number: int, load: float, compiled: Compiled, acceptance: Acceptance, system: System) -> LoadPoint:
        workload, strategy = self.workloads[number, load], self.strategies[number]
        alike = partial(simulated, compiled, acceptance, system, workload, self.server)
        predicted, runs = alike(), self.runs[number, load][: self.whole_repeats]
        grows = elasticities(alike, predicted)
        paced = [at_own_pace(alike, run.working_seconds, run.pace) for run in runs]
        compared: list[Compared] = []
        for name, value in predicted.quantities.items():
            repeats, at_pace = tuple(run.measured[name] for run in runs), tuple(one.quantities[name] for _, one in paced)
            measured = median(repeats)
            remains = median(ours / theirs - 1 for ours, theirs in zip(at_pace, repeats, strict=True))
            chance = predicted.deviations[name] / value
            error, more = value / measured - 1, grows[name]
            compared.append(Compared(name, value, measured, error, repeats, at_pace, remains, chance, more))
        rate = (len(workload) - 1) / float(workload.arrival_seconds[-1] - workload.arrival_seconds[0])
        busy, levels = median(run.busy for run in runs), tuple(level for level, _ in paced)
        varied = tuple(run.pace.variation for run in runs)
        return LoadPoint(strategy.name, strategy.parameters, load, rate, busy, tuple(compared), levels, varied)


def simulated(
    compiled: Compiled, acceptance: Acceptance, system: System, workload: Workload, server: Server, pace: Pace = STEADY
) -> Predicted:
    """By simulations, which run by the machine's own clock: arrivals are told in its seconds, and results in wall seconds."""
    ours = replace(workload, arrival_seconds=pace.machine(workload.arrival_seconds))
    runs = [simulate_serving(compiled, acceptance, system, ours, server, seed) for seed in range(SEEDS)]
    times = [tuple(map(pace.wall, (run.submitted_seconds, run.first_token_seconds, run.finish_seconds))) for run in runs]
    found = [quantities(sent, first, finish, workload.output_tokens) for sent, first, finish in times]
    means = {name: mean(one[name] for one in found) for name in found[0]}
    deviations = {name: stdev(one[name] for one in found) for name in found[0]}
    return Predicted(means, deviations, mean(_working_seconds(run.iterations, pace) for run in runs))


def _working_seconds(iterations: Iterations, pace: Pace) -> float:
    ends = iterations.end_seconds
    return float((pace.wall(ends) - pace.wall(ends - iterations.seconds)).sum())


def at_own_pace(alike: Callable[..., Predicted], working_seconds: float, pace: Pace) -> tuple[float, Predicted]:
    """The level of `pace` at which simulations work for as many seconds, and what they predict then.

    A slower machine has more sequences in each forward, so seconds of work grow less than the level: a few steps find it.
    """
    predicted = alike(pace=pace)
    for _ in range(LEVELS):
        longer = working_seconds / predicted.working_seconds
        if abs(longer - 1) < LEVEL_ERROR:
            break
        pace = replace(pace, level=pace.level * longer)
        predicted = alike(pace=pace)
    return pace.level, predicted


def elasticities(alike: Callable[..., Predicted], predicted: Predicted) -> Quantities:
    """By how many percent each quantity grows if all work takes 1 % longer."""
    slower = alike(pace=replace(STEADY, level=1 + SLOWER)).quantities
    return {name: (slower[name] / value - 1) / SLOWER for name, value in predicted.quantities.items()}


SLOWER = 0.02
"""By how much longer all work takes where elasticities are found."""

LEVELS, LEVEL_ERROR = 10, 1e-3
"""Steps in which a level is found at most, and by how much its seconds of work may be off."""

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
    mean length of an answer. Each load is played `repeats` times, with other seeds of sampling. Ctrl-C ends it early: the
    report then holds the repeats that were whole, if there is one, and is marked as `interrupted`. Raises `InputError` for
    numbers that are not possible, `StrategyError` for a strategy that cannot be compiled.
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
    try:
        for _ in progress(comparison, len(comparison)):
            pass
    except KeyboardInterrupt:
        if not comparison.whole_repeats:
            raise
        return comparison.report(interrupted=True)
    return comparison.report()
