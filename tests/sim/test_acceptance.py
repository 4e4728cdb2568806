"""Models of acceptance: exact sums against drawn ones, conversions by definition, and impossible ones refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov, mean_length, recorded
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed
from specdec import DecodingStrategy, InputError
from strategies import Pearl, PromptLookup, Speculative

Speed = Callable[[DecodingStrategy, Acceptance, System], float]


def test_other_models_become_a_rate_when_they_should(speed: Speed) -> None:
    system, runs = System(Constant(1e-3, 5e-3)), {length: 0.8**length * 1e9 for length in range(120)}
    for strategy in (Speculative(4), Pearl(5)):
        expected = speed(strategy, Rate(0.8), system)
        for model in (markov(0.8, 0.8), PerPosition((0.8,)), recorded({k: round(v) for k, v in runs.items()})):
            assert speed(strategy, model, system) == pytest.approx(expected, rel=1e-6)


CORRELATED = {
    "markov": markov(0.9, 0.45),
    "per position": PerPosition((0.9, 0.7, 0.5)),
    "recorded": recorded({0: 30, 1: 5, 2: 8, 7: 20, 12: 4}),
}


@pytest.mark.parametrize("model", CORRELATED.values(), ids=CORRELATED.keys())
@pytest.mark.parametrize("strategy", [Speculative(3), Pearl(3), PromptLookup(3)], ids=lambda strategy: strategy.name)
def test_correlated_acceptance_is_summed_exactly(strategy: DecodingStrategy, model: Acceptance, speed: Speed) -> None:
    system = System(Constant(1e-3, 4e-3))
    tokens = 40_000 if model is CORRELATED["markov"] else 8_000
    run = run_stream(strategy, model, system, tokens=tokens)
    bound = 0.02 * (40_000 / tokens) ** 0.5
    assert run.tokens_per_second == pytest.approx(speed(strategy, model, system), rel=bound)


@pytest.mark.parametrize("model", CORRELATED.values(), ids=CORRELATED.keys())
@pytest.mark.parametrize("tests", [0, 1, 3, 8])
def test_from_each_position_as_many_pass_as_from_that_one(model: Acceptance, tests: int) -> None:
    draws = model.draws(np.random.default_rng(1), 50)
    one_by_one = [int(model.accepted(draws, position, tests)) for position in range(50)]
    assert model.accepted_from_each(draws, tests).tolist() == one_by_one
    assert model.accepted_from_each(draws, 8).max() > 3


def test_recorded_runs_come_back_as_often_as_they_were_recorded() -> None:
    runs = {0: 30, 1: 5, 2: 8, 7: 20}
    draws = recorded(runs).draws(np.random.default_rng(3), 100_000)
    starts = np.append(0, np.flatnonzero(draws[:-1] == 0) + 1)  # behind each rejection, and at the beginning
    lengths, counts = np.unique(draws[starts[:-1]], return_counts=True)
    expected = {length: count / 63 for length, count in runs.items()}
    assert dict(zip(lengths.tolist(), (counts / counts.sum()).tolist(), strict=True)) == pytest.approx(expected, abs=0.01)


def test_markov_acceptance_is_stationary_and_remembers_one_position() -> None:
    model, random = markov(0.9, 0.4), np.random.default_rng(5)
    first = np.array([model.draws(random, 1)[0] > 0 for _ in range(20_000)])
    assert first.mean() == pytest.approx(0.4 / (1 - 0.9 + 0.4), abs=0.01)
    bits = model.draws(random, 100_000) > 0
    assert bits[1:][bits[:-1]].mean() == pytest.approx(0.9, abs=0.01)
    assert bits[1:][~bits[:-1]].mean() == pytest.approx(0.4, abs=0.01)


def test_mean_lengths_are_converted_by_their_definition() -> None:
    for a, g in ((0.0, 3), (0.5, 4), (0.83, 7), (1.0, 2)):
        reported = float(long_run_speed(compile_strategy(Speculative(g)), Rate(a), System(Constant(1.0, 1.0))).tokens_per_round)
        assert mean_length(reported, g).rate == pytest.approx(a, abs=1e-9)
    assert mean_length(5.0).rate == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Rate(1.2), "1.2"),
        (lambda: Rate(float("nan")), "nan"),
        (lambda: PerPosition((0.5, -0.1)), "position 1"),
        (lambda: PerPosition(()), "at least one"),
        (lambda: markov(1.0, 0.0), "never mixes"),
        (lambda: recorded({}), "no run"),
        (lambda: recorded({-1: 2}), "negative"),
        (lambda: mean_length(0.5), "0.5"),
        (lambda: mean_length(7, 4), "between 1 and 5"),
    ],
)
def test_impossible_acceptance_is_refused_by_name(make: Callable[[], object], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_odds_are_multiplied_in_every_state_and_position() -> None:
    model = markov(0.9, 0.4)
    better = model.at_odds(3.0)
    passing = model.passes.sum(axis=1)
    assert better.passes.sum(axis=1) == pytest.approx(3 * passing / (3 * passing + 1 - passing))
    assert (better.passes + better.fails).sum(axis=1) == pytest.approx(1)
    assert markov(0.9, 0.4).mean_rate == pytest.approx(0.8)
    assert recorded({0: 1, 4: 1}).mean_rate == pytest.approx(4 / 6)  # two runs and their two rejections
    assert PerPosition((0.5, 0.8)).at_odds(3.0).rates == pytest.approx([0.75, 12 / 13])
    assert Rate(0.5).at_odds(np.array([1.0, 4.0])).rate == pytest.approx([0.5, 0.8])
