"""The pace of a machine in a run: found from its steps, and what a queue becomes at it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from sim import Rate, Server
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.study.pace import STEADY, WINDOW, Pace
from sim.study.validate_load import at_own_pace, elasticities, quantities, simulated
from sim.traffic.workload import Arrivals, Lengths, Traffic
from specdec.bench.serving import Step
from strategies import Autoregressive

SECONDS = {1: 1.0, 2: 1.5, 3: 3.0}
"""Of a step, by its sequences."""


def cost(sequences: int, delivered: bool) -> float:
    """Seconds of a step at pace 1: one that delivers nothing takes a tenth."""
    return SECONDS[sequences] * (1.0 if delivered else 0.1)


def steps(paces: Sequence[float], *, prompt_seconds: float = 0.0) -> list[Step]:
    """Steps of one and two sequences in turn, `WINDOW` at each pace; more of three where the machine is slow."""
    found: list[Step] = []
    now = 0.0
    for pace in paces:
        for number in range(WINDOW):
            sequences, delivered = 3 if pace > 1 and number % 5 else 1 + number % 2, number % 3 > 0
            end = now + pace * cost(sequences, delivered) + prompt_seconds
            found.append(Step(now, end, prompt_seconds, sequences, delivered))
            now = end + 0.25  # idle
    return found


@pytest.mark.parametrize("prompt_seconds", [0.0, 7.0])
def test_the_pace_is_told_apart_from_what_steps_cost(prompt_seconds: float) -> None:
    """Steps of three sequences are slow, and there are more of them where the machine is slow."""
    given = [1.0, 2.0, 0.5, 1.2]
    taken = steps(given, prompt_seconds=prompt_seconds)
    found = Pace.of(taken)
    np.testing.assert_allclose(found.paces / found.paces[0], given, rtol=1e-6)
    np.testing.assert_allclose(found.ends, [taken[WINDOW * (1 + window) - 1].end_seconds for window in range(4)])
    costs = np.array([cost(step.sequences, step.delivered) for step in taken])
    seconds = np.array([step.end_seconds - step.begin_seconds - step.prompt_seconds for step in taken])
    assert found.paces[0] == pytest.approx(costs.sum() / seconds.sum())  # 1 on average
    assert found.variation == pytest.approx(np.std(given) / np.mean(given))


@pytest.mark.parametrize("count", [1, WINDOW - 1, 2 * WINDOW - 1])
def test_fewer_steps_than_a_window_have_one_pace(count: int) -> None:
    found = Pace.of(steps([1.0, 2.0])[:count])
    assert len(found.paces) == 1
    assert found.paces[0] == pytest.approx(1.0)
    assert found.variation == 0.0


def test_seconds_pass_at_the_pace_of_their_window() -> None:
    """By hand: at level 2, one second of the profiles takes 1 s up to second 4, then 4 s up to 12, then 2 s."""
    pace = Pace(np.array([4.0, 12.0]), np.array([0.5, 2.0]), level=2.0)
    wall, machine = np.array([0.0, 1.0, 4.0, 8.0, 12.0, 14.0]), np.array([0.0, 1.0, 4.0, 5.0, 6.0, 7.0])
    np.testing.assert_allclose(pace.machine(wall), machine)
    np.testing.assert_allclose(pace.wall(machine), wall)
    np.testing.assert_allclose(STEADY.machine(wall), wall)
    assert STEADY.variation == 0.0


def test_a_queue_on_a_machine_that_changes_its_speed_is_explained() -> None:
    """One request at a time, a token in 10 ms, but twice as long from second 5 to second 9: computed here step by step."""
    system, server = System(Constant(1e-3, 10e-3, batches_are_free=True)), Server(max_batch=1, runtime="specdec")
    workload = Traffic(Arrivals(2.0), Lengths(8), Lengths(30, 0.5), 40).workload(np.random.SeedSequence(1))
    chain = compile_strategy(Autoregressive(), system)
    alike = partial(simulated, chain, Rate(0.5), system, workload, server)
    steady = alike()
    prompt = steady.working_seconds / len(workload) - 10e-3 * float(workload.output_tokens.mean())

    taken: list[Step] = []
    first, finish, now = [], [], 0.0
    for arrival, tokens in zip(workload.arrival_seconds.tolist(), workload.output_tokens.tolist(), strict=True):
        now = max(now, arrival)
        for token in range(tokens):
            reading = prompt if token == 0 else 0.0
            slower = 2.0 if 5.0 <= now < 9.0 else 1.0
            end = now + slower * (10e-3 + reading)
            taken.append(Step(now, end, slower * reading, 1, True))
            now = end
            first += [now] if token == 0 else []
        finish.append(now)
    measured = quantities(workload.arrival_seconds, np.array(first), np.array(finish), workload.output_tokens)
    working = sum(step.end_seconds - step.begin_seconds for step in taken)
    assert steady.quantities["ttft_mean"] < 0.6 * measured["ttft_mean"]
    level, found = at_own_pace(alike, working, STEADY)
    assert abs(found.quantities["ttft_p90"] / measured["ttft_p90"] - 1) > 0.15  # one pace for the whole run says too little
    level, found = at_own_pace(alike, working, Pace.of(taken))
    assert level == pytest.approx(working / steady.working_seconds, rel=0.02)
    assert found.quantities == pytest.approx(measured, rel=0.05)  # a window may begin at one speed and end at another


def test_a_queue_multiplies_what_work_takes_longer() -> None:
    """One request at a time: a token takes as much longer as all work does, and a wait for others far more."""
    system, server = System(Constant(1e-3, 10e-3, batches_are_free=True)), Server(max_batch=1, runtime="specdec")
    workload = Traffic(Arrivals(2.0), Lengths(8), Lengths(30, 0.5), 40).workload(np.random.SeedSequence(1))
    alike = partial(simulated, compile_strategy(Autoregressive(), system), Rate(0.5), system, workload, server)
    found = elasticities(alike, alike())
    assert found["tpot_mean"] == pytest.approx(1.0, rel=1e-6)
    assert found["ttft_mean"] > 1.5
    assert 1 < found["e2e_mean"] < found["ttft_mean"]
