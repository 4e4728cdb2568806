"""Predicts a table of an engine's runs from a few of its rows: how far the simulator of serving can be trusted.

Calibrated on 1, 8 and 32 clients, and on two draft lengths of each method: the smallest above 1, and the largest but one.
Where these are the same, that one alone: 2 of 1, 2 and 3. Where the largest but one is 1, the largest alone: 3 of 1 and 3. All
other rows are held out. Nothing of a held-out row is used but its conditions: requests, tokens, clients, arrivals and the size
of the cache. Where the table does not say this size, it is computed from the sizes of models and GPU, if their names are
known. What cannot be predicted is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import fmean
from typing import TypeAlias

import numpy as np

from sim.engines.identify import as_profile, identify, round_seconds, with_pools
from sim.engines.run import EngineRun
from sim.setup.acceptance import Rate
from sim.setup.profiles import measured_acceptance, measured_system
from sim.stream.chain import compile_strategy
from sim.study.table_report import EngineValidation, PredictedCell, PredictedChoice, Quantity
from sim.traffic.metrics import measure
from sim.traffic.record import ONE_REPLICA, Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, streams
from specdec.errors import InputError
from specdec.profile import Profile
from specdec.report import Progress, no_progress
from specdec.strategy import create

CALIBRATED_CLIENTS = (1, 8, 32)
LAGS = range(3)
PROMPTS_CV = 0.5
"""Tables give the mean length of prompts; this coefficient of variation is assumed."""
ENOUGH = 1000
"""Requests at least for a prediction, in up to `MOST_RUNS` runs."""
MOST_RUNS = 5
BATCH_LIMIT = ONE_REPLICA.max_batch
"""Sequences that an engine runs at once at most if nobody says otherwise; more clients show that it was set higher."""

Group: TypeAlias = tuple[str, str, str]
"""Method, draft and, where something is drafted, data set: runs that share acceptance and delays."""


def calibrated(runs: Sequence[EngineRun]) -> list[EngineRun]:
    """The runs of one machine to calibrate on: of each method with its draft, with a calibrated number of clients."""
    lengths: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        lengths.setdefault((run.method, run.draft), set()).add(run.draft_length)
    chosen = {method: _two_lengths(sorted(found)) for method, found in lengths.items()}
    return [run for run in runs if run.clients in CALIBRATED_CLIENTS and run.draft_length in chosen[run.method, run.draft]]


def _two_lengths(lengths: Sequence[int]) -> set[int]:
    """The smallest length above 1, and the largest but one; what there is of it in a short list."""
    above = [length for length in lengths if length > 1] or list(lengths)
    return {above[0], lengths[-2] if len(lengths) > 1 and lengths[-2] >= above[0] else lengths[-1]}


def predict_table(runs: Sequence[EngineRun], progress: Progress = no_progress) -> EngineValidation:
    """Every number of a table with its prediction. Targets and machines are calibrated one by one.

    Raises `InputError` with the first reason where nothing can be predicted.
    """
    cells: list[PredictedCell] = []
    left_out: dict[str, None] = {}
    speeds: dict[tuple[int, str, int], dict[str, list[PredictedCell]]] = {}
    machines = [_Machine(ours) for ours in _by_machine(runs)]
    steps = [(number, run) for number, machine in enumerate(machines) for run in machine.runs]
    for number, run in progress(steps, len(steps)):
        try:
            for cell in machines[number].predicted(run):
                cells.append(cell)
                if cell.quantity == "throughput":
                    place = (number, cell.dataset, cell.concurrency)
                    speeds.setdefault(place, {}).setdefault(machines[number].name(run), []).append(cell)
        except InputError as error:
            left_out[str(error)] = None
    if not cells:
        raise InputError(next(iter(left_out), "the table holds no time, throughput or acceptance length: fill in one of these"))
    choices = (_choice(found) for found in speeds.values() if len(found) > 1)
    return EngineValidation(tuple(cells), tuple(choices), tuple(left_out), tuple(_assumed(machines)))


def _by_machine(runs: Sequence[EngineRun]) -> list[list[EngineRun]]:
    machines: dict[tuple[str, str, int], list[EngineRun]] = {}
    for run in runs:
        machines.setdefault((run.target, run.gpu, run.gpus), []).append(run)
    return list(machines.values())


def _assumed(machines: Sequence[_Machine]) -> Iterator[str]:
    for machine in machines:
        yield from machine.doubts
        target = machine.runs[0].target or "the target"
        if rates := sum("rate" in run.assumed for run in machine.runs):
            yield f"{rates} runs of {target} had as many requests per second as clients: fill in request_rate"
        if machine.without_prompts:
            yield (
                f"prompts of {machine.without_prompts} runs of {target} are as long as in the other runs on their data set: "
                "fill in input_tokens"
            )
        if many := sum(run.max_batch is None and (run.clients or 0) > BATCH_LIMIT for run in machine.runs):
            yield f"{many} runs of {target} decoded as many requests at once as there were clients: fill in max_num_seqs"
        for (method, *_), pool in machine.pools.items():
            where = f"the cache of {target} with {method}"
            yield (
                f"{where} has no limit: fill in kv_pool_tokens"
                if pool is None
                else (f"{where} holds {pool} tokens, computed from sizes of models and GPU: fill in kv_pool_tokens")
            )


def _choice(found: Mapping[str, Sequence[PredictedCell]]) -> PredictedChoice:
    """The choice by mean throughput, of cells of one place by method and length: a table may hold a run twice."""
    predicted = {name: fmean(cell.predicted for cell in cells) for name, cells in found.items()}
    measured = {name: fmean(cell.measured for cell in cells) for name, cells in found.items()}
    chosen, best = max(predicted, key=predicted.__getitem__), max(measured, key=measured.__getitem__)
    first = next(iter(found.values()))[0]
    regret = 1 - measured[chosen] / measured[best]
    return PredictedChoice(first.target, first.dataset, first.concurrency, chosen, best, regret)


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
    """The runs of one target on one machine, and what was found in those to calibrate on.

    `runs`    with the size of their cache where it can be computed, and prompts of their data set where the run does not say
    `pools`   the computed sizes, by method and draft; `None`: not known
    `doubts`  of the fit to those to calibrate on
    `without_prompts`   how many runs did not say their prompts, and got those of their data set
    """

    def __init__(self, runs: Sequence[EngineRun]) -> None:
        known = with_pools(runs)
        self.pools = {
            (now.method, now.draft): now.kv_tokens for run, now in zip(runs, known, strict=True) if run.kv_tokens is None
        }
        self.runs = [replace(run, input_tokens=run.input_tokens or _prompts_of(run, runs)) for run in known]
        told = zip(runs, self.runs, strict=True)
        self.without_prompts = sum(not before.input_tokens and bool(after.input_tokens) for before, after in told)
        self._fitted = calibrated(self.runs)
        timed = [run for run in self._fitted if _tells(round_seconds, run)]
        self._profiles: dict[Group, Profile] = {}
        self._delays: dict[Group, Delays] = {}
        self._lacking: dict[Group, str] = {}
        self.doubts: tuple[str, ...] = ()
        if timed:
            identified = identify(timed)
            self.doubts = identified.doubts
            for group, ours in _groups(timed).items():
                try:
                    self._profiles[group] = as_profile(identified, ours)
                    self._delays[group] = self._delays_of(ours)
                except InputError as error:
                    self._lacking[group] = str(error)

    def name(self, run: EngineRun) -> str:
        """What a choice calls the method of a run."""
        several = len({one.draft for one in self.runs if one.method == run.method}) > 1
        method = f"{run.method} {run.draft or 'without a named draft'}" if several else run.method
        return f"{method} k={run.draft_length}" if run.draft_length else method

    def _delays_of(self, runs: Sequence[EngineRun]) -> Delays:
        """The delays that explain TTFT: the way of a request for the fewest clients, the lag for the next more ones."""
        timed = [run for run in runs if run.ttft.mean and _tells(_conditions, run)]
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
        requests, prompts, answers = _conditions(run)
        traffic = Traffic(
            Arrivals(run.rate) if run.rate else None,
            Lengths(prompts / requests, PROMPTS_CV),
            Lengths(answers / requests),
            requests,
        )
        server = Server(
            max_batch=run.max_batch or max(BATCH_LIMIT, run.clients or 0),
            kv_tokens=run.kv_tokens,
            clients=run.clients,
            client_seconds=delays.seconds,
            lag_iterations=delays.lag,
        )
        system, length = measured_system(profile), run.draft_length
        compiled = compile_strategy(create("speculative", draft_length=length) if length else create("autoregressive"), system)
        acceptance = measured_acceptance(profile) if length else Rate(0.0)
        seeds = streams(np.random.SeedSequence(0), 2 * min(MOST_RUNS, max(1, round(ENOUGH / requests))))
        try:
            found = [
                measure(simulate_serving(compiled, acceptance, system, traffic.workload(one), server, two), warm_up=0.0)
                for one, two in zip(seeds[::2], seeds[1::2], strict=True)
            ]
        except InputError as error:
            raise InputError(f"{run.source}: {error}") from error
        return Means(
            fmean(one.ttft.mean for one in found),
            fmean(one.tpot.mean for one in found),
            fmean(one.output_tokens_per_second for one in found),
        )

    def _profile(self, run: EngineRun) -> Profile:
        group = _group(run)
        if group in self._lacking:
            raise InputError(self._lacking[group])
        if group not in self._profiles:
            drafted = sorted({one.draft_length for one in self._fitted if _group(one)[:2] == group[:2]})
            lengths = f", {' or '.join(map(str, drafted))} drafted tokens" if run.draft_length and drafted else ""
            where = f" on {run.dataset}" if run.dataset and run.draft_length else ""
            raise InputError(
                f"the table has no run of {self.name(run).partition(' k=')[0]}{where} with 1, 8 or 32 clients{lengths} to "
                "calibrate on, or it has neither ITL nor TPOT: add one"
            )
        return self._profiles[group]

    def predicted(self, run: EngineRun) -> Iterator[PredictedCell]:
        """The numbers of one run. Raises `InputError` for what cannot be predicted, after all that can be."""
        profile = self._profile(run)
        chances = np.array(profile.acceptance.by_position or (0.0,))
        length = 1 + float(np.cumprod(chances[np.minimum(np.arange(run.draft_length), len(chances) - 1)]).sum())
        yield from self._cells(run, ("acceptance_length", length, run.acceptance_length))
        simulated = self.simulated(run, self._delays[_group(run)])
        yield from self._cells(run, ("tpot", simulated.tpot, run.tpot.mean))
        yield from self._cells(run, ("throughput", simulated.throughput, run.throughput))
        yield from self._cells(run, ("ttft", simulated.ttft, run.ttft.mean))

    def _cells(self, run: EngineRun, found: tuple[Quantity, float, float | None]) -> Iterator[PredictedCell]:
        """A number and its prediction, where it was measured: tools write 0 for what they could not measure."""
        quantity, predicted, measured = found
        if measured and isfinite(predicted):
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


def _conditions(run: EngineRun) -> tuple[int, int, int]:
    """Requests, and tokens of all prompts and of all answers. Raises `InputError` for the first that a run does not say."""
    conditions = {"requests": run.requests, "input_tokens": run.input_tokens, "output_tokens": run.output_tokens}
    if lacking := next((name for name, value in conditions.items() if not value), None):
        raise InputError(f"{run.source} has no {lacking}: fill in what the benchmark was asked to do")
    requests, prompts, answers = (value or 0 for value in conditions.values())
    return requests, prompts, answers


def _tells(what: Callable[[EngineRun], object], run: EngineRun) -> bool:
    """Whether a run holds something."""
    try:
        what(run)
    except InputError:
        return False
    return True


def _prompts_of(run: EngineRun, runs: Sequence[EngineRun]) -> int | None:
    """Prompt tokens of a run that does not say: as many for each request as in the other runs on its data set."""
    same = [one for one in runs if one.dataset == run.dataset]
    told = [one.input_tokens / one.requests for one in same if one.input_tokens and one.requests]
    return round(run.requests * fmean(told)) if told and run.requests else None


def _group(run: EngineRun) -> Group:
    return run.method, run.draft, run.dataset if run.draft_length else ""


def _groups(runs: Sequence[EngineRun]) -> dict[Group, list[EngineRun]]:
    found: dict[Group, list[EngineRun]] = {}
    for run in runs:
        found.setdefault(_group(run), []).append(run)
    return found
