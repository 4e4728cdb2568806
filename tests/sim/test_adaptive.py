"""Adaptive, simulated on answers whose acceptance changes in the middle; and that acceptance."""

from __future__ import annotations

import numpy as np
import pytest

import strategies
from sim.setup.acceptance import Acceptance, Foresight, Rate
from sim.setup.latency import Constant
from sim.setup.segments import Segments
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed
from specdec import DecodingStrategy, InputError, StrategyError

RATES, RATIOS = (0.3, 0.8, 0.95, 0.6), (2.0, 5.0, 10.0)
TOKENS = 1000
"""Of each stretch."""

SAMPLED = Foresight((0.31, 0.49, 0.60), (0.77, 0.90, 0.94))
"""The bundled pair's at temperature 1."""


def fixed() -> list[DecodingStrategy]:
    drafting = (strategies.Speculative, strategies.Pearl, strategies.Saguaro)
    return [strategies.Autoregressive(), *(of(length) for of in drafting for length in range(1, 13))]


@pytest.mark.parametrize(("guess", "branch"), [(0.0, 0.0), (0.035, 0.04)], ids=["flat", "dear"])
@pytest.mark.parametrize("foresight", [None, SAMPLED], ids=["greedy", "sampled"])
def test_twelve_regimes_that_change_in_the_middle_of_an_answer(
    foresight: Foresight | None, guess: float, branch: float
) -> None:
    """At most 3 % slower than the best choice of each regime, and faster than any one over all, in target steps.

    Guesses and branches cost nothing, or what they do on the bundled pair. Closed forms that know the speed ratio alone are
    14 to 29 % slower there at ratios of 5 and 10.
    """

    def seen(acceptance: Acceptance) -> Acceptance:
        return acceptance if foresight is None else acceptance.foreseeing(foresight)

    laps, adaptive, of_each = 2, 0.0, np.zeros((len(fixed()), 0))
    for ratio in RATIOS:
        windows, branched = {101: 1 + 100 * guess}, {101: 1 + 100 * branch}
        system = System(Constant(1 / ratio, 1.0, windows, branched=branched))
        compiled = [compile_strategy(strategy, system) for strategy in fixed()]
        speeds = [
            [float(long_run_speed(one, seen(Rate(rate)), system).tokens_per_second) for rate in RATES] for one in compiled
        ]
        of_each = np.hstack((of_each, TOKENS / np.array(speeds)))
        text = seen(Segments([(TOKENS, rate) for rate in RATES]))
        found = run_stream(strategies.Adaptive(), text, system, tokens=laps * TOKENS * len(RATES)).seconds / laps
        assert found < 1.03 * of_each[:, -len(RATES) :].min(axis=0).sum()
        adaptive += found
    assert adaptive < of_each.sum(axis=1).min()


def test_short_answers_at_the_assumed_rate() -> None:
    """A few rejections at the start say little. Step times and foresight of the bundled pair in float32, sampled."""
    system = System(Constant(1 / 6, 1.0, {2: 1.16, 5: 1.36, 9: 1.45}, branched={3: 1.47, 9: 1.68, 18: 2.28}))

    def seconds(strategy: DecodingStrategy) -> float:
        text = Rate(0.8).foreseeing(SAMPLED)
        return sum(run_stream(strategy, text, system, tokens=64, request=number).seconds for number in range(60))

    assert seconds(strategies.Adaptive()) < 1.03 * min(seconds(strategies.Saguaro(3)), seconds(strategies.Pearl(6)))


def test_segments_have_their_own_rates() -> None:
    segments = Segments([(1000, 0.2), (3000, 0.9)])
    runs = segments.draws(np.random.default_rng(1), 8000)
    passed = (runs > 0).astype(float)
    means = [passed[start:end].mean() for start, end in ((0, 1000), (1000, 4000), (4000, 5000), (5000, 8000))]
    assert means == pytest.approx([0.2, 0.9, 0.2, 0.9], abs=0.04)
    assert [segments.rate_at(position) for position in (0, 999, 1000, 3999, 4000)] == [0.2, 0.2, 0.9, 0.9, 0.2]
    assert segments.foreseen_at(998, 1, 1, True) == pytest.approx(0.2)
    assert segments.foreseen_at(998, 2, 1, True) == pytest.approx(0.9)
    assert segments.foreseeing(SAMPLED).foreseen_at(0, 0, 2, False) == 0.49
    assert segments.at_odds(1.0) == segments


def test_segments_have_no_long_run() -> None:
    system = System(Constant(1.0, 5.0))
    with pytest.raises(StrategyError, match="no long run: simulate it by events"):
        long_run_speed(compile_strategy(strategies.Pearl(3), system), Segments([(10, 0.5)]), system)


@pytest.mark.parametrize("segments", [[], [(0, 0.5)], [(5, 1.5)]])
def test_segments_that_are_not_possible_are_refused(segments: list[tuple[int, float]]) -> None:
    with pytest.raises(InputError, match=r"segments|acceptance rate"):
        Segments(segments)
