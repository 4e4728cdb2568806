"""`specdec profile` and `specdec bench` on real models: what they show and write, with forced acceptance too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, assert_one_line

from specdec.bench import BenchReport


@pytest.mark.parametrize(("lane", "expected"), [("inline", "only one works at a time"), ("thread", "their seconds alone")])
def test_a_profile_is_shown_and_written(
    run: Callable[..., Ran], pair: list[str], tmp_path: Path, lane: str, expected: str
) -> None:
    options = ("--lane", lane, "--repeats", 2, "--limit", 1, "--max-new-tokens", 4, "--json", tmp_path / "profile.json")
    ran = run("profile", *pair, *options)
    assert ran.code == 0
    assert expected in next(line for line in ran.out.splitlines() if line.startswith("Together"))
    found = json.loads((tmp_path / "profile.json").read_text())
    assert {"in_turn", "together", "draft_start_seconds", "drafting_overhead_seconds", "acceptance"} <= found.keys()


def test_bench_of_shapes_says_that_it_is_not_text(run: Callable[..., Ran]) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    options = ["--strategy", "speculative", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 8, "--limit", 2]
    ran = run("bench", *models, *options, "--verification", "synthetic:0.8", "--prompt-tokens", 20, "--json", "-")
    mark = "synthetic acceptance 0.8: not text"
    assert ran.json["settings"]["synthetic"] == mark
    assert ran.json["settings"]["prompts_file"] == "made up, 20 tokens each"
    assert ran.json["settings"]["prompts"] == 2
    assert ran.json["pair"]["target"] == "shape:tiny-target"
    assert ran.err == ""
    printed = str(BenchReport.from_dict(ran.json, "standard output"))
    assert f"Greedy (temperature 0), {mark}" in printed
    assert f"Sampled (temperature 1), {mark}" in printed
    assert "acceptance 80 %" not in printed
    assert "outputs" not in printed.partition("tok/s:")[0]  # nothing is said of greedy outputs, which are not comparable


def test_bench_of_text_says_nothing_of_the_kind(run: Callable[..., Ran], inline: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n")
    options = ["--strategy", "speculative", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 8, "--temperature", 1]
    ran = run("bench", *inline, *options, "--prompts", tmp_path / "prompts.txt", "--json", "-")
    assert {ran.json["settings"]["synthetic"], *(row["synthetic"] for row in ran.json["results"])} == {""}
    assert "synthetic" not in str(BenchReport.from_dict(ran.json, "standard output"))


def test_bench_runs_transformers_own_forwards_if_asked_to(run: Callable[..., Ran]) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    options = ["--strategy", "pearl", "--draft-lengths", 2, "--repeats", 1, "--max-new-tokens", 4, "--limit", 1]
    options += ["--verification", "synthetic:0.8", "--temperature", 0, "--prompt-tokens", 20, "--json", "-"]
    fused, eager = run("bench", *models, *options), run("bench", *models, *options, "--eager")
    assert fused.json["settings"]["why_eager"] == {"target": None, "draft": None}
    assert eager.json["settings"]["why_eager"] == dict.fromkeys(("target", "draft"), "eager forwards were asked for")
    texts = [" ".join(str(BenchReport.from_dict(ran.json, "")).split()) for ran in (fused, eager)]  # a line may be wrapped
    assert ["eager forwards" in text for text in texts] == [False, True]


def test_profile_of_shapes_is_for_a_simulator_that_is_given_the_acceptance(run: Callable[..., Ran], tmp_path: Path) -> None:
    models = ["--target", "shape:tiny-target", "--draft", "shape:tiny-draft", "--lane", "inline", "--device", "cpu"]
    assert run("profile", *models, "--repeats", 2, "--json", tmp_path / "profile.json").code == 0
    simulate = ["simulate", "--strategy", "pearl", "--profile", tmp_path / "profile.json", "--tokens", 50]
    assert_one_line(run(*simulate), "no acceptance", "--acceptance")
    assert run(*simulate, "--acceptance", 0.8, "--draft-length", 2).code == 0
