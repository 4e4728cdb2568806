"""The simulator's commands: the JSON others read is the study's own, pictures in both themes, and one-line refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim import (
    Arrivals,
    Constant,
    Jitter,
    Lengths,
    Objectives,
    Rate,
    Server,
    Simulation,
    System,
    Traffic,
    Tuning,
    measured_acceptance,
    measured_system,
    read_trace,
    simulate,
    simulate_traffic,
    timeline,
    tune,
    validate,
)
from sim.cli.traffic import TrafficOptions
from specdec import InputError
from specdec.cli import main
from specdec.profile import Profile
from specdec.report import Report
from strategies import Elastic, Pearl, Speculative

STEPS = ("--draft-step", "1ms", "--target-step", "5ms")
COMMON = ("--acceptance", "0.8", *STEPS)
SYSTEM = System(Constant(1e-3, 5e-3))
WALL = "simulated_requests_per_wall_second"
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
]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal."""
    assert main([*arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contexts = {64: 0.0, 256: 2e-4}
    found = {
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


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    path.write_text("timestamp,input_length,output_length\n" + "".join(f"{2 * at},10,{20 + at % 7}\n" for at in range(30)))
    return path


# ------------------------------------------------------------------------------------- a command is its study, typed and shown


def same(capsys: pytest.CaptureFixture[str], result: Report, command: str) -> None:
    """The command writes what `to_dict` gives, and prints what `print` shows; wall-clock seconds are not compared."""
    found, expected = answer(capsys, *command.split()), json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for values in (found, expected):
        values.pop(WALL, None)
    assert found == expected
    assert [*found] == [*expected]
    shown, wanted = (
        [line.rstrip() for line in text.splitlines() if "of computing" not in line]
        for text in (printed(capsys, *command.split()), str(result))
    )
    assert shown == wanted


GIVEN = " ".join(COMMON)


def test_simulate_is_the_study_of_one_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    one = simulate(Pearl(5), Rate(0.8), SYSTEM, tokens=2000, seed=3)
    same(capsys, one, f"simulate --draft-length 5 {GIVEN} --tokens 2000 --seed 3")


def test_simulate_with_jitter_is_the_study_with_jitter(capsys: pytest.CaptureFixture[str]) -> None:
    system = System(Constant(1e-3, 5e-3, {4: 6e-3}), network_seconds=1e-4, overhead_seconds=2e-4, jitter=Jitter(0.1, 0.2))
    devices = "--target-window 4=6ms --network 100us --overhead 200us --jitter 0.1,0.2"
    one = simulate(Elastic(), Rate(0.8), system, tokens=500)
    same(capsys, one, f"simulate --strategy elastic {GIVEN} {devices} --tokens 500")


def test_simulate_with_a_profile_is_the_study_of_its_values(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    measured = Profile.read(profile)
    one = simulate(Speculative(3), measured_acceptance(measured), measured_system(measured, 100), tokens=500)
    same(capsys, one, f"simulate --strategy speculative --draft-length 3 --profile {profile} --context 100 --tokens 500")


def test_simulate_with_arrivals_adds_the_study_of_load(capsys: pytest.CaptureFixture[str]) -> None:
    traffic = Traffic(Arrivals(4.0, 2.0), Lengths(512), Lengths(60, 1.0), 40)
    server, objectives = Server(2, 64, None, 128), Objectives(ttft_seconds=0.5)
    load = simulate_traffic(Pearl(4), Rate(0.8), SYSTEM, traffic, server, objectives, replications=2, seed=1)
    one = replace(simulate(Pearl(4), Rate(0.8), SYSTEM, tokens=500, seed=1), load=load)
    drawn = "--arrivals gamma:4/s,cv=2 --output-tokens 60,cv=1 --requests 40 --replications 2"
    served = "--replicas 2 --prefill-chunk 128 --objective-ttft 500ms"
    same(capsys, one, f"simulate --draft-length 4 {GIVEN} --tokens 500 --seed 1 {drawn} {served}")


def test_simulate_with_a_trace_adds_the_study_of_its_requests(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    load = simulate_traffic(Pearl(4), Rate(0.8), SYSTEM, read_trace(trace, time_scale=0.5, requests=25))
    one = replace(simulate(Pearl(4), Rate(0.8), SYSTEM, tokens=500), load=load)
    same(capsys, one, f"simulate --draft-length 4 {GIVEN} --tokens 500 --trace {trace} --time-scale 0.5 --requests 25")


def test_tune_is_the_study_of_choices(capsys: pytest.CaptureFixture[str]) -> None:
    found = tune(Rate(0.8), SYSTEM, ["pearl", "speculative"], range(3, 6), tokens=500, seed=1)
    compared = "--strategy pearl --strategy speculative --draft-lengths 3-5"
    same(capsys, found, f"tune {GIVEN} {compared} --tokens 500 --seed 1")


def test_timeline_is_the_study_of_first_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    shown = timeline(Speculative(3), Rate(0.8), SYSTEM, rounds=5, seed=2)
    same(capsys, shown, f"timeline --strategy speculative --draft-length 3 {GIVEN} --rounds 5 --seed 2")


def test_validate_without_a_pair_is_the_study_of_published_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    same(capsys, validate(fitted_tasks=["CNNDM"]), "validate --no-measure --fitted-task CNNDM")


# --------------------------------------------------------------------------------------------------------------- simulate


def test_simulate_writes_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "simulate", "--strategy", "pearl", "--draft-length", "5", *COMMON)
    assert list(found) == SEQUENCE_KEYS
    assert found["format"] == "specdec.simulate/1"
    assert found["strategy"] == "pearl"
    assert found["parameters"] == {"draft_length": 5}
    assert found["chain_tokens_per_second"] == pytest.approx(2.283199304499 * 200)
    assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.01)
    low, high = found["tokens_per_second_interval"]
    assert low < found["chain_tokens_per_second"] < high
    assert found["speedup_over_ar"] == pytest.approx(found["tokens_per_second"] / 200)


def test_what_is_written_is_read_back(tmp_path: Path, trace: Path) -> None:
    path = tmp_path / "simulation.json"
    assert main(["simulate", *COMMON, "--tokens", "100", "--trace", str(trace), "--json", str(path)]) == 0
    found = Simulation.read(path)
    assert found.load is not None
    assert found.to_dict() == json.loads(path.read_text())
    with pytest.raises(InputError, match=r"of format 'specdec.simulate/1'"):
        Tuning.read(path)


def test_equal_seeds_give_equal_answers(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [answer(capsys, "simulate", *COMMON, "--jitter", "0.1", "--tokens", "500", "--seed", seed) for seed in "011"]
    assert runs[1] == runs[2] != runs[0]


def test_options_reach_the_devices(capsys: pytest.CaptureFixture[str]) -> None:
    def exact(*more: str) -> float:
        found = answer(capsys, "simulate", "--draft-length", "5", *COMMON, "--tokens", "50", *more)
        return found["chain_tokens_per_second"]

    plain = exact()
    assert exact("--target-window", "5=6ms") < plain
    assert exact("--overhead", "200us") < plain
    assert exact("--network", "1ms") < plain
    assert exact("--jitter", "0.1") < plain
    assert exact("--placement", "two") == plain
    assert exact("--placement", "shared") == pytest.approx(plain / 2)
    assert exact("--together", "1.5,1.5") == pytest.approx(plain / 1.5)
    assert exact("--acceptance", "markov:0.8,0.8") == pytest.approx(plain)
    assert exact("--acceptance", "run:5") == pytest.approx(plain)
    assert exact("--acceptance", "80%") == plain
    assert exact("--acceptance", "0.8,70%") < plain


def test_a_profile_is_all_that_is_needed(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    for extra in ((), ("--acceptance", "recorded"), ("--acceptance", "0.9"), ("--placement", "shared")):
        found = answer(capsys, "simulate", "--profile", str(profile), "--draft-length", "4", *extra)
        assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.02)


def test_two_devices_of_their_own_do_not_slow_each_other(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    """The profile was measured where they do: `--placement two` takes that away, as a network between them does."""
    exact = {
        placement: answer(capsys, "simulate", "--profile", str(profile), "--draft-length", "4", "--tokens", "50", *placement)
        for placement in ((), ("--placement", "two"), ("--network", "0s"))
    }
    measured, *own = (found["chain_tokens_per_second"] for found in exact.values())
    assert own[0] == own[1] > measured


@pytest.mark.parametrize("placement", [(), ("--together", "1.2,1.6"), ("--placement", "shared"), ("--network", "1ms")])
def test_a_race_is_timed_on_the_devices_that_were_asked_for(
    capsys: pytest.CaptureFixture[str], placement: tuple[str, ...]
) -> None:
    steps = ("--acceptance", "0.8", "--draft-step", "1ms", "--target-step", "3.5ms", "--target-window", "4=5.5ms")
    traffic = ("--arrivals", "poisson:0.5/s", "--requests", "20", "--output-tokens", "200", "--max-batch", "1")
    found = answer(capsys, "simulate", "--strategy", "elastic", *steps, *placement, *traffic)
    assert found["tokens_per_second"] == pytest.approx(found["chain_tokens_per_second"], rel=0.02)
    assert 1 / found["tpot_seconds"]["mean"] == pytest.approx(found["chain_tokens_per_second"], rel=0.1)


def test_serving_adds_its_keys(capsys: pytest.CaptureFixture[str], profile: Path) -> None:
    traffic = ("--arrivals", "poisson:0.5", "--requests", "50", "--output-tokens", "60")
    found = answer(capsys, "simulate", "--profile", str(profile), "--tokens", "100", *traffic)
    assert [*found][: len(SEQUENCE_KEYS)] == SEQUENCE_KEYS
    assert {"requests", "ttft_seconds", "tpot_seconds", "itl_seconds", "e2e_seconds", "goodput", "saturation"} <= found.keys()
    assert {"mean", "p50", "p90", "p99"} <= found["ttft_seconds"].keys()


def test_latencies_are_printed_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone on the server, with steps that always take 5 ms."""
    options = (
        "--arrivals",
        "gamma:0.1,cv=0",
        "--requests",
        "10",
        "--input-tokens",
        "1",
        "--output-tokens",
        "3",
        "--tokens",
        "50",
    )
    text = printed(capsys, "simulate", "--strategy", "autoregressive", *COMMON, *options)
    (line,) = (line.split() for line in text.splitlines() if "(TPOT)" in line)
    assert line[-4:] == ["5.00"] * 4
    assert "200 tok/s" in text


# ------------------------------------------------------------------------------------------------------- options of serving


def test_time_scale_stretches_drawn_and_read_arrivals_alike(trace: Path) -> None:
    found = [TrafficOptions(arrivals="poisson:5/s", time_scale=scale).traffic() for scale in (None, 2.0)]
    assert all(isinstance(one, Traffic) for one in found)
    assert [one.arrivals.rate_per_second for one in found] == [5, 2.5]  # type: ignore[union-attr]
    plain, slow = (TrafficOptions(trace=trace, time_scale=scale).traffic() for scale in (None, 2.0))
    assert slow.arrival_seconds == pytest.approx(2 * plain.arrival_seconds)  # type: ignore[union-attr]


def test_no_requests_are_asked_for_by_nothing() -> None:
    assert TrafficOptions().traffic() is None


BAD_SERVING: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"arrivals": "poisson:5/s", "trace": Path("x")}, "--arrivals"),
    "no such law": ({"arrivals": "weibull:5/s"}, "'weibull:5/s'"),
    "no rate": ({"arrivals": "poisson:many/s"}, "'many'"),
    "zero rate": ({"arrivals": "poisson:0/s"}, "rate 0"),
    "nan": ({"arrivals": "poisson:nan/s"}, "rate nan"),
    "negative cv": ({"arrivals": "gamma:5/s,cv=-1"}, "cv -1"),
    "no length": ({"arrivals": "poisson:5/s", "output_tokens": "few"}, "'few'"),
    "empty length": ({"arrivals": "poisson:5/s", "output_tokens": ""}, "--output-tokens ''"),
    "zero length": ({"arrivals": "poisson:5/s", "input_tokens": "0"}, "0 tokens"),
    "zero capacity": ({"arrivals": "poisson:5/s", "max_batch": 0}, "max_batch 0"),
    "no replica": ({"arrivals": "poisson:5/s", "replicas": 0}, "replicas 0"),
    "no memory": ({"arrivals": "poisson:5/s", "kv_tokens": 100}, "kv_tokens 100"),
    "no requests": ({"arrivals": "poisson:5/s", "requests": 0}, "requests 0"),
    "no unit": ({"arrivals": "poisson:5/s", "objective_ttft": "500"}, "--objective-ttft '500'"),
    "negative objective": ({"arrivals": "poisson:5/s", "objective_tpot": "-5ms"}, "--objective-tpot '-5ms'"),
    "time scale": ({"arrivals": "poisson:5/s", "time_scale": 0}, "--time-scale 0"),
    "no file": ({"trace": Path("/nowhere/trace.csv")}, "/nowhere/trace.csv: No such file"),
}


@pytest.mark.parametrize("name", BAD_SERVING)
def test_bad_options_of_serving_are_refused_in_one_line(name: str) -> None:
    chosen, culprit = BAD_SERVING[name]
    options = TrafficOptions(**chosen)

    def serve() -> None:
        traffic = options.traffic()
        assert traffic is not None
        simulate_traffic(Pearl(5), Rate(0.8), SYSTEM, traffic, options.server(), options.objectives())

    with pytest.raises(InputError) as found:
        serve()
    assert culprit in str(found.value)
    assert "\n" not in str(found.value)


# ------------------------------------------------------------------------------------------------------------------- tune


def test_tune_writes_the_agreed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "tune", *COMMON, "--tokens", "4000", "--draft-lengths", "3-6")
    assert list(found) == ["format", "best", "curves", "flips", "acceptance_rate", "speed_ratio"]
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
    assert list(found["flips"][0]) == ["parameter", "at", "below", "above"]


def test_tune_draws_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, *_ = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("*_bench_*.json"))
    names = [tmp_path / f"tune.{suffix}" for suffix in ("svg", "png", "html")]
    outputs = [part for name in names for part in ("--output", str(name))]
    options = ("--tokens", "0", "--draft-lengths", "3-5", "--measured", str(bench))
    text = printed(capsys, "tune", *COMMON, *options, *outputs)
    check_pictures(names)
    assert "measured" in names[0].read_text()
    assert "Best: pearl" in text
    assert "Without a draft length: autoregressive 1.00x, elastic 2.28x." in text


# --------------------------------------------------------------------------------------------------------------- timeline


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_timeline_draws_pictures_and_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], theme: str) -> None:
    names = [tmp_path / f"rounds.{suffix}" for suffix in ("svg", "png", "html", "json")]
    outputs = [part for name in names for part in ("--output", str(name))]
    found = answer(capsys, "timeline", "--draft-length", "4", *COMMON, "--theme", theme, *outputs)
    assert len(found["round_tokens"]) == 10
    assert found["target_idle_share"] == pytest.approx(0)
    assert found["draft_idle_share"] == pytest.approx(0.2)
    assert list(found["work"][0]) == ["lane", "kind", "round", "start_seconds", "end_seconds", "rows"]
    check_pictures(names[:3])
    drawing = names[0].read_text()
    for label in ("target", "draft", "draft accepted", "draft rejected", "draft wasted", "waiting"):
        assert f">{label}<" in drawing
    assert ("#14161A" in drawing) == (theme == "dark")
    assert len(json.loads(names[3].read_text())["traceEvents"]) == 2 + 10 + 40


def test_timeline_prints_bars(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--strategy", "speculative", "--draft-length", "2", "--acceptance", "1", *STEPS, "--rounds", "3")
    lines = printed(capsys, "timeline", *options).splitlines()
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


# --------------------------------------------------------------------------------------------------------------- refusals


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
        (("tune", *COMMON, "--draft-lengths", "0-4"), "0-4"),
        (("tune", *COMMON, "--output", "x.pdf"), "x.pdf"),
        (("tune", *COMMON, "--measured", "nowhere.json", "--output", "x.svg"), "nowhere.json"),
        (("timeline", *COMMON, "--output", "nowhere/x.svg"), "nowhere"),
        (("timeline", *COMMON, "--rounds", "0"), "--rounds"),
        (("validate", "--no-measure", "--published", "nowhere.csv"), "nowhere.csv"),
        (("validate", "--no-measure", "--fitted-task", "chess"), "chess"),
    ],
)
def test_bad_input_is_one_line_with_the_culprit(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], culprit: str
) -> None:
    assert culprit in refused(capsys, *arguments)


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
        (("--prefill-chunk", "64"), COMMON),
        (("--objective-ttft", "1s"), COMMON),
        (("--objective-tpot", "1s"), COMMON),
        (("--replications", "2"), COMMON),
        (("--input-tokens", "10"), (*COMMON, "--trace", "trace.csv")),
        (("--output-tokens", "10"), (*COMMON, "--trace", "trace.csv")),
        (POISSON, (*COMMON, "--trace", "trace.csv")),
    ],
    ids=lambda part: " ".join(part),
)
def test_options_that_would_be_ignored_are_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    profile: Path, ignored: tuple[str, ...], beside: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text(profile.read_text())
    line = refused(capsys, "simulate", *beside, *ignored)
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
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], culprit: str
) -> None:
    assert refused(capsys, *arguments).startswith(f"specdec: {culprit}")


def test_a_roofline_stands_for_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
        "vocab_size": 1000,
    }
    for name, layers in (("target", 32), ("draft", 4)):
        (tmp_path / f"{name}.json").write_text(json.dumps(sizes | {"num_hidden_layers": layers}))
    models = ("--target-config", str(tmp_path / "target.json"), "--draft-config", str(tmp_path / "draft.json"))
    speeds = [
        answer(capsys, "simulate", "--acceptance", "0.8", "--gpu", gpu, *models, "--tokens", "50", *context)[
            "chain_tokens_per_second"
        ]
        for gpu, context in (("H200", ()), ("H100", ()), ("H100", ("--context", "8000")))
    ]
    assert speeds == sorted(speeds, reverse=True)
    assert len(set(speeds)) == 3
