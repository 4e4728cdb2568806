"""Draft-length policies in the simulator: those that count are simulated, those that read `q` are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

import strategies
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed
from specdec import Costs, DecodingStrategy, DraftingStrategy, InputError, StrategyError, create

DRAFTING = ("speculative", "pearl", "hedged", "saguaro")


FLAT, DEAR = {"guess": 0.0, "branch": 0.0}, {"guess": 0.06, "branch": 0.04}
"""What each guess and each branch more costs: nothing, and about twice as much as on the bundled pair."""


def system(ratio: float, guess: float = 0.0, branch: float = 0.0) -> System:
    windows, branched = {101: ratio * (1 + 100 * guess)}, {101: 1 + 100 * branch}
    return System(Constant(1.0, ratio, windows, branched=branched))


def costs(ratio: float, guess: float = 0.0, branch: float = 0.0) -> Costs:
    return Costs(ratio, ((1, 1.0), (2, 1 + guess)), ((1, 1.0), (2, 1 + branch)))


def exact(strategy: DecodingStrategy, rate: float, ratio: float, **dear: float) -> float:
    """Tokens for each step of the target, by the compiled chain."""
    on = system(ratio, **dear)
    return ratio * float(long_run_speed(compile_strategy(strategy, on), Rate(rate), on).tokens_per_second)


def simulated(strategy: DecodingStrategy, rate: float, ratio: float, tokens: int = 10_000) -> float:
    return ratio * run_stream(strategy, Rate(rate), system(ratio), tokens=tokens).tokens_per_second


@pytest.mark.parametrize("dear", [FLAT, DEAR], ids=["flat", "dear"])
@pytest.mark.parametrize("length", [1, 3, 7])
@pytest.mark.parametrize(
    "of",
    [
        strategies.Speculative,
        strategies.Pearl,
        lambda length: strategies.Hedged(length, 2),
        lambda length: strategies.Saguaro(length, 2),
        lambda length: strategies.Saguaro(length, 3, on_a_miss="none"),
    ],
    ids=["speculative", "pearl", "hedged", "saguaro", "saguaro none"],
)
def test_closed_forms_are_those_of_the_compiled_chains(of: Any, length: int, dear: dict[str, float]) -> None:
    strategy: DraftingStrategy = of(length)
    for rate in (0.0, 0.3, 0.8, 1.0):
        for ratio in (0.7, 2.0, 5.0, 10.0):
            known = strategy.closed_form(rate, costs(ratio, **dear), length)
            assert known == pytest.approx(exact(strategy, rate, ratio, **dear))


def test_a_system_tells_what_closed_forms_know() -> None:
    known = system(5.0, **DEAR).costs
    assert (known.speed_ratio, known.fork) == pytest.approx((5.0, 1.0))
    assert dict(known.windows) == pytest.approx({1: 1.0, 2: 1.06, 5: 1.24, 9: 1.48})
    assert dict(known.branches) == pytest.approx({1: 1.0, 3: 1.08, 9: 1.32, 18: 1.68})
    assert (known.window(3), known.draft(10), known.forks(4, 3, 5)) == pytest.approx((1.18, 2.0, (1.16 + 5 * 1.08) / 5))


def test_costs_follow_what_is_no_line() -> None:
    """A first further row is dear where one row alone is a product with a vector, as on a CPU; the next ones are not."""
    bent = System(Constant(1.0, 5.0, {2: 7.0, 9: 8.4}, branched={3: 1.5, 9: 1.6, 18: 2.5}))
    known = bent.costs
    assert [known.window(guesses) for guesses in (0, 1, 4, 8)] == pytest.approx([1.0, 1.4, 1.52, 1.68])
    seconds = [float(bent.fork_seconds(3, branches, 4)) / 5 for branches in (3, 12, 18)]
    assert [known.forks(2, branches, 4) for branches in (3, 12, 18)] == pytest.approx(seconds)
    assert known.window(16) > known.window(12) > known.window(8)
    assert Costs(5.0, ((1, 1.0), (5, 1.2), (9, 1.2))).window(40) == 1.2


@pytest.mark.parametrize("points", [(), ((2, 1.0), (1, 1.0)), ((1, 1.0), (1, 2.0))])
def test_costs_refuse_what_is_no_curve(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(InputError, match=r"windows .* is no curve"):
        Costs(5.0, windows=points)
    with pytest.raises(InputError, match=r"branches .* is no curve"):
        Costs(5.0, branches=points)


@pytest.mark.parametrize("name", DRAFTING)
def test_heuristic_is_compiled_and_its_events_agree(name: str) -> None:
    strategy = create(name, draft_length="heuristic:most=6")
    for rate in (0.5, 0.9):
        assert simulated(strategy, rate, 5.0) == pytest.approx(exact(strategy, rate, 5.0), rel=0.04)


@pytest.mark.parametrize(("policy", "least"), [("bandit", 0.87), ("closed_form", 0.97)])
@pytest.mark.parametrize("name", DRAFTING)
def test_policies_that_learn_come_close_to_the_best_fixed_length(name: str, policy: str, least: float) -> None:
    for rate, ratio in ((0.5, 3.0), (0.85, 8.0)):
        best = max(exact(create(name, draft_length=length), rate, ratio) for length in range(1, 13))
        found = simulated(create(name, draft_length=policy), rate, ratio, tokens=4000)
        assert least * best < found < 1.03 * best, (rate, ratio)


def test_memories_that_never_repeat_are_refused_by_the_chain_alone() -> None:
    for policy in ("bandit", "closed_form"):
        with pytest.raises(StrategyError, match="memory does not repeat; simulate it by events"):
            compile_strategy(create("speculative", draft_length=policy))


@pytest.mark.parametrize("policy", ["svip", "adaedl", "confident"])
@pytest.mark.parametrize("name", DRAFTING)
def test_policies_that_read_q_are_refused_by_name(name: str, policy: str) -> None:
    strategy = create(name, draft_length=policy)
    rule = "BelowConfidence" if policy == "confident" else "AboveEntropy"
    with pytest.raises(StrategyError, match=f"{rule}.*probabilities, which a simulation does not know.*heuristic"):
        compile_strategy(strategy)
    with pytest.raises(StrategyError, match=rule):
        run_stream(strategy, Rate(0.5), system(5.0), tokens=10)
