"""`specdec prove`: what is proved, what is refuted, and the exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from command_line import Ran, assert_one_line, with_entry_points

WRONG = """
from dataclasses import dataclass
from typing import ClassVar

from specdec import Committed, DecodingStrategy, Draft, Guess, Verdict

@dataclass(frozen=True)
class Leaky(DecodingStrategy):
    name: ClassVar[str] = "leaky"
    draft_length: int = 1

    def step(self, state):
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        return state.then(Verdict(Committed(guess.tokens), len(guess), True))

@dataclass(frozen=True)
class Honest(Leaky):
    name: ClassVar[str] = "honest"
    lossless: ClassVar[bool] = False
"""
"""Both commit guesses that nobody verified; only the first claims to be lossless."""


@pytest.fixture
def wrong_strategies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wrong_strategies.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wrong_strategies", raising=False)
    wrong = [EntryPoint(name, f"wrong_strategies:{name.title()}", "specdec.strategies") for name in ("leaky", "honest")]
    with_entry_points(monkeypatch, "specdec.plugins", *wrong)


def test_proofs_as_json(run: Callable[..., Ran]) -> None:
    ran = run("prove", "pearl", "autoregressive", "--pairs", 12, "--json", "-")
    keys = ["strategy", "parameters", "verification", "lossless_claimed", "pairs", "max_total_variation", "exact", "seconds"]
    rows = ran.json["proofs"]
    assert ran.code == 0
    assert (ran.json["format"], ran.json["interrupted"]) == ("specdec.prove/1", False)
    horizon = ["long_pairs", "new_tokens", "sampled_tokens", "sampled_deviation", "mean_total_variation"]
    assert all(list(row) == [*keys, "counterexample", *horizon] for row in rows)
    assert {row["new_tokens"] for row in rows} == {24}
    assert [(row["strategy"], row["parameters"], row["verification"]) for row in rows] == [
        *(("pearl", {"draft_length": n}, rule) for n in (1, 2, 3, 4) for rule in ("token", "match", "block")),
        *(("autoregressive", {}, rule) for rule in ("token", "match", "block")),
    ]
    assert all(row["exact"] is True and row["max_total_variation"] == 0 and row["pairs"] == 12 for row in rows)


def test_chosen_parameters_and_rules_are_proved(run: Callable[..., Ran]) -> None:
    ran = run("prove", "speculative", "--set", "draft_length=2", "--verification", "block", "--pairs", 6, "--json", "-")
    assert [(row["parameters"], row["verification"]) for row in ran.json["proofs"]] == [({"draft_length": 2}, "block")]


@pytest.mark.filterwarnings("default:left out")
def test_a_broken_plug_in_is_left_out_and_named(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    with_entry_points(monkeypatch, "specdec.plugins", EntryPoint("gone", "nowhere:gone", "specdec.strategies"))
    ran = run("prove", "--all", "--verification", "match", "--pairs", 1)
    assert ran.code == 0
    assert "pearl" in ran.out
    assert "Draft-length policies adaedl:most=2, bandit:most=2, " in ran.out
    [line] = ran.err.splitlines()
    assert line.startswith("specdec: left out: gone of specdec.strategies cannot be loaded from nowhere:gone")
    assert "Left out: gone of specdec.strategies" in run("strategies").out
    assert_one_line(run("prove", "gone"), "gone of specdec.strategies cannot be loaded", "reinstall")


@pytest.mark.usefixtures("wrong_strategies")
def test_a_refuted_claim_exits_with_1_and_a_counterexample(run: Callable[..., Ran]) -> None:
    ran = run("prove", "leaky", "--verification", "token", "--pairs", 24)
    assert ran.code == 1
    assert "is not lossless" in ran.out
    assert "history: p | q" in ran.out
    assert "4 claim(s) refuted" in ran.out


@pytest.mark.usefixtures("wrong_strategies")
def test_a_strategy_without_the_claim_is_not_refuted(run: Callable[..., Ran]) -> None:
    ran = run("prove", "honest", "--verification", "token", "--pairs", 24, "--json", "-")
    assert ran.code == 0
    rows = ran.json["proofs"]
    assert all(not row["exact"] and row["max_total_variation"] > 0 and not row["lossless_claimed"] for row in rows)


def test_a_lossy_rule_is_measured_on_tables_and_on_a_pair(run: Callable[..., Ran], inline: list[str]) -> None:
    options = ["--set", "draft_length=1", "--verification", "typical", "--pairs", 12, "--on-pair", *inline]
    shown = run("prove", "speculative", *options)
    assert shown.code == 0
    assert "no (lossy)" in shown.out
    assert "LOSSY, and not claimed to be else: speculative with the typical rule" in shown.out
    [proof], [measured] = (run("prove", "speculative", *options, "--json", "-").json[key] for key in ("proofs", "measured"))
    assert proof["lossless_claimed"] is False
    assert 0 < proof["mean_total_variation"] < proof["max_total_variation"]
    assert (measured["verification"], measured["contexts"]) == ("typical", 192)
    assert 0 < measured["mean_total_variation"] < measured["max_total_variation"] <= 1


def test_a_pair_that_cannot_be_loaded_loses_no_proof(run: Callable[..., Ran], tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    ran = run("prove", "speculative", "--set", "draft_length=1", "--pairs", 1, "--on-pair", "--target", missing)
    assert "3 of 3 laws equal the target's" in ran.out
    assert ran.code == 2
    assert missing in ran.err


def test_what_cannot_be_proved_is_refused_by_name(run: Callable[..., Ran]) -> None:
    typical = run("prove", "speculative", "--verification", "typical", "--new-tokens", 100)
    assert_one_line(typical, "--new-tokens is for what claims to be lossless, and nothing here does: leave it out")
    assert_one_line(run("prove", "pearl", "--set", "draft_length=adaedl"), "draft length 16 has too many branches")
    assert_one_line(run("prove", "pearl", "--set", "draft_length=13"), "draft length 13 has too many branches")


def test_models_without_a_pair_to_measure_on_are_refused(run: Callable[..., Ran], inline: list[str]) -> None:
    assert_one_line(run("prove", "speculative", *inline, "--pairs", 1), "is for --on-pair: give it too")
    assert_one_line(run("prove", "speculative", "--verification", "synthetic:0.8"), "there is no law to prove")
