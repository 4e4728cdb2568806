"""All that the report of a plan draws: its curves, as values. What is drawn of them is `sim.pictures.plan_report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from sim.planning.candidates import Candidate
from sim.planning.frontier import Frontier, LengthCurve, frontiers, length_curve
from sim.planning.study import Decided, Found
from sim.planning.trials import Trial, Trials
from sim.planning.under_load import (
    Attained,
    CacheUse,
    Deployed,
    LoadCurve,
    attainment,
    cache_use,
    load_curve,
)
from sim.stream.timeline import Timeline, timeline
from specdec.report import Progress, Report, no_progress
from specdec.strategy import create

T = TypeVar("T")

SHOWN = 4
"""Plans that have a curve at most: the best one, and the best of other methods and strategies."""
ROUNDS = 10


@dataclass(frozen=True)
class Operating(Report):
    """Where a plan works at the planned load, by simulation.

    `plan`       which one
    `running`    sequences that a replica runs, the mean
    `per_user`   output tokens per second of a user: 1 / mean TPOT
    `per_gpu`    output tokens per second of a GPU
    """

    plan: Deployed
    running: float
    per_user: float
    per_gpu: float


@dataclass(frozen=True)
class Curves(Report):
    """What surrounds a plan. All but the frontiers and loads needs a plan, and is empty or `None` (null) without one.

    `loads`         latencies and goodput against load: of the best plans, or without any of the candidate that comes nearest
    `attained`      by plan: the share of requests that meet all limits, at several numbers of replicas
    `frontiers`     tokens per second of a user and of a GPU, by kind of plan
    `operating`     where the plans work
    `lengths`       requests per second by draft length
    `timelines`     rounds of the best plan that drafts, and autoregressive decoding in the same time
    `running`       sequences of the batch in the timelines
    `caches`        the KV cache over time, of the best plan and the best of another kind
    """

    loads: tuple[LoadCurve, ...]
    attained: tuple[tuple[Attained, ...], ...]
    frontiers: tuple[Frontier, ...]
    operating: tuple[Operating, ...]
    lengths: LengthCurve | None
    timelines: tuple[Timeline, ...]
    running: int
    caches: tuple[CacheUse, ...]


class _Step(Generic[T]):
    """A part of the work, with what progress says of it; `found` once it is done."""

    def __init__(self, words: str, work: Callable[[], T]) -> None:
        self._words, self._work = words, work

    def __str__(self) -> str:
        return self._words

    def do(self) -> None:
        self.found = self._work()


def curves(decided: Decided, progress: Progress = no_progress) -> Curves:
    """Compute all curves of a plan; about as much work as the plan itself."""
    trials, limits = decided.trials, decided.limits
    shown = best_of_kinds(decided.good)
    drafting = next((one for one in decided.good if one[0].draft_length), None)
    loaded = shown or [(one, trial) for one, trial in decided.unmet[:1] if trial.factor == 1]
    loads = [_Step(f"{one.name}: load", partial(load_curve, trials, one, trial.replicas)) for one, trial in loaded]
    attained = [
        _Step(f"{one.name}: replicas", partial(attainment, trials, one, trial.replicas, one.place.most_replicas(limits.gpus)))
        for one, trial in shown
    ]
    caches = [_Step(f"{one.name}: cache", partial(cache_use, trials, one, trial.replicas)) for one, trial in shown[:2]]
    lengths = [
        _Step("draft lengths", partial(length_curve, trials, decided.candidates, one)) for one in [drafting] if one is not None
    ]
    timelines = [_Step("rounds", partial(rounds_of, trials, one)) for one in [drafting] if one is not None]
    work = [*loads, *attained, *caches, *lengths, *timelines]
    for step in progress(work, len(work)):
        step.do()
    return Curves(
        loads=tuple(step.found for step in loads),
        attained=tuple(step.found for step in attained),
        frontiers=frontiers(decided.candidates, trials.demand),
        operating=tuple(operating(one, trial) for one, trial in shown),
        lengths=lengths[0].found if lengths else None,
        timelines=timelines[0].found if timelines else (),
        running=0 if drafting is None else running_of(drafting[1]),
        caches=tuple(step.found for step in caches),
    )


def best_of_kinds(good: Sequence[Found]) -> list[Found]:
    """The best plan of each method and strategy, the best of all first."""
    found: dict[tuple[str, str], Found] = {}
    for one, trial in good:
        found.setdefault((one.method.name, one.strategy), (one, trial))
    return list(found.values())[:SHOWN]


def operating(candidate: Candidate, trial: Trial) -> Operating:
    assert trial.metrics is not None
    plan = Deployed.of(candidate, trial.replicas)
    per_gpu = trial.metrics.output_tokens_per_second / plan.gpus
    return Operating(plan, _mean_running(trial), 1 / trial.metrics.tpot.mean, per_gpu)


def _mean_running(trial: Trial) -> float:
    """Sequences that a replica runs, by Little's law."""
    assert trial.metrics is not None
    seconds = trial.metrics.e2e.mean - trial.metrics.waiting_seconds
    return trial.metrics.requests_per_second * seconds / trial.replicas


def running_of(trial: Trial) -> int:
    """The same as a whole number, at least 1."""
    return max(1, round(_mean_running(trial)))


def rounds_of(trials: Trials, plan: Found) -> tuple[Timeline, ...]:
    """Ten rounds of a plan, and autoregressive decoding for as long: one sequence of the batch at the planned load."""
    candidate, running = plan[0], running_of(plan[1])
    demand, place = trials.demand, candidate.place
    system = place.system.at_batch(running, demand.prompt + demand.answer / 2)
    length = candidate.draft_length
    for tier in candidate.schedule:
        if tier.draft_length and (tier.up_to is None or running <= tier.up_to):
            length = tier.draft_length
            break
    ours = timeline(
        create(candidate.strategy, draft_length=length), candidate.acceptance, system, rounds=ROUNDS, seed=trials.seed
    )
    plain = create("autoregressive")
    step = timeline(plain, candidate.acceptance, system, rounds=1, seed=trials.seed).seconds
    count = max(1, round(ours.seconds / step))
    return ours, timeline(plain, candidate.acceptance, system, rounds=count, seed=trials.seed)
