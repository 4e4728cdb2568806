"""Makes a pair of tiny models with random weights, for tests that decode."""

from __future__ import annotations

from specdec.pair import Pair
from specdec.testing.models import model, resembling

VOCABULARY = 12


def tiny_pair(noise: float = 0.3, seed: int = 0, lane: str = "inline") -> Pair:
    """A target with a vocabulary of 12 tokens, in float64, and a draft that is the target with noise on its weights.

    `noise` says how much; with 0, the draft always agrees with the target.
    """
    target = model(vocabulary=VOCABULARY, seed=seed)
    return Pair(target, resembling(target, noise, seed + 1), lane=lane)
