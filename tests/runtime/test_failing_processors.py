"""Logits processors that fail behind the last token of an answer, where `generate` never asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decodes import strategies
from torch import Tensor
from transformers import LogitsProcessor, PrefixConstrainedLogitsProcessor

from specdec import DecodingStrategy, Pair, decode
from specdec.testing.models import model, resembling
from specdec.testing.pair import Untimed

VOCABULARY, PROMPT, END = 20, [5, 6, 7], 2
WORDS = [(10, 12, 15), (10, 13, 16, 17), (11, 14), (11, 14, 18, 19, 8, 9)]
TRIE = {
    tokens[:length]: sorted({more[length] for more in WORDS if more[:length] == tokens[:length] and len(more) > length})
    for tokens in WORDS
    for length in range(len(tokens))
} | {tokens: [END] for tokens in WORDS if tokens != (11, 14)}


def by_trie(missing: Callable[[tuple[int, ...]], list[int]]) -> PrefixConstrainedLogitsProcessor:
    return PrefixConstrainedLogitsProcessor(lambda _, ids: missing(tuple(ids.tolist()[len(PROMPT) :])), 1)


class Table(LogitsProcessor):
    """Has a row for each token of the longest answer, and no more."""

    def __init__(self, rows: int) -> None:
        self._rows = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))

    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        return scores + self._rows[input_ids.shape[1] - len(PROMPT)]


PROCESSORS: dict[str, Callable[[], LogitsProcessor]] = {
    "a trie that lacks what comes after the end": lambda: by_trie(TRIE.__getitem__),
    "a trie that allows nothing then": lambda: by_trie(lambda tokens: TRIE.get(tokens, [])),
    "a table as long as the answer": lambda: Table(9),
}


@pytest.fixture(scope="module", params=["inline", "thread", "three models"])
def pair(request: pytest.FixtureRequest) -> Any:
    target = model("llama", VOCABULARY, seed=1)
    draft, staged = resembling(target, 0.3), request.param == "three models"
    small = resembling(draft, 0.3, seed=7) if staged else None
    with Untimed(target, draft, lane="inline" if staged else request.param, small_draft=small) as made:
        yield made


@pytest.mark.parametrize("strategy", strategies(4), ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_they_are_not_needed(name: str, strategy: DecodingStrategy, pair: Pair) -> None:
    for temperature in (0.0, 1.0):
        options: dict[str, Any] = {"max_new_tokens": 9, "temperature": temperature, "eos": (END,), "seed": 3}
        found = decode(pair, strategy, PROMPT, logits_processor=[PROCESSORS[name]()], **options)
        alone = decode(pair, strategies(1)[0], PROMPT, logits_processor=[PROCESSORS[name]()], **options)
        if temperature == 0:
            assert found.tokens == alone.tokens
        assert found.finished_by in ("eos", "length")
        if name.startswith("a trie") and found.finished_by == "eos":
            assert found.tokens[:-1] in WORDS


@pytest.mark.parametrize("strategy", strategies(4), ids=str)
def test_what_is_needed_is_raised(strategy: DecodingStrategy, pair: Pair) -> None:
    with pytest.raises(IndexError):
        decode(pair, strategy, PROMPT, max_new_tokens=9, temperature=0, eos=(), logits_processor=[Table(6)])
