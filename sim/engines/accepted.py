"""Chances of acceptance, guess by guess, from runs of an engine with one method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.engines.run import EngineRun
from sim.setup.acceptance import mean_length
from sim.setup.arrays import Floats
from specdec.errors import InputError


def conditional(runs: Sequence[EngineRun]) -> tuple[float, ...]:
    """Chance of each guess to be accepted, given those before it, from runs of one method; empty without a draft.

    Counted in the runs of the largest draft length, weighted by their rounds. Where only mean acceptance lengths are known,
    guesses up to the smallest draft length have one chance, those from there to the next larger one another, and so on. Runs
    without acceptance are passed over. Raises `InputError` if all are.
    """
    if not any(run.draft_length for run in runs):
        return ()
    known = [run for run in runs if run.draft_length and length_of(run)]
    if not known:
        raise InputError(f"{runs[0].source} holds no acceptance: give a run of an engine that reports it")
    longest = max(run.draft_length for run in known)
    found: list[tuple[Floats, float]] = []
    for run in known:
        if run.draft_length == longest:
            marginal = np.array([1.0, *run.by_position])
            chances = np.array(_by_lengths(known))
            if len(run.by_position) == longest:
                chances = np.divide(marginal[1:], marginal[:-1], out=np.zeros(longest), where=marginal[:-1] > 0)
            found.append((np.clip(chances, 0, 1), run.rounds or 1.0))
    weights = np.array([weight for _, weight in found])
    return tuple(map(float, np.average([chances for chances, _ in found], axis=0, weights=weights)))


def counted(runs: Sequence[EngineRun]) -> bool:
    """Whether `conditional` takes every chance from rates by position, and none from a mean acceptance length."""
    known = [run for run in runs if run.draft_length and length_of(run)]
    longest = max((run.draft_length for run in known), default=0)
    return all(len(run.by_position) == longest for run in known if run.draft_length == longest)


def length_of(run: EngineRun) -> float | None:
    """The acceptance length of a run."""
    return 1 + sum(run.by_position) if len(run.by_position) == run.draft_length else run.acceptance_length


def _by_lengths(runs: Sequence[EngineRun]) -> list[float]:
    """Chances of guesses from mean acceptance lengths: one chance for all guesses from one draft length to the next."""
    chances: list[float] = []
    reached, passed = 1.0, 1.0
    for length in sorted({run.draft_length for run in runs}):
        ours = [run for run in runs if run.draft_length == length]
        mean = np.average([length_of(run) or 1.0 for run in ours], weights=[run.rounds or 1.0 for run in ours])
        more = length - len(chances)
        gained = float(np.clip((mean - reached) / passed, 0.0, more)) if passed else 0.0
        chance = float(mean_length(1 + gained, more).rate)
        chances += [chance] * more
        reached, passed = reached + passed * gained, passed * chance**more
    return chances
