"""One small pair for all tests of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tiny_models import minuscule

from specdec import Pair
from specdec.testing.models import resembling


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    target = minuscule(64, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as made:
        yield made
