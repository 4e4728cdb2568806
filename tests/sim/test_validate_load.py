"""Load that is played on a tiny pair and simulated from its profile: what is compared, and what is said of a busy machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from tiny_models import minuscule

from sim import Rate, Server
from sim.setup.arrays import Floats
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.study.load_report import Compared, LoadPoint, LoadValidation
from sim.study.pace import STEADY
from sim.study.validate_load import at_own_pace, quantities, simulated, validate_load
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec import DecodingStrategy, InputError, Pair, create
from specdec.bench import serving
from specdec.profile import BatchRounds, Slowdown
from specdec.runtime.lane import InlineLane
from specdec.testing.models import resembling
from strategies import Autoregressive, Pearl, Speculative


@pytest.fixture(scope="module")
def found() -> LoadValidation:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        chosen = [create("autoregressive"), create("pearl", draft_length=2)]
        return validate_load(pair, chosen, [[1, 2, 3], [4, 5]], loads=(0.5,), batch_size=2, requests=4, tokens=6, repeats=1)


@pytest.mark.parametrize("steps", [2, 6])
def test_a_person_who_ends_it_early_keeps_whole_repeats(steps: int) -> None:
    def ended(all_steps: Iterable[Any], total: int) -> Iterator[Any]:
        yield from islice(all_steps, steps)
        raise KeyboardInterrupt

    target = minuscule(16, seed=3)
    numbers: dict[str, Any] = {"loads": (0.5,), "batch_size": 2, "requests": 2, "tokens": 3, "repeats": 3, "progress": ended}
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        if steps == 2:  # the first strategy was played once, and no other; after 6 it was played twice
            with pytest.raises(KeyboardInterrupt):
                validate_load(pair, [Autoregressive(), Pearl(2)], [[1, 2, 3]], **numbers)
            return
        found = validate_load(pair, [Autoregressive(), Pearl(2)], [[1, 2, 3]], **numbers)
    assert (found.interrupted, found.repeats) == (True, 1)
    assert all(len(one.repeats) == len(point.pace) == 1 for point in found.points for one in point.compared)


def test_every_quantity_is_predicted_and_measured(found: LoadValidation) -> None:
    assert [(point.strategy, point.load) for point in found.points] == [("autoregressive", 0.5), ("pearl", 0.5)]
    for point in found.points:
        assert len(point.compared) == 7
        assert all(one.error == one.predicted / one.measured - 1 for one in point.compared)
        assert all(one.repeats == (one.measured,) for one in point.compared)
        assert all(one.error_at_pace == one.at_pace[0] / one.measured - 1 for one in point.compared)
        assert len(point.pace) == len(point.pace_variation) == 1
    assert any(one.chance > 0 for one in found.points[1].compared)  # some guesses are accepted, others are not
    assert all(one.elasticity is not None for point in found.points for one in point.compared)
    assert found.profile is not None
    assert found.profile.pair.target
    assert found.profile.hardware is not None
    assert found.profile.date
    assert found.profile.versions["torch"]
    assert LoadValidation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)), "the test") == found


def test_the_pace_is_that_of_the_seconds_of_work_that_were_played(monkeypatch: pytest.MonkeyPatch) -> None:
    real, told = serving.play, []

    def slow(*arguments: Any, **options: Any) -> serving.Played:
        played = real(*arguments, **options)
        played.steps[-1] = replace(played.steps[-1], end_seconds=played.steps[-1].end_seconds + 1000)
        told.append(played)
        return played

    monkeypatch.setattr(serving, "play", slow)
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        numbers: dict[str, Any] = {"loads": (0.5,), "batch_size": 2, "requests": 2, "tokens": 3, "repeats": 1}
        found = validate_load(pair, [Autoregressive()], [[1, 2, 3]], **numbers)
    assert len(told) == 2  # the first warms up
    [pace] = found.points[0].pace
    assert pace > 1000


def test_errors_are_signed_and_a_busy_machine_is_named_instead(found: LoadValidation) -> None:
    said = str(replace(found, busy=0.0))
    assert "Mean error" in said
    assert f"{100 * found.points[0].compared[0].error:+.1f} %" in said
    said = str(replace(found, busy=0.4))
    assert "Mean error" not in said
    assert "The machine was busy with other work: 40 %" in said


def test_what_remains_at_the_pace_of_the_runs_is_said(found: LoadValidation) -> None:
    """By hand: one quantity 20 % off, 4 % at the pace of a run that took 1.15 times as long."""
    one = Compared("ttft_mean", 0.8, 1.0, -0.2, (1.0,), (0.96,), -0.04)
    said = " ".join(
        str(LoadValidation(4, 10, 1, 0.0, (LoadPoint("pearl", {}, 0.5, 1.0, 0.0, (one,), (1.15, 0.9), (0.02, 0.3)),))).split()
    )
    assert "(-4.0 %)" in said
    assert "Seconds of work in a run were off the prediction by -10.0 to +15.0 %." in said
    assert "Within a run, the machine's speed varied by 2.0 to 30.0 % (standard deviation)." in said
    assert "At the pace of each run, the mean error is 4.0 %, largest -4.0 %." in said
    assert "At the pace" not in str(replace(found, points=tuple(replace(point, pace=()) for point in found.points)))


def test_what_queues_multiply_is_said() -> None:
    def point(**growth: float) -> LoadPoint:
        names = [(f"{name}_{kind}", more) for name, more in growth.items() for kind in ("mean", "p90")]
        found = [Compared(name, 1.0, 1.0, 0.0, elasticity=more) for name, more in (*names, ("output_tokens_per_second", 9.0))]
        return LoadPoint("pearl", {}, 0.5, 1.0, 0.0, tuple(found))

    points = point(ttft=4.66, tpot=1.1, e2e=2.0), point(ttft=3.0, tpot=1.2, e2e=2.0)
    said = " ".join(str(LoadValidation(4, 10, 1, 0.0, points)).split())
    assert "if all work takes 1 % longer, TPOT grows by up to 1.2 % (mean) and 1.2 % (P90), E2E by 2.0 % and 2.0 %, " in said
    assert "TTFT by 4.7 % and 4.7 %." in said
    unknown = LoadPoint("pearl", {}, 0.5, 1.0, 0.0, (Compared("ttft_mean", 1.0, 1.0, 0.0),))
    assert "multiply" not in str(LoadValidation(4, 10, 1, 0.0, (unknown,)))


def test_quantities_are_those_of_serving_benchmarks() -> None:
    submitted, first, finish = np.array([0.0, 1.0]), np.array([1.0, 4.0]), np.array([3.0, 4.0])
    assert quantities(submitted, first, finish, np.array([5, 1])) == {
        "ttft_mean": 2.0,
        "ttft_p90": 3.0,
        "tpot_mean": 0.5,
        "tpot_p90": 0.5,
        "e2e_mean": 3.0,
        "e2e_p90": 3.0,
        "output_tokens_per_second": 1.5,
    }


def test_what_is_measured_is_the_median_of_repeats_which_are_kept() -> None:
    one = Compared("ttft_mean", 1.0, 2.0, -0.5, (1.0, 2.0, 4.0))
    assert one.scatter == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    assert Compared("ttft_mean", 1.0, 2.0, -0.5).scatter == 0.0
    said = str(LoadValidation(4, 10, 3, 0.0, (LoadPoint("pearl", {}, 0.5, 1.0, 0.0, (one,)),)))
    assert "A repeat is off the median of all by 50.0 %, at most 50.0 %." in said


def test_the_pace_of_a_slower_machine_is_found_and_explains_its_times() -> None:
    """A run on a machine that takes 1.15 times as long, at 0.7 of what it can do: its pace is found from its work alone."""
    system, server = System(Constant(1e-3, 10e-3, batches_are_free=True)), Server(max_batch=4, runtime="specdec")
    chain = compile_strategy(Speculative(3), system)
    workload = Traffic(Arrivals(6.0), Lengths(8), Lengths(60, 0.5), 60).workload(np.random.SeedSequence(1))
    slower = System(Constant(1.15e-3, 11.5e-3, batches_are_free=True))
    alike = partial(simulated, chain, Rate(0.7), system, workload, server)
    run = simulated(compile_strategy(Speculative(3), slower), Rate(0.7), slower, workload, server)
    predicted, measured = alike(), run.quantities
    assert 0.01 < predicted.deviations["tpot_mean"] / predicted.quantities["tpot_mean"] < 0.05
    assert predicted.quantities["ttft_mean"] < 0.85 * measured["ttft_mean"]
    pace, found = at_own_pace(alike, run.working_seconds, STEADY)
    assert pace == pytest.approx(1.15, rel=3e-3)
    assert found.quantities == pytest.approx(measured, rel=1e-2)


def test_chance_alone_is_said() -> None:
    """By hand: one run deviates by 10 %, the mean of four by 5 %. So an error of 10 % is one deviation, and two."""
    one = Compared("ttft_p90", 1.0, 1.0, 0.0, error_at_pace=0.0, chance=0.1)
    assert [one.beyond(0.1, repeats) for repeats in (1, 4)] == pytest.approx([0.3173, 0.0455], abs=1e-4)
    assert replace(one, chance=0.0).beyond(0.1, 4) == 0.0
    throughput = replace(one, quantity="output_tokens_per_second")
    found = LoadValidation(4, 10, 1, 0.0, (LoadPoint("pearl", {}, 0.5, 1.0, 0.0, (one, throughput), (1.0,)),))
    assert found.beyond_by_chance(0.1, 4) == pytest.approx(0.0455, abs=1e-4)
    assert "By chance alone, 0.3 of the 1 latencies of a perfect simulator" in " ".join(str(found).split())


def test_what_cannot_be_validated_is_refused() -> None:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        with pytest.raises(InputError, match="loads between 0 and 1"):
            validate_load(pair, loads=(1.2,))
        with pytest.raises(InputError, match="batch_size 0"):
            validate_load(pair, batch_size=0)
    with pytest.raises(InputError, match="specdec has no kv_tokens"):
        Server(runtime="specdec", kv_tokens=1000)
    with pytest.raises(InputError, match="unknown runtime"):
        Server(runtime="other")  # type: ignore[arg-type]


class Known:
    """Every slot, position and token of context costs something."""

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        steps, sequences, _ = np.broadcast_arrays(tokens, batch, context)
        return steps * (1e-3 + 2e-4 * sequences)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        positions, sequences, held = (np.asarray(x, float) for x in (width, batch, context))
        return np.where(positions > 0, 5e-3 + 1e-3 * positions * sequences + 1e-4 * sequences * held, 0.0)


@pytest.mark.parametrize("clients", [None, 3])
@pytest.mark.parametrize("acceptance", [0.0, 1.0])
@pytest.mark.parametrize("name", ["autoregressive", "speculative", "pearl"])
def test_the_simulated_runtime_is_the_real_one(
    name: str, acceptance: float, clients: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `Batch` and lanes, on a clock that only forwards move, by known seconds; nothing is left to chance."""
    clock, system, submit = SimpleNamespace(now=0.0), System(Known(), shared=True), InlineLane.submit
    strategy = create(name) if name == "autoregressive" else create(name, draft_length=3)
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:

        def seconds(lane: InlineLane, method: str, arguments: Any) -> float:
            ours = lane is pair.target_lane()
            if method == "begin":
                return float(Known().target_seconds(len(arguments[1]))) / (1 if ours else system.speed_ratio)
            requests = arguments[0]
            slots = [request.slot for request in requests]
            span = max(slots) - min(slots) + 1
            if method == "draft":
                return float(Known().draft_seconds(max(request.length for request in requests), span))
            texts = [len(request.context) - request.positions + 1 for request in requests]
            return float(Known().target_seconds(max(request.positions for request in requests), span, max(texts)))

        def timed(lane: InlineLane, method: str, *arguments: Any) -> Any:
            wait = submit(lane, method, *arguments)

            def waited() -> Any:
                clock.now += seconds(lane, method, arguments)
                return wait()

            return waited

        def sleep(seconds: float) -> None:
            clock.now += seconds + 1e-12

        monkeypatch.setattr(InlineLane, "submit", timed)
        monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep))
        drawn = Traffic(Arrivals(40.0), Lengths(8, 0.5), Lengths(7, 0.5), 25).workload(np.random.SeedSequence(1))
        rows = zip(drawn.arrival_seconds.tolist(), drawn.input_tokens.tolist(), drawn.output_tokens.tolist(), strict=True)
        asked = [serving.Request(at, [1] * prompt, output) for at, prompt, output in rows]
        forced = f"synthetic:{acceptance:g}"
        played = serving.play(pair, strategy, asked, batch_size=4, clients=clients, verification=forced)
        found = played.answers
    server = Server(max_batch=4, clients=clients, runtime="specdec")
    expected = simulate_serving(compile_strategy(strategy, system), Rate(acceptance), system, drawn, server)
    for ours, theirs in (
        ([one.submitted_seconds for one in found], expected.submitted_seconds),
        ([one.first_token_seconds for one in found], expected.first_token_seconds),
        ([one.finish_seconds for one in found], expected.finish_seconds),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert played.working_seconds == pytest.approx(float(expected.iterations.seconds.sum()), rel=1e-6)  # they are float32


@pytest.mark.parametrize(
    ("strategy", "seconds"),
    [
        (Autoregressive(), 10e-3 + 3e-4),
        (Speculative(3), 3e-3 * 1.5 + 10e-3 * 1.2 + 7e-4),
        (Pearl(3), 10e-3 + 3e-3 * 1.4 * (1 - 1 / 1.4) + 7e-4),  # the target is slower while the draft works
    ],
    ids=["autoregressive", "speculative", "pearl"],
)
def test_rounds_of_a_batch_take_what_was_measured_of_batches(strategy: DecodingStrategy, seconds: float) -> None:
    """Nine sequences whose guesses all pass: between the slowdowns of one sequence and of 17, in the middle."""
    many = BatchRounds(17, 1.3, 1.7, 1.5, 1.6, 5e-4, 13e-4)
    system = System(
        Constant(1e-3, 10e-3, batches_are_free=True),
        together=Slowdown(1.3, 1.2),
        turns=Slowdown(1.1, 1.3),
        overhead_seconds=1e-4,
        drafting_overhead_seconds=1e-4,
        batches=(many,),
    )
    workload = Workload(np.zeros(9), np.full(9, 8), np.full(9, 401))
    server = Server(max_batch=17, runtime="specdec")
    found = simulate_serving(compile_strategy(strategy, system), Rate(1.0), system, workload, server)
    assert np.median(found.iterations.seconds) == pytest.approx(seconds, rel=1e-6)
