"""A saved plan, simulated again: ten times as many requests, other draws, and once with one replica fewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sim.planning.candidates import candidates_of
from sim.planning.entries import planned
from sim.planning.methods import Method
from sim.planning.report import Plan, Planned
from sim.planning.shortlist import screened
from sim.planning.trials import Trials
from sim.planning.verdict import gate
from specdec.errors import InputError
from specdec.report import Report, milliseconds, share, three_digits

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


def check(plan: Plan, trials: Trials, methods: Sequence[Method], strategies: Sequence[str]) -> Checked:
    """Simulate the best deployment of a plan on other requests. Raises `InputError` where there is none, or not among these."""
    if not plan.plans:
        raise InputError("there is no plan to check: no candidate meets the objectives")
    best = next(one for one in plan.plans if not one.parts)
    every = list(candidates_of(methods, strategies, (best.max_batch,)))
    if best.schedule:
        every = screened(trials, every)[0]
    found = [one for one in every if one.name == best.name]
    if not found:
        raise InputError(f"the plan {best.name} is not among the candidates of these inputs: plan again")
    candidate = found[0]
    trial = trials.run(candidate, best.replicas)
    count = len(trials.workload)
    again = planned(trials, candidate, trial, plan.price) if trial.met else None
    fewer = trials.run(candidate, best.replicas - 1).met if best.replicas > 1 else None
    if again is None:
        words = f"{best.name} on {best.gpus} GPUs does not hold over {count:,} requests: {gate(trials, trial, best.gpus)}."
    else:
        times = ", ".join(
            f"{one.words} {three_digits(1e3 * one.value(trial.latencies))} of {milliseconds(one.seconds)}"
            for one in trials.objectives
            if trial.latencies is not None
        )
        words = f"{best.name} on {best.gpus} GPUs holds over {count:,} requests: {times or f'load {share(trial.load)}'}."
    if plan.plans[0].parts:
        words += " Only the best single deployment is checked, not the two together."
    if fewer is not None:
        words += f" One replica fewer {'would hold too' if fewer else 'would not'}."
    return Checked(again is not None, count, again, fewer, words)
