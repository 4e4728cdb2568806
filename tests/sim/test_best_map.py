"""The map of the best strategy: it agrees with `tune`, with the closed form of devices, and with a simulation of load."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import strategies
from sim import Constant, Lengths, PerPosition, Rate, Roofline, Server, System, Traffic, read_model, simulate_traffic
from sim.pictures.best_map import map_chart
from sim.setup.acceptance import Acceptance
from sim.study.best_map import Per, StrategyMap, strategy_map
from sim.study.search import best_of
from sim.study.tune import candidates_of
from specdec.errors import InputError
from specdec.pictures import STRATEGIES, Theme
from specdec.profile import BatchRounds, Slowdown

FLAT = System(Constant(1e-3, 5e-3))
NAMES = ("speculative", "pearl")
LENGTHS = range(1, 9)


RATE = Rate(0.8)


def small(acceptance: Acceptance = RATE, system: System = FLAT, names: tuple[str, ...] = NAMES, batch: int = 1) -> StrategyMap:
    return strategy_map(acceptance, system, names, LENGTHS, batch=batch, rates=(0.5, 0.8, 0.9), ratios=(2.0, 5.0, 12.0))


@pytest.mark.parametrize("rates", [(1.0, 0.8), (0.0, 0.8)])
def test_a_first_guess_that_always_or_never_passes_is_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=f"accepted at a rate of {rates[0]:g}, which no factor"):
        small(PerPosition(rates))


@pytest.mark.parametrize("acceptance", [Rate(0.8), PerPosition((0.8, 0.7, 0.6))], ids=lambda one: type(one).__name__)
def test_each_spot_is_what_tune_finds_there(acceptance: Rate | PerPosition) -> None:
    found = small(acceptance)
    assert found.rates == pytest.approx([0.5, 0.8, 0.9])
    for spot in found.spots:
        odds = spot.acceptance_rate / (1 - spot.acceptance_rate) / 4  # over those of 0.8
        there = System(Constant(5e-3 / spot.speed_ratio, 5e-3))
        best = best_of(candidates_of(NAMES, LENGTHS, there), acceptance.at_odds(odds), there)
        assert (spot.best.strategy, spot.best.draft_length) == (best.strategy, best.draft_length)
        assert spot.best.speedup_over_ar == pytest.approx(best.speedup_over_ar)
    assert found.here.best == best_of(candidates_of(NAMES, LENGTHS, FLAT), acceptance, FLAT)


def test_the_second_is_another_strategy() -> None:
    found = small()
    assert {spot.best.strategy for spot in found.spots} == {"speculative", "pearl"}
    for spot in found.spots:
        assert spot.second is not None
        assert spot.second.strategy != spot.best.strategy
        assert spot.second.speedup_over_ar <= spot.best.speedup_over_ar
    assert small(names=()).here.second is None


def test_two_devices_count_only_for_models_that_work_at_the_same_time() -> None:
    def speed(name: str, system: System, per: Per) -> float:
        found = strategy_map(Rate(0.8), system, (name,), (5,), per=per, rates=(0.8,), ratios=(5.0,))
        choices = (found.here.best, found.here.second)
        return next(choice.speedup_over_ar for choice in choices if choice and choice.strategy == name)

    assert speed("pearl", FLAT, "device") == pytest.approx(speed("pearl", FLAT, "sequence") / 2)
    assert speed("speculative", FLAT, "device") == pytest.approx(speed("speculative", FLAT, "sequence"))
    shared = System(Constant(1e-3, 5e-3), shared=True)
    assert speed("pearl", shared, "device") == pytest.approx(speed("pearl", shared, "sequence"))


SIZES = read_model("qwen3-32b"), read_model("qwen3-0.6b")
ON_TWO = System(Roofline("H200", *SIZES), context=400, drafting_overhead_seconds=0.0)
COSTS = {"round_overhead_seconds": 1e-3, "drafting_overhead_seconds": 8e-3}
SLOWER = {"target_in_turn": 1.3, "draft_in_turn": 1.1, "target_together": 1.2, "draft_together": 1.6}


@pytest.mark.parametrize(
    "system",
    [
        ON_TWO,
        replace(ON_TWO, batches=(BatchRounds(16, **COSTS),)),
        replace(ON_TWO, shared=True, batches=(BatchRounds(4, **SLOWER),)),
        replace(ON_TWO, together=Slowdown(1.1, 1.2), batches=(BatchRounds(4, **SLOWER), BatchRounds(64, **COSTS))),
    ],
    ids=["forwards alone", "overheads", "in turn", "together"],
)
def test_under_load_it_agrees_with_the_simulation_of_a_full_batch(system: System) -> None:
    batch, traffic = 32, Traffic(None, Lengths(100), Lengths(600), 128)
    found = strategy_map(Rate(0.8), system, ("speculative",), (3,), batch=batch, rates=(0.8,), ratios=(5.0,))
    server = Server(max_batch=batch, clients=batch)
    seconds = {
        name: simulate_traffic(strategy, Rate(0.8), system, traffic, server).tpot_seconds.mean
        for name, strategy in {"ar": strategies.Autoregressive(), "sd": strategies.Speculative(3)}.items()
    }
    assert None not in seconds.values()
    assert found.here.best.speedup_over_ar == pytest.approx(float(seconds["ar"] or 0) / float(seconds["sd"] or 1), rel=0.03)


def test_a_batch_of_constant_times_is_refused() -> None:
    with pytest.raises(InputError, match="make batches free"):
        strategy_map(Rate(0.8), FLAT, NAMES, batch=2)
    free = System(Constant(1e-3, 5e-3, batches_are_free=True))
    assert small(system=free, batch=2).here == small().here


def test_a_picture_has_a_tile_for_each_spot_in_the_colour_of_its_strategy() -> None:
    found = small()
    themes: tuple[Theme, ...] = ("light", "dark")
    for theme in themes:
        tiles, _, diamond = map_chart(found, theme).to_dict()["layer"]
        assert [cell["strategy"] for cell in tiles["data"]["values"]] == [spot.best.strategy for spot in found.spots]
        scale = tiles["encoding"]["color"]["scale"]
        assert scale["range"] == [STRATEGIES[name][theme == "dark"] for name in scale["domain"]]
        assert diamond["data"]["values"] == [{"rate": 0.8, "ratio": pytest.approx(5)}]
    beyond = small(Rate(0.2))
    assert map_chart(beyond).to_dict()["layer"][2]["data"]["values"] == []


def test_tiles_meet() -> None:
    found = small()
    tiles = map_chart(found).to_dict()["layer"][0]["data"]["values"]
    for low, high in (("left", "right"), ("low", "high")):
        pairs = sorted({(tile[low], tile[high]) for tile in tiles})
        assert all(np.isclose(first[1], second[0]) for first, second in pairwise(pairs))


def test_a_file_gives_the_same_map_back() -> None:
    found = small()
    assert StrategyMap.from_dict(found.to_dict(), "a file") == found
