"""Predicts a table of an engine's runs from a few of its rows: how far the simulator of serving can be trusted.

Calibrated on 1, 8 and 32 clients, and on two draft lengths of each method: the smallest above 1, and the largest but one. All
other rows are held out. Nothing of a held-out row is used but its conditions: requests, tokens, clients, arrivals and the size
of the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np

from sim.engines.identify import as_profile, identify
from sim.engines.run import EngineRun
from sim.setup.acceptance import Rate
from sim.setup.profiles import measured_acceptance, measured_system
from sim.stream.chain import compile_strategy
from sim.traffic.metrics import measure
from sim.traffic.record import Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, streams
from specdec.errors import InputError
from specdec.profile import Profile
from specdec.report import Progress, Report, no_progress, table
from specdec.strategy import create

if TYPE_CHECKING:
    from rich.console import RenderableType

CALIBRATED_CLIENTS = (1, 8, 32)
LAGS = range(3)
PROMPTS_CV = 0.5
"""Tables give the mean length of prompts; this coefficient of variation is assumed."""
ENOUGH = 1000
"""Requests at least for a prediction, in up to `MOST_RUNS` runs."""
MOST_RUNS = 5
WORST = 10

Quantity: TypeAlias = Literal["tpot", "throughput", "ttft", "acceptance_length"]
UNITS: Mapping[Quantity, str] = {"tpot": "ms", "throughput": "tok/s", "ttft": "ms", "acceptance_length": "tokens"}
Group: TypeAlias = tuple[str, str, str]
"""Method, draft and, where something is drafted, data set: runs that share acceptance and delays."""


@dataclass(frozen=True)
class PredictedCell(Report):
    """A number of a table and its prediction.

    `target`, `draft`, `method`, `k`, `dataset`, `concurrency`   which run; `k` is its draft length
    `quantity`    `tpot` and `ttft` (means over requests) in milliseconds as tables have them, `throughput` in output tokens per
                  second, or `acceptance_length` in tokens of a round
    `predicted`   by the simulation
    `measured`    as the table has it
    `error`       predicted over measured, minus 1
    `held_out`    whether this run was left out of the calibration
    """

    target: str
    draft: str
    method: str
    k: int
    dataset: str
    concurrency: int
    quantity: Quantity
    predicted: float
    measured: float
    error: float
    held_out: bool


@dataclass(frozen=True)
class PredictedChoice(Report):
    """Which method and draft length has the most throughput at one concurrency, and what a wrong prediction costs.

    `target`, `dataset`, `concurrency`   where
    `chosen`   the best by prediction, such as `eagle3 k=2`
    `best`     the best as measured
    `regret`   share of the measured throughput that is lost by the choice; 0 if it is right
    """

    target: str
    dataset: str
    concurrency: int
    chosen: str
    best: str
    regret: float


@dataclass(frozen=True)
class EngineValidation(Report):
    """A table of an engine's runs, predicted; what `specdec validate --published FILE --json` writes for such a table.

    `published`   every number with its prediction
    `choices`     every choice of method and draft length
    """

    format: ClassVar[str] = "specdec.validate-engine/1"

    published: tuple[PredictedCell, ...]
    choices: tuple[PredictedChoice, ...]

    def __rich__(self) -> RenderableType:
        from rich.console import Group as Lines

        bands = ((1, 1), (2, 8), (9, 64), (65, 1024))
        made = table("quantity", numbers=[f"{a} clients" if a == b else f"{a} to {b} clients" for a, b in bands])
        held_out = [cell for cell in self.published if cell.held_out]
        for quantity in UNITS:
            cells = [cell for cell in held_out if cell.quantity == quantity]
            means = [[abs(cell.error) for cell in cells if a <= cell.concurrency <= b] for a, b in bands]
            made.add_row(quantity, *(f"{100 * fmean(found):.1f} %" if found else "-" for found in means))
        worst = table("quantity", "method", "data set", numbers=("k", "clients", "measured", "predicted", "error"))
        for cell in sorted(held_out, key=lambda cell: -abs(cell.error))[:WORST]:
            values = (f"{value:.4g} {UNITS[cell.quantity]}" for value in (cell.measured, cell.predicted))
            error = f"{100 * cell.error:+.1f} %"
            worst.add_row(cell.quantity, cell.method, cell.dataset, str(cell.k), str(cell.concurrency), *values, error)
        return Lines(
            "[bold]Mean error of runs that were held out[/], without signs",
            made,
            "[bold]The worst of them[/]",
            worst,
            *self._choices(),
        )

    def _choices(self) -> Iterator[str]:
        if not self.choices:
            return
        regrets = [choice.regret for choice in self.choices]
        wrong = sum(regret > 0 for regret in regrets)
        worst = max(self.choices, key=lambda choice: choice.regret)
        yield (
            f"[bold]Choice of method and draft length[/] by predicted throughput: {wrong} of {len(regrets)} are not the best; "
            f"they lose {100 * fmean(regrets):.1f} % on average over all"
        )
        if worst.regret:
            yield (
                f"  and at most {100 * worst.regret:.1f} %: {worst.chosen} instead of {worst.best}, {worst.dataset}, "
                f"{worst.concurrency} clients"
            )


def calibrated(runs: Sequence[EngineRun]) -> list[EngineRun]:
    """The runs to calibrate on. Raises `InputError` where none has a calibrated number of clients."""
    lengths: dict[str, set[int]] = {}
    for run in runs:
        lengths.setdefault(run.method, set()).add(run.draft_length)
    chosen = {method: _two_lengths(sorted(found)) for method, found in lengths.items()}
    found = [run for run in runs if run.clients in CALIBRATED_CLIENTS and run.draft_length in chosen[run.method]]
    missing = set(lengths) - {run.method for run in found}
    if missing:
        raise InputError(f"the table has no run of {min(missing)} with 1, 8 or 32 clients to calibrate on: add one")
    return found


def _two_lengths(lengths: Sequence[int]) -> set[int]:
    """The smallest length above 1, and the largest but one; what there is of it in a short list."""
    above = [length for length in lengths if length > 1] or list(lengths)
    return {above[0], lengths[-2] if len(lengths) > 1 and lengths[-2] >= above[0] else lengths[-1]}


def predict_table(runs: Sequence[EngineRun], progress: Progress = no_progress) -> EngineValidation:
    """Every number of a table with its prediction. Targets and machines are calibrated one by one."""
    cells: list[PredictedCell] = []
    speeds: dict[tuple[str, str, int], dict[str, tuple[float, float]]] = {}
    machines = [_Machine(ours) for ours in _by_machine(runs)]
    steps = [(machine, run) for machine in machines for run in machine.runs]
    for machine, run in progress(steps, len(steps)):
        found = list(machine.predicted(run))
        cells += found
        for cell in found:
            if cell.quantity == "throughput":
                name = cell.method if cell.k == 0 else f"{cell.method} k={cell.k}"
                place = (cell.target, cell.dataset, cell.concurrency)
                speeds.setdefault(place, {})[name] = cell.predicted, cell.measured
    return EngineValidation(tuple(cells), tuple(_choice(*place, found) for place, found in speeds.items() if len(found) > 1))


def _by_machine(runs: Sequence[EngineRun]) -> list[list[EngineRun]]:
    machines: dict[tuple[str, str, int], list[EngineRun]] = {}
    for run in runs:
        machines.setdefault((run.target, run.gpu, run.gpus), []).append(run)
    return list(machines.values())


def _choice(target: str, dataset: str, concurrency: int, speeds: Mapping[str, tuple[float, float]]) -> PredictedChoice:
    chosen, best = (max(speeds, key=lambda name: speeds[name][i]) for i in range(2))
    return PredictedChoice(target, dataset, concurrency, chosen, best, 1 - speeds[chosen][1] / speeds[best][1])


@dataclass(frozen=True)
class Delays:
    """What lies between client and engine: seconds of a request's way, and planned iterations that it misses."""

    seconds: float = 0.0
    lag: int = 0


@dataclass(frozen=True)
class Means:
    """A simulated run: mean TTFT and TPOT in seconds, and output tokens per second."""

    ttft: float
    tpot: float
    throughput: float


class _Machine:
    """The runs of one target on one machine, and what was found in those to calibrate on."""

    def __init__(self, runs: Sequence[EngineRun]) -> None:
        self.runs = runs
        self._fitted = calibrated(runs)
        identified = identify(self._fitted)
        self._profiles = {group: as_profile(identified, ours) for group, ours in _groups(self._fitted).items()}
        self._delays = {group: self._delays_of(ours) for group, ours in _groups(self._fitted).items()}

    def _delays_of(self, runs: Sequence[EngineRun]) -> Delays:
        """The delays that explain TTFT: the way of a request for the fewest clients, the lag for the next more ones."""
        timed = [run for run in runs if run.ttft.mean is not None]
        numbers = sorted({run.clients or 0 for run in timed})
        if not numbers:
            return Delays()
        few, many = ([run for run in timed if run.clients == number] for number in (numbers[0], numbers[:2][-1]))
        late = fmean((run.ttft.mean or 0.0) - self.simulated(run, Delays()).ttft for run in few)

        def wrong(delays: Delays) -> float:
            return abs(sum(np.log(self.simulated(run, delays).ttft / (run.ttft.mean or 1.0)) for run in many))

        return min((Delays(max(0.0, late), lag) for lag in LAGS), key=wrong)

    def simulated(self, run: EngineRun, delays: Delays) -> Means:
        """A run by simulation; means of several runs where it has few requests. Raises `InputError` if it misses conditions."""
        profile = self._profile(run)
        if not (run.requests and run.input_tokens and run.output_tokens and run.clients):
            raise InputError(f"{run.source} lacks its requests, tokens or clients: add what the benchmark was asked to do")
        traffic = Traffic(
            Arrivals(run.rate) if run.rate else None,
            Lengths(run.input_tokens / run.requests, PROMPTS_CV),
            Lengths(run.output_tokens / run.requests),
            run.requests,
        )
        server = Server(kv_tokens=run.kv_tokens, clients=run.clients, client_seconds=delays.seconds, lag_iterations=delays.lag)
        system, length = measured_system(profile), run.draft_length
        compiled = compile_strategy(create("speculative", draft_length=length) if length else create("autoregressive"), system)
        acceptance = measured_acceptance(profile) if length else Rate(0.0)
        seeds = streams(np.random.SeedSequence(0), 2 * min(MOST_RUNS, max(1, round(ENOUGH / run.requests))))
        found = [
            measure(simulate_serving(compiled, acceptance, system, traffic.workload(one), server, two), warm_up=0.0)
            for one, two in zip(seeds[::2], seeds[1::2], strict=True)
        ]
        return Means(
            fmean(one.ttft.mean for one in found),
            fmean(one.tpot.mean for one in found),
            fmean(one.output_tokens_per_second for one in found),
        )

    def _profile(self, run: EngineRun) -> Profile:
        if _group(run) not in self._profiles:
            raise InputError(f"{run.source}: no run of {run.method} on {run.dataset or 'its prompts'} to calibrate on: add one")
        return self._profiles[_group(run)]

    def predicted(self, run: EngineRun) -> Iterator[PredictedCell]:
        """The numbers of one run."""
        profile = self._profile(run)
        simulated = self.simulated(run, self._delays[_group(run)])
        chances = np.array(profile.acceptance.by_position or (0.0,))
        length = 1 + float(np.cumprod(chances[np.minimum(np.arange(run.draft_length), len(chances) - 1)]).sum())
        pairs: tuple[tuple[Quantity, float, float | None], ...] = (
            ("tpot", simulated.tpot, run.tpot.mean),
            ("throughput", simulated.throughput, run.throughput),
            ("ttft", simulated.ttft, run.ttft.mean),
            ("acceptance_length", length, run.acceptance_length),
        )
        for quantity, predicted, measured in pairs:
            if measured is not None:
                unit = 1e3 if quantity in ("tpot", "ttft") else 1.0
                yield PredictedCell(
                    run.target,
                    run.draft,
                    run.method,
                    run.draft_length,
                    run.dataset,
                    run.clients or 0,
                    quantity,
                    unit * predicted,
                    unit * measured,
                    predicted / measured - 1,
                    run not in self._fitted,
                )


def _group(run: EngineRun) -> Group:
    return run.method, run.draft, run.dataset if run.draft_length else ""


def _groups(runs: Sequence[EngineRun]) -> dict[Group, list[EngineRun]]:
    found: dict[Group, list[EngineRun]] = {}
    for run in runs:
        found.setdefault(_group(run), []).append(run)
    return found
