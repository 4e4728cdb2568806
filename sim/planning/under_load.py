"""Plans under other loads and with other numbers of replicas, and the memory of one over time.

Every point is a simulation of the requests of the plan. What a plan has already tried is not simulated again, so a curve passes
through the numbers of the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.objectives import Objective, Quantity, Statistic, statistic_of
from sim.planning.trials import Trial, Trials, sustained
from specdec.report import Report

SEEDS = 3
"""Runs with other draws; their lowest and highest value are an interval."""
POINTS = 7
NEAR = 0.06
"""Loads nearer than this share to the planned one are left out."""
BINS = 160
UNSTATED: tuple[tuple[Quantity, Statistic], ...] = (("ttft", "p99"), ("tpot", "p99"))
"""What is shown where there is no objective."""


@dataclass(frozen=True)
class Deployed(Report):
    """A plan, as charts name and colour it.

    `name`        name of the plan
    `label`       the same, a schedule of lengths in two words
    `method`      how guesses are made
    `strategy`    name of the strategy
    `placement`   where the draft runs
    `replicas`    how many
    `gpus`        of all replicas
    """

    name: str
    label: str
    method: str
    strategy: str
    placement: str
    replicas: int
    gpus: int

    @classmethod
    def of(cls, candidate: Candidate, replicas: int) -> Deployed:
        where, method = candidate.place, candidate.method.name
        label = candidate.name.replace(f"k={candidate.lengths}", "k by batch") if candidate.schedule else candidate.name
        return cls(candidate.name, label, method, candidate.strategy, where.name, replicas, where.gpus_of(replicas))


@dataclass(frozen=True)
class Between(Report):
    """A number with the lowest and the highest that other draws gave."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Between:
        """The first value is the plan's own."""
        return cls(values[0], min(values), max(values))


@dataclass(frozen=True)
class LoadPoint(Report):
    """A plan at one load.

    `rate`      requests that arrive in a second
    `seconds`   of each statistic of the curve
    `goodput`   requests in a second that meet all limits
    """

    rate: float
    seconds: tuple[Between, ...]
    goodput: Between


@dataclass(frozen=True)
class LoadCurve(Report):
    """A plan from a low load up to what it can finish.

    `plan`        which one
    `capacity`    requests per second that it finishes at most
    `sustained`   requests per second up to which it meets all objectives
    `points`      in order of load
    """

    plan: Deployed
    capacity: float
    sustained: float
    points: tuple[LoadPoint, ...]


@dataclass(frozen=True)
class Attained(Report):
    """A plan with some number of replicas.

    `plan`    which one, with these replicas
    `share`   of the requests that meet all limits; 0 where more arrive than can be finished
    `met`     whether all objectives are met
    `load`    rho: requests that arrive over those that can be finished
    """

    plan: Deployed
    share: float
    met: bool
    load: float


@dataclass(frozen=True)
class CacheUse(Report):
    """The KV cache of a plan's replicas over time.

    `plan`      which one
    `pool`      tokens that the cache of a replica holds; `None` (null) without a limit
    `seconds`   ends of equal spans of time, since the first request
    `mean`      tokens in use in each span, over time and replicas
    `most`      the most that any replica has in use in each span
    """

    plan: Deployed
    pool: int | None
    seconds: tuple[float, ...]
    mean: tuple[float, ...]
    most: tuple[float, ...]


def watched(objectives: Sequence[Objective]) -> list[tuple[Quantity, Statistic, float | None]]:
    """What curves show: the statistic and limit of each objective; P99 of TTFT and TPOT where there is none."""
    stated: list[tuple[Quantity, Statistic, float | None]] = [(one.quantity, one.statistic, one.seconds) for one in objectives]
    return stated or [(quantity, statistic, None) for quantity, statistic in UNSTATED]


def load_curve(trials: Trials, candidate: Candidate, replicas: int) -> LoadCurve:
    """Latencies and goodput of a plan at several loads, the planned one among them, with other draws for the intervals.

    The requests of a trace are the same in all of them: only acceptance is drawn again.
    """
    capacity = replicas * trials.capacity(candidate)
    held = sustained(trials, candidate, replicas)
    top = min(0.97 * capacity, max(1.6 * held, 1.5 * trials.rate))
    factors = {float(rate / trials.rate) for rate in np.linspace(top / POINTS, top, POINTS)}
    if trials.run(candidate, replicas).metrics is not None:
        factors = {factor for factor in factors if abs(factor - 1) > NEAR} | {1.0}
    others = [trials.redrawn(trials.seed + draw) for draw in range(1, SEEDS)]
    points: list[LoadPoint] = []
    for factor in sorted(factors):
        runs = [one.run(candidate, replicas, factor) for one in (trials, *others)]
        runs = [run for run in runs if run.metrics is not None]
        if runs and runs[0].metrics is not None:
            points.append(_point(trials, factor, runs))
    return LoadCurve(Deployed.of(candidate, replicas), capacity, held, tuple(points))


def _point(trials: Trials, factor: float, runs: Sequence[Trial]) -> LoadPoint:
    shown = watched(trials.objectives)
    seconds = [
        Between.of([statistic_of(run.latencies[quantity], statistic) for run in runs if run.latencies is not None])
        for quantity, statistic, _ in shown
    ]
    goodput = Between.of([run.metrics.goodput for run in runs if run.metrics is not None])
    return LoadPoint(factor * trials.rate, tuple(seconds), goodput)


def attainment(trials: Trials, candidate: Candidate, replicas: int, most: int) -> tuple[Attained, ...]:
    """The share of requests that meet all limits, with fewer and more replicas than the plan has."""
    found: list[Attained] = []
    for count in around(replicas, most):
        trial = trials.run(candidate, count)
        share = 0.0 if trial.metrics is None else trial.metrics.goodput_share
        found.append(Attained(Deployed.of(candidate, count), share, trial.met, trial.load))
    return tuple(found)


def around(replicas: int, most: int) -> list[int]:
    """Some numbers of replicas about one of them: neighbours where there are few, else from half to one and a half times."""
    near = {replicas + step for step in (-2, -1, 0, 1, 2)}
    if replicas > 5:
        near = {round(replicas * part) for part in (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)} | {replicas - 1}
    return sorted(count for count in near if 1 <= count <= max(most, replicas))


def cache_use(trials: Trials, candidate: Candidate, replicas: int) -> CacheUse:
    """Tokens of the KV cache in use, at the planned load."""
    served = trials.served(candidate, replicas)
    done, block = served.iterations, served.server.block_tokens
    end = float(done.end_seconds.max())
    edges = np.linspace(0, end, BINS + 1)[1:]
    bins = np.minimum(np.searchsorted(edges, done.end_seconds), BINS - 1)
    seconds, tokens = done.seconds.astype(float), done.blocks.astype(float) * block
    # a replica without requests has no iterations, and holds nothing
    used = done.each * np.bincount(bins, seconds * tokens, BINS) / (replicas * end / BINS)
    most = np.zeros(BINS)
    np.maximum.at(most, bins, tokens)
    pool = candidate.server(trials.server, 1).kv_tokens
    mean = np.minimum(used, most)
    return CacheUse(Deployed.of(candidate, replicas), pool, tuple(edges.tolist()), tuple(mean.tolist()), tuple(most.tolist()))
