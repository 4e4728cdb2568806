"""What tests of the exact law share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from specdec import (
    DecodingStrategy,
)
from specdec.law import ExactPair, exact, law, target_law
from specdec.law.proof import PROMPT


@pytest.fixture
def count_branches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """How many branches the law of a strategy took."""
    enumerate_branches = exact.branches

    def count(strategy: DecodingStrategy, pair: ExactPair, new_tokens: int) -> int:
        leaves = 0

        def counting(run: Any) -> Iterator[Any]:
            nonlocal leaves
            for leaf in enumerate_branches(run):
                leaves += 1
                yield leaf

        with monkeypatch.context() as patch:
            patch.setattr(exact, "branches", counting)
            ours = law(strategy, pair, PROMPT, new_tokens)
        assert ours == target_law(pair, PROMPT, new_tokens)
        return leaves

    return count
