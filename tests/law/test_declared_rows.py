"""The rows that a draft declares are the rows that its tokens are sampled from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_models import grid, minuscule

from specdec import Sampling
from specdec.runtime import worker
from specdec.sampling import Sampler
from specdec.testing.models import fresh_logits

SETTINGS = [
    {},
    {"temperature": 0.5},
    {"top_k": 2},
    {"temperature": 1.7, "top_p": 0.8},
    {"repetition_penalty": 1.8},
    {"min_p": 0.4, "temperature": 2.0},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_declared_q_is_sampled_q(options: dict[str, Any]) -> None:
    """Two drafted tokens of a model, over a grid of the two uniforms: frequencies are the declared rows, to a cell's width."""
    model, cells = minuscule(4, seed=3), 16
    firsts: Counter[int] = Counter()
    pairs: Counter[tuple[int, int]] = Counter()
    rows: dict[tuple[int, ...], torch.Tensor] = {}
    drafting = worker.Worker(model, 4, eager=True)
    for uniforms in grid(cells, 2):
        drafting.begin(Sampling(**options), [1, 2])
        [drafted] = drafting.draft([worker.DraftRequest(0, [1, 2], 2, uniforms)])
        first, second = drafted.tokens
        assert drafted.q is not None
        firsts[first] += 1
        pairs[first, second] += 1
        for history, q in zip(((), (first,)), drafted.q, strict=True):
            assert torch.equal(rows.setdefault(history, q), q)  # a row belongs to its history, whatever is drawn from it
    for token in range(4):
        assert abs(firsts[token] / cells**2 - rows[()][token]) < 1 / cells
        for second in range(4):
            if firsts[token]:
                assert abs(pairs[token, second] / firsts[token] - rows[token,][second]) < 1 / cells
    expected = Sampler(Sampling(**options)).probabilities(fresh_logits(model, [1, 2]), [1, 2])[0]
    torch.testing.assert_close(rows[()], expected, rtol=0, atol=1e-12)


def test_a_stopped_draft_keeps_the_token_that_stopped_it() -> None:
    model = minuscule(4, seed=3)
    drafting = worker.Worker(model, 4, eager=True)
    asked: list[tuple[int, int]] = []

    def stop(q: Any, token: int) -> bool:
        asked.append((token, len(q)))
        return len(asked) == 2

    drafting.begin(Sampling(), [1])
    [drafted] = drafting.draft([worker.DraftRequest(0, [1], 5, [0.5] * 5, stop)])
    assert drafted.q is not None
    assert len(drafted.tokens) == len(drafted.q) == 2
    assert asked == [(token, 4) for token in drafted.tokens]
