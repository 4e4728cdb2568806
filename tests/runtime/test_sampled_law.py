"""Sampled outputs of the production loop have the target's law, tested on real (tiny, random) torch models.

What the law must be comes from outside: float64 forward passes without a cache, and `specdec.law` for the law of a rule that is
wrong on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
from decodes import (
    Tokens,
    inline,
    strategies,
)
from scipy.stats import chi2, ncx2
from tiny_models import Scripted, minuscule
from wrong_rules import plain_p_on_reject, reused_uniform

import specdec
from specdec import DecodingStrategy, Pair, decode
from specdec.law import ExactLaw, ExactPair, law, target_law
from specdec.law.proof import TabledModel
from specdec.sampling import Sampler, Sampling
from specdec.testing.models import fresh_logits
from specdec.verification import Chance, Decision, Rule, Window, token_rule

VOCABULARY, EOS, PROMPT, NEW_TOKENS = 4, 3, (0, 1, 0), 3
SAMPLES = 300
SIGNIFICANCE = 1e-4
"""Seeds are fixed, so nothing here is flaky; over all seeds, one test in 10,000 would fail by chance."""


@pytest.fixture(scope="module")
def sampled_pair() -> Pair:
    return inline(minuscule(VOCABULARY, seed=0), minuscule(VOCABULARY, seed=51))


def exact_pair(pair: Pair, **sampling: Any) -> ExactPair:
    """The same two models as tables: float64 rows without a cache, rounded to a part in a million."""
    sampler = Sampler(Sampling(**sampling))

    def table(of: Any) -> TabledModel:
        def row(context: Tokens) -> tuple[Fraction, ...]:
            weights = [round(float(x) * 10**6) for x in sampler.probabilities(fresh_logits(of, context), context)[0]]
            return tuple(Fraction(weight, sum(weights)) for weight in weights)

        return TabledModel(row)

    return ExactPair(VOCABULARY, table(pair.target), table(pair.draft), EOS)


class ChiSquare:
    """Pearson's test of whole sequences against a law; cells expected fewer than five times are pooled."""

    def __init__(self, law: ExactLaw, samples: int) -> None:
        self._expected = {output: float(weight) * samples for output, weight in law.items()}
        self._rare = {output for output, count in self._expected.items() if count < 5}
        self._samples = samples
        self._cells = self._pooled(self._expected)
        self._freedom = len(self._cells) - 1

    def _pooled(self, counts: Mapping[Tokens, float]) -> dict[Any, float]:
        pooled: dict[Any, float] = {}
        for output, count in counts.items():
            cell = "rare" if output in self._rare or output not in self._expected else output
            pooled[cell] = pooled.get(cell, 0) + count
        return pooled

    def p_value(self, outputs: Sequence[Tokens]) -> float:
        seen = self._pooled(Counter(outputs))
        statistic = sum((seen.get(cell, 0) - expected) ** 2 / expected for cell, expected in self._cells.items())
        return float(chi2.sf(statistic, self._freedom))

    def power(self, other: ExactLaw, significance: float) -> float:
        """How probably outputs of the law `other` are rejected: the noncentral chi-square law."""
        shifted = self._pooled({output: float(weight) * self._samples for output, weight in other.items()})
        noncentrality = sum((shifted.get(cell, 0) - expected) ** 2 / expected for cell, expected in self._cells.items())
        return float(ncx2.sf(chi2.isf(significance, self._freedom), self._freedom, noncentrality))


def sampled(pair: Pair, strategy: DecodingStrategy, samples: int = SAMPLES, **options: Any) -> list[Tokens]:
    options = {"temperature": 1, **options}
    return [
        decode(pair, strategy, PROMPT, max_new_tokens=NEW_TOKENS, eos=EOS, seed=seed, **options).tokens
        for seed in range(samples)
    ]


PROCESSED = {"temperature": 1.6, "top_k": 3, "repetition_penalty": 1.3}

SAMPLED = [
    *((strategy, "token", {}) for strategy in strategies(2)),
    (specdec.create("speculative", draft_length=2), "block", {}),
    (specdec.create("pearl", draft_length=2), "block", PROCESSED),
    (specdec.create("pearl", draft_length=1), "match", {}),
]


@pytest.mark.parametrize(("strategy", "verification", "options"), SAMPLED, ids=str)
def test_whole_sequences_have_the_target_law(
    sampled_pair: Pair, strategy: DecodingStrategy, verification: str, options: dict[str, Any]
) -> None:
    expected = target_law(exact_pair(sampled_pair, **options), PROMPT, NEW_TOKENS)
    outputs = sampled(sampled_pair, strategy, verification=verification, **options)
    assert all(output in expected for output in outputs)
    assert ChiSquare(expected, SAMPLES).p_value(outputs) > SIGNIFICANCE


def one_uniform(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The fault of the reference PEARL code: one uniform for the test and for the residual."""
    return token_rule(window, bonus, Scripted([chance.uniform()] * 9))  # type: ignore[attr-defined]


CONTROLS = [
    ("speculative", plain_p_on_reject, plain_p_on_reject),
    ("pearl", plain_p_on_reject, plain_p_on_reject),
    ("pearl", one_uniform, reused_uniform(token_rule, False)),
]


@pytest.mark.parametrize(("strategy", "wrong", "exactly_wrong"), CONTROLS, ids=["speculative", "pearl", "uniform"])
def test_the_same_test_rejects_a_wrong_rule_and_has_the_power_to(
    sampled_pair: Pair, strategy: str, wrong: Rule, exactly_wrong: Rule
) -> None:
    chosen, tables = specdec.create(strategy, draft_length=2), exact_pair(sampled_pair)
    right = ChiSquare(target_law(tables, PROMPT, NEW_TOKENS), SAMPLES)
    lossy = law(chosen, tables, PROMPT, NEW_TOKENS, exactly_wrong)
    assert right.power(lossy, SIGNIFICANCE) > 0.99
    outputs = sampled(sampled_pair, chosen, verification=wrong)
    assert right.p_value(outputs) < SIGNIFICANCE
    # and the loop does to a wrong rule exactly what the law says it does
    assert ChiSquare(lossy, SAMPLES).p_value(outputs) > SIGNIFICANCE


def test_power_grows_from_the_significance_with_the_effect() -> None:
    fair: ExactLaw = {(0,): Fraction(1, 2), (1,): Fraction(1, 2)}
    test = ChiSquare(fair, 400)
    assert test.power(fair, 0.05) == pytest.approx(0.05)
    powers = [test.power({(0,): Fraction(share, 100), (1,): Fraction(100 - share, 100)}, 0.05) for share in (52, 55, 60)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.95


def test_the_law_holds_where_the_context_ends() -> None:
    """Two tokens before the end of the context, windows are cut short; the output law must not notice."""
    pair = inline(*(minuscule(VOCABULARY, seed, max_position_embeddings=len(PROMPT) + NEW_TOKENS) for seed in (0, 51)))
    expected = target_law(exact_pair(pair), PROMPT, NEW_TOKENS)
    pearl = specdec.create("pearl", draft_length=5)
    outputs = [decode(pair, pearl, PROMPT, eos={EOS}, temperature=1, seed=seed).tokens for seed in range(SAMPLES)]
    assert ChiSquare(expected, SAMPLES).p_value(outputs) > SIGNIFICANCE
