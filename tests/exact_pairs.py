"""What tests of the exact law share: the installed strategies, and pairs of models as tables."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import specdec
from specdec.law import ExactPair
from specdec.law.proof import TabledModel

STRATEGIES = specdec.available()
DRAFTING = sorted(name for name, cls in STRATEGIES.items() if issubclass(cls, specdec.DraftingStrategy))


def rows(vocabulary: int) -> st.SearchStrategy[tuple[Fraction, ...]]:
    """Rows with zeros and ties among them."""
    weights = st.lists(st.integers(0, 4), min_size=vocabulary, max_size=vocabulary).filter(any)
    return weights.map(lambda row: tuple(Fraction(weight, sum(row)) for weight in row))


def any_pair(data: st.DataObject) -> ExactPair:
    """Tables whose row is drawn when a history is first asked for, so every history has a row of its own."""
    vocabulary = data.draw(st.integers(2, 3))
    p, q = (TabledModel(lambda _: data.draw(rows(vocabulary))) for _ in "pq")
    return ExactPair(vocabulary, p, q, eos=data.draw(st.sampled_from([None, vocabulary - 1])))


def uniform_pair(vocabulary: int) -> ExactPair:
    row = tuple(Fraction(1, vocabulary) for _ in range(vocabulary))
    return ExactPair(vocabulary, lambda _: row, lambda _: row)


few = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])  # type: ignore[arg-type]
