"""Deployments as the report has them: one, or two that share the requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.methods import weakest
from sim.planning.objectives import Quantity, Statistic, statistic_of
from sim.planning.report import Planned
from sim.planning.split import Split
from sim.planning.trials import NEGLIGIBLE, Trial, Trials
from sim.setup.acceptance import Acceptance
from sim.traffic.workload import Traffic
from specdec.acceptance import Tag


def marginals(acceptance: Acceptance, draft_length: int) -> tuple[float, ...]:
    """Of all rounds, the share in which each of `draft_length` guesses is accepted, at the beginning of an answer."""
    state, found = acceptance.start, list[float]()
    for index in range(draft_length):
        state = state @ acceptance.accept(index)
        found.append(float(state.sum()))
    return tuple(found)


def planned(trials: Trials, candidate: Candidate, trial: Trial, price: float | None) -> Planned:
    """A deployment as the report has it."""
    assert trial.metrics is not None
    assert trial.latencies is not None
    stated: dict[Quantity, Statistic] = {one.quantity: one.statistic for one in reversed(trials.objectives)}
    times = {what: 1e3 * statistic_of(values, stated.get(what, "p99")) for what, values in trial.latencies.items()}
    binding = "load"
    if trials.objectives:
        binding = trials.objectives[int(np.argmax(trial.pressures))].name
    gpus, metrics = candidate.place.gpus_of(trial.replicas), trial.metrics
    return Planned(
        name=candidate.name,
        method=candidate.method.name,
        draft=candidate.method.draft,
        strategy=candidate.strategy,
        draft_length=candidate.draft_length,
        schedule=candidate.schedule,
        placement=candidate.place.name,
        max_batch=candidate.max_batch,
        acceptance=marginals(candidate.acceptance, candidate.draft_length),
        replicas=trial.replicas,
        target_gpus=candidate.place.gpus,
        draft_gpus=candidate.place.draft_gpus,
        gpus=gpus,
        cost_per_hour=None if price is None else price * gpus,
        ttft_ms=times["ttft"],
        tpot_ms=None if np.isnan(times["tpot"]) else times["tpot"],
        e2e_ms=times["e2e"],
        goodput=metrics.goodput,
        requests_per_second=metrics.requests_per_second,
        output_tokens_per_second=metrics.output_tokens_per_second,
        utilisation=metrics.target_utilisation,
        kv_tokens=candidate.server(trials.server, 1).kv_tokens,
        kv_share=None if np.isnan(metrics.kv_share) else metrics.kv_share,
        binding=binding,
        headroom=1 - trial.pressure,
        load=trial.load,
        extrapolated_share=trial.extrapolated,
        tags=_tags(trials, candidate, trial),
        short=metrics.short,
    )


def _tags(trials: Trials, candidate: Candidate, trial: Trial) -> dict[str, Tag]:
    found: dict[str, Tag] = dict(candidate.method.tags)
    if trial.extrapolated > NEGLIGIBLE:
        found["step"] = "extrapolated"
    if trials.server.kv_tokens is not None:
        found["kv_tokens"] = "assumed"
    if candidate.place.draft_gpus and candidate.place.name != "as measured":
        found["exchange"] = "assumed"
    if any(not tier.draft_length for tier in candidate.schedule):
        found["off"] = "assumed"
    if candidate.assumes_foresight:
        found["foresight"] = "assumed"
    found["traffic"] = "assumed" if isinstance(trials.traffic, Traffic) else "measured"
    return found


def planned_split(trials: Trials, split: Split, price: float | None) -> Planned:
    """Two deployments as one entry, with both as its parts."""
    parts = [
        replace(planned(trials, one, trial, price), share=share)
        for one, trial, share in zip(split.candidates, split.trials, split.shares, strict=True)
    ]
    first = planned(trials, split.candidates[0], replace(split.together, metrics=split.trials[0].metrics), price)
    return replace(
        first,
        name=split.name,
        replicas=sum(split.replicas),
        gpus=split.gpus,
        cost_per_hour=None if price is None else price * split.gpus,
        goodput=sum(one.goodput for one in parts),
        requests_per_second=sum(one.requests_per_second for one in parts),
        output_tokens_per_second=sum(one.output_tokens_per_second for one in parts),
        extrapolated_share=max(one.extrapolated_share for one in parts),
        tags=weakest([one.tags for one in parts]),
        short=any(one.short for one in parts),
        parts=tuple(parts),
    )
