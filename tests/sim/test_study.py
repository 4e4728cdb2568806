"""Studies as functions of values: what they answer, what they print, and that they read back what they wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import sim
from sim import (
    Arrivals,
    Choice,
    Constant,
    Flip,
    Hidden,
    Lengths,
    Objectives,
    PerPosition,
    Rate,
    Server,
    Simulation,
    System,
    Timeline,
    Traffic,
    Tuning,
    Validation,
    Workload,
    simulate,
    simulate_traffic,
    timeline,
    tune,
)
from sim.checks import simulates
from sim.setup.measured import Measured
from sim.study import load as load_study
from sim.study.tune import Point
from sim.traffic.serving import simulate_serving
from specdec import DecodingStrategy, Draft, DraftingStrategy, Guess, InputError, Score, State, StrategyError, Verify, available
from specdec.profile import DraftTiming, TargetTiming
from specdec.report import Report
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative

SYSTEM = System(Constant(1e-3, 5e-3))
FREE = System(Constant(1e-3, 5e-3, batches_are_free=True))
TRAFFIC = Traffic(Arrivals(5.0, cv=2), Lengths(512), Lengths(80, cv=1), requests=200)


def reread(report: Report) -> Report:
    """Through JSON as it is defined: without NaN."""
    return type(report).from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)), "the test")


# ---------------------------------------------------------------------------------------------------------------- the door


def test_the_door_offers_each_name_once_and_in_order() -> None:
    assert sim.__all__ == sorted(sim._MODULES)  # type: ignore[attr-defined]
    assert all(getattr(sim, name).__name__ == name for name in sim.__all__ if name != "Latency")
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        sim.simulat  # type: ignore[attr-defined]  # noqa: B018


def test_the_studies_import_neither_torch_nor_charts() -> None:
    code = (
        "import sys, sim\n"
        "before = set(sys.modules)\n"
        "[getattr(sim, name) for name in sim.__all__ if not name.endswith(('chart', 'trace'))]\n"
        "print(*[name for name in ('numpy', 'scipy') if name in before])\n"
        "print(*[name for name in ('torch', 'altair', 'polars', 'pydantic') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "\n\n"


# ------------------------------------------------------------------------------------------------------------ one sequence


def test_one_sequence_is_simulated_beside_its_exact_speed() -> None:
    one = simulate(Pearl(5), Rate(0.8), SYSTEM, tokens=4000)
    assert (one.strategy, one.parameters, one.load) == ("pearl", {"draft_length": 5}, None)
    assert one.chain_tokens_per_second == pytest.approx(456.64, abs=0.01)
    assert one.tokens_per_second_interval is not None
    assert one.chain_tokens_per_second is not None
    low, high = one.tokens_per_second_interval
    assert low < one.chain_tokens_per_second < high
    assert one.speedup_over_ar == pytest.approx(one.tokens_per_second / 200)
    assert reread(one) == one
    assert str(one).splitlines()[0] == "pearl draft_length=5, one sequence alone"


def test_too_few_rounds_for_an_interval_are_said_to_be() -> None:
    one = simulate(Pearl(5), Rate(0.8), SYSTEM, tokens=20)
    assert one.tokens_per_second_interval is None
    assert "too few rounds" in str(one)


@dataclass(frozen=True)
class Growing(DraftingStrategy):
    """Drafts one token more each round: its memory never repeats."""

    name: ClassVar[str] = "growing"

    def init(self, prompt: Any, facts: Any) -> State:
        return State(prompt, memory=0)

    def step(self, state: Any) -> Any:
        guess = yield from Draft(state.committed, Guess.empty, 1 + state.memory % 7)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess)
        return replace(state.then(verdict), memory=state.memory + 1)


def test_what_cannot_be_compiled_is_simulated_all_the_same() -> None:
    one = simulate(Growing(1), Rate(0.8), SYSTEM, tokens=200)
    assert one.chain_tokens_per_second is None
    assert "not compiled" in str(one)
    assert reread(one) == one


# -------------------------------------------------------------------------------------------------------------- under load


def test_load_is_summed_up_over_replications() -> None:
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, TRAFFIC, objectives=Objectives(0.5), replications=3)
    for latency in (load.ttft_seconds, load.tpot_seconds, load.e2e_seconds):
        assert latency.mean_interval is not None
        assert latency.mean is not None
        low, high = latency.mean_interval
        assert low < latency.mean < high
    assert (load.requests, load.replications, load.saturation) == (200, 3, "stable")
    assert load.goodput == pytest.approx(5, rel=0.3)
    assert (load.simulated_requests_per_wall_second or 0) > 0
    assert 0 < (load.load or 0) < 0.1
    assert (load.preemptions, load.kv_share, load.extrapolated_share, load.short) == (0, None, 0, False)
    slower = simulate_traffic(Autoregressive(), Rate(0.8), FREE, TRAFFIC, objectives=Objectives(0.5), replications=3)
    assert slower.e2e_seconds.mean is not None
    assert slower.e2e_seconds.mean > 1.5 * (load.e2e_seconds.mean or 0)
    assert "means of 3 replications" in str(load)


def test_the_keys_of_load_follow_those_of_the_sequence() -> None:
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, replace(TRAFFIC, requests=20))
    one = simulate(Pearl(5), Rate(0.8), SYSTEM, tokens=100)
    both = replace(one, load=load)
    assert both.to_dict() == one.to_dict() | load.to_dict()
    assert [*both.to_dict()][-1] == "arrivals_per_second"
    assert "load" not in one.to_dict()
    assert reread(both) == both


def test_a_workload_is_the_same_in_all_replications() -> None:
    workload = Workload(np.arange(30.0), np.full(30, 100), np.full(30, 50))
    load = simulate_traffic(Autoregressive(), Rate(0.8), FREE, workload, replications=2)
    assert load.e2e_seconds.mean_interval == pytest.approx((load.e2e_seconds.mean, load.e2e_seconds.mean))
    drawn = simulate_traffic(Autoregressive(), Rate(0.8), FREE, replace(TRAFFIC, requests=30), replications=2)
    assert drawn.e2e_seconds.mean_interval != pytest.approx((drawn.e2e_seconds.mean, drawn.e2e_seconds.mean))


def test_replications_have_acceptance_draws_of_their_own() -> None:
    workload = Workload(np.arange(30.0), np.full(30, 100), np.full(30, 50))
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, workload, replications=2)
    assert load.e2e_seconds.mean_interval is not None
    assert np.ptp(load.e2e_seconds.mean_interval) > 1e-3


def test_the_simulator_is_timed_while_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the engine moves, by a second for each call that serves requests."""
    clock = [0.0]

    def served(*args: Any) -> Any:
        clock[0] += 1.0
        return simulate_serving(*args)

    def slow(*_: Any) -> float:
        clock[0] += 1000.0
        return 0.5

    monkeypatch.setattr(load_study, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(load_study, "simulate_serving", served)
    monkeypatch.setattr(load_study, "load_of", slow)
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, replace(TRAFFIC, requests=20), replications=2)
    assert load.simulated_requests_per_wall_second == 20


def test_answers_of_one_token_have_no_tpot_and_still_make_json() -> None:
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, replace(TRAFFIC, output_tokens=Lengths(1), requests=20))
    assert load.tpot_seconds.mean is load.tpot_seconds.p99 is None
    assert reread(load) == load
    assert "(TPOT)      -" in str(load)


def test_no_replication_is_refused() -> None:
    with pytest.raises(InputError, match="replications 0"):
        simulate_traffic(Pearl(5), Rate(0.8), FREE, TRAFFIC, replications=0)


def test_constants_say_nothing_about_load() -> None:
    with pytest.raises(InputError, match="constant step times make batches and prompts free"):
        simulate_traffic(Pearl(5), Rate(0.8), SYSTEM, TRAFFIC)


@pytest.mark.parametrize("strategy", [Autoregressive(), PromptLookup()], ids=str)
def test_a_strategy_without_a_draft_needs_no_draft_steps(strategy: DecodingStrategy) -> None:
    alone = System(Measured([TargetTiming(width, 1, 0, 5e-3) for width in (1, 8)], []))
    assert simulate(strategy, Rate(0.5), alone, tokens=50).tokens_per_second >= 200
    assert len(timeline(strategy, Rate(0.5), alone, rounds=3).round_tokens) == 3
    with pytest.raises(InputError, match="holds no draft steps"):
        simulate(Speculative(3), Rate(0.5), alone)


def test_what_a_reader_must_know_is_said() -> None:
    """More than the replica can finish, in a run that is too short, over more rows than were measured."""
    measured = System(Measured([TargetTiming(width, 1, 0, 5e-3) for width in (1, 8)], [DraftTiming(1, 0, 1e-3)]))
    crowded = Traffic(Arrivals(50.0), Lengths(64), Lengths(100), requests=200)
    load = simulate_traffic(Pearl(5), Rate(0.8), measured, crowded, Server(max_batch=4, kv_tokens=640))
    assert load.saturation == "overloaded"
    assert (load.load or 0) > 1
    assert load.short
    assert load.extrapolated_share > 0.5
    assert load.preemptions > 0
    assert 0.5 < (load.kv_share or 0) <= 1
    for word in ("overloaded", "too short", "extrapolated", "preemptions"):
        assert word in str(load)
    assert reread(load) == load


@pytest.mark.parametrize(
    ("gap", "said"),
    [(0.002, "within 0.0180 s (500/s)"), (2.0, "within 18.0 s (0.500/s)"), (2000.0, "within 5.00 hours (0.000500/s)")],
)
def test_how_fast_requests_arrive_is_said(gap: float, said: str) -> None:
    """So a clock in milliseconds that was read in seconds is seen."""
    ten = Workload(gap * np.arange(10.0), np.full(10, 8), np.full(10, 5))
    load = simulate_traffic(Autoregressive(), Rate(0.8), FREE, ten)
    assert load.arrivals_per_second == pytest.approx(1 / gap)
    assert f"Serving 10 requests that arrive {said}" in str(load)
    closed = simulate_traffic(Autoregressive(), Rate(0.8), FREE, ten, Server(clients=2))
    assert closed.arrivals_per_second is None
    assert "arrive" not in str(closed)


@pytest.mark.parametrize(("batch", "context", "least", "most"), [(8, 36, 0, 0), (4, 36, 0.5, 1), (8, 20, 0.5, 1)])
def test_more_sequences_or_context_than_were_measured_are_extrapolated(
    batch: int, context: int, least: float, most: float
) -> None:
    """Eight sequences, each of 16 tokens at first and of 36 at last; wide forwards were measured."""
    timings = [TargetTiming(width, 1, held, 5e-3) for width in (1, 2048) for held in (0, context)]
    measured = System(Measured([*timings, TargetTiming(1, batch, 0, 5e-3)], []))
    waiting = Traffic(None, Lengths(16), Lengths(20), requests=40)
    load = simulate_traffic(Autoregressive(), Rate(0.8), measured, waiting, Server(clients=8))
    assert least <= load.extrapolated_share <= most


def test_a_closed_loop_has_no_rho() -> None:
    waiting = Traffic(None, Lengths(16), Lengths(20), requests=40)
    load = simulate_traffic(Pearl(5), Rate(0.8), FREE, waiting, Server(clients=4))
    assert load.load is None
    assert load.requests_per_second == pytest.approx(4 / (load.e2e_seconds.mean or 0), rel=0.15)


# ------------------------------------------------------------------------------------------------------------------ tuning


def test_tuning_compares_all_that_draft_and_compile_without_forks_and_the_baseline_wins_ties() -> None:
    found = tune(Rate(0.0), SYSTEM, draft_lengths=(1, 2), tokens=0)
    drafting = {name for name, cls in available().items() if cls.drafts} - {"saguaro", "hedged", "adaptive"}
    assert found.curves.keys() == drafting | {"autoregressive"}
    assert next(iter(found.curves)) == "autoregressive"
    assert [*found.curves][-1] == "elastic"  # finds its own draft length
    assert found.curves["pearl"][0].speedup_over_ar == pytest.approx(1)  # a tie: PEARL commits one token a step at least
    assert found.best.strategy == "autoregressive"
    assert reread(found) == found


def test_tuning_takes_names_classes_and_objects() -> None:
    found = tune(Rate(0.8), SYSTEM, ["speculative", Pearl, Speculative(7), Elastic()], (4, 5), tokens=0)
    lengths = {name: [point.draft_length for point in curve] for name, curve in found.curves.items()}
    assert lengths == {
        "autoregressive": [None],
        "speculative": [4, 5, 7],
        "pearl": [4, 5],
        "elastic": [None],
    }
    assert found.best == Choice("pearl", 5, pytest.approx(2.2832, abs=1e-4))  # type: ignore[arg-type]
    printed = str(found)
    assert "Best: pearl (draft length 5), 2.28x" in printed
    (line,) = (line.split() for line in printed.splitlines() if line.strip().startswith("7 "))
    assert line == ["7", "1.73x", "-"]


def test_tuning_simulates_a_dot_for_each_point_and_tells_its_steps() -> None:
    seen: list[tuple[str, int]] = []

    def progress(steps: Any, total: int) -> Any:
        for step in steps:
            seen.append((str(step), total))
            yield step

    found = tune(Rate(0.8), SYSTEM, ["pearl"], (4, 5), tokens=4000, progress=progress)
    assert seen == [("autoregressive", 3), ("pearl (draft length 4)", 3), ("pearl (draft length 5)", 3)]
    for point in (point for curve in found.curves.values() for point in curve):
        assert point.simulated_speedup_over_ar == pytest.approx(point.speedup_over_ar, rel=0.05)


def test_only_flips_next_to_what_is_given_are_printed() -> None:
    """Two equal strategies may take turns over a whole range; the report holds all of that."""
    sides = Choice("pearl", 4, 2.0), Choice("elastic", None, 2.0)
    flips = [Flip(parameter, at, *sides) for parameter in ("acceptance", "speed_ratio") for at in (0.1, 0.3, 0.5, 0.7, 0.9)]
    found = Tuning(sides[0], {"pearl": (Point(4, 2.0),)}, tuple(flips), acceptance_rate=0.5, speed_ratio=0.2)
    nearby = [(flip.parameter, flip.at) for flip in found.flips_nearby()]
    assert nearby == [("acceptance", 0.5), ("acceptance", 0.7), ("speed_ratio", 0.1), ("speed_ratio", 0.3)]
    assert str(found).count("pearl (draft length 4) below, elastic above") == 4


@pytest.mark.parametrize("acceptance", [PerPosition((0.9, 0.7)), Hidden(np.eye(1) * 0.8, np.eye(1) * 0.2, np.ones(1))], ids=str)
def test_flips_of_acceptance_that_varies_are_mean_rates(acceptance: Any) -> None:
    found = tune(acceptance, System(Constant(1.0, 1.6, {2: 2.4, 9: 3.2})), ["pearl", "speculative"], (2,), tokens=0)
    assert found.acceptance_rate == pytest.approx(acceptance.mean_rate)
    assert any(flip.parameter == "acceptance" for flip in found.flips_nearby())


# --------------------------------------------------------------------------------------------------------------- timelines


def test_a_timeline_reads_back_and_prints_two_bars() -> None:
    shown = timeline(Pearl(4), Rate(0.8), SYSTEM, rounds=4)
    assert reread(shown) == shown
    title, target, draft, *_, idle = str(shown).splitlines()
    assert title.startswith("pearl draft_length=4: 4 rounds, ")
    assert target.count("|") == draft.count("|") == 4
    assert idle == "idle: target 0 %, draft 20 % of the time"


# ------------------------------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    "strategy", [Autoregressive(), Elastic(), Pearl(3), PromptLookup(3), Growing(1)], ids=lambda one: one.name
)
def test_built_in_strategies_simulate_as_they_compile(strategy: Any) -> None:
    simulates(strategy)


@dataclass(frozen=True)
class Forgetful(DraftingStrategy):
    """Drafts by a count that is not in its state, so that the compiler sees other rounds than a run."""

    name: ClassVar[str] = "forgetful"
    calls: list[int] = field(default_factory=list, compare=False)

    def step(self, state: Any) -> Any:
        self.calls.append(1)
        guess = yield from Draft(state.committed, Guess.empty, 2 if len(self.calls) < 10 else 4)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess)
        return state.then(verdict)


def test_a_strategy_with_a_hidden_memory_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"forgetful .*its chain says .* tok/s"):
        simulates(Forgetful())


@dataclass(frozen=True)
class Silent(DraftingStrategy):
    name: ClassVar[str] = "silent"

    def step(self, state: Any) -> Any:
        raise StrategyError
        yield


def test_a_refusal_without_a_reason_is_caught() -> None:
    with pytest.raises(AssertionError, match="does not say why"):
        simulates(Silent())


def test_every_format_has_one_class() -> None:
    formats = {cls.format: cls for cls in (Simulation, Tuning, Timeline, Validation)}
    assert [*formats] == ["specdec.simulate/1", "specdec.tune/1", "specdec.timeline/1", "specdec.validate/1"]
