"""Antiphase: a batch in two halves, one drafted while the other is verified. The same tokens as each sequence alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from decodes import prompts

from specdec import (
    Batch,
    DecodingStrategy,
    Guess,
    InputError,
    Pair,
    Program,
    Score,
    State,
    StrategyError,
    Verify,
    create,
    decode,
)
from specdec.runtime.engine import Engine
from specdec.runtime.sides import Waiting
from specdec.testing.models import model, resembling

VOCABULARY = 12
SPECULATIVE = create("speculative", draft_length=3)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    target = model("llama", VOCABULARY, seed=1)
    with Pair(target, resembling(target, 0.05), lane="thread") as made:
        yield made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many sequences drafted and how many were scored, in each step of an engine."""
    seen: list[tuple[int, int]] = []
    work = Engine.work

    def watched(self: Engine, waiting: Sequence[Waiting]) -> None:
        seen.append((sum(len(one.drafts) for one in waiting), sum(len(one.scores) for one in waiting)))
        work(self, waiting)

    monkeypatch.setattr(Engine, "work", watched)
    return seen


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 9}], ids=str)
@pytest.mark.parametrize("size", [2, 3, 8])
def test_halves_decode_what_each_prompt_does_alone(pair: Pair, size: int, options: dict[str, Any]) -> None:
    """Float64; prompts are submitted at random moments, and answers are of different lengths."""
    source, asked = random.Random(size), prompts(9, seed=size)
    budgets = [source.randint(1, 14) for _ in asked]
    batch = Batch(pair, SPECULATIVE, batch_size=size, antiphase=True, seed=40, eos=(), **options)
    for prompt, budget in zip(asked, budgets, strict=True):
        batch.submit(prompt, max_new_tokens=budget)
        for _ in range(source.choice([0, 0, 1, 2, 3])):
            batch.step()
    while batch.step():
        pass
    for number, output in enumerate(batch.outputs):
        alone = decode(pair, SPECULATIVE, asked[number], seed=40 + number, max_new_tokens=budgets[number], eos=(), **options)
        assert output.result().tokens == alone.tokens
        assert output.result().statistics.accepted_in_round == alone.statistics.accepted_in_round


def test_one_half_is_drafted_while_the_other_is_verified(pair: Pair, steps: list[tuple[int, int]]) -> None:
    decode(pair, SPECULATIVE, prompts(5), batch_size=5, antiphase=True, max_new_tokens=40, temperature=0, eos=())
    assert steps[:5] == [(3, 0), (2, 3), (3, 2), (2, 3), (3, 2)]


def test_few_sequences_are_shared_by_both_halves(pair: Pair, steps: list[tuple[int, int]]) -> None:
    batch = Batch(pair, SPECULATIVE, batch_size=8, antiphase=True, max_new_tokens=40, temperature=0, eos=())
    batch.submit([1, 2])
    batch.submit([3])
    while batch.step():
        pass
    assert steps[:3] == [(1, 0), (1, 1), (1, 1)]


@dataclass(frozen=True)
class Scoring(DecodingStrategy):
    """Might draft, and never does."""

    name = "scoring"

    def step(self, state: State) -> Program[State]:
        scores = yield from Score(state.committed, Guess.empty)
        return state.then((yield from Verify(scores, Guess.empty)))


def test_no_half_waits_for_ever_where_rounds_have_one_step(pair: Pair) -> None:
    batch = Batch(pair, Scoring(), prompts(4), batch_size=4, antiphase=True, max_new_tokens=40, temperature=0, eos=())
    for _ in range(8):
        batch.step()
    assert [len(output.tokens) for output in batch.outputs] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    ("strategy", "size", "message"),
    [
        ("autoregressive", 4, "autoregressive has none"),
        ("speculative", 1, "two sequences"),
    ],
)
def test_what_has_no_halves_is_refused(pair: Pair, strategy: str, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batch(pair, create(strategy), batch_size=size, antiphase=True)


@pytest.mark.parametrize("name", ["pearl", "saguaro", "hedged", "elastic"])
def test_strategies_that_overlap_by_themselves_are_refused(pair: Pair, name: str) -> None:
    with pytest.raises(StrategyError, match=f"{name} drafts while it verifies, and needs no antiphase"):
        decode(pair, create(name), prompts(4), batch_size=4, antiphase=True, max_new_tokens=20)


def test_a_draft_that_cannot_overlap_is_refused(pair: Pair) -> None:
    with pytest.raises(InputError, match="lane 'thread' or 'process'"):
        Batch(Pair(pair.target, pair.draft, lane="inline"), SPECULATIVE, antiphase=True)
