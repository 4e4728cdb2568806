"""The shortlist: which candidates are worth simulating, by their exact chains, and schedules made of their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from sim.planning.candidates import Candidate, Tier
from sim.planning.methods import POOLED
from sim.planning.report import Rejected
from sim.planning.screen import best_schedule, ceiling, served_at
from sim.planning.trials import Found, Trials

NEAR = 0.85
"""A candidate is simulated if its ceiling is at least this share of the best of its kind."""
TRIED = 3
"""Candidates of a kind that are simulated for what they serve at most; the one that is fastest alone is simulated too."""
TIERS = 3
"""Lengths of a schedule at most."""


def screened(
    trials: Trials, candidates: Sequence[Candidate], *, schedules: bool = True
) -> tuple[list[Candidate], list[Rejected]]:
    """The candidates to simulate, the most promising first, with schedules of lengths; and those that are not."""
    demand = trials.demand
    tops = {one: ceiling(one, demand, trials.objectives) for one in candidates}
    kept: list[Candidate] = []
    rejected: list[Rejected] = []
    for _, group in groupby(sorted(candidates, key=_alike), key=_alike):
        ours = sorted(group, key=lambda one: -tops[one])
        best, quickest = tops[ours[0]], max(ours, key=lambda one: served_at(one, 1, demand))
        for rank, one in enumerate(ours):
            if rank == 0 or one is quickest or (rank < TRIED and tops[one] >= NEAR * best > 0):
                kept.append(one)
            else:
                what = f"{tops[one]:.3g} requests/s of a replica at most, and {ours[0].name} {best:.3g}"
                rejected.append(Rejected(one.name, f"screened: {what}"))
        kept += schedules_of(trials, ours) if schedules else []
    per_gpu = {one: tops.get(one, np.inf) / one.place.gpus_of(POOLED) for one in kept}
    return sorted(kept, key=lambda one: -per_gpu[one]), rejected


def beside(tried: Sequence[Found], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with one guess more or less than the best of their kind, if no plan is cheaper than that one.

    Chains alone do not tell close lengths apart: which is best depends on how many sequences run, and that on the objectives.
    """
    simulated = {one for one, _ in tried}
    cheapest = min((one.place.gpus_of(trial.replicas) for one, trial in tried if trial.met), default=None)
    found: list[Candidate] = []
    fixed = sorted(((one, trial) for one, trial in tried if not one.schedule), key=lambda pair: _alike(pair[0]))
    for alike, group in groupby(fixed, key=lambda pair: _alike(pair[0])):
        best, trial = min(group, key=_order)
        if trial.pressure < np.inf and cheapest in (None, best.place.gpus_of(trial.replicas)):
            near = (one for one in candidates if _alike(one) == alike and abs(one.draft_length - best.draft_length) == 1)
            found += (one for one in near if one not in simulated)
    return found


def _order(found: Found) -> tuple[bool, int, float]:
    """Plans first, the cheapest of them first; then by what is missed least."""
    candidate, trial = found
    return not trial.met, trial.met * candidate.place.gpus_of(trial.replicas), trial.pressure


def schedules_of(trials: Trials, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The schedule of the lengths that are fastest at each running batch, if they differ; for one strategy in one place."""
    first = candidates[0]
    if not first.draft_length or first.strategy != "speculative":
        return []
    best = best_schedule(candidates, trials.demand)
    runs = [(length, [n for n, _ in group][-1]) for length, group in groupby(best, key=lambda pair: pair[1])]
    while len(runs) > TIERS:  # drop the tier with the narrowest range of batches
        widths = [end / (runs[i - 1][1] if i else 1) for i, (_, end) in enumerate(runs)]
        runs.pop(int(np.argmin(widths[:-1])))
    if len(runs) < 2:
        return []
    tiers = tuple(Tier(end if i < len(runs) - 1 else None, length) for i, (length, end) in enumerate(runs))
    longest = max(tier.draft_length for tier in tiers)
    if not longest:
        return []
    return [replace(first, draft_length=longest, schedule=tiers)]


def _alike(one: Candidate) -> tuple[tuple[str, str, str, int], int]:
    return kind(one), one.place.gpus


def kind(one: Candidate) -> tuple[str, str, str, int]:
    """What each must have a plan of: method, strategy, place and batch limit."""
    return one.method.name, one.strategy, one.place.name, one.max_batch
