"""A saved plan, simulated again: ten times as many requests, other draws, and once with one replica fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sim.planning.candidates import BATCHES, Candidate, candidates_of
from sim.planning.entries import planned, planned_split
from sim.planning.methods import Method
from sim.planning.report import Plan, Planned
from sim.planning.shortlist import screened
from sim.planning.split import served_apart
from sim.planning.trials import Trial, Trials
from sim.planning.verdict import gate
from specdec.errors import InputError
from specdec.report import Report, share

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMES = 10
"""How many times the requests of the plan a check simulates."""


@dataclass(frozen=True)
class Checked(Report):
    """A plan's best deployment, simulated again; what `specdec plan --check` writes.

    `holds`        whether all objectives are met
    `requests`     that were simulated
    `again`        the deployment with the new numbers; `None` (null) if it does not hold
    `fewer_holds`  whether one replica fewer would do; `None` (null) for a single replica
    `words`        what was found
    """

    format: ClassVar[str] = "specdec.plan-check/1"

    holds: bool
    requests: int
    again: Planned | None
    fewer_holds: bool | None
    words: str

    def __rich__(self) -> RenderableType:
        return self.words


def check(
    plan: Plan, trials: Trials, methods: Sequence[Method], strategies: Sequence[str], batches: Sequence[int] = BATCHES
) -> Checked:
    """Simulate the best deployment of a plan on other requests. Raises `InputError` where there is none, or not among these.

    Methods, strategies and batch limits are those that the plan was made of.
    """
    if not plan.plans:
        raise InputError("there is no plan to check: no candidate meets the objectives")
    best, count = plan.plans[0], len(trials.workload)
    every = list(candidates_of(methods, strategies, batches))
    known = {one.name: one for one in (*every, *screened(trials, every)[0])}
    named = [part.name for part in best.parts] or [best.name]
    if not known.keys() >= {*named}:
        raise InputError(f"the plan {best.name} is not among the candidates of these inputs: plan again")
    candidates = [known[name] for name in named]
    again, why, fewer = (_split if best.parts else _single)(plan, trials, candidates)
    words = f"{best.name} on {best.gpus} GPUs {'does not hold' if again is None else 'holds'} over {count:,} requests: {why}."
    if fewer is not None:
        words += f" One replica fewer {'would hold too' if fewer else 'would not'}."
    return Checked(again is not None, count, again, fewer, words)


def _single(plan: Plan, trials: Trials, candidates: Sequence[Candidate]) -> tuple[Planned | None, str, bool | None]:
    """One deployment: with its new numbers if it holds, why, and whether one replica fewer would."""
    (candidate,), best = candidates, plan.plans[0]
    trial = trials.run(candidate, best.replicas)
    fewer = trials.run(candidate, best.replicas - 1).met if best.replicas > 1 else None
    if not trial.met:
        return None, gate(trials, trial, best.gpus), fewer
    return planned(trials, candidate, trial, plan.price), _times(trials, trial), fewer


def _split(plan: Plan, trials: Trials, candidates: Sequence[Candidate]) -> tuple[Planned | None, str, bool | None]:
    """Two deployments: the same, where either of them may lack a replica."""
    best = plan.plans[0]
    one, other = best.parts
    pair, share = (candidates[0], candidates[1]), one.share
    found = served_apart(trials, pair, (one.replicas, other.replicas), share)
    less = [(one.replicas - 1, other.replicas), (one.replicas, other.replicas - 1)]
    fewer = any(served_apart(trials, pair, count, share) is not None for count in less if min(count) > 0)
    if found is None:
        unheld = next(filter(None, map(trials.why_not_held, pair)), "")
        return None, unheld or "the two together miss an objective", fewer
    return planned_split(trials, found, plan.price), _times(trials, found.together), fewer


def _times(trials: Trials, trial: Trial) -> str:
    """The statistics and their limits; the load where there is no objective."""
    assert trial.latencies is not None
    return ", ".join(one.against(trial.latencies) for one in trials.objectives) or f"load {share(trial.load)}"
