"""Rules that say they are lossy: what they are, how lossy, and that nobody takes them for lossless."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import exp, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from saguaro import Leaking
from wrong_rules import absolute_residual, token_at

import specdec
from specdec import Chance, Decision, InputError, Window
from specdec.bench import results
from specdec.bench.peers import HuggingFaceGenerate
from specdec.bench.run import Contender, Ours
from specdec.bench.text import lossy_sentence
from specdec.law import ExactPair, assert_lossless, how_lossy, law, one_step, prove, prove_all, target_law, total_variation
from specdec.law.lossy import OneGuess, measured_loss
from specdec.law.oracle import branches
from specdec.testing.models import model
from specdec.typical import Typical, entropy
from specdec.verification import is_lossless, name_of, rule, rules
from strategies import Autoregressive, Speculative

P, Q = (Fraction(1, 2), Fraction(3, 8), Fraction(1, 8)), (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))


def fixed_pair() -> ExactPair:
    return ExactPair(3, lambda _: P, lambda _: Q)


# --- the rule ---


def test_entropy_is_that_of_every_kind_of_row() -> None:
    expected = -sum(float(x) * log(x) for x in P)
    floats = [float(x) for x in P]
    for row in (np.array(P, dtype=object), np.array(floats), torch.tensor(floats, dtype=torch.float64)):
        assert entropy(row) == pytest.approx(expected, abs=1e-12)
    assert entropy(np.array([0.0, 1.0])) == 0


def test_the_threshold_is_medusas() -> None:
    row = np.array(P, dtype=object)
    assert Typical(epsilon=0.9, delta=0.5).threshold(row) == pytest.approx(0.5 * exp(-entropy(row)))
    assert Typical(epsilon=0.1, delta=0.5).threshold(row) == 0.1


@pytest.mark.parametrize(("epsilon", "accepted"), [(0.05, {0, 1, 2}), (0.2, {0, 1}), (0.4, {0})])
def test_a_guess_is_accepted_if_it_is_likely_enough(epsilon: float, accepted: set[int]) -> None:
    ours = law(Speculative(1), fixed_pair(), (0,), 1, Typical(epsilon, delta=1))
    rest = sum(Q[token] for token in range(3) if token not in accepted)
    assert ours == {(x,): (Q[x] if x in accepted else 0) + rest * P[x] for x in range(3)}


def test_zero_accepts_all_that_is_possible() -> None:
    assert law(Speculative(2), fixed_pair(), (0,), 2, Typical(epsilon=0))[2, 2] == Fraction(1, 4)


@pytest.mark.parametrize("text", ["typical:epsilon=2", "typical:delta=-1", "typical:epsilon=much"])
def test_a_parameter_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not possible: give a number from 0 to 1"):
        rule(text)


def test_a_parameter_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="verification typical has no parameter 'gamma': it takes epsilon, delta"):
        rule("typical:gamma=1")
    with pytest.raises(InputError, match="verification token has no parameter 'x': it takes none"):
        rule("token:x=1")
    with pytest.raises(InputError, match="'delta=' is no parameter: write NAME=VALUE"):
        rule("typical:epsilon=1,delta=")


def test_a_rule_may_be_a_class_without_parameters(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom specdec.verification import token_rule\n\n@dataclass(frozen=True)\n"
        "class Mine:\n    def __call__(self, window, bonus, chance):\n        return token_rule(window, bonus, chance)\n"
    )
    assert_lossless(Speculative(1), f"{tmp_path}/mine.py:Mine", pairs=24)


def test_a_rule_is_named_with_its_parameters() -> None:
    assert rule("typical:epsilon=0.2") == Typical(epsilon=0.2)
    assert name_of(Typical(epsilon=0.2)) == "typical:epsilon=0.2,delta=0.3"


# --- who is asked for it ---


def test_a_lossy_rule_is_not_among_those_that_are_proved_unasked() -> None:
    assert list(rules()) == ["token", "match", "block"]
    assert list(rules(lossy=True)) == ["token", "match", "block", "typical"]
    assert [is_lossless(name) for name in rules(lossy=True)] == [True, True, True, False]


def test_a_lossy_rule_claims_nothing_and_is_not_refuted() -> None:
    lossy, token = prove_all([Speculative(1)], ["typical", "token"], pairs=24).proofs
    assert (lossy.lossless_claimed, lossy.exact, lossy.refuted) == (False, False, False)
    assert (token.lossless_claimed, token.exact, token.mean_total_variation) == (True, True, None)
    with pytest.raises(specdec.NotLossless, match="typical rule is not lossless"):
        specdec.assert_lossless(Speculative(1), "typical", pairs=24)


def test_a_strategy_that_never_guesses_is_exact_under_a_lossy_rule() -> None:
    proof = how_lossy(Autoregressive(), "typical", pairs=24)
    assert (proof.exact, proof.max_total_variation, proof.counterexample) == (True, 0, None)


def test_distances_are_those_of_the_laws_on_each_pair() -> None:
    proof = how_lossy(Speculative(2), "typical", pairs=24)
    laws = [(case.law(Speculative(2), "typical"), case.target_law) for case in specdec.law.cases(24)]
    distances = [total_variation(*both) for both in laws]
    assert proof.max_total_variation == float(max(distances)) > 0
    assert proof.mean_total_variation == pytest.approx(float(sum(distances)) / 24)
    assert "typical rule is not lossless" in str(proof.counterexample)


def test_a_lossy_strategy_is_measured_in_the_same_way() -> None:
    class Honest(Leaking):
        lossless = False

    assert (how_lossy(Honest(2, 2), pairs=12).max_total_variation or 0) > 0
    assert not prove(Honest(2, 2), pairs=12).lossless_claimed


# --- on real rows ---


@pytest.mark.parametrize("name", ["token", "match", "block", "typical", "typical:epsilon=0.2,delta=1"])
def test_one_step_is_the_exact_law_of_one_guess(name: str) -> None:
    step = one_step(name, [float(x) for x in P], [float(x) for x in Q])
    exact = law(Speculative(1), fixed_pair(), (0,), 1, name)
    assert step.law == pytest.approx([float(exact[token,]) for token in range(3)], abs=1e-15)


def test_one_step_tells_the_acceptance_rate() -> None:
    p, q = [0.5, 0.375, 0.125], [0.25, 0.25, 0.5]
    assert one_step("token", p, q).accepted == pytest.approx(0.625)
    assert one_step("match", p, q).accepted == pytest.approx(sum(a * b for a, b in zip(p, q, strict=True)))


def test_a_wrong_rule_is_seen_on_real_rows() -> None:
    assert abs(one_step(absolute_residual, [0.5, 0.5], [0.9, 0.1]).law - [0.5, 0.5]).max() > 0.01


def compared(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The match rule, written so that it looks at what it picked."""
    picked = chance.pick(window.p(0))
    return Decision(1, None) if picked == token_at(window, 0) else Decision(0, picked)


def test_a_rule_that_looks_at_what_it_picked_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="looks at the token that it picked"):
        one_step(compared, [0.5, 0.5], [0.9, 0.1])


def test_a_window_of_one_guess_is_a_window() -> None:
    window = OneGuess(1, (np.array([0.5, 0.5]), np.array([0.9, 0.1])))
    assert (window.p_at(0), window.q_at(0), window.without(0).tolist()) == (0.5, 0.1, [0.5, 0.0])
    assert sum(weight for _, weight in branches(lambda oracle: rule("token")(window, True, oracle))) == pytest.approx(1)


def test_the_measured_loss_is_the_mean_over_rows() -> None:
    rows = [(np.array([0.5, 0.5]), np.array([1.0, 0.0])), (np.array([1.0, 0.0]), np.array([0.5, 0.5]))]
    loss = measured_loss("typical", rows, "two models")
    assert (loss.contexts, loss.mean_total_variation, loss.max_total_variation) == (2, 0.25, 0.5)
    assert (loss.acceptance_rate, loss.token_rule_rate) == (0.75, 0.5)
    with pytest.raises(InputError, match="no context was left"):
        measured_loss("typical", [], "two models")


@pytest.fixture
def measured(tmp_path: object) -> Callable[[str], float]:
    from specdec.measure.acceptance import measure_loss
    from specdec.testing import tiny_pair

    def mean(name: str) -> float:
        with tiny_pair(1.0) as pair:
            [loss] = measure_loss(pair, [name], [(1, 2, 3)], new_tokens=8)
        return loss.mean_total_variation

    return mean


def test_on_a_real_pair_the_token_rule_loses_nothing_and_typical_acceptance_does(measured: Callable[[str], float]) -> None:
    assert measured("token") < 1e-6 < 0.01 < measured("typical")


def test_greedy_decoding_has_the_targets_law_under_every_rule() -> None:
    hot = [tuple(Fraction(int(token == hot)) for token in range(3)) for hot in range(3)]
    pair = ExactPair(3, lambda context: hot[sum(context) % 3], lambda _: Q)
    assert law(Speculative(2), pair, (1,), 4, "typical") == target_law(pair, (1,), 4)


# --- what people are told ---


@pytest.mark.parametrize(
    ("decoder", "temperature", "verification", "loses"),
    [
        (Ours(Speculative(2)), 1.0, "typical", True),
        (Ours(Speculative(2)), 0.0, "typical", False),
        (Ours(Autoregressive()), 1.0, "typical", False),
        (HuggingFaceGenerate(), 1.0, "typical", False),
        (Ours(Speculative(2)), 1.0, "block", False),
        (Ours(Speculative(2)), 1.0, "synthetic:0.8", False),
    ],
)
def test_a_benchmark_claims_no_law_where_a_lossy_rule_decided(
    decoder: Any, temperature: float, verification: str, loses: bool
) -> None:
    benchmark: Any = SimpleNamespace(verification=verification)
    assert results._loses(benchmark, Contender(decoder, temperature)) is loses  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("verification", "temperature", "claimed"),
    [("token", 1, True), ("typical", 1, False), ("typical", 0, True), ("synthetic:0.8", 1, False), ("synthetic:0.8", 0, False)],
)
def test_a_result_says_whether_it_has_the_targets_law(verification: str, temperature: float, claimed: bool) -> None:
    tiny = model("llama", seed=1)
    options: dict[str, Any] = {"verification": verification, "temperature": temperature, "max_new_tokens": 3, "seed": 0}
    with specdec.Pair(tiny, tiny, lane="inline") as pair:
        assert specdec.decode(pair, Speculative(2), [1, 2], **options).lossless_claimed is claimed
        alone = specdec.decode(pair, Autoregressive(), [1, 2], **options)
        assert alone.lossless_claimed is (verification in ("token", "typical"))  # the rule tests no guess


def test_a_benchmark_names_what_is_lossy() -> None:
    shown: Any = [SimpleNamespace(strategy=name, lossless_claimed=name != "pearl", synthetic="") for name in ("pearl", "ar")]
    assert lossy_sentence(shown, "typical") == "LOSSY, with verification typical: outputs of pearl have not the target's law."
    assert lossy_sentence(shown[1:], "typical") == ""


def test_installed_rules_are_listed_with_their_claim() -> None:
    listed = {rule.name: rule for rule in specdec.installed().rules}
    assert [rule.lossless for rule in listed.values()] == [True, True, True, False]
    assert listed["typical"].parameters == {"epsilon": 0.09, "delta": 0.3}
