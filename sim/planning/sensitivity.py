"""What a plan hangs on: how near it comes to its limits, and whether its GPUs suffice, if one input is 20 % less or more.

All else stays: the method, the draft length, the requests, the draws.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import exp
from typing import Literal, TypeAlias

import numpy as np
from scipy.optimize import brentq

from sim.planning.candidates import Candidate
from sim.planning.trials import Found, Trials, each
from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Counts
from sim.setup.latency import Scaled
from sim.traffic.workload import Lengths, Traffic, Workload
from specdec.report import Report, share

CHANGE = 0.2
MOST_ACCEPTANCE = 0.99
FARTHEST = 12.0
"""Logarithm of the highest odds that are looked at."""

Parameter: TypeAlias = Literal["acceptance", "target step", "draft step", "prompt length", "answer length", "load"]


@dataclass(frozen=True)
class Changed(Report):
    """A plan after one input changed.

    `parameter`   which input
    `factor`      what it was multiplied by
    `value`       of the input then; `None` (null) where it is no single number
    `pressure`    of the binding objective with the plan's replicas: its statistic over its limit; `None` (null) where more
                  requests arrive than can be finished, or where a request does not fit into the cache
    `gpus`        that the plan then needs, not fewer than planned; `None` (null) where more than twice as many do not suffice,
                  or are not allowed
    """

    parameter: Parameter
    factor: float
    value: float | None
    pressure: float | None
    gpus: int | None


@dataclass(frozen=True)
class Sensitivity(Report):
    """What a plan hangs on.

    `pressure`   of the binding objective as planned
    `gpus`       as planned
    `changes`    two for each input
    """

    pressure: float
    gpus: int
    changes: tuple[Changed, ...]

    def __str__(self) -> str:
        planned = f"{self.gpus} GPU{'s' * (self.gpus > 1)}"
        more = [one for one in self.changes if one.gpus != self.gpus]
        if not more:
            return f"Hangs on no single input: with any of them {share(CHANGE)} off, it still needs {planned}"
        needed = [f"{one.parameter} {100 * (one.factor - 1):+.0f} %: {one.gpus or 'too many'}" for one in more]
        return f"With one input {share(CHANGE)} off, it needs more than {planned}: {', '.join(needed)}"


def sensitivity(trials: Trials, best: Found, most_gpus: int) -> Sensitivity:
    """Change each input of a plan down and up, with `most_gpus` at most."""
    candidate, trial = best
    planned, most = candidate.place.gpus_of(trial.replicas), candidate.place.most_replicas(most_gpus)

    def changed(way: tuple[Parameter, float]) -> Changed:
        return _changed(trials, candidate, trial.replicas, most, *way)

    changes = each(changed, [(parameter, 1 + sign * CHANGE) for parameter in _parameters(candidate) for sign in (-1, 1)])
    return Sensitivity(trial.pressure, planned, tuple(changes))


def _parameters(candidate: Candidate) -> Iterator[Parameter]:
    if candidate.draft_length:
        yield "acceptance"
        yield "draft step"
    yield from ("target step", "prompt length", "answer length", "load")


def _changed(trials: Trials, candidate: Candidate, replicas: int, most: int, parameter: Parameter, factor: float) -> Changed:
    if parameter == "acceptance":
        rate, odds = odds_of(candidate.acceptance, factor)
        return _asked(trials, candidate, replicas, most, parameter, factor, rate, odds)
    vary, value = _VARY[parameter](factor), _value(trials, parameter)
    other, one = vary(trials, candidate)
    return _asked(other, one, replicas, most, parameter, factor, None if value is None else value * factor)


def _asked(
    trials: Trials,
    candidate: Candidate,
    replicas: int,
    most: int,
    parameter: Parameter,
    factor: float,
    value: float | None,
    odds: float = 1.0,
) -> Changed:
    trial = trials.run(candidate, replicas, odds=odds)
    needed = replicas if trial.met else _more_replicas(trials, candidate, replicas, most, odds)
    pressure = trial.pressure if np.isfinite(trial.pressure) else None
    return Changed(parameter, factor, value, pressure, None if needed is None else candidate.place.gpus_of(needed))


def _more_replicas(trials: Trials, candidate: Candidate, replicas: int, most: int, odds: float) -> int | None:
    """The fewest replicas above `replicas` that meet all objectives, about twice as many at most; `None` if these do not."""
    counts = range(replicas + 1, min(most, 2 * replicas + 1) + 1)
    at = bisect_left(counts, True, key=lambda count: trials.run(candidate, count, odds=odds).met)
    return counts[at] if at < len(counts) else None


def odds_of(acceptance: Acceptance, factor: float) -> tuple[float, float]:
    """The acceptance `factor` times as high, or as near to that as it can be (at most 0.99), and the odds that make it."""
    wanted = min(MOST_ACCEPTANCE, factor * acceptance.mean_rate)

    def miss(log_odds: float) -> float:
        return acceptance.at_odds(exp(log_odds)).mean_rate - wanted

    if miss(-FARTHEST) >= 0 or miss(FARTHEST) <= 0:  # a recording whose runs all end, or all go on
        odds = exp(FARTHEST if miss(FARTHEST) <= 0 else -FARTHEST)
    else:
        odds = exp(float(brentq(miss, -FARTHEST, FARTHEST, xtol=1e-6)))  # type: ignore[arg-type]
    return acceptance.at_odds(odds).mean_rate, odds


Vary: TypeAlias = "Callable[[Trials, Candidate], tuple[Trials, Candidate]]"


def _slower(draft: float = 1.0, target: float = 1.0) -> Vary:
    def vary(trials: Trials, candidate: Candidate) -> tuple[Trials, Candidate]:
        system = replace(candidate.place.system, latency=Scaled(candidate.place.system.latency, draft, target))
        return trials, replace(candidate, place=replace(candidate.place, system=system))

    return vary


def _other_requests(inputs: float = 1.0, outputs: float = 1.0, load: float = 1.0) -> Vary:
    def vary(trials: Trials, candidate: Candidate) -> tuple[Trials, Candidate]:
        return trials.asked(_scaled(trials.traffic, inputs, outputs, load)), candidate

    return vary


def _scaled(traffic: Traffic | Workload, inputs: float, outputs: float, load: float) -> Traffic | Workload:
    if isinstance(traffic, Workload):

        def tokens(counts: Counts, factor: float) -> Counts:
            return np.maximum(1, np.rint(counts * factor)).astype(np.int64)

        return Workload(
            traffic.arrival_seconds / load,
            tokens(traffic.input_tokens, inputs),
            tokens(traffic.output_tokens, outputs),
            traffic.source,
        )
    arrivals = traffic.arrivals
    return replace(
        traffic,
        arrivals=None if arrivals is None else replace(arrivals, rate_per_second=arrivals.rate_per_second * load),
        input_tokens=_longer(traffic.input_tokens, inputs),
        output_tokens=_longer(traffic.output_tokens, outputs),
    )


def _longer(lengths: Lengths, factor: float) -> Lengths:
    return replace(lengths, mean_tokens=max(1.0, lengths.mean_tokens * factor))


_VARY: Mapping[Parameter, Callable[[float], Vary]] = {
    "target step": lambda factor: _slower(target=factor),
    "draft step": lambda factor: _slower(draft=factor),
    "prompt length": lambda factor: _other_requests(inputs=factor),
    "answer length": lambda factor: _other_requests(outputs=factor),
    "load": lambda factor: _other_requests(load=factor),
}


def _value(trials: Trials, parameter: Parameter) -> float | None:
    """The planned value of an input, where it is one number."""
    match parameter:
        case "prompt length":
            return float(trials.workload.input_tokens.mean())
        case "answer length":
            return float(trials.workload.output_tokens.mean())
        case "load":
            return trials.rate
        case _:
            return None
