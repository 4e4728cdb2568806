"""`specdec import`, and `--acceptance` as people type it and engines print it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_files import BENCH, SPECULATIVE, scrape, write
from sim_commands import STEPS, Run, answer, printed, refused

from sim.engines.reading import read_runs

THREE = ("--strategy", "speculative", "--draft-length", "3", *STEPS, "--tokens", "200")


def chain(run: Run, acceptance: str) -> float:
    return answer(run, "simulate", *THREE, "--acceptance", acceptance)["chain_tokens_per_second"]


@pytest.mark.parametrize(
    "acceptance", ["marginal:0.805,0.632,0.483", "marginal:80.5%, 63.2%, 48.3%", "mean:2.92@3", "mean: 2.92 @ 3"]
)
def test_acceptance_as_engines_print_it_gives_the_speed_of_the_engine(run: Run, acceptance: str) -> None:
    """A published line of vLLM: a draft of 3, mean acceptance length 2.92. Right is 2.92 tokens in 3 x 1 + 5 ms."""
    assert chain(run, acceptance) == pytest.approx(365, rel=1e-9)


def test_rates_without_a_name_are_given_those_before_and_help_says_so(run: Run) -> None:
    assert chain(run, "0.805,0.632,0.483") == pytest.approx((1 + 0.805 * (1 + 0.632 * (1 + 0.483))) / 8e-3)
    text = " ".join(printed(run, "simulate", "--help").replace("│", " ").split())
    assert "each given that the ones before it were accepted" in text
    assert "mean acceptance length, bonus token included" in text


def test_a_histogram_of_rounds_gives_its_mean(run: Run) -> None:
    assert chain(run, "histogram:39,1,0,3") == pytest.approx((1 + 10 / 43) / 8e-3)


def test_golden_lengths_give_the_published_length(run: Run) -> None:
    assert chain(run, "golden:glm-5.2-fp8") == pytest.approx(2.99 / 8e-3, rel=1e-6)
    assert chain(run, "golden:dsv4_mtp/thinking_on") == pytest.approx(2.49 / 8e-3, rel=1e-6)


@pytest.mark.parametrize(
    ("acceptance", "told"),
    [
        ("mean:2.92", "write mean:2.92@3"),
        ("mean:2.92@", "write mean:2.92@3"),
        ("mean:2.92@0", "write mean:2.92@3"),
        ("mean:2.92@3.5", "write mean:2.92@3"),
        ("mean:5@3", "between 1 and 4"),
        ("mean:nan@3", "between 1 and 4"),
        ("mean:x@3", "'x' is not understood"),
        ("marginal:0.5,0.6", "shares of all rounds cannot"),
        ("marginal:1.2", "no probability"),
        ("marginal:", "is not understood"),
        ("histogram:1.5,2", "whole numbers"),
        ("histogram:inf,2", "whole numbers"),
        ("histogram:nan,2", "whole numbers"),
        ("histogram:3", "not possible"),
        ("histogram:-3,4", "not possible"),
        ("histogram:0,0", "not possible"),
        ("golden:", "is not in the table"),
        ("golden:kimi-k3", "leaves a choice"),
        ("golden:kimik3_dspark/thinking_off", "is not in the table"),
        ("length:3", "the names are marginal, mean, histogram, golden, markov and run"),
    ],
)
def test_acceptance_that_is_not_understood_is_refused(run: Run, acceptance: str, told: str) -> None:
    assert told in refused(run, "simulate", *THREE, "--acceptance", acceptance)


@pytest.mark.parametrize("command", ["simulate", "timeline", "tune"])
@pytest.mark.parametrize("acceptance", ["0.9,0.8", "mean:2.5@2", "marginal:0.9,0.7", "histogram:1,1,1"])
def test_drafts_longer_than_was_measured_are_said_to_be_extrapolated(run: Run, command: str, acceptance: str) -> None:
    lengths = {"tune": ("--strategy", "speculative", "--draft-lengths", "{}")}
    options = lengths.get(command, ("--strategy", "speculative", "--draft-length", "{}"))
    quick = () if command == "timeline" else ("--tokens", "300")
    for length, remarks in {2: 0, 3: 1}.items():
        given = [option.format(length) for option in options]
        found = answer(run, command, *given, *STEPS, *quick, "--acceptance", acceptance)
        assert len(found["remarks"]) == remarks
        if remarks:
            assert "longer than 2 are extrapolated" in found["remarks"][0]
            assert "longer than 2 are extrapolated" in printed(run, command, *given, *STEPS, *quick, "--acceptance", acceptance)


def test_one_rate_holds_for_every_length(run: Run) -> None:
    assert answer(run, "simulate", *THREE, "--acceptance", "0.8")["remarks"] == []
    assert answer(run, "simulate", *THREE, "--acceptance", "run:4")["remarks"] == []


def test_import_prints_a_table_and_writes_runs(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "results" / "a.json", BENCH)
    write(tmp_path / "results" / "b.json", SPECULATIVE)
    out = tmp_path / "runs.json"
    asked = ("import", tmp_path / "results", "--method", "eagle3", "--draft", "T/head", "--gpu", "H100", "--gpus", "2")
    text = printed(run, *map(str, asked), "--kv-tokens", "40000", "--json", str(out))
    assert "2 runs of" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["eagle3", "3", "11", "-", "60.0", "9.21", "25.8", "2.80", "100", "b.json"] in lines
    found = json.loads(out.read_text())
    assert (found["format"], found["runs"][1]["draft"], found["runs"][1]["gpus"]) == ("specdec.runs/1", "T/head", 2)
    assert [one.method for one in read_runs([out])] == ["ar", "eagle3"]


def test_every_option_of_import_reaches_the_runs(tmp_path: Path, run: Run) -> None:
    paths = [str(write(tmp_path / f"{calls}.prom", scrape(calls))) for calls in (1, 2)]
    options = {"--method": "mtp", "--draft-length": 3, "--target": "a", "--draft": "b", "--dataset": "c", "--gpu": "d"}
    options |= {"--gpus": 4, "--clients": 5, "--rate": 6.5, "--seconds": 7.5, "--kv-tokens": 8}
    (found,) = answer(run, "import", *paths, *(str(part) for pair in options.items() for part in pair))["runs"]
    assert {f"--{name.replace('_', '-')}": found[name] for name in found if f"--{name.replace('_', '-')}" in options} == options


def test_import_refuses_in_one_line(tmp_path: Path, run: Run) -> None:
    path = str(write(tmp_path / "a.json", SPECULATIVE))
    assert "give --method" in refused(run, "import", path)
    assert "--draft-length 4 was given" in refused(run, "import", path, "--method", "mtp", "--draft-length", "4")
    assert "--method ar drafts nothing" in refused(run, "import", path, "--method", "ar", "--draft", "x")
    assert "--rate -1.0 is not possible" in refused(run, "import", path, "--method", "mtp", "--rate", "-1")
    assert "--seconds nan is not possible" in refused(run, "import", path, "--method", "mtp", "--seconds", "nan")
    assert "cannot be read" in refused(run, "import", str(tmp_path / "nowhere"))
