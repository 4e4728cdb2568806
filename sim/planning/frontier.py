"""What methods can do at each draft length and running batch, by their exact chains: no request is simulated.

The two axes of a frontier are those of serving benchmarks (vLLM's plot_pareto, InferenceX): tokens per second of one user, 1 /
mean TPOT, against output tokens per second of a GPU. Waiting is left out, as in screening (`sim.planning.screen`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sim.planning.candidates import Candidate
from sim.planning.methods import POOLED
from sim.planning.report import Length
from sim.planning.screen import Demand, batches_of, ceiling, served_at
from sim.planning.study import Found, lengths_of
from sim.planning.trials import Trials
from specdec.report import Report


@dataclass(frozen=True)
class FrontierPoint(Report):
    """A point that no other of its kind beats in both.

    `draft_length`   guesses of a round; 0 for none
    `batch`          sequences that a replica runs
    `per_user`       output tokens per second of one sequence
    `per_gpu`        output tokens per second of a GPU
    """

    draft_length: int
    batch: int
    per_user: float
    per_gpu: float


@dataclass(frozen=True)
class Frontier(Report):
    """The best points of a kind of plan: a method, a strategy, a place.

    `method`, `strategy`, `placement`   the kind
    `points`                            from the fastest for a user to the most for a GPU
    """

    method: str
    strategy: str
    placement: str
    points: tuple[FrontierPoint, ...]


@dataclass(frozen=True)
class LengthCurve(Report):
    """Requests per second that a plan's replicas serve at each draft length, with all objectives met.

    `plan`       name of the plan
    `simulated`  by simulation
    `closed`     by the exact chains, without waiting; in the same order
    """

    plan: str
    simulated: tuple[Length, ...]
    closed: tuple[float, ...]


def frontiers(candidates: Sequence[Candidate], demand: Demand) -> tuple[Frontier, ...]:
    """One frontier for each kind of candidate."""

    def kind(one: Candidate) -> tuple[str, str, str]:
        return one.method.name, one.strategy, one.place.name

    found: list[Frontier] = []
    for names, group in groupby(sorted(candidates, key=kind), key=kind):
        points = [_point(one, batch, demand) for one in group for batch in batches_of(one, demand)]
        found.append(Frontier(*names, _best(points)))
    return tuple(found)


def _point(one: Candidate, batch: int, demand: Demand) -> FrontierPoint:
    tokens = served_at(one, batch, demand) * demand.answer
    return FrontierPoint(one.draft_length, batch, tokens / batch, tokens * POOLED / one.place.gpus_of(POOLED))


def _best(points: Sequence[FrontierPoint]) -> tuple[FrontierPoint, ...]:
    """Those that no other one beats in both, from the fastest for a user on."""
    kept: list[FrontierPoint] = []
    for one in sorted(points, key=lambda point: (-round(point.per_user, 9), -point.per_gpu)):
        if not kept or one.per_gpu > kept[-1].per_gpu:
            kept.append(one)
    return tuple(kept)


def length_curve(trials: Trials, candidates: Sequence[Candidate], plan: Found) -> LengthCurve:
    """What other draft lengths of a plan's kind serve; the simulated numbers are those of the plan's report."""
    candidate, trial = plan
    simulated = lengths_of(trials, plan)
    same = {
        one.draft_length: one
        for one in candidates
        if one.place is candidate.place and one.strategy == candidate.strategy and one.max_batch == candidate.max_batch
    }
    closed = [trial.replicas * ceiling(same[one.draft_length], trials.demand, trials.objectives) for one in simulated]
    return LengthCurve(candidate.name, simulated, tuple(closed))
