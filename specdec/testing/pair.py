"""A pair of tiny models with random weights, for tests of whatever decodes."""

from __future__ import annotations

from specdec.pair import Pair
from specdec.testing.models import model, resembling

VOCABULARY = 12


def tiny_pair(noise: float = 0.3, seed: int = 0, lane: str = "inline") -> Pair:
    """A target of 12 tokens in float64, and a draft that is the target with `noise` on its weights: 0 agrees always."""
    target = model(vocabulary=VOCABULARY, seed=seed)
    return Pair(target, resembling(target, noise, seed + 1), lane=lane)
