"""The shortlist: which candidates are worth simulating, by their exact chains, and schedules made of their lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from sim.planning.candidates import Candidate, Tier
from sim.planning.methods import POOLED
from sim.planning.report import Rejected
from sim.planning.screen import best_schedule, ceiling
from sim.planning.trials import Trials

NEAR = 0.85
"""A candidate is simulated if its ceiling is at least this share of the best of its kind."""
TRIED = 3
"""Candidates of a kind that are simulated at most."""
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
        best = tops[ours[0]]
        for rank, one in enumerate(ours):
            if rank == 0 or (rank < TRIED and tops[one] >= NEAR * best > 0):
                kept.append(one)
            else:
                what = f"{tops[one]:.3g} requests/s of a replica at most, and {ours[0].name} {best:.3g}"
                rejected.append(Rejected(one.name, f"screened: {what}"))
        kept += schedules_of(trials, ours) if schedules else []
    per_gpu = {one: tops.get(one, np.inf) / one.place.gpus_of(POOLED) for one in kept}
    return sorted(kept, key=lambda one: -per_gpu[one]), rejected


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
