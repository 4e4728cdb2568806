"""Ratios of speeds within each repeat, and their bootstrap intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from specdec.bench import Speed, compared
from specdec.bench.compare import compared_by_prompt


def speeds(seconds: Any, faster: float = 1.0) -> Speed:
    seconds = np.asarray(seconds, float)
    return Speed(np.full(seconds.shape, 10.0), seconds / faster)


def test_a_machine_that_slows_down_between_repeats_changes_no_ratio() -> None:
    slow = np.array([[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]])
    ratio, interval = compared(speeds(slow, faster=1.5), speeds(slow))
    assert ratio == pytest.approx(1.5)
    assert interval == pytest.approx((1.5, 1.5))


def test_one_disturbed_repeat_changes_no_ratio() -> None:
    """Comparing each one's median repeat would say 0.9: the hiccup in the third makes the slow second ours, not theirs."""
    slow = np.array([[1.0], [5.0], [3.0]])
    hiccup = np.array([[1.0], [1.0], [10.0]])
    assert compared(speeds(slow * hiccup, faster=1.5), speeds(slow))[0] == pytest.approx(1.5)


def test_the_ratio_is_that_of_all_tokens_over_all_seconds() -> None:
    """Averaging the ratios of prompts instead would say 1.25: the long prompt counts for more."""
    ratio, _ = compared(speeds([[1.0, 9.0]]), speeds([[2.0, 4.5]]))
    assert ratio == pytest.approx(0.65)


def test_each_prompt_has_the_median_of_its_own_ratios() -> None:
    ours, theirs = speeds([[1.0, 9.0], [2.0, 1.0], [5.0, 2.0]]), speeds([[2.0, 9.0], [2.0, 4.0], [2.0, 4.0]])
    assert compared_by_prompt(ours, theirs) == (1.0, 2.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        ours, theirs = (random.lognormal(0, 0.2, (5, 12)) for _ in range(2))
        low, high = compared(speeds(ours, faster=1.2), speeds(theirs))[1] or (0, 0)
        held += low < 1.2 < high
    assert 85 <= held <= 100


def test_fewer_than_three_repeats_have_no_interval() -> None:
    random = np.random.default_rng(3)
    for repeats in (1, 2, 3):
        ratio, interval = compared(*(speeds(random.lognormal(0, 0.2, (repeats, 4))) for _ in range(2)))
        assert ratio > 0
        assert (interval is None) == (repeats < 3)


def test_the_interval_shrinks_with_less_noise() -> None:
    random = np.random.default_rng(2)

    def width(noise: float) -> float:
        ours, theirs = (speeds(random.lognormal(0, noise, (3, 8))) for _ in range(2))
        low, high = compared(ours, theirs)[1] or (0, 0)
        return high - low

    assert width(0.02) < width(0.4) / 4
