"""Options of the simulator's commands that are wrong, or that would be ignored: refused by name, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_commands import COMMON, STEPS, Run, refused

SERVED = ("--arrivals", "poisson:5/s", "--batches-are-free")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("simulate", "--acceptance", "1.3", *STEPS), "1.3"),
        (("simulate", "--acceptance", "130%", *STEPS), "1.3"),
        (("simulate", "--acceptance", "nan", *STEPS), "nan"),
        (("simulate", "--acceptance", "often", *STEPS), "often"),
        (("simulate", "--acceptance", "markov:0.9", *STEPS), "2 numbers"),
        (("simulate", "--acceptance", "recorded", *STEPS), "--profile"),
        (("simulate", *STEPS), "no acceptance"),
        (("simulate", "--acceptance", "0.8"), "--draft-step"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "-1ms", "--target-step", "5ms"), "-1ms"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "1", "--target-step", "5ms"), "5ms"),
        (("simulate", "--acceptance", "0.8", "--draft-step", "0ms", "--target-step", "5ms"), "draft step"),
        (("simulate", *COMMON, "--target-window", "4"), "WIDTH=TIME"),
        (("simulate", *COMMON, "--target-window", "4=x"), "target-window 4"),
        (("simulate", *COMMON, "--jitter", "-1"), "target_cv"),
        (("simulate", *COMMON, "--together", "0.5,1"), "target_factor"),
        (("simulate", *COMMON, "--draft-length", "0"), "draft length 0"),
        (("simulate", *COMMON, "--strategy", "perl"), "did you mean pearl"),
        (("simulate", "--acceptance", "0.8", "--profile", "nowhere.json"), "nowhere.json"),
        (("simulate", "--acceptance", "0.8", "--gpu", "H200"), "--target-config"),
        (("simulate", *COMMON, "--trace", "nowhere.csv"), "nowhere.csv"),
        (("simulate", *COMMON, "--arrivals", "poisson:5/s", "--replications", "0"), "--replications"),
        (("simulate", *COMMON, "--schedule", "4@16,off"), "--schedule has no effect without requests"),
        (("simulate", *COMMON, *SERVED, "--schedule", "4@16,off", "--draft-length", "4"), "--draft-length has no effect"),
        (("simulate", *COMMON, *SERVED, "--schedule", "2", "--set", "draft_length=4"), "--set draft_length has no effect"),
        (("simulate", *COMMON, *SERVED, "--schedule", "4@16"), "write 4@16,2@64,off, or adaptive:6"),
        (("simulate", *COMMON, *SERVED, "--schedule", "adaptive:0"), "write 4@16,2@64,off, or adaptive:6"),
        (("simulate", *COMMON, *SERVED, "--schedule", "4@16,2@8,off"), "[16, 8]"),
        (("simulate", *COMMON, *SERVED, "--schedule", "4@16,off"), "pearl remembers a round"),
        (("simulate", *COMMON, *SERVED, "--strategy", "autoregressive", "--schedule", "4@16,off"), "autoregressive has none"),
        (("tune", *COMMON, "--draft-lengths", "0-4"), "0-4"),
        (("tune", *COMMON, "--output", "x.pdf"), "x.pdf"),
        (("tune", *COMMON, "--measured", "nowhere.json", "--output", "x.svg"), "nowhere.json"),
        (("timeline", *COMMON, "--output", "nowhere/x.svg"), "nowhere"),
        (("timeline", *COMMON, "--rounds", "0"), "--rounds"),
        (("validate", "--no-measure", "--published", "nowhere.csv"), "nowhere.csv"),
        (("validate", "--no-measure", "--fitted-task", "chess"), "chess"),
    ],
)
def test_bad_input_is_one_line_with_the_culprit(run: Run, arguments: tuple[str, ...], culprit: str) -> None:
    assert culprit in refused(run, *arguments)


GPU = ("--gpu", "H200", "--target-config", "config.json", "--draft-config", "config.json")
PROFILE = ("--profile", "profile.json")
POISSON = ("--arrivals", "poisson:2/s")


@pytest.mark.parametrize(
    ("ignored", "beside"),
    [
        (("--draft-step", "1ms"), PROFILE),
        (("--target-step", "5ms"), PROFILE),
        (("--target-window", "4=6ms"), PROFILE),
        (GPU, PROFILE),
        (("--target-config", "config.json"), PROFILE),
        (("--draft-step", "1ms"), ("--acceptance", "0.8", *GPU)),
        (("--target-step", "5ms"), ("--acceptance", "0.8", *GPU)),
        (("--target-window", "4=6ms"), ("--acceptance", "0.8", *GPU)),
        (("--target-config", "config.json"), COMMON),
        (("--draft-config", "config.json"), COMMON),
        (("--context", "100"), COMMON),
        (("--network", "1ms"), (*COMMON, "--placement", "shared")),
        (("--network", "1ms"), (*COMMON, "--together", "1.2,1.5")),
        (("--placement", "two"), (*COMMON, "--together", "1.2,1.5")),
        (("--time-scale", "0.5"), COMMON),
        (("--requests", "10"), COMMON),
        (("--input-tokens", "10"), COMMON),
        (("--output-tokens", "10"), COMMON),
        (("--replicas", "2"), COMMON),
        (("--max-batch", "2"), COMMON),
        (("--kv-tokens", "1000"), COMMON),
        (("--iteration-tokens", "64"), COMMON),
        (("--cached-share", "0.5"), COMMON),
        (("--client-delay", "1ms"), COMMON),
        (("--lag", "1"), COMMON),
        (("--routing", "round-robin"), COMMON),
        (("--batches-are-free",), COMMON),
        (("--objective-e2e", "1s"), COMMON),
        (("--time-scale", "2"), (*COMMON, "--concurrency", "4")),
        (("--objective-ttft", "1s"), COMMON),
        (("--time-unit", "ms"), COMMON),
        (("--columns", "input=x"), COMMON),
        (("--drop-failed",), COMMON),
        (("--time-unit", "ms"), (*COMMON, *POISSON)),
        (("--columns", "input=x"), (*COMMON, *POISSON)),
        (("--drop-failed",), (*COMMON, "--concurrency", "4")),
        (("--objective-tpot", "1s"), COMMON),
        (("--replications", "2"), COMMON),
        (("--input-tokens", "10"), (*COMMON, "--trace", "trace.csv")),
        (("--output-tokens", "10"), (*COMMON, "--trace", "trace.csv")),
        (POISSON, (*COMMON, "--trace", "trace.csv")),
    ],
    ids=lambda part: " ".join(part),
)
def test_options_that_would_be_ignored_are_refused_by_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    profile: Path, ignored: tuple[str, ...], beside: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text(profile.read_text())
    line = refused(run, "simulate", *beside, *ignored)
    assert line.startswith(f"specdec: {ignored[0]}")
    assert ": " in line.removeprefix("specdec: ")  # the culprit, then what to do


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("tune", *COMMON, "--measured", "bench.json"), "--measured bench.json"),
        (("tune", *COMMON, "--theme", "dark"), "--theme dark"),
        (("tune", *COMMON, "--strategy", "elastic", "--draft-lengths", "1-4"), "--draft-lengths 1-4"),
        (("timeline", *COMMON, "--theme", "dark"), "--theme dark"),
        (("validate", "--no-measure", "--repeats", "3"), "--repeats"),
        (("validate", "--no-measure", "--max-new-tokens", "64"), "--max-new-tokens"),
        (("validate", "--no-measure", "--seed", "0"), "--seed"),
        (("validate", "--no-measure", "--target", "x"), "--target"),
        (("validate", "--no-measure", "--lane", "inline"), "--lane"),
    ],
)
def test_options_of_other_commands_that_would_be_ignored_are_refused_by_name(
    run: Run, arguments: tuple[str, ...], culprit: str
) -> None:
    assert refused(run, *arguments).startswith(f"specdec: {culprit}")
