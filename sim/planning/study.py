"""The study of a deployment: which method, which draft length, where, and how many GPUs.

Screens all candidates by their exact chains, decides by simulation of the same requests, and looks for the fewest replicas of
each candidate that is left, and of lengths beside the best. The best plan is the cheapest; of equally cheap ones, the one with
the most headroom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.planning.candidates import BATCHES, STRATEGIES, Candidate, candidates_of
from sim.planning.entries import planned, planned_split
from sim.planning.flips import acceptance_flip, load_flips
from sim.planning.methods import Method
from sim.planning.objectives import Objective, objectives_of
from sim.planning.report import Length, Plan, Rejected
from sim.planning.screen import ceiling
from sim.planning.sensitivity import sensitivity
from sim.planning.shortlist import beside, kind, screened
from sim.planning.split import MOST_GPUS, Split, best_split
from sim.planning.trials import LONGER, Found, Trial, Trials, each, fewest_replicas, sustained
from sim.planning.verdict import gate, of_split, verdict
from sim.setup.latency import Constant
from sim.traffic.record import ONE_REPLICA, Server
from sim.traffic.workload import Traffic, Workload
from specdec.errors import InputError
from specdec.report import Progress, no_progress

AT_ONCE = 4
"""Candidates that are decided together; what they cost does not depend on how many cores there are."""


@dataclass(frozen=True)
class Limits:
    """What a plan may use.

    `gpus`    at most
    `price`   of a GPU in an hour; `None`: plans are ranked by GPUs

    Raises `InputError` for a price of 0 or without end, which does not tell plans apart, and for less than 1 GPU.
    """

    gpus: int = 64
    price: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise InputError(f"a plan with {self.gpus} GPUs is not possible: give at least 1")
        if self.price is not None and not 0 < self.price < np.inf:
            raise InputError(
                f"a price of {self.price:g} does not tell plans apart: leave it out to rank by GPUs, or give one above 0"
            )


NO_LIMITS = Limits()


def plan(
    methods: Sequence[Method],
    traffic: Traffic | Workload,
    objectives: Sequence[Objective] | Mapping[str, str | float],
    *,
    server: Server = ONE_REPLICA,
    limits: Limits = NO_LIMITS,
    strategies: Sequence[str] = STRATEGIES,
    batches: Sequence[int] = BATCHES,
    schedules: bool = True,
    seed: int = 0,
    target: str = "",
    provenance: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Plan a deployment.

    `methods`      ways to decode, from `methods_of`
    `traffic`      requests that arrive; a trace, or drawn
    `objectives`   such as `{"ttft-p99": "500ms", "tpot-p99": 0.04}`; none: only keeping up counts
    `server`       how the engine is set up; replicas, batch and cache come from each plan
    `limits`       GPUs and price
    `strategies`   what to try with drafts
    `batches`      batch limits to try
    `schedules`    whether to try lengths by running batch
    `target`       name of the target, for flags of engines
    `provenance`   where the requests come from, in words

    Raises `InputError` without a method, for constants that make batches free, for a closed loop, and for too few requests.
    """
    if not methods:
        raise InputError("no method is given, so there is nothing to plan with: give some of methods_of or methods_on_gpu")
    found = objectives_of(objectives) if isinstance(objectives, Mapping) else tuple(objectives)
    trials = Trials(traffic, found, server, seed)
    decided = decide(trials, methods, limits, strategies=strategies, batches=batches, schedules=schedules, progress=progress)
    return reported(decided, target, provenance)


@dataclass(frozen=True, eq=False)
class Decided:
    """What a plan was decided from, for its report and for further studies.

    `trials`       the requests, and all that was simulated
    `methods`      ways to decode
    `limits`       GPUs and price
    `candidates`   all that were screened
    `good`         those that meet all objectives with the fewest replicas that do, the best first
    `unmet`        those that were simulated and do not, the nearest first; those that cannot keep up last
    `rejected`     all that are no plan, with their gates; these first, in the same order
    `split`        two deployments that need fewer GPUs than any one, if there are such
    """

    trials: Trials
    methods: Sequence[Method]
    limits: Limits
    candidates: Sequence[Candidate]
    good: Sequence[Found]
    unmet: Sequence[Found]
    rejected: Sequence[Rejected]
    split: Split | None = None


def decide(
    trials: Trials,
    methods: Sequence[Method],
    limits: Limits = NO_LIMITS,
    *,
    strategies: Sequence[str] = STRATEGIES,
    batches: Sequence[int] = BATCHES,
    schedules: bool = True,
    progress: Progress = no_progress,
) -> Decided:
    """Screen all candidates, and find the fewest replicas of those that are left; arguments and errors are those of `plan`."""
    for place in (place for method in methods for place in method.places):
        if isinstance(place.system.latency, Constant) and not place.system.latency.batches_are_free:
            raise InputError(
                "constant step times make batches and prompts free, so they say nothing about load: give a profile, runs of an "
                "engine or a GPU, or say that batches are free (--batches-are-free)"
            )
    held = [(one, trials.why_not_held(one)) for one in candidates_of(methods, strategies, batches)]
    everything = [one for one, why in held if not why]
    finalists, screened_out = screened(trials, everything, schedules=schedules)
    rejected: list[Rejected] = []
    tried: list[Found] = []
    dear: list[tuple[Candidate, int]] = []

    def fewest(one: Candidate) -> Trial:
        return fewest_replicas(trials, one, one.place.most_replicas(limits.gpus))

    parts = [finalists[first : first + AT_ONCE] for first in range(0, len(finalists), AT_ONCE)]
    names = [", ".join(map(str, part)) for part in parts]
    for _, part in zip(progress(names, len(names)), parts, strict=True):
        chosen: list[Candidate] = []
        for candidate in part:
            if why := _hopeless(trials, candidate, tried, limits):
                rejected.append(Rejected(candidate.name, why))
            elif least := _too_dear(trials, candidate, tried):
                dear.append((candidate, least))
            else:
                chosen.append(candidate)
        tried += zip(chosen, each(fewest, chosen), strict=True)
    others = [one for one in everything if one not in finalists]
    while near := beside(tried, others):
        tried += zip(near, each(fewest, near), strict=True)
    good, failed = confirmed(trials, tried, limits)
    while again := [one for one, least in dear if least <= _gpus(good, limits)]:  # more requests refuted what was cheaper
        tried += zip(again, each(fewest, again), strict=True)
        dear = [(one, least) for one, least in dear if one not in again]
        good, failed = confirmed(trials, tried, limits)
    costs = [
        Rejected(one.name, f"cost: at least {least} GPUs, and another plan needs {_gpus(good, limits)}") for one, least in dear
    ]
    late = {one.name for one, _ in tried if one in others}
    screened_out = [one for one in screened_out if one.plan not in late]
    rejected = [*(Rejected(one.name, why) for one, why in held if why), *screened_out, *rejected, *costs]
    unmet = sorted((*failed, *(one for one in tried if not one[1].met)), key=lambda one: (one[1].pressure, one[1].load))
    gates = [Rejected(one.name, gate(trials, trial, limits.gpus)) for one, trial in unmet]
    split = best_split(trials, everything, _gpus(good, limits))
    return Decided(trials, methods, limits, everything, good, unmet, [*gates, *rejected], split)


def _gpus(good: Sequence[Found], limits: Limits) -> int:
    """GPUs of the cheapest plan; one more than there may be where there is no plan."""
    return min((one.place.gpus_of(trial.replicas) for one, trial in good), default=min(limits.gpus, MOST_GPUS) + 1)


def confirmed(trials: Trials, tried: Sequence[Found], limits: Limits) -> tuple[list[Found], list[Found]]:
    """The plans, the best of them confirmed by more requests with other draws; and those that would need too many GPUs.

    A percentile of few requests is uncertain, the more so as requests come in bursts. More requests must meet the objectives
    with the upper ends of their intervals; a plan that they refute gets one more replica. One that cannot hold them fails.
    """
    found, failed, sure = sorted((one for one in tried if one[1].met), key=_rank), list[Found](), set[Candidate]()
    while found and found[0][0] not in sure:
        candidate, trial = found.pop(0)
        if trial.met and trials.longer.surely_met(candidate, trial.replicas):
            sure.add(candidate)
            found.insert(0, (candidate, trial))
        elif trials.longer.why_not_held(candidate) or candidate.place.gpus_of(trial.replicas + 1) > limits.gpus:
            failed.append((candidate, trials.longer.run(candidate, trial.replicas)))
        else:
            found = sorted([(candidate, trials.run(candidate, trial.replicas + 1)), *found], key=_rank)
    return [one for one in found if one[1].met], failed


def _hopeless(trials: Trials, candidate: Candidate, tried: Sequence[Found], limits: Limits) -> str | None:
    """Why a candidate can be no plan: a replica needs too many GPUs, or, where its kind has a plan, by its ceiling."""
    if not candidate.place.most_replicas(limits.gpus):
        return f"GPUs: a replica needs {candidate.place.gpus_of(1)}, and {limits.gpus} are allowed"
    if _kind_has_plan(candidate, tried) and not ceiling(candidate, trials.demand, trials.objectives):
        return f"{' or '.join(sorted({one.quantity for one in trials.objectives} - {'ttft'}))}: no batch meets its limit"
    return None


def _too_dear(trials: Trials, candidate: Candidate, tried: Sequence[Found]) -> int | None:
    """The GPUs that a candidate needs at least, if the cheapest plan so far needs fewer, and its kind has a plan."""
    if not _kind_has_plan(candidate, tried):
        return None
    cheapest = min(one.place.gpus_of(trial.replicas) for one, trial in tried if trial.met)
    least = candidate.place.gpus_of(int(np.ceil(trials.rate / ceiling(candidate, trials.demand, trials.objectives))))
    return least if least > cheapest else None


def _kind_has_plan(candidate: Candidate, tried: Sequence[Found]) -> bool:
    return any(kind(one) == kind(candidate) and trial.met for one, trial in tried)


def _rank(found: Found) -> tuple[int, float, int]:
    candidate, trial = found
    return candidate.place.gpus_of(trial.replicas), round(trial.pressure, 3), len(candidate.schedule)


def reported(decided: Decided, target: str = "", provenance: Mapping[str, str] | None = None) -> Plan:
    """The plan, with what it sustains, where it flips, and what other lengths would sustain."""
    trials, methods, limits = decided.trials, decided.methods, decided.limits
    good, rejected = decided.good, decided.rejected
    given = trials.server.kv_tokens
    chosen = {one.method.name: one.place for one, _ in reversed(good)}
    places = {method.name: chosen.get(method.name, method.places[0]) for method in methods}
    pools = {name: place.kv_tokens if given is None else given for name, place in places.items()}
    words = {what: whence for method in methods for what, whence in method.provenance.items()}
    parts: dict[str, Any] = {"flips": (), "lengths": (), "sustained": None}
    others = _best_of_other_methods(good)
    if good:
        held, *_ = each(lambda one: sustained(trials, one[0], one[1].replicas), [good[0], *others])
        flips = (*load_flips(trials, good[0], others), *acceptance_flip(trials, good[0], others))
        matters = sensitivity(trials, good[0], limits.gpus)
        parts = {"flips": flips, "lengths": lengths_of(trials, good[0]), "sustained": held, "sensitivity": matters}
    plans = [planned(trials, one, trial, limits.price) for one, trial in good]
    sentences = verdict(trials, good, others, rejected, limits.price, parts["flips"], parts["sustained"])
    if doubts := words.get("doubts"):
        sentences += f" {doubts[0].upper()}{doubts[1:]}."
    if decided.split is not None:
        plans.insert(0, planned_split(trials, decided.split, limits.price))
        sentences = of_split(trials, decided.split, limits.price, sentences)
    return Plan(
        verdict=sentences,
        plans=tuple(plans),
        rejected=tuple(rejected),
        objectives=trials.objectives,
        rate=trials.rate,
        input_tokens=float(trials.workload.input_tokens.mean()),
        output_tokens=float(trials.workload.output_tokens.mean()),
        target=target,
        iteration_tokens=trials.server.iteration_tokens,
        kv_pools=pools,
        price=limits.price,
        provenance={
            **words,
            **(provenance or {}),
            "simulation": f"{len(trials.workload):,} requests, the first tenth as warm-up, seed {trials.seed}; the best plan "
            f"confirmed by {LONGER} times as many",
        },
        **parts,
    )


def _best_of_other_methods(good: Sequence[Found]) -> list[Found]:
    """The best plan of each method but the winner's."""
    found: dict[str, Found] = {}
    for one in good:
        found.setdefault(one[0].method.name, one)
    return [one for name, one in found.items() if name != good[0][0].method.name]


def lengths_of(trials: Trials, plan: Found) -> tuple[Length, ...]:
    """What every draft length of a plan's kind sustains with its replicas; without those that cannot hold every request."""
    candidate, trial = plan
    if not candidate.draft_length:
        return ()
    ours = [
        one
        for one in candidates_of([candidate.method], (candidate.strategy,), (candidate.max_batch,))
        if one.place is candidate.place and not trials.why_not_held(one)
    ]
    held = each(lambda one: sustained(trials, one, trial.replicas, steps=5), ours)
    most = max(*held, 1e-12)
    return tuple(Length(one.draft_length, rate, 1 - rate / most) for one, rate in zip(ours, held, strict=True))
