"""The simulator's commands: the JSON others read, pictures in both themes, a profile for everything, and one-line errors."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.setup.latency import Measured, Measurement, parse_seconds
from sim.setup.profiles import profile_of, read_profile
from sim.setup.roofline import GPUS, ModelSize, Roofline, read_model
from sim.setup.system import Together, Turns
from sim.study.validate import combined
from specdec import InputError
from specdec.cli import main
from strategies import Autoregressive, Pearl, Speculative

STEPS = ("--draft-step", "1ms", "--target-step", "5ms")
COMMON = ("--acceptance", "0.8", *STEPS)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contexts = {64: 0.0, 256: 2e-4}
    found = {
        "pair": {"target": "big", "draft": "small"},
        "hardware": {"cpu": "any"},
        "target_seconds": [
            {"width": width, "batch": 1, "context": context, "mean": 5e-3 + 1e-4 * width + more, "cv": 0.05}
            for width in (1, 4, 8)
            for context, more in contexts.items()
        ]
        + [{"width": 1, "batch": 4, "context": 64, "mean": 10.2e-3, "cv": 0.05}],
        "draft_seconds": [
            {"batch": 1, "context": context, "mean": 1e-3 + more, "cv": 0.1} for context, more in contexts.items()
        ],
        "draft_start_seconds": 5e-4,
        "in_turn": {"target_factor": 1.2, "draft_factor": 1.4},
        "together": {"target_factor": 1.1, "draft_factor": 1.3},
        "round_overhead_seconds": 2e-4,
        "drafting_overhead_seconds": 3e-4,
        "acceptance": {"rate": 0.7, "run_lengths": {"0": 30, "1": 20, "5": 10}, "by_file": {}},
    }
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    path.write_text(json.dumps(found))
    return path


# --------------------------------------------------------------------------------------------------------------- simulate


def test_simulate_writes_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "simulate", "--strategy", "pearl", "--draft-length", "5", *COMMON, "--tokens", "20000", "--seed", "0"
    )
    assert list(found) == [
        "strategy",
        "parameters",
        "tokens_per_second",
        "tokens_per_second_interval",
        "speedup_over_ar",
        "target_idle_share",
        "draft_idle_share",
        "rounds",
        "closed_form_tokens_per_second",
    ]
    assert found["strategy"] == "pearl"
    assert found["parameters"] == {"draft_length": 5}
    assert found["closed_form_tokens_per_second"] == pytest.approx(2.283199304499 * 200)
    assert found["tokens_per_second"] == pytest.approx(found["closed_form_tokens_per_second"], rel=0.01)
    low, high = found["tokens_per_second_interval"]
    assert low < found["closed_form_tokens_per_second"] < high
    assert found["speedup_over_ar"] == pytest.approx(found["tokens_per_second"] / 200)


def test_equal_seeds_give_equal_answers(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [answer(capsys, "simulate", *COMMON, "--jitter", "0.1", "--tokens", "500", "--seed", seed) for seed in "011"]
    assert runs[1] == runs[2] != runs[0]


def test_options_reach_the_devices(capsys: pytest.CaptureFixture[str]) -> None:
    def exact(*more: str) -> float:
        found = answer(capsys, "simulate", "--draft-length", "5", *COMMON, "--tokens", "50", *more)
        return found["closed_form_tokens_per_second"]

    plain = exact()
    assert exact("--target-window", "5=6ms") < plain
    assert exact("--overhead", "200us") < plain
    assert exact("--network", "1ms") < plain
    assert exact("--jitter", "0.1") < plain
    assert exact("--placement", "shared") == pytest.approx(plain / 2)
    assert exact("--together", "1.5,1.5") == pytest.approx(plain / 1.5)
    assert exact("--acceptance", "markov:0.8,0.8") == pytest.approx(plain)
    assert exact("--acceptance", "run:5") == pytest.approx(plain)
    assert exact("--acceptance", "0.8,0.7") < plain


def test_a_profile_is_all_that_is_needed(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    for extra in ((), ("--acceptance", "recorded"), ("--acceptance", "0.9"), ("--placement", "shared")):
        found = answer(capsys, "simulate", "--profile", str(profile), "--draft-length", "4", *extra)
        assert found["tokens_per_second"] == pytest.approx(found["closed_form_tokens_per_second"], rel=0.02)


@pytest.mark.parametrize("placement", [(), ("--together", "1.2,1.6"), ("--placement", "shared"), ("--network", "1ms")])
def test_a_race_is_timed_on_the_devices_that_were_asked_for(
    capsys: pytest.CaptureFixture[str], placement: tuple[str, ...]
) -> None:
    steps = ("--acceptance", "0.8", "--draft-step", "1ms", "--target-step", "3.5ms", "--target-window", "4=5.5ms")
    traffic = ("--arrivals", "poisson:0.5/s", "--requests", "20", "--output-tokens", "200", "--max-batch", "1")
    found = answer(capsys, "simulate", "--strategy", "elastic", *steps, *placement, *traffic)
    assert found["tokens_per_second"] == pytest.approx(found["closed_form_tokens_per_second"], rel=0.02)
    assert 1 / found["tpot_seconds"]["mean"] == pytest.approx(found["closed_form_tokens_per_second"], rel=0.1)


def test_serving_adds_its_keys(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    traffic = ("--arrivals", "poisson:0.5/s", "--requests", "50", "--output-tokens", "60")
    found = answer(capsys, "simulate", "--profile", str(profile), "--tokens", "100", *traffic)
    assert {"requests", "ttft_seconds", "tpot_seconds", "e2e_seconds", "goodput", "saturation"} <= found.keys()
    assert {"mean", "p50", "p90", "p99"} <= found["ttft_seconds"].keys()


# ------------------------------------------------------------------------------------------------------------------- tune


def test_tune_writes_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tune", *COMMON, "--tokens", "4000", "--draft-lengths", "3-6")
    assert list(found) == ["best", "curves", "flips"]
    assert list(found["best"]) == ["strategy", "draft_length", "speedup_over_ar"]
    assert (found["best"]["strategy"], found["best"]["draft_length"]) == ("pearl", 5)
    assert {"autoregressive", "pearl", "speculative"} <= found["curves"].keys()
    for point in [point for curve in found["curves"].values() for point in curve]:
        assert list(point) == ["draft_length", "speedup_over_ar", "simulated_speedup_over_ar"]
        assert point["simulated_speedup_over_ar"] == pytest.approx(point["speedup_over_ar"], rel=0.05)
    assert [point["draft_length"] for point in found["curves"]["pearl"]] == [3, 4, 5, 6]
    assert [point["draft_length"] for point in found["curves"]["elastic"]] == [None]
    assert found["curves"]["elastic"][0]["speedup_over_ar"] == pytest.approx(found["best"]["speedup_over_ar"])
    assert found["flips"]


def test_tune_prints_the_flips_next_to_what_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Elastic and PEARL at its best length take turns over the speed ratio; all of that is in the JSON only."""
    windows = ("--target-window", "2=6ms", "--target-window", "8=9ms")
    options = (*windows, "--tokens", "0", "--strategy", "pearl", "--strategy", "elastic", "--draft-lengths", "3-7")
    assert len(answer(capsys, "tune", *COMMON, *options)["flips"]) > 6
    assert main(["tune", *COMMON, *options]) == 0
    flips = [line for line in capsys.readouterr().out.splitlines() if line.startswith("The verdict flips at")]
    assert [line.split(" at ")[1].split()[0] for line in flips].count("acceptance") == 2
    assert len(flips) == 4


def test_tune_draws_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = {"results": [{"strategy": "pearl", "parameters": {"draft_length": 4}, "speedup_over_ar": 2.0}]}
    (tmp_path / "bench.json").write_text(json.dumps(bench))
    names = [tmp_path / f"tune.{suffix}" for suffix in ("svg", "png", "html")]
    outputs = [part for name in names for part in ("--output", str(name))]
    options = ("--tokens", "0", "--draft-lengths", "3-5", "--measured", str(tmp_path / "bench.json"))
    assert main(["tune", *COMMON, *options, *outputs]) == 0
    check_pictures(names)
    assert "measured" in names[0].read_text()
    printed = capsys.readouterr().out
    assert "Best: pearl" in printed
    assert "Without a draft length: autoregressive 1.000x, elastic 2.283x." in printed


# --------------------------------------------------------------------------------------------------------------- timeline


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_timeline_draws_pictures_and_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], theme: str) -> None:
    names = [tmp_path / f"rounds.{suffix}" for suffix in ("svg", "png", "html", "json")]
    outputs = [part for name in names for part in ("--output", str(name))]
    found = answer(capsys, "timeline", "--draft-length", "4", *COMMON, "--theme", theme, *outputs)
    assert len(found["round_tokens"]) == 10
    assert found["target_idle_share"] == pytest.approx(0)
    assert found["draft_idle_share"] == pytest.approx(0.2)
    check_pictures(names[:3])
    drawing = names[0].read_text()
    for label in ("target", "draft", "draft accepted", "draft rejected", "draft wasted", "waiting"):
        assert f">{label}<" in drawing
    assert ("#14161A" in drawing) == (theme == "dark")
    assert len(json.loads(names[3].read_text())["traceEvents"]) == 2 + 10 + 40


def test_timeline_prints_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["timeline", "--strategy", "speculative", "--draft-length", "2", "--acceptance", "1", *STEPS, "--rounds", "3"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    target, draft = (next(line for line in lines if line.startswith(lane)) for lane in ("target", "draft"))
    assert target.count("T") == pytest.approx(100 * 5 / 7, abs=6)
    assert draft.count("a") - 1 == pytest.approx(100 * 2 / 7, abs=6)
    assert target.count("|") == draft.count("|") == 3


def check_pictures(names: list[Path]) -> None:
    svg, png, html = (name.read_bytes() for name in names)
    assert svg.startswith(b"<svg")
    assert png.startswith(b"\x89PNG")
    assert b"<html" in html
    assert b'src="http' not in html


# -------------------------------------------------------------------------------------------------------- latency sources


def test_durations_are_read_with_their_unit() -> None:
    found = [parse_seconds(text) for text in ("1ms", "300us", "0.005s", "5 ms", "1e-3s", "7ns", "0ms")]
    assert found == pytest.approx([1e-3, 3e-4, 5e-3, 5e-3, 1e-3, 7e-9, 0])
    for bad in ("1", "ms", "1 hour", "", "nan s", "1..2ms", "-1ms"):
        with pytest.raises(InputError, match=r"duration|forward"):
            parse_seconds(bad)


def test_a_measured_table_is_linear_between_and_keeps_a_batch_factor() -> None:
    rows = [Measurement(w, 1, c, 1e-3 * w + 1e-6 * c) for w in (1, 5) for c in (0, 100)] + [Measurement(1, 8, 0, 2e-3)]
    table = Measured(rows, [Measurement(1, 1, 0, 5e-4)])
    assert float(table.target_seconds(3, 1, 50)) == pytest.approx(3.05e-3)
    assert float(table.target_seconds(5, 8, 0)) == pytest.approx(10e-3)
    assert float(table.target_seconds(9, 1, 0)) == pytest.approx(9e-3)
    assert float(table.target_seconds(0)) == 0
    assert table.target_seconds(np.array([1, 3])[:, None], 1, np.array([0, 50, 100])).shape == (2, 3)
    assert float(table.draft_seconds(4, 8, 500)) == pytest.approx(2e-3)


def test_a_profile_keeps_what_was_measured(profile: Path) -> None:
    found = read_profile(profile)
    system = found.system(context=160)
    assert float(system.target_seconds(1)) == pytest.approx(5.2e-3)
    assert float(system.draft_seconds(3)) == pytest.approx(5e-4 + 3.3e-3)
    assert (system.together.target_factor, system.together.draft_factor) == (1.1, 1.3) if system.together else False
    assert (system.jitter.target_cv, system.jitter.draft_cv) == pytest.approx((0.05, 0.1))
    assert (system.turns.target_factor, system.turns.draft_factor) == (1.2, 1.4)
    assert (system.overhead_seconds, system.drafting_overhead_seconds) == (2e-4, 3e-4)
    assert found.rate is not None
    assert found.rate.rate == 0.7


def test_an_older_profile_knows_no_turns(profile: Path) -> None:
    new = ("draft_start_seconds", "in_turn", "together", "drafting_overhead_seconds")
    old = {key: value for key, value in json.loads(profile.read_text()).items() if key not in new}
    system = profile_of(old, "the profile").system().used_by(Pearl(3))
    assert system.turns == Turns()
    assert system.together == Together()
    assert system.overhead_seconds == 2e-4
    assert float(system.draft_seconds(1)) == pytest.approx(1.2e-3)


def test_predictions_are_offered_to_whoever_may_not_import_the_simulator(profile: Path) -> None:
    (entry,) = entry_points(group="specdec.predictors", name="chain")
    predict, found = entry.load(), json.loads(profile.read_text())
    assert predict(Autoregressive(), found, 64, 50) == pytest.approx(1 / (5.1e-3 + 2e-4))
    sure = found | {"acceptance": {"rate": 1.0}}
    round_seconds = 1.4 * (5e-4 + 3e-3) + 1.2 * 5.4e-3 + 3e-4
    assert predict(Speculative(3), sure, 64, 40) == pytest.approx(4 / round_seconds)
    assert predict(Speculative(3), sure, 64, 41) == pytest.approx(41 / (11 * round_seconds))  # the last round counts in full
    runs = predict(Pearl(3), found, 64, 50)
    assert runs != predict(Pearl(3), found | {"acceptance": {"rate": 0.7}}, 64, 50)  # recorded runs go before the rate
    with pytest.raises(InputError, match="no acceptance"):
        predict(Pearl(3), found | {"acceptance": None}, 64, 50)


def test_a_profile_taken_while_the_machine_was_busy_is_outvoted(profile: Path) -> None:
    found = json.loads(profile.read_text())
    slow = json.loads(profile.read_text(), parse_float=lambda text: 3 * float(text))
    together = combined([found, slow, found])
    for key in ("target_seconds", "draft_seconds", "draft_start_seconds", "in_turn", "together", "drafting_overhead_seconds"):
        assert together[key] == found[key]
    assert together["acceptance"]["run_lengths"] == {"0": 90, "1": 60, "5": 30}
    assert combined([found | {"together": None}] * 2)["together"] is None


def test_a_roofline_is_memory_first_and_arithmetic_later(tmp_path: Path) -> None:
    config = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128256,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    size = read_model(tmp_path)
    assert size.parameters == pytest.approx(8.03e9, rel=0.001)
    assert size.cache_bytes_per_token == 131072
    latency = Roofline("H100", size, ModelSize(1e9, 0), efficiency=1.0)
    assert float(latency.target_seconds(1)) == pytest.approx(16.06e9 / 3350e9, rel=0.001)
    assert float(latency.target_seconds(2048)) == pytest.approx(2 * 8.03e9 * 2048 / 989e12, rel=0.001)
    assert float(latency.draft_seconds(3)) == pytest.approx(3 * 2e9 / GPUS["H100"].bandwidth)
    with pytest.raises(InputError, match="did you mean H100"):
        Roofline("H1000", size, size)


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("simulate", "--acceptance", "1.3", *STEPS), "1.3"),
        (("simulate", "--acceptance", "nan", *STEPS), "nan"),
        (("simulate", "--acceptance", "often", *STEPS), "often"),
        (("simulate", "--acceptance", "markov:0.9", *STEPS), "2 numbers"),
        (("simulate", *STEPS), "no acceptance"),
        (("simulate", "--acceptance", "0.8"), "--draft-step"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "-1ms", "--target-step", "5ms"), "-1ms"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "1", "--target-step", "5ms"), "5ms"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "0ms", "--target-step", "5ms"), "draft step"),
        (("simulate", *COMMON, "--target-window", "4"), "WIDTH=TIME"),
        (("simulate", *COMMON, "--target-window", "4=x"), "target-window 4"),
        (("simulate", *COMMON, "--jitter", "-1"), "target_cv"),
        (("simulate", *COMMON, "--together", "0.5,1"), "target_factor"),
        (("simulate", *COMMON, "--network", "1ms", "--placement", "shared"), "two devices"),
        (("simulate", *COMMON, "--draft-length", "0"), "draft length 0"),
        (("simulate", *COMMON, "--strategy", "perl"), "did you mean pearl"),
        (("simulate", *COMMON, "--profile", "nowhere.json"), "nowhere.json"),
        (("simulate", "--acceptance", "0.8", "--gpu", "H200"), "--target-config"),
        (("simulate", *COMMON, "--trace", "nowhere.csv"), "nowhere.csv"),
        (("tune", *COMMON, "--draft-lengths", "0-4"), "0-4"),
        (("tune", *COMMON, "--output", "x.pdf"), "x.pdf"),
        (("tune", *COMMON, "--measured", "nowhere.json"), "nowhere.json"),
        (("timeline", *COMMON, "--output", "nowhere/x.svg"), "nowhere"),
        (("timeline", *COMMON, "--rounds", "0"), "--rounds"),
    ],
)
def test_bad_input_is_one_line_with_the_culprit(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], culprit: str
) -> None:
    assert main(list(arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert culprit in told.err


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"target_seconds": None}, "no target_seconds"),
        ({"draft_seconds": []}, "no measurements"),
        ({"draft_seconds": [{"batch": 1}]}, "row 0"),
        ({"draft_seconds": [{"batch": 1, "context": 8, "mean": -1}]}, "context 8"),
        ({"acceptance": {"rate": 1.5}}, "1.5"),
        ({"acceptance": {"rate": "high"}}, "high"),
        ({"together": {"target_factor": 0.2}}, "target_factor"),
        ({"in_turn": {"draft_factor": 0}}, "draft_factor"),
        ({"draft_start_seconds": -1}, "draft_start_seconds"),
    ],
)
def test_a_broken_profile_is_refused_by_name(profile: Path, tmp_path: Path, change: dict[str, Any], culprit: str) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(json.loads(profile.read_text()) | change))
    with pytest.raises(InputError, match=culprit):
        read_profile(broken)
