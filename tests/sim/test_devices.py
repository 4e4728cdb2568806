"""Devices: the mean of a stage under jitter, races, factors of models that work together or in turn, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sim.setup.acceptance import Acceptance, Rate
from sim.setup.arrays import Floats
from sim.setup.latency import Constant
from sim.setup.measured import Measured
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.speed import plain_tokens_per_second
from sim.study.load import simulate_traffic
from sim.traffic.workload import Workload
from specdec import DecodingStrategy, InputError
from specdec.profile import DraftTiming, Slowdown, TargetTiming
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative

Speed = Callable[[DecodingStrategy, Acceptance, System], float]


@pytest.mark.parametrize(
    "system",
    [
        System(Constant(1.3e-3, 5e-3), jitter=Jitter(0.2, 0.3)),
        System(Constant(1e-3, 5e-3), shared=True, jitter=Jitter(0.1, 0.1)),
        System(Constant(1e-3, 5e-3), together=Slowdown(1.3, 1.6), jitter=Jitter(0.1, 0.3)),
        System(Constant(1e-3, 5e-3), together=Slowdown(2.5, 2.2), jitter=Jitter(0.1, 0.3)),
        System(Constant(1e-3, 5e-3), together=Slowdown(1.5, 1.2)),
        System(Constant(1e-3, 5e-3), network_seconds=6e-4, jitter=Jitter(0.1, 0.1)),
    ],
)
def test_the_mean_of_a_stage_is_that_of_drawn_ones(system: System) -> None:
    random, draws = np.random.default_rng(0), 40_000
    draft, target = float(system.draft_seconds(4)), float(system.target_seconds(5))
    found = []
    for cv, mean in ((system.jitter.draft_cv / 2, draft), (system.jitter.target_cv, target)):
        spread = np.log1p(cv**2)
        found.append(mean * random.lognormal(-spread / 2, spread**0.5, draws))
    draft, target = system.busy_seconds(*found)
    longest = draft + target if system.in_turn else np.maximum(draft + 2 * system.network_seconds, target)
    exact = [float(value) for value in system.stage(4, 5)]
    assert (longest.mean(), draft.mean(), target.mean()) == pytest.approx(exact, rel=0.003)


def test_jitter_costs_what_the_mean_of_a_maximum_costs(speed: Speed) -> None:
    still = speed(Pearl(5), Rate(0.8), System(Constant(1e-3, 5e-3)))
    for cv in (0.05, 0.1, 0.2):
        noisy = speed(Pearl(1), Rate(0.8), System(Constant(5e-3, 5e-3), jitter=Jitter(cv, cv)))
        calm = speed(Pearl(1), Rate(0.8), System(Constant(5e-3, 5e-3)))
        assert noisy / calm - 1 == pytest.approx({0.05: -0.028, 0.1: -0.053, 0.2: -0.101}[cv], abs=0.003)
    assert speed(Pearl(5), Rate(0.8), System(Constant(1e-3, 5e-3), jitter=Jitter(0.1, 0.1))) < still


def test_only_strategies_that_draft_pay_for_taking_turns(speed: Speed) -> None:
    system = System(
        Constant(1e-3, 5e-3, {5: 6e-3}),
        together=Slowdown(1.1, 1.2),
        overhead_seconds=1e-4,
        turns=Slowdown(1.2, 1.5),
        drafting_overhead_seconds=4e-4,
    )
    assert speed(Speculative(4), Rate(1.0), system) == pytest.approx(5 / (1.5 * 4e-3 + 1.2 * 6e-3 + 4e-4))
    assert speed(Pearl(4), Rate(0.0), system) == pytest.approx(1 / (5e-3 + 1.2 * 4e-3 * (1 - 1 / 1.1) + 4e-4))
    assert speed(Autoregressive(), Rate(0.5), system) == pytest.approx(1 / 5.1e-3)
    assert speed(PromptLookup(4), Rate(1.0), system) == pytest.approx(5 / 6.1e-3)
    assert float(plain_tokens_per_second(system)) == pytest.approx(1 / 5.1e-3)
    one_device = replace(system, shared=True, together=None)
    assert speed(Pearl(4), Rate(0.0), one_device) == pytest.approx(1 / (1.5 * 4e-3 + 1.2 * 5e-3 + 4e-4))


def test_a_draft_takes_its_start_once() -> None:
    table = Measured([TargetTiming(1, 1, 0, 5e-3)], [DraftTiming(1, 0, 1e-3)], draft_start=7e-4)
    assert table.draft_seconds([0, 1, 4]) == pytest.approx([0, 1.7e-3, 4.7e-3])
    assert System(table).speed_ratio == pytest.approx(5)


def test_one_device_in_turn_takes_the_sum() -> None:
    shared = System(Constant(1e-3, 5e-3), shared=True)
    assert float(shared.stage(5, 5)[0]) == pytest.approx(10e-3)
    assert float(System(Constant(1e-3, 5e-3), together=Slowdown(2, 2)).stage(5, 5)[0]) == pytest.approx(10e-3)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Constant(0.0, 1.0), "draft step"),
        (lambda: Constant(1.0, float("nan")), "target step"),
        (lambda: Constant(1.0, 1.0, {4: -1.0}), "window of 4"),
        (lambda: Jitter(-0.1), "target_cv"),
        (lambda: System(Constant(1.0, 1.0), together=Slowdown(0.9, 1.0)), "target_factor 0.9 .* work together"),
        (lambda: System(Constant(1.0, 1.0), turns=Slowdown(1.0, 0.0)), "draft_factor 0.0 is no slowdown"),
        (lambda: System(Constant(1.0, 1.0), overhead_seconds=-1.0), "overhead_seconds"),
        (lambda: System(Constant(1.0, 1.0), drafting_overhead_seconds=-1.0), "drafting_overhead_seconds"),
        (lambda: System(Constant(1.0, 1.0), shared=True, network_seconds=1.0), "two devices"),
    ],
)
def test_impossible_devices_are_refused_by_name(make: Callable[[], object], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        make()


@pytest.mark.parametrize(
    ("system", "made"),
    [
        (System(Constant(0.7, 2.1)), 3),  # 3 x 0.7 is 2.0999999999999996: a tie all the same
        (System(Constant(0.7, 2.11)), 4),
        (System(Constant(0.1, 0.02)), 1),
        (System(Constant(0.1, 9.0)), 12),
        (System(Constant(0.1, 0.5), network_seconds=0.3), 5),
        (System(Constant(0.1, 0.5), shared=True), 1),
        (System(Constant(0.1, 0.5), together=Slowdown(1.0, 2.0)), 3),
        (System(Constant(0.1, 0.5), together=Slowdown(2.0, 1.0)), 10),
    ],
)
def test_a_race_ends_with_the_token_in_progress_when_the_target_answers(system: System, made: int) -> None:
    assert system.tokens_in_race(system.draft_seconds(np.arange(1, 13)), float(system.target_seconds(1))) == made
    assert compile_strategy(Elastic(12), system).draft_steps[0, 0].tolist() == [made]


def test_plain_decoding_is_autoregressive_decoding(speed: Speed) -> None:
    system = System(Constant(1e-3, 5e-3), overhead_seconds=2e-4)
    assert float(plain_tokens_per_second(system)) == pytest.approx(speed(Autoregressive(), Rate(0.5), system))


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_latency_source_that_cannot_be_is_refused_by_name(seconds: float) -> None:
    class Odd(Constant):
        def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            return np.asarray(seconds)

    system = System(Odd(1.0, 1.0))
    for ask in (lambda: system.target_seconds(2), lambda: compile_strategy(Elastic(), system)):
        with pytest.raises(InputError, match=r"Odd gives .* correct the latency"):
            ask()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_latency_source_that_cannot_be_in_a_batch_is_refused_in_serving(seconds: float) -> None:
    class OddInBatches(Constant):
        def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            alone, size = super().target_seconds(width, batch, context), np.asarray(batch)
            return np.where(size > 1, seconds, alone)

    together = Workload(np.zeros(2), np.full(2, 8), np.full(2, 8))
    with pytest.raises(InputError, match="for a forward at batch 2"):
        simulate_traffic(Autoregressive(), Rate(0.5), System(OddInBatches(1.0, 1.0, batches_are_free=True)), together)
