"""`prove_all`: many proofs in worker processes, as a report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
from saguaro import KeptForks
from wrong_rules import inverse_first, plain_p_on_reject, unguarded_ratio

import specdec
from specdec import DecodingStrategy, InputError
from specdec.law import Proof, Proofs, prove, prove_all
from specdec.law.suite import variants, with_policies
from strategies import Saguaro

SPECULATIVE = specdec.create("speculative", draft_length=1)
PEARL = specdec.create("pearl", draft_length=1)


@pytest.fixture(scope="module")
def proofs() -> Proofs:
    return prove_all([SPECULATIVE, PEARL], ["block", "token"], pairs=6, seed=1)


def test_there_is_a_proof_for_each_strategy_and_rule_in_that_order(proofs: Proofs) -> None:
    assert [(proof.strategy, proof.verification) for proof in proofs.proofs] == [
        ("speculative", "block"),
        ("speculative", "token"),
        ("pearl", "block"),
        ("pearl", "token"),
    ]
    assert not proofs.refuted
    alone = prove(PEARL, "block", pairs=6, seed=1)
    assert replace(proofs.proofs[2], seconds=alone.seconds) == alone


def test_what_is_written_can_be_read_again(proofs: Proofs) -> None:
    written = json.loads(json.dumps(proofs.to_dict()))
    assert written["format"] == "specdec.prove/1"
    assert Proofs.from_dict(written, "a test") == proofs


def test_it_prints_a_table_and_a_sentence(proofs: Proofs) -> None:
    text = str(proofs)
    assert text.count("yes") == 4
    assert "4 of 4 laws equal the target's as fractions, on 28 generated model pairs in all; 0 claim(s) refuted." in text


def test_a_refuted_claim_is_printed_with_its_counterexample() -> None:
    proof = prove(SPECULATIVE, plain_p_on_reject, pairs=24)
    text = str(Proofs((proof, replace(proof, lossless_claimed=False))))
    assert text.count("Refuted: speculative draft_length=1, plain_p_on_reject rule") == 1
    assert text.count("is not lossless") == 1
    assert "1 claim(s) refuted" in text
    assert "no (lossy)" in text


def test_every_installed_rule_is_proved_unless_some_are_given() -> None:
    found = prove_all([specdec.create("autoregressive")], pairs=1)
    assert [proof.verification for proof in found.proofs] == list(specdec.rules())


def test_what_was_proved_before_an_interruption_is_kept() -> None:
    def interrupted(steps: Iterable[Any], total: int) -> Iterator[Any]:
        for number, step in enumerate(steps, start=1):
            yield step
            if number == 2:
                raise KeyboardInterrupt

    found = prove_all([SPECULATIVE, PEARL], ["token", "block"], pairs=2, progress=interrupted)
    assert found.interrupted
    assert len(found.proofs) == 2


@dataclass(frozen=True)
class Unsendable(Saguaro):
    """Holds what no process can be sent."""

    what: Any = None


@pytest.mark.parametrize(
    ("strategies", "verifications", "pairs", "message"),
    [
        ([PEARL], ["tokn"], 2, "did you mean token"),
        ([PEARL], [], 0, "pairs 0 .* at least 1"),
        ([Unsendable(what=lambda: None)], ["token"], 2, "define it at the top of a module"),
    ],
)
def test_what_cannot_be_proved_is_refused_at_once(
    strategies: list[DecodingStrategy], verifications: list[str], pairs: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prove_all(strategies, verifications, pairs)


def test_a_strategy_that_breaks_a_rule_fails_its_proof_and_no_other() -> None:
    found = prove_all([KeptForks(1, 1), PEARL], ["token"], pairs=24)
    assert [proof.exact for proof in found.proofs] == [False, True]
    [broken] = found.refuted
    assert (broken.pairs, broken.max_total_variation) == (0, None)
    assert "keeps Forks" in str(broken.counterexample)
    assert "keeps Forks" in str(found)


def test_an_error_of_a_rules_own_is_its_counterexample_and_the_other_proofs_are_kept() -> None:
    found = prove_all([PEARL], [inverse_first, unguarded_ratio, "token"], pairs=24)
    assert [proof.exact for proof in found.proofs] == [False, False, True]
    first, simplified = (str(proof.counterexample) for proof in found.refuted)
    assert re.fullmatch(r"wrong_rules\.py line \d+: ZeroDivisionError: .*: correct it", first)
    assert "is not lossless" in simplified  # though the rule fails on some of the simpler rows that are tried


def test_few_pairs_claim_no_longer_outputs_than_they_have() -> None:
    assert "Outputs of up to 3 tokens were enumerated" in str(prove_all([PEARL], ["token"], pairs=5))
    assert "Outputs of up to 4 tokens were enumerated" in str(prove_all([PEARL], ["token"], pairs=24))


def test_few_pairs_are_sampled_enough_to_be_judged() -> None:
    [proof] = prove_all([PEARL], ["token"], pairs=5).proofs
    assert proof.sampled_deviation > 0


def test_variants_have_each_draft_length_unless_one_is_given() -> None:
    assert [strategy.parameters["draft_length"] for strategy in variants("pearl")] == [1, 2, 3, 4]
    assert [strategy.parameters["draft_length"] for strategy in variants("pearl", draft_length=7)] == [7]
    assert len(variants("elastic")) == 1


def test_policies_are_proved_with_every_strategy_that_drafts() -> None:
    found = with_policies()
    policies = ["adaedl:most=2", "bandit:most=2", "closed_form:most=2", "confident:most=2", "heuristic:most=2", "svip:most=2"]
    drafting = ["pearl", "speculative", "hedged", "saguaro"]
    assert {(one.name, one.parameters["draft_length"]) for one in found} == {*product(drafting, policies)}


def test_each_policy_has_one_rule_on_a_fifth_of_the_pairs_and_a_sentence_says_so() -> None:
    svip, bandit = (specdec.create("speculative", draft_length=f"{name}:most=1") for name in ("svip", "bandit"))
    found = prove_all([PEARL], ["token", "match"], pairs=11, policies=[svip, bandit, svip])
    assert [(proof.strategy, proof.verification, proof.pairs) for proof in found.proofs] == [
        ("pearl", "token", 11),
        ("pearl", "match", 11),
        ("speculative", "token", 3),
        ("speculative", "match", 3),
        ("speculative", "token", 3),
    ]
    assert all(proof.exact for proof in found.proofs)
    alone = replace(found, proofs=found.proofs[2:4])
    said = (
        "Draft-length policies svip:most=1, bandit:most=1 were proved in speculative, each under 1 of the rules and on 3 pairs."
    )
    assert said in " ".join(str(alone).split())
    assert "policies" not in str(replace(found, proofs=found.proofs[:2]))


def test_a_proof_names_its_claim() -> None:
    proof = Proof("pearl", {"draft_length": 2}, "token", True, 0, None, False, 0.0, "an error")
    assert str(proof) == "pearl draft_length=2, token rule"
    assert proof.refuted
