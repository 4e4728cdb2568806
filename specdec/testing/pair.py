"""Makes a pair of tiny models with random weights, for tests that decode."""

from __future__ import annotations

from specdec.pair import Pair
from specdec.state import SPEED_RATIO, Costs
from specdec.statistics import Statistics
from specdec.testing.models import model, resembling

VOCABULARY = 12


class Untimed(Pair):
    """A pair whose forwards are said to take the same time always, so that a seed repeats what measured times would decide."""

    def speed_ratio(self, *, sampled: bool = False) -> float:
        return SPEED_RATIO

    def costs(self, *, sampled: bool = False) -> Costs:
        return Costs(SPEED_RATIO)

    def follow(self, decode: Statistics, *, sampled: bool) -> None:
        pass


def tiny_pair(noise: float = 0.3, seed: int = 0, lane: str = "inline") -> Pair:
    """A target with a vocabulary of 12 tokens, in float64, and a draft that is the target with noise on its weights.

    `noise` says how much; with 0, the draft always agrees with the target. No time of it is measured.
    """
    target = model(vocabulary=VOCABULARY, seed=seed)
    return Untimed(target, resembling(target, noise, seed + 1), lane=lane)
