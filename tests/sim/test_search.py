"""The searches: the best draft length, where verdicts flip, and the published speed-ups."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.optimize import brentq

from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov, recorded
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.study.search import acceptance_flips, best_of, candidates, speed_ratio_flips
from strategies import Autoregressive, Elastic, Pearl, Speculative


@pytest.mark.parametrize(
    ("a", "expected"),
    [(0.5, (1.13, 1.06, 0.91)), (0.7, (1.23, 1.14, 0.98)), (0.9, (1.32, 1.32, 1.22))],
)
def test_pearl_over_the_best_tuned_speculative(a: float, expected: tuple[float, ...]) -> None:
    for c, ratio in zip((3, 5, 10), expected, strict=True):
        system = System(Constant(1 / c, 1.0))
        pearl, speculative = (best_of(candidates(cls.name, cls, range(1, 24)), Rate(a), system) for cls in (Pearl, Speculative))
        assert pearl.speedup_over_ar / speculative.speedup_over_ar == pytest.approx(ratio, abs=0.006)


def test_the_best_draft_length_of_pearl_is_the_speed_ratio() -> None:
    """Paper, section 4.3: at draft length c neither model waits."""
    for c in (2, 3, 4, 5, 8):
        assert best_of(candidates("pearl", Pearl), Rate(0.8), System(Constant(1 / c, 1.0))).draft_length == c


def test_verdicts_flip_where_the_speeds_cross() -> None:
    system = System(Constant(1.0, 1.6, {2: 2.4, 9: 3.2}))
    makers = {"autoregressive": Autoregressive(), "speculative": Speculative, "pearl": Pearl}
    found = [one for name, maker in makers.items() for one in candidates(name, maker, range(1, 9))]
    flips = acceptance_flips(found, Rate(1.0), system)
    assert flips[0].below.strategy == "autoregressive"
    for flip in flips:
        for side, at in ((flip.below, flip.at - 1e-4), (flip.above, flip.at + 1e-4)):
            assert best_of(found, Rate(at), system).strategy == side.strategy
    ratio = speed_ratio_flips(found, Rate(0.6), System(Constant(0.2, 1.0)))
    for flip in ratio:
        for side, at in ((flip.below, flip.at * 0.999), (flip.above, flip.at * 1.001)):
            assert best_of(found, Rate(0.6), System(Constant(1 / at, 1.0))).strategy == side.strategy
    assert ratio


def test_a_race_is_compiled_anew_at_every_speed_ratio() -> None:
    """Against PEARL with lengths up to 4, elastic wins where more than 4 tokens are done in time."""
    makers = {"pearl": Pearl, "elastic": Elastic()}
    system = System(Constant(0.5, 1.0))
    found = [one for name, maker in makers.items() for one in candidates(name, maker, range(1, 5), system)]
    flips = speed_ratio_flips(found, Rate(0.9), system)
    assert flips[0].at > 4
    for flip in flips:
        for side, at in ((flip.below, flip.at * 0.999), (flip.above, flip.at * 1.001)):
            assert best_of(found, Rate(0.9), System(Constant(1 / at, 1.0))).strategy == side.strategy
    assert flips[-1].above.strategy == "elastic"


@pytest.mark.parametrize(
    "model",
    [markov(0.9, 0.4), PerPosition((0.9, 0.6)), recorded({0: 30, 1: 5, 2: 8, 7: 20})],
    ids=["markov", "per position", "recorded"],
)
def test_verdicts_flip_for_every_model_of_acceptance(model: Acceptance) -> None:
    system = System(Constant(1.0, 1.6, {2: 2.4, 9: 3.2}))
    found = [one for maker in (Autoregressive(), Speculative, Pearl) for one in candidates(str(maker), maker, range(1, 5))]
    flips = acceptance_flips(found, model, system)
    assert flips[0].below.strategy == str(Autoregressive())
    for flip in flips:
        found_odds: Any = brentq(lambda odds, at: model.at_odds(odds).mean_rate - at, 1e-3, 1e3, args=(flip.at,))
        odds = float(found_odds)
        for side, better in ((flip.below, 0.999), (flip.above, 1.001)):
            assert best_of(found, model.at_odds(odds * better), system).strategy == side.strategy


@pytest.mark.parametrize("published", [3.87, 3.81, 3.59, 3.95], ids=["HumanEval", "GSM8K", "MT-bench", "MGSM"])
def test_published_speed_ups_are_explained_by_plausible_acceptance(published: float) -> None:
    """Paper, Llama 3.1 8B / 70B, c = 5: rates near .95; the gain over speculative decoding is less when that is tuned."""
    system = System(Constant(1 / 5, 1.0))
    (pearl,), (untuned,) = candidates("pearl", Pearl, [5]), candidates("speculative", Speculative, [5])
    found: Any = brentq(lambda rate: float(pearl.speedup(Rate(rate), system)) - published, 0, 1, xtol=1e-9)
    assert 0.92 < found < 0.97
    tuned = best_of(candidates("speculative", Speculative, range(1, 33)), Rate(found), system)
    assert published / float(untuned.speedup(Rate(found), system)) == pytest.approx(1.45, abs=0.05)
    assert published / tuned.speedup_over_ar == pytest.approx(1.34, abs=0.02)
