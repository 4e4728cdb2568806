"""Longer outputs: enumerated where few positions are open, and sampled beyond."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import pytest

from specdec import DecodingStrategy, Draft, Guess, NotLossless, Program, Score, State, StrategyError, Verify
from specdec.law.long import PAIRS, long_pairs
from specdec.law.proof import assert_lossless, cases, long_cases, prove
from specdec.law.sampled import LIMIT, Sample, random_pair, sample
from specdec.law.suite import Proofs, prove_all
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative


@dataclass(frozen=True)
class LateBias(DecodingStrategy):
    """Speculative decoding that drops a drafted token like the one before it, once the text has `after` tokens."""

    name: ClassVar[str] = "late_bias"
    after: int = 9
    draft_length: int = 2

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        if len(state.committed) >= self.after:
            text = (state.committed.tokens[-1], *guess.tokens)
            alike = [i for i in range(len(guess)) if text[i] == text[i + 1]]
            guess = guess[: alike[0]] if alike else guess
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


@dataclass(frozen=True)
class Endless(DecodingStrategy):
    """Drafts for ever."""

    name: ClassVar[str] = "endless"

    def step(self, state: State) -> Program[State]:
        while True:
            yield from Draft(state.committed, Guess.empty, 1)


def test_short_outputs_do_not_show_a_bias_that_begins_late() -> None:
    late = LateBias(after=5)
    assert all(case.law(late, "token") == case.target_law for case in cases(40))


@pytest.mark.parametrize("after", [5, 9, 14, 20])
def test_a_bias_that_begins_late_is_refuted(after: int) -> None:
    for verification in ("token", "block"):
        proof = prove(LateBias(after), verification, pairs=100)
        assert proof.refuted
        assert proof.long_pairs > 0
        assert proof.new_tokens > after
        assert proof.max_total_variation is not None
        assert proof.max_total_variation > 0
        assert "(rows that are certain, and the same in both, are left out)" in str(proof.counterexample)


def test_a_bias_beyond_the_horizon_is_refuted_by_the_sample_or_by_a_longer_horizon() -> None:
    late = LateBias(after=30)
    sampled = prove(late, "token")
    assert sampled.refuted
    assert sampled.max_total_variation == 0
    assert sampled.sampled_deviation > LIMIT
    assert "came" in str(sampled.counterexample)
    with pytest.raises(NotLossless, match="late_bias after=60"):
        assert_lossless(LateBias(after=60), "token", pairs=40, new_tokens=80)


def test_open_positions_cover_the_whole_output() -> None:
    for new_tokens in (1, 3, 4, 9, 24, 60):
        pairs = list(long_pairs(PAIRS, 0, 1, new_tokens))
        opened = {position for pair, _ in pairs for position in pair.open}
        assert opened >= set(range(4, new_tokens + 1))
        assert all(max(pair.open) == length <= new_tokens for pair, length in pairs)
        assert {pair.eos for pair, _ in pairs} == {None, 2}


def test_texts_of_a_long_pair_are_few() -> None:
    laws = [case.target_law for case in long_cases()]
    assert max(map(len, laws)) <= 3**4
    assert min(map(len, laws)) >= 2**4
    assert max(len(tokens) for law in laws for tokens in law) == 24


@pytest.mark.parametrize("strategy", [Autoregressive(), Elastic(), Pearl(3), Speculative(3), PromptLookup(2)], ids=str)
def test_a_lossless_strategy_stays_within_the_errors_of_its_sample(strategy: DecodingStrategy) -> None:
    for verification in ("token", "block"):
        found = sample(strategy, verification, 1500, seed=3)
        assert 1500 <= found.tokens < 1600
        assert 0 < found.deviation < 5
        assert not found.refutes


def test_rows_of_sampled_pairs_are_laws_that_mostly_differ() -> None:
    pair = random_pair("some")
    rows = [(pair.p((0, *more)), pair.q((0, *more))) for more in product(range(3), repeat=4)]
    assert all(abs(sum(row) - 1) < 1e-9 and len(row) == 3 for both in rows for row in both)
    assert 40 < sum(p != q for p, q in rows) < 81
    assert len(set(rows)) > 60
    assert rows == [(pair.p((0, *more)), pair.q((0, *more))) for more in product(range(3), repeat=4)]


def test_the_sample_sees_a_coarse_fault_and_says_where() -> None:
    found = sample(LateBias(after=9), "token", 2000, seed=0)
    assert found.refutes
    assert str(found).startswith("of 2048 sampled tokens, in outputs of 64, the token before ")
    assert not Sample(10, LIMIT, "token 1").refutes


def test_a_round_that_does_not_end_is_refused_in_one_line() -> None:
    with pytest.raises(StrategyError, match="more than 1000 effects, and did not end: let step"):
        prove(Endless(), pairs=1)


def test_a_report_says_how_far_it_looked() -> None:
    found = prove_all([Pearl(2), Pearl(7)], ["token"], pairs=4, new_tokens=6)
    said = " ".join(str(found).split())
    assert "Outputs of up to 2 tokens were enumerated, and on some pairs with few open positions outputs of up to 6;" in said
    assert "Proved for draft lengths 2, 7; another one needs a proof of its own" in said
    assert "No output of 6 tokens holds a whole draft of 7: give --new-tokens 8 or more." in said
    assert {(proof.pairs, proof.long_pairs, proof.new_tokens) for proof in found.proofs} == {(4, 1, 6)}
    assert Proofs.from_dict(found.to_dict(), "proofs") == found
