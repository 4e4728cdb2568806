"""Where another method becomes the best plan: at another load, or with another acceptance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.report import PlanFlip
from sim.planning.trials import Found, Trials, sustained

FARTHEST = 8.0
"""Loads are looked at from an eighth to eight times what was planned for."""
STEP = 1.02
LEAST_ODDS, MOST_ODDS = 1 / 64, 64.0
HALVINGS = 6


def load_flips(trials: Trials, best: Found, others: Sequence[Found]) -> Iterator[PlanFlip]:
    """The nearest loads above and below at which a plan of another method needs fewer GPUs.

    GPUs at another load follow from what a replica sustains: load / sustained load of a replica, rounded up. Where both need
    equally many GPUs, nothing flips.
    """
    held = {one: sustained(trials, one, trial.replicas) / trial.replicas for one, trial in (best, *others)}
    mine = best[0]

    def gpus(one: Candidate, load: float) -> float:
        return one.place.gpus_of(int(np.ceil(load / held[one] - 1e-9))) if held[one] else np.inf

    for direction in (1, -1):
        steps = int(np.log(FARTHEST) / np.log(STEP))
        for load in trials.rate * STEP ** (direction * np.arange(1, steps + 1)):
            cheaper = [one for one, _ in others if gpus(one, load) < gpus(mine, load)]
            if cheaper:
                to = min(cheaper, key=lambda one: gpus(one, load))
                yield PlanFlip("load", float(load), to.name, "above" if direction > 0 else "below")
                break


def acceptance_flip(trials: Trials, best: Found, others: Sequence[Found]) -> Iterator[PlanFlip]:
    """The acceptance of the best plan's draft below which the best plan of another method is better.

    If the best plan has no draft: the acceptance above which the next best plan would be better.
    """
    drafting = best if best[0].method.acceptance is not None else next((one for one in others if one[0].draft_length), None)
    rivals = others if drafting is best else [best]
    if drafting is None or not rivals:
        return
    candidate, rival = drafting[0], rivals[0]

    def wins(odds: float) -> bool:
        theirs = rival[0].place.gpus_of(rival[1].replicas)
        as_many = candidate.place.most_replicas(theirs)
        if not as_many:
            return False
        trial = trials.run(candidate, as_many, odds=odds)
        if not trial.met or candidate.place.gpus_of(as_many) < theirs:
            return trial.met
        fewer = as_many > 1 and trials.run(candidate, as_many - 1, odds=odds).met
        return fewer or trial.pressure < rival[1].pressure

    ends = (LEAST_ODDS, 1.0) if drafting is best else (1.0, MOST_ODDS)
    if wins(ends[0]) or not wins(ends[1]):
        return
    low, high = np.log(ends)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if wins(float(np.exp(middle))) else (middle, high)
    at = candidate.acceptance.at_odds(float(np.exp((low + high) / 2))).mean_rate
    to = rival[0].name if drafting is best else candidate.name
    yield PlanFlip("acceptance", at, to, "below" if drafting is best else "above")
