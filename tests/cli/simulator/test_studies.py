"""A command of the simulator is its study: it writes what `to_dict` gives, and prints what `print` shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sim_commands import COMMON, FREE, SYSTEM, Run, answer, printed

from sim import (
    Arrivals,
    Constant,
    Jitter,
    Lengths,
    Objectives,
    Rate,
    Server,
    System,
    Traffic,
    measured_acceptance,
    measured_system,
    read_trace,
    simulate,
    simulate_traffic,
    timeline,
    tune,
    validate,
)
from sim.study.load_report import Compared, LoadPoint, LoadValidation
from specdec.profile import Profile
from specdec.report import Report
from strategies import Elastic, Pearl, Speculative

WALL = "simulated_requests_per_wall_second"
GIVEN = " ".join(COMMON)


def same(run: Run, result: Report, command: str) -> None:
    """The command writes what `to_dict` gives, and prints what `print` shows; wall-clock seconds are not compared."""
    found, expected = answer(run, *command.split()), json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for values in (found, expected):
        values.pop(WALL, None)
    assert found == expected
    assert [*found] == [*expected]
    shown, wanted = (
        [line.rstrip() for line in text.splitlines() if "of computing" not in line]
        for text in (printed(run, *command.split()), str(result))
    )
    assert shown == wanted


def test_simulate_is_the_study_of_one_sequence(run: Run) -> None:
    one = simulate(Pearl(5), Rate(0.8), SYSTEM, tokens=2000, seed=3)
    same(run, one, f"simulate --draft-length 5 {GIVEN} --tokens 2000 --seed 3")


def test_simulate_with_jitter_is_the_study_with_jitter(run: Run) -> None:
    system = System(Constant(1e-3, 5e-3, {4: 6e-3}), network_seconds=1e-4, overhead_seconds=2e-4, jitter=Jitter(0.1, 0.2))
    devices = "--target-window 4=6ms --network 100us --overhead 200us --jitter 0.1,0.2"
    one = simulate(Elastic(), Rate(0.8), system, tokens=500)
    same(run, one, f"simulate --strategy elastic {GIVEN} {devices} --tokens 500")


def test_simulate_with_a_profile_is_the_study_of_its_values(run: Run, profile: Path) -> None:
    measured = Profile.read(profile)
    one = simulate(Speculative(3), measured_acceptance(measured), measured_system(measured, 100), tokens=500)
    same(run, one, f"simulate --strategy speculative --draft-length 3 --profile {profile} --context 100 --tokens 500")


def test_simulate_with_arrivals_adds_the_study_of_load(run: Run) -> None:
    traffic = Traffic(Arrivals(4.0, 2.0), Lengths(512), Lengths(60, 1.0), 40)
    server, objectives = Server(2, 64, 4000, iteration_tokens=128, lag_iterations=1), Objectives(ttft_seconds=0.5)
    load = simulate_traffic(Pearl(4), Rate(0.8), FREE, traffic, server, objectives, replications=2, seed=1)
    one = replace(simulate(Pearl(4), Rate(0.8), SYSTEM, tokens=500, seed=1), load=load)
    drawn = "--arrivals gamma:4/s,cv=2 --output-tokens 60,cv=1 --requests 40 --replications 2"
    engine = "--replicas 2 --max-batch 64 --kv-tokens 4000 --iteration-tokens 128 --lag 1 --batches-are-free"
    same(run, one, f"simulate --draft-length 4 {GIVEN} --tokens 500 --seed 1 {drawn} {engine} --objective-ttft 500ms")


def test_simulate_with_a_trace_adds_the_study_of_its_requests(run: Run, trace: Path) -> None:
    load = simulate_traffic(Pearl(4), Rate(0.8), FREE, read_trace(trace, time_scale=0.5, requests=25))
    one = replace(simulate(Pearl(4), Rate(0.8), SYSTEM, tokens=500), load=load)
    served = f"--trace {trace} --time-scale 0.5 --requests 25 --batches-are-free"
    same(run, one, f"simulate --draft-length 4 {GIVEN} --tokens 500 {served}")


def test_tune_is_the_study_of_choices(run: Run) -> None:
    found = tune(Rate(0.8), SYSTEM, ["pearl", "speculative"], range(3, 6), tokens=500, seed=1)
    compared = "--strategy pearl --strategy speculative --draft-lengths 3-5"
    same(run, found, f"tune {GIVEN} {compared} --tokens 500 --seed 1")


def test_timeline_is_the_study_of_first_rounds(run: Run) -> None:
    shown = timeline(Speculative(3), Rate(0.8), SYSTEM, rounds=5, seed=2)
    same(run, shown, f"timeline --strategy speculative --draft-length 3 {GIVEN} --rounds 5 --seed 2")


@pytest.mark.parametrize("interrupted", [True, False])
def test_load_that_a_person_ends_early_is_written_and_ends_as_interrupted(
    run: Run, pair: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    one = Compared("ttft_mean", 1.0, 1.1, -0.1, (1.1,), (1.05,), -0.05)
    found = LoadValidation(4, 10, 1, 0.0, (LoadPoint("pearl", {}, 0.5, 1.0, 0.0, (one,), (1.0,)),), interrupted=interrupted)
    monkeypatch.setattr("sim.study.validate_load.validate_load", lambda *_, **__: found)
    ran = run("validate", "--load", *pair, "--json", tmp_path / "load.json")
    assert ran.code == (130 if interrupted else 0)
    assert "-10.0 %" in ran.out
    assert LoadValidation.read(tmp_path / "load.json") == found


def test_validate_without_a_pair_is_the_study_of_published_numbers(run: Run) -> None:
    same(run, validate(fitted_tasks=["CNNDM"]), "validate --no-measure --fitted-task CNNDM")
