"""`specdec sweep`: the same points as `specdec simulate`, its file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sim_commands import COMMON, STEPS, Run, answer, printed, refused

from specdec.report import Progress

SERVED = ("--batches-are-free", "--requests", "30", "--workers", "1")
TRACE = Path(__file__).parents[2] / "data" / "azure_conv_2023_first_20.csv"


def test_points_are_those_of_simulate(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    axes = ("--draft-length", "2-3", "--rate", "1,2/s", "--replicas", "1,2", "--max-batch", "4", "--cv", "2")
    found = answer(run, "sweep", *COMMON, *SERVED, *axes, "--output", str(path), "--seed", "3")
    assert list(found) == ["format", "points", "best", "ranked_by", "refused", "output"]
    assert len(found["points"]) == 2 * 2 * 2 * 2
    assert len(found["best"]) == 4
    point = found["points"][-1]
    assert json.loads(path.read_text().splitlines()[-1]) == {"format": "specdec.sweep.point/1", **point}
    options = ("--strategy", "pearl", "--draft-length", "3", "--arrivals", "gamma:2/s,cv=2", "--replicas", "2")
    one = answer(run, "simulate", *COMMON, *SERVED[:-2], *options, "--max-batch", "4", "--seed", "3", "--tokens", "10")
    assert {**point["load"], "simulated_requests_per_wall_second": 0} == {
        key: 0 if key == "simulated_requests_per_wall_second" else one[key] for key in point["load"]
    }
    assert point["tokens_per_second"] == one["chain_tokens_per_second"]


def test_models_of_acceptance_and_a_closed_loop(run: Run) -> None:
    models = ("--acceptance", "0.9,0.8", "--acceptance", "markov:0.9,0.6", *STEPS)
    text = printed(run, "sweep", *models, *SERVED, "--strategy", "autoregressive,pearl", "--concurrency", "1-2")
    assert "8 points" in text
    assert "markov:0.9,0.6" in text
    assert "2 clients" in text


def test_a_point_beyond_what_acceptance_was_measured_with_says_so(run: Run) -> None:
    axes = ("--acceptance", "mean:2.5@2", "--strategy", "speculative", "--draft-length", "2,8")
    asked = ("sweep", *STEPS, *axes, "--workers", "1")
    within, beyond = answer(run, *asked)["points"]
    assert (within["remarks"], len(beyond["remarks"])) == ([], 1)
    assert "mean:2.5@2: Drafts longer than 2 are extrapolated" in " ".join(printed(run, *asked).split())


def test_a_trace_at_several_rates(run: Run) -> None:
    found = answer(
        run, "sweep", *COMMON, *SERVED[:1], "--workers", "1", "--strategy", "pearl", "--trace", str(TRACE), "--rate", "1,4"
    )
    assert [point["rate_per_second"] for point in found["points"]] == [1.0, 4.0]


def test_an_interrupt_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object, steps: Progress, total: int) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("specdec.cli.console.Terminal.follow", interrupted)
    ran = run("sweep", *COMMON, "--output", str(tmp_path / "r.jsonl"))
    assert ran.code == 130
    said = " ".join(ran.err.split())
    assert "0 of 2 points are in" in said
    assert "the same command goes on from there" in said


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("--rate", "1,x"), "--rate"),
        (("--rate", "0"), "rate 0"),
        (("--rate", "1", "--arrivals", "poisson:2/s"), "--arrivals"),
        (("--rate", "1", "--time-scale", "2"), "--time-scale"),
        (("--cv", "2"), "--cv"),
        (("--replicas", "1-2"), "--replicas"),
        (("--rate", "1", "--replicas", "4-2"), "replicas '4-2'"),
        (("--rate", "1"), "--batches-are-free"),
        (("--draft-length", "0-3"), "0-3"),
        (("--strategy", "autoregressive", "--draft-length", "3"), "--draft-length"),
        (("--strategy", "pearl,perl"), "perl"),
        (("--cluster", "tcp://nowhere:1"), "--backend"),
        (("--output", "nowhere/r.jsonl"), "nowhere"),
        (("--requests", "3"), "--requests"),
    ],
)
def test_wrong_options_are_refused_in_one_line(run: Run, arguments: tuple[str, ...], culprit: str) -> None:
    assert culprit in refused(run, "sweep", *COMMON, "--workers", "1", *arguments)
