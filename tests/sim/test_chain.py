"""The compiler: known formulas, strategies it has never seen, tables by outcome, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import ClassVar

import numpy as np
import pytest

from sim.setup.acceptance import Acceptance, Rate, markov
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import edge_costs, expected_seconds, long_run_speed
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Workload
from specdec import (
    Both,
    DecodingStrategy,
    Draft,
    DraftingStrategy,
    DraftLength,
    Guess,
    Program,
    Score,
    State,
    StrategyError,
    Verdict,
    Verify,
)
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative

Speed = Callable[[DecodingStrategy, Acceptance, System], float]


# --------------------------------------------------------------------------------------- known formulas


GRID = list(product((0.0, 0.3, 0.6, 0.8, 0.97), (1.5, 3.0, 5.0, 10.0), (1, 3, 5)))


def formulas(a: float, c: float, g: int, overhead: float = 0.0) -> tuple[float, float, float]:
    """Tokens per second of AR, SD and PEARL; the target's step is 1 s, the draft's 1/c."""
    powers = [a**i for i in range(g + 1)]
    post = a / (1 + a - a**g)
    pearl = ((1 - post) + post * sum(powers[:g])) / (max(g / c, 1.0) + overhead)
    return 1 / (1 + overhead), sum(powers) / (g / c + 1 + overhead), pearl


@pytest.mark.parametrize("overhead", [0.0, 0.07])
def test_the_chain_gives_the_known_formulas(overhead: float, speed: Speed) -> None:
    worst = 0.0
    for a, c, g in GRID:
        system = System(Constant(1 / c, 1.0), overhead_seconds=overhead)
        for strategy, expected in zip((Autoregressive(), Speculative(g), Pearl(g)), formulas(a, c, g, overhead), strict=True):
            worst = max(worst, abs(speed(strategy, Rate(a), system) / expected - 1))
    assert len(GRID) == 60
    assert worst <= 1e-9


def test_idle_shares_of_pearl_are_the_mutual_waiting() -> None:
    for a, c, g in GRID:
        found = long_run_speed(compile_strategy(Pearl(g)), Rate(a), System(Constant(1 / c, 1.0)))
        longer = max(g / c, 1.0)
        assert found.target_idle_share == pytest.approx(1 - 1 / longer, abs=1e-9)
        assert found.draft_idle_share == pytest.approx(1 - g / c / longer, abs=1e-9)


def test_a_wider_window_costs_what_was_given(speed: Speed) -> None:
    system = System(Constant(1e-3, 5e-3, {4: 5.6e-3, 8: 7e-3}))
    post, a, g = 0.8 / (1 + 0.8 - 0.8**6), 0.8, 6
    window = 5.6e-3 + (7e-3 - 5.6e-3) / 2
    seconds = (1 - post) * max(6e-3, 5e-3) + post * max(6e-3, window)
    tokens = (1 - post) + post * (1 - a**g) / (1 - a)
    assert speed(Pearl(6), Rate(a), system) == pytest.approx(tokens / seconds, rel=1e-9)


def test_elastic_is_pearl_at_the_length_that_the_race_gives() -> None:
    for a, c, g in GRID:
        for system in (System(Constant(1 / c, 1.0)), System(Constant(1 / c, 1.0), network_seconds=0.2)):
            elastic, pearl = (
                long_run_speed(compile_strategy(strategy, system), Rate(a), system)
                for strategy in (Elastic(g), Pearl(min(g, ceil(c))))
            )
            assert [float(value) for value in vars(elastic).values()] == [float(value) for value in vars(pearl).values()]


def test_elastic_climbs_from_a_rejection_to_ever_wider_windows(speed: Speed) -> None:
    """Beside a forward over w positions, n(w) tokens; if all w tests pass, the next forward has n(w) positions, else one."""
    windows, a = {2: 4e-3, 4: 5.6e-3, 6: 6e-3}, 0.85
    system = System(Constant(1e-3, 3.2e-3, windows), overhead_seconds=2e-4)
    width, share, tokens, seconds = 1, 1.0, 0.0, 0.0
    widths: list[int] = []
    while share > 1e-15:
        target = float(system.target_seconds(width))
        made = min(16, ceil(target / 1e-3))
        tokens += share * (1 - a**width) / (1 - a)
        seconds += share * (max(made * 1e-3, target) + 2e-4)
        widths.append(width)
        width, share = made, share * a**width
    assert widths[:4] == [1, 4, 6, 6]
    assert speed(Elastic(), Rate(a), system) == pytest.approx(tokens / seconds, rel=1e-9)


def test_whole_grids_at_once_equal_cell_by_cell() -> None:
    rate, ratio = np.linspace(0, 1, 7), np.array([2.0, 5.0, 9.0])
    for strategy in (Autoregressive(), Speculative(4), Pearl(4), PromptLookup()):
        compiled = compile_strategy(strategy)
        whole = long_run_speed(compiled, Rate(rate[:, None]), System(Constant(1 / ratio, 1.0)))
        finite = expected_seconds(compiled, Rate(rate[:, None]), System(Constant(1 / ratio, 1.0)), 20)
        for i, j in np.ndindex(7, 3):
            one = System(Constant(1 / ratio[j], 1.0))
            alone = long_run_speed(compiled, Rate(rate[i]), one)
            for name in ("tokens_per_second", "target_idle_share", "draft_idle_share"):
                assert np.broadcast_to(getattr(whole, name), (7, 3))[i, j] == pytest.approx(
                    float(getattr(alone, name)), abs=1e-12
                )
            assert np.broadcast_to(finite, (7, 3))[i, j] == pytest.approx(
                float(expected_seconds(compiled, Rate(rate[i]), one, 20))
            )


def test_short_answers_are_slower_than_the_long_run(speed: Speed) -> None:
    """The long run is optimistic by 6 % at 32 tokens and by 1.6 % at 128 (acceptance .8, draft length 5)."""
    system, compiled = System(Constant(0.2, 1.0)), compile_strategy(Pearl(5))
    long_run = speed(Pearl(5), Rate(0.8), system)
    for tokens, optimism in ((32, 0.06), (128, 0.016)):
        short = tokens / float(expected_seconds(compiled, Rate(0.8), system, tokens))
        assert 1 - short / long_run == pytest.approx(optimism, abs=0.004)


def test_a_finite_answer_equals_the_mean_of_simulated_ones() -> None:
    system = System(Constant(1e-3, 4e-3, {5: 5e-3}))
    runs = [run_stream(Pearl(4), markov(0.9, 0.4), system, tokens=40, request=i).seconds for i in range(400)]
    exact = float(expected_seconds(compile_strategy(Pearl(4)), markov(0.9, 0.4), system, 40))
    assert abs(np.mean(runs) - exact) < 3.5 * np.std(runs) / len(runs) ** 0.5


# ----------------------------------------------------------------------------------- strangers' strategies


@dataclass(frozen=True)
class Patient(DraftingStrategy):
    """PEARL that drafts on from a rejection with half the length: another rule for what is pending, more shapes."""

    name: ClassVar[str] = "patient"

    def step(self, state: State) -> Program[State]:
        full = self.policy.length(state.memory)
        length = full if state.pending.drafted else max(1, full // 2)
        scores, fresh = yield from Both(Score(state.committed, state.pending), Draft(state.committed, state.pending, length))
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)


@dataclass(frozen=True)
class TwoPhases(DecodingStrategy):
    """Two verifications in one round: the second is only begun when the first accepted all."""

    name: ClassVar[str] = "two_phases"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 2)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        if not verdict.complete:
            return state.then(verdict)
        more = state.committed + verdict.tokens
        scores, guess = yield from Both(Score(more, Guess.empty), Draft(more, Guess.empty, 3))
        second = yield from Verify(scores, guess[:1])
        return State(more + second.tokens, Guess.empty)


@dataclass(frozen=True)
class Afterthought(DraftingStrategy):
    """Speculative decoding that drafts at the end of a round, behind its verdict, and twice as much after a full acceptance."""

    name: ClassVar[str] = "afterthought"

    def step(self, state: State) -> Program[State]:
        scores = yield from Score(state.committed, state.pending)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        after = state.committed + verdict.tokens
        guess = yield from Draft(after, Guess.empty, self.policy.length(state.memory) * (2 if verdict.complete else 1))
        return State(after, guess)


@dataclass(frozen=True)
class Creeping(DraftLength):
    """One token more after a full acceptance, one less after a rejection, from 1 to `most`: the state is the length."""

    most: int = 6

    def init(self, facts: object) -> int:
        return 1

    def length(self, memory: int) -> int:
        return memory

    def update(self, memory: int, verdict: Verdict) -> int:
        return min(self.most, memory + 1) if verdict.complete else max(1, memory - 1)


@dataclass(frozen=True)
class Counting(Creeping):
    """Memory that never repeats."""

    def update(self, memory: int, verdict: Verdict) -> int:
        return memory + 1


STRANGERS = [Patient(6), TwoPhases(), Afterthought(3), Pearl(Creeping()), Speculative(Creeping())]


@pytest.mark.parametrize("strategy", STRANGERS, ids=lambda strategy: f"{strategy.name}-{strategy.parameters}")
@pytest.mark.parametrize("model", [Rate(0.75), markov(0.9, 0.5)], ids=["rate", "markov"])
def test_a_strategy_never_seen_before_is_compiled_and_simulated(strategy: DecodingStrategy, model: Acceptance) -> None:
    system = System(Constant(1e-3, 4e-3, {6: 5e-3}), overhead_seconds=1e-4)
    exact = long_run_speed(compile_strategy(strategy), model, system)
    tokens = 60_000 if isinstance(model, Rate) else 12_000
    bound = 0.01 * (60_000 / tokens) ** 0.5
    run = run_stream(strategy, model, system, tokens=tokens)
    assert run.tokens_per_second == pytest.approx(float(exact.tokens_per_second), rel=bound)
    assert run.target_idle_share == pytest.approx(float(exact.target_idle_share), abs=bound)
    assert run.draft_idle_share == pytest.approx(float(exact.draft_idle_share), abs=bound)
    assert 1 + run.accepted / run.verifications == pytest.approx(float(exact.mean_acceptance_length), rel=bound)


def test_the_states_are_found_by_themselves() -> None:
    assert (
        len(compile_strategy(Autoregressive())) == len(compile_strategy(Speculative(4))) == len(compile_strategy(Pearl(1))) == 1
    )
    assert len(compile_strategy(Pearl(5))) == 2
    assert len(compile_strategy(Speculative(Creeping(6)))) == 6
    two = compile_strategy(TwoPhases())
    assert two.tested.tolist() == [2, 1]
    assert two.ends_round.tolist() == [[True, True, False], [True, True, False]]
    assert two.tokens.tolist() == [[1, 2, 0], [4, 4, 0]]


def test_a_measured_ratio_is_told_to_the_strategy(speed: Speed) -> None:
    system = System(Constant(1e-3, 6.8e-3))
    assert speed(Pearl("auto"), Rate(0.8), system) == pytest.approx(speed(Pearl(7), Rate(0.8), system), rel=1e-12)


@dataclass(frozen=True)
class Unhashable(DecodingStrategy):
    name: ClassVar[str] = "unhashable"

    def step(self, state: State) -> Program[State]:
        scores = yield from Score(state.committed, Guess.empty)
        verdict = yield from Verify(scores, Guess.empty)
        return replace(state.then(verdict), memory=[])


@dataclass(frozen=True)
class Idle(DecodingStrategy):
    name: ClassVar[str] = "idle"

    def step(self, state: State) -> Program[State]:
        yield from Score(state.committed, Guess.empty)
        return state


@dataclass(frozen=True)
class TwoTargets(DecodingStrategy):
    name: ClassVar[str] = "two_targets"

    def step(self, state: State) -> Program[State]:
        score = Score(state.committed, Guess.empty)
        scores, _ = yield from Both(score, score)
        return state.then((yield from Verify(scores, Guess.empty)))


@pytest.mark.parametrize(
    ("strategy", "culprit"),
    [
        (Speculative(Counting()), "does not repeat"),
        (Unhashable(), "cannot be hashed"),
        (Idle(), "commits nothing"),
        (TwoTargets(), "one target"),
    ],
)
def test_what_cannot_be_compiled_says_why(strategy: DecodingStrategy, culprit: str) -> None:
    with pytest.raises(StrategyError, match=culprit):
        compile_strategy(strategy)


def test_a_race_is_not_compiled_for_a_grid_of_speeds() -> None:
    for latency in (Constant(np.array([0.1, 0.2]), 1.0), Constant(0.1, np.array([1.0, 2.0]))):
        with pytest.raises(StrategyError, match="each system alone"):
            compile_strategy(Elastic(), System(latency))


def test_the_table_of_a_race_holds_for_its_own_system_only() -> None:
    system, other = (System(Constant(1e-3, target)) for target in (5e-3, 9e-3))
    race, plain = compile_strategy(Elastic(), system), compile_strategy(Pearl(5), system)
    workload = Workload(np.zeros(1), np.ones(1, int), np.full(1, 20))
    for ask in (
        lambda compiled, on: long_run_speed(compiled, Rate(0.8), on),
        lambda compiled, on: expected_seconds(compiled, Rate(0.8), on, 20),
        edge_costs,
        lambda compiled, on: simulate_serving(compiled, Rate(0.8), on, workload),
    ):
        ask(race, system)
        ask(plain, other)
        with pytest.raises(StrategyError, match=r"elastic races the target.*compile the strategy for this system"):
            ask(race, other)


@pytest.mark.parametrize("model", [Rate(0.7), markov(0.9, 0.5)], ids=["rate", "markov"])
@pytest.mark.parametrize("strategy", [Pearl(4), TwoPhases(), PromptLookup(3)], ids=lambda strategy: strategy.name)
def test_a_column_is_found_by_its_outcome_not_by_its_number(strategy: DecodingStrategy, model: Acceptance) -> None:
    """A table with its columns in another order is the same table."""
    system, compiled = System(Constant(1e-3, 4e-3, {6: 5e-3}), overhead_seconds=1e-4), compile_strategy(strategy)
    order = np.random.default_rng(0).permutation(len(compiled.outcomes))
    tables = ("next_node", "tokens", "ends_round", "drafted", "draft_steps", "positions")
    moved = replace(
        compiled,
        outcomes=tuple(compiled.outcomes[column] for column in order),
        **{name: getattr(compiled, name)[:, order] for name in tables},
    )
    assert moved.outcomes != compiled.outcomes
    before, after = (vars(long_run_speed(table, model, system)) for table in (compiled, moved))
    assert [float(value) for value in after.values()] == pytest.approx([float(value) for value in before.values()], rel=1e-12)
    seconds = [float(expected_seconds(table, model, system, 30)) for table in (compiled, moved)]
    assert seconds[1] == pytest.approx(seconds[0], rel=1e-12)
    workload = Workload(np.zeros(3), np.ones(3, int), np.array([40, 1, 25]))
    served = [simulate_serving(table, model, system, workload).finish_seconds.tolist() for table in (compiled, moved)]
    assert served[1] == served[0]
