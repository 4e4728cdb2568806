"""`specdec simulate`: the keys that others read, and options that reach devices, acceptance and serving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sim_commands import COMMON, STEPS, Run, answer, printed, refused

from sim import Simulation, Tuning
from specdec import InputError
from specdec.cli import main

SEQUENCE_KEYS = [
    "format",
    "strategy",
    "parameters",
    "tokens_per_second",
    "tokens_per_second_interval",
    "speedup_over_ar",
    "target_idle_share",
    "draft_idle_share",
    "rounds",
    "chain_tokens_per_second",
    "remarks",
]


def test_simulate_writes_the_agreed_keys(run: Run) -> None:
    found = answer(run, "simulate", "--strategy", "pearl", "--draft-length", "5", *COMMON)
    assert list(found) == SEQUENCE_KEYS
    assert found["format"] == "specdec.simulate/1"
    assert found["strategy"] == "pearl"
    assert found["parameters"] == {"draft_length": 5}
    assert found["chain_tokens_per_second"] == pytest.approx(2.283199304499 * 200)
    assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.01)
    low, high = found["tokens_per_second_interval"]
    assert low < found["chain_tokens_per_second"] < high
    assert found["speedup_over_ar"] == pytest.approx(found["tokens_per_second"] / 200)


def test_lengths_may_follow_the_running_batch(run: Run) -> None:
    """With 5 clients, `3@2,off` hardly drafts, and pays for being off; constants let an adaptive one draft all the time."""
    served = (*COMMON, "--tokens", "100", "--concurrency", "5", "--batches-are-free", "--requests", "20")

    def load(*more: str, strategy: str = "speculative") -> dict[str, Any]:
        return answer(run, "simulate", *served, "--strategy", strategy, *more)

    plain, four = load(strategy="autoregressive"), load("--draft-length", "4")
    several, adaptive = (load("--schedule", lengths) for lengths in ("3@2,off", "adaptive:4"))
    assert several["schedule"] == "3 up to 2 running, off above"
    assert several["parameters"] == {"draft_length": 3}
    assert adaptive["schedule"] == "adaptive, of 4, 3, 2, 1, off"
    assert four["schedule"] == ""
    speeds = [one["output_tokens_per_second"] for one in (several, plain, adaptive, four)]
    assert speeds[0] < 0.95 * speeds[1]
    assert speeds[2] > 1.5 * speeds[1]
    assert speeds[2] == pytest.approx(speeds[3], rel=0.05)


def test_a_length_of_a_schedule_that_was_not_measured_is_said(run: Run) -> None:
    """Acceptance is known of two positions. One sequence alone drafts one token, and a full batch three."""
    served = ("--strategy", "speculative", "--tokens", "100", "--arrivals", "poisson:5/s", "--requests", "20")
    known = (*STEPS, "--batches-are-free", "--acceptance", "0.8,0.7")
    for lengths, said in (("1@2,2", 0), ("1@2,3", 1), ("adaptive:3", 1)):
        found = answer(run, "simulate", *served, *known, "--schedule", lengths)
        assert len(found["remarks"]) == said
        assert not said or found["remarks"][0].startswith("Drafts longer than 2 are extrapolated")


def test_a_schedule_keeps_the_cache_of_the_draft(run: Run) -> None:
    """Also where it begins without guesses: the draft's cache takes room all the time."""
    pair = ("--gpu", "H100 NVL", "--target-config", "qwen3-32b", "--draft-config", "qwen3-1.7b", "--placement", "shared")
    asked = (*pair, "--acceptance", "0.7", "--tokens", "100", "--concurrency", "100", "--requests", "100", "--max-batch", "100")
    shares = [
        answer(run, "simulate", *asked, "--strategy", strategy, *more)["kv_share"]
        for strategy, more in (("autoregressive", ()), ("speculative", ("--schedule", "off@99,off")))
    ]
    assert shares[1] > 1.2 * shares[0]


def test_what_is_written_is_read_back(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "simulation.json"
    assert main(["simulate", *COMMON, "--tokens", "100", "--trace", str(trace), "--batches-are-free", "--json", str(path)]) == 0
    found = Simulation.read(path)
    assert found.load is not None
    assert found.to_dict() == json.loads(path.read_text())
    with pytest.raises(InputError, match=r"of format 'specdec.simulate/1'"):
        Tuning.read(path)


def test_equal_seeds_give_equal_answers(run: Run) -> None:
    runs = [answer(run, "simulate", *COMMON, "--jitter", "0.1", "--tokens", "500", "--seed", seed) for seed in "011"]
    assert runs[1] == runs[2] != runs[0]


def test_options_reach_the_devices(run: Run) -> None:
    def exact(*more: str, acceptance: str = "0.8") -> float:
        known = ("--draft-length", "5", *STEPS, "--tokens", "50", "--acceptance", acceptance)
        return answer(run, "simulate", *known, *more)["chain_tokens_per_second"]

    plain = exact()
    assert exact("--target-window", "5=6ms") < plain
    assert exact("--overhead", "200us") < plain
    assert exact("--network", "1ms") < plain
    assert exact("--jitter", "0.1") < plain
    assert exact("--placement", "two") == plain
    assert exact("--placement", "shared") == pytest.approx(plain / 2)
    assert exact("--together", "1.5,1.5") == pytest.approx(plain / 1.5)
    assert exact(acceptance="markov:0.8,0.8") == pytest.approx(plain)
    assert exact(acceptance="run:5") == pytest.approx(plain)
    assert exact(acceptance="80%") == plain
    assert exact(acceptance="0.8,70%") < plain


def test_a_profile_is_all_that_is_needed(run: Run, profile: Path) -> None:
    for extra in ((), ("--acceptance", "recorded"), ("--acceptance", "0.9"), ("--placement", "shared")):
        found = answer(run, "simulate", "--profile", str(profile), "--draft-length", "4", *extra)
        assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.02)


def test_a_profile_of_a_busy_machine_is_named(run: Run, profile: Path, tmp_path: Path) -> None:
    busy = tmp_path / "busy.json"
    busy.write_text(json.dumps(json.loads(profile.read_text()) | {"busy": 0.4}))
    for path, said in ((profile, 0), (busy, 1)):
        ran = run("simulate", "--profile", str(path), "--draft-length", "4", "--tokens", "50")
        assert " ".join(ran.err.split()).count(f"Profile {path}: The machine was busy with other work: 40 %") == said


def test_a_draft_length_that_was_chosen_is_printed(run: Run) -> None:
    assert answer(run, "simulate", *COMMON, "--tokens", "50")["parameters"] == {"draft_length": 5}


def test_two_devices_of_their_own_do_not_slow_each_other(run: Run, profile: Path) -> None:
    """The profile was measured where they do: `--placement two` takes that away, as a network between them does."""
    exact = {
        placement: answer(run, "simulate", "--profile", str(profile), "--draft-length", "4", "--tokens", "50", *placement)
        for placement in ((), ("--placement", "two"), ("--network", "0s"))
    }
    measured, *own = (found["chain_tokens_per_second"] for found in exact.values())
    assert own[0] == own[1] > measured


@pytest.mark.parametrize("placement", [(), ("--together", "1.2,1.6"), ("--placement", "shared"), ("--network", "1ms")])
def test_a_race_is_timed_on_the_devices_that_were_asked_for(run: Run, placement: tuple[str, ...]) -> None:
    steps = ("--acceptance", "0.8", "--draft-step", "1ms", "--target-step", "3.5ms", "--target-window", "4=5.5ms")
    traffic = ("--arrivals", "poisson:0.5/s", "--requests", "20", "--output-tokens", "200", "--max-batch", "1")
    found = answer(run, "simulate", "--strategy", "elastic", *steps, *placement, *traffic, "--batches-are-free")
    assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.02)
    assert 1 / found["tpot_seconds"]["mean"] == pytest.approx(found["chain_tokens_per_second"], rel=0.1)


def test_serving_adds_its_keys(run: Run, profile: Path) -> None:
    traffic = ("--arrivals", "poisson:0.5", "--requests", "50", "--output-tokens", "60")
    found = answer(run, "simulate", "--profile", str(profile), "--tokens", "100", *traffic)
    assert [*found][: len(SEQUENCE_KEYS)] == SEQUENCE_KEYS
    assert {"requests", "ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds", "goodput", "saturation"} <= found.keys()
    assert {"mean", "p50", "p90", "p99"} <= found["ttft_seconds"].keys()


def test_latencies_are_printed_in_milliseconds(run: Run) -> None:
    """Alone on the server, with steps that always take 5 ms."""
    lengths = ("--input-tokens", "1", "--output-tokens", "3", "--tokens", "50")
    options = ("--arrivals", "gamma:0.1,cv=0", "--requests", "10", *lengths)
    text = printed(run, "simulate", "--strategy", "autoregressive", *COMMON, *options, "--batches-are-free")
    (line,) = (line.split() for line in text.splitlines() if "(TPOT)" in line)
    assert line[-4:] == ["5.00"] * 4
    assert "200 tok/s" in text


def test_load_with_forks_needs_times_of_branches(run: Run, profile: Path, tmp_path: Path) -> None:
    asked = ("--strategy", "saguaro", "--draft-length", "3", "--concurrency", "4", "--requests", "40", "--output-tokens", "30")
    said = refused(run, "simulate", *asked, "--profile", str(profile))
    assert "saguaro forks, and what a draft step over several branches takes is not known: measure the pair" in said
    known = json.loads(profile.read_text())
    known["draft_seconds"].append({"batch": 1, "context": 64, "mean": 1.5e-3, "branches": 12})
    path = tmp_path / "branches.json"
    path.write_text(json.dumps(known))
    served = answer(run, "simulate", *asked, "--profile", str(path))
    assert served["extrapolated_share"] > 0.9  # 4 sequences of 12 branches, and 12 rows were timed
    (point,) = answer(run, "sweep", *asked, "--profile", str(path), "--workers", "1")["points"]
    assert point["load"]["output_tokens_per_second"] == served["output_tokens_per_second"]
