"""Requests: the drawn ones have the law that was asked for, and impossible ones are refused."""

from __future__ import annotations

import numpy as np
import pytest

from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec import InputError


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.5])
def test_gaps_have_the_rate_and_the_cv_that_were_asked_for(cv: float) -> None:
    times = Arrivals(5.0, cv).seconds(200_000, np.random.default_rng(0))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 5, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02, abs=1e-9)


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.5])
def test_lengths_have_the_mean_and_the_cv_that_were_asked_for(cv: float) -> None:
    tokens = Lengths(200, cv).tokens(200_000, np.random.default_rng(0))
    assert tokens.min() >= 1
    assert tokens.mean() == pytest.approx(200, rel=0.02)
    assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


def test_a_seed_fixes_the_workload_and_lengths_do_not_move_arrivals() -> None:
    def drawn(seed: int, output: Lengths) -> Workload:
        return Traffic(Arrivals(3.0), Lengths(100, 1.0), output, 50).workload(np.random.SeedSequence(seed))

    once, again, other = drawn(1, Lengths(20, 1.0)), drawn(1, Lengths(20, 1.0)), drawn(2, Lengths(20, 1.0))
    assert np.array_equal(once.arrival_seconds, again.arrival_seconds)
    assert np.array_equal(once.output_tokens, again.output_tokens)
    assert not np.array_equal(once.arrival_seconds, other.arrival_seconds)
    longer = drawn(1, Lengths(40, 0.5))
    assert np.array_equal(once.arrival_seconds, longer.arrival_seconds)
    assert np.array_equal(once.input_tokens, longer.input_tokens)


def test_impossible_settings_are_refused() -> None:
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="arrival rate"):
            Arrivals(bad)
    with pytest.raises(InputError, match="requests 0"):
        Traffic(Arrivals(1.0), Lengths(10), Lengths(10), 0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cv"):
            Arrivals(1.0, bad)
        with pytest.raises(InputError, match="cv"):
            Lengths(10, bad)
    with pytest.raises(InputError, match="mean length"):
        Lengths(0)
    with pytest.raises(InputError, match="request 1 arrives before"):
        Workload(np.array([1.0, 0.5]), np.array([1, 1]), np.array([1, 1]))
    with pytest.raises(InputError, match="differ in shape"):
        Workload(np.array([1.0]), np.array([1, 1]), np.array([1, 1]))
    with pytest.raises(InputError, match=r"request 1: output_tokens is 1e\+20: give at most 1e\+12"):
        Workload(np.array([0.0, 0.5]), np.array([1, 1]), np.array([1, 1e20]))
