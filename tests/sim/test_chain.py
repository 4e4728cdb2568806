"""The compiler: known formulas, strategies it has never seen, exact sums against drawn ones, and the searches built on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import ClassVar

import numpy as np
import pytest
from scipy.optimize import brentq

from sim.setup.acceptance import Acceptance, Markov, PerPosition, Rate, Recorded, mean_length
from sim.setup.latency import Constant, Measured, Measurement
from sim.setup.system import Jitter, System, Together, Turns
from sim.stream.chain import compile_strategy
from sim.stream.events import simulate
from sim.stream.rates import expected_seconds, plain_tokens_per_second, rates
from sim.study.paper import PUBLISHED, explained
from sim.study.search import acceptance_flips, best_draft_length, best_of, best_strategy, candidates, speed_ratio_flips
from specdec import (
    Both,
    DecodingStrategy,
    Draft,
    DraftingStrategy,
    DraftLength,
    Guess,
    InputError,
    Program,
    Score,
    State,
    StrategyError,
    Verdict,
    Verify,
)
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative


def speed(strategy: DecodingStrategy, acceptance: Acceptance, system: System) -> float:
    return float(rates(compile_strategy(strategy, system), acceptance, system).tokens_per_second)


# ------------------------------------------------------------------------------------------------------- known formulas

GRID = list(product((0.0, 0.3, 0.6, 0.8, 0.97), (1.5, 3.0, 5.0, 10.0), (1, 3, 5)))


def formulas(a: float, c: float, g: int, overhead: float = 0.0) -> tuple[float, float, float]:
    """Tokens per second of AR, SD and PEARL; the target's step is 1 s, the draft's 1/c."""
    powers = [a**i for i in range(g + 1)]
    post = a / (1 + a - a**g)
    pearl = ((1 - post) + post * sum(powers[:g])) / (max(g / c, 1.0) + overhead)
    return 1 / (1 + overhead), sum(powers) / (g / c + 1 + overhead), pearl


@pytest.mark.parametrize("overhead", [0.0, 0.07])
def test_the_chain_gives_the_known_formulas(overhead: float) -> None:
    worst = 0.0
    for a, c, g in GRID:
        system = System(Constant(1 / c, 1.0), overhead_seconds=overhead)
        for strategy, expected in zip((Autoregressive(), Speculative(g), Pearl(g)), formulas(a, c, g, overhead), strict=True):
            worst = max(worst, abs(speed(strategy, Rate(a), system) / expected - 1))
    assert len(GRID) == 60
    assert worst <= 1e-9


def test_idle_shares_of_pearl_are_the_mutual_waiting() -> None:
    for a, c, g in GRID:
        found = rates(compile_strategy(Pearl(g)), Rate(a), System(Constant(1 / c, 1.0)))
        longer = max(g / c, 1.0)
        assert found.target_idle_share == pytest.approx(1 - 1 / longer, abs=1e-9)
        assert found.draft_idle_share == pytest.approx(1 - g / c / longer, abs=1e-9)


def test_a_wider_window_costs_what_was_given() -> None:
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
                rates(compile_strategy(strategy, system), Rate(a), system) for strategy in (Elastic(g), Pearl(min(g, ceil(c))))
            )
            assert [float(value) for value in vars(elastic).values()] == [float(value) for value in vars(pearl).values()]


def test_elastic_climbs_from_a_rejection_to_ever_wider_windows() -> None:
    """Behind a forward over w rows, n(w) tokens; all w tests passed, the next forward has n(w) rows, else one."""
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


@pytest.mark.parametrize(
    ("system", "made"),
    [
        (System(Constant(0.7, 2.1)), 3),  # 3 x 0.7 is 2.0999999999999996: a tie all the same
        (System(Constant(0.7, 2.11)), 4),
        (System(Constant(0.1, 0.02)), 1),
        (System(Constant(0.1, 9.0)), 12),
        (System(Constant(0.1, 0.5), network_seconds=0.3), 5),
        (System(Constant(0.1, 0.5), shared=True), 1),
        (System(Constant(0.1, 0.5), together=Together(1.0, 2.0)), 3),
        (System(Constant(0.1, 0.5), together=Together(2.0, 1.0)), 10),
    ],
)
def test_a_race_ends_with_the_token_in_progress_when_the_target_answers(system: System, made: int) -> None:
    assert system.tokens_in_race(system.draft_seconds(np.arange(1, 13)), float(system.target_seconds(1))) == made
    assert compile_strategy(Elastic(12), system).draft_steps[0, 0].tolist() == [made]


def test_whole_grids_at_once_equal_cell_by_cell() -> None:
    rate, ratio = np.linspace(0, 1, 7), np.array([2.0, 5.0, 9.0])
    for strategy in (Autoregressive(), Speculative(4), Pearl(4), PromptLookup()):
        compiled = compile_strategy(strategy)
        whole = rates(compiled, Rate(rate[:, None]), System(Constant(1 / ratio, 1.0)))
        finite = expected_seconds(compiled, Rate(rate[:, None]), System(Constant(1 / ratio, 1.0)), 20)
        for i, j in np.ndindex(7, 3):
            one = System(Constant(1 / ratio[j], 1.0))
            alone = rates(compiled, Rate(rate[i]), one)
            for name in ("tokens_per_second", "target_idle_share", "draft_idle_share"):
                assert np.broadcast_to(getattr(whole, name), (7, 3))[i, j] == pytest.approx(
                    float(getattr(alone, name)), abs=1e-12
                )
            assert np.broadcast_to(finite, (7, 3))[i, j] == pytest.approx(
                float(expected_seconds(compiled, Rate(rate[i]), one, 20))
            )


def test_short_answers_are_slower_than_the_long_run() -> None:
    """The long run is optimistic by 6 % at 32 tokens and by 1.6 % at 128 (acceptance .8, draft length 5)."""
    system, compiled = System(Constant(0.2, 1.0)), compile_strategy(Pearl(5))
    long_run = speed(Pearl(5), Rate(0.8), system)
    for tokens, optimism in ((32, 0.06), (128, 0.016)):
        short = tokens / float(expected_seconds(compiled, Rate(0.8), system, tokens))
        assert 1 - short / long_run == pytest.approx(optimism, abs=0.004)


def test_a_finite_answer_equals_the_mean_of_simulated_ones() -> None:
    system = System(Constant(1e-3, 4e-3, {5: 5e-3}))
    runs = [simulate(Pearl(4), Markov(0.9, 0.4), system, tokens=40, request=i).seconds for i in range(400)]
    exact = float(expected_seconds(compile_strategy(Pearl(4)), Markov(0.9, 0.4), system, 40))
    assert abs(np.mean(runs) - exact) < 3.5 * np.std(runs) / len(runs) ** 0.5


# ----------------------------------------------------------------------------------------------- acceptance of every kind


def test_other_models_become_a_rate_when_they_should() -> None:
    system, runs = System(Constant(1e-3, 5e-3)), {length: 0.8**length * 1e9 for length in range(120)}
    for strategy in (Speculative(4), Pearl(5)):
        expected = speed(strategy, Rate(0.8), system)
        for model in (Markov(0.8, 0.8), PerPosition((0.8,)), Recorded({k: round(v) for k, v in runs.items()})):
            assert speed(strategy, model, system) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "model",
    [Markov(0.9, 0.45), PerPosition((0.9, 0.7, 0.5)), Recorded({0: 30, 1: 5, 2: 8, 7: 20, 12: 4})],
    ids=["markov", "per position", "recorded"],
)
@pytest.mark.parametrize("strategy", [Speculative(3), Pearl(3), PromptLookup(3)], ids=lambda strategy: strategy.name)
def test_correlated_acceptance_is_summed_exactly(strategy: DecodingStrategy, model: Acceptance) -> None:
    system = System(Constant(1e-3, 4e-3))
    run = simulate(strategy, model, system, tokens=40_000)
    assert run.tokens_per_second == pytest.approx(speed(strategy, model, system), rel=0.02)


def test_recorded_runs_come_back_as_often_as_they_were_recorded() -> None:
    recorded = {0: 30, 1: 5, 2: 8, 7: 20}
    luck = Recorded(recorded).luck(np.random.default_rng(3), 100_000)
    starts = np.append(0, np.flatnonzero(luck[:-1] == 0) + 1)  # behind each rejection, and at the beginning
    lengths, counts = np.unique(luck[starts[:-1]], return_counts=True)
    expected = {length: count / 63 for length, count in recorded.items()}
    assert dict(zip(lengths.tolist(), (counts / counts.sum()).tolist(), strict=True)) == pytest.approx(expected, abs=0.01)


def test_markov_acceptance_is_stationary_and_remembers_one_place() -> None:
    model, random = Markov(0.9, 0.4), np.random.default_rng(5)
    first = np.array([model.luck(random, 1)[0] > 0 for _ in range(20_000)])
    assert first.mean() == pytest.approx(0.4 / (1 - 0.9 + 0.4), abs=0.01)
    bits = model.luck(random, 100_000) > 0
    assert bits[1:][bits[:-1]].mean() == pytest.approx(0.9, abs=0.01)
    assert bits[1:][~bits[:-1]].mean() == pytest.approx(0.4, abs=0.01)


def test_mean_lengths_are_converted_by_their_definition() -> None:
    for a, g in ((0.0, 3), (0.5, 4), (0.83, 7), (1.0, 2)):
        reported = float(rates(compile_strategy(Speculative(g)), Rate(a), System(Constant(1.0, 1.0))).tokens_per_round)
        assert mean_length(reported, g).rate == pytest.approx(a, abs=1e-9)
    assert mean_length(5.0).rate == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Rate(1.2), "1.2"),
        (lambda: Rate(float("nan")), "nan"),
        (lambda: PerPosition((0.5, -0.1)), "position 1"),
        (lambda: PerPosition(()), "at least one"),
        (lambda: Markov(1.0, 0.0), "never mixes"),
        (lambda: Recorded({}), "no run"),
        (lambda: Recorded({-1: 2}), "negative"),
        (lambda: mean_length(0.5), "0.5"),
        (lambda: mean_length(7, 4), "between 1 and 5"),
    ],
)
def test_impossible_acceptance_is_refused_by_name(make, culprit: str) -> None:
    with pytest.raises(InputError, match=culprit) as caught:
        make()
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------- strangers' strategies


@dataclass(frozen=True)
class Patient(DraftingStrategy):
    """PEARL that drafts on from a rejection with half the length: another rule for what is pending, more shapes."""

    name: ClassVar[str] = "patient"

    def step(self, state: State) -> Program[State]:
        length = self.draft_length if state.pending.drafted else max(1, self.draft_length // 2)
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
        guess = yield from Draft(after, Guess.empty, self.draft_length * (2 if verdict.complete else 1))
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
@pytest.mark.parametrize("model", [Rate(0.75), Markov(0.9, 0.5)], ids=["rate", "markov"])
def test_a_strategy_never_seen_before_is_compiled_and_simulated(strategy: DecodingStrategy, model: Acceptance) -> None:
    system = System(Constant(1e-3, 4e-3, {6: 5e-3}), overhead_seconds=1e-4)
    exact = rates(compile_strategy(strategy), model, system)
    runs = [simulate(strategy, model, system, tokens=30_000, seed=seed) for seed in range(2)]
    assert np.mean([run.tokens_per_second for run in runs]) == pytest.approx(float(exact.tokens_per_second), rel=0.01)
    assert np.mean([run.target_idle_share for run in runs]) == pytest.approx(float(exact.target_idle_share), abs=0.01)
    assert np.mean([run.draft_idle_share for run in runs]) == pytest.approx(float(exact.draft_idle_share), abs=0.01)
    accepted = sum(run.accepted for run in runs) / sum(run.verifications for run in runs)
    assert 1 + accepted == pytest.approx(float(exact.mean_acceptance_length), rel=0.01)


def test_the_states_are_found_by_themselves() -> None:
    assert (
        len(compile_strategy(Autoregressive())) == len(compile_strategy(Speculative(4))) == len(compile_strategy(Pearl(1))) == 1
    )
    assert len(compile_strategy(Pearl(5))) == 2
    assert len(compile_strategy(Speculative(Creeping(6)))) == 6
    two = compile_strategy(TwoPhases())
    assert two.verified.tolist() == [2, 1]
    assert two.ends_round.tolist() == [[True, True, False], [True, True, False]]
    assert two.tokens.tolist() == [[1, 2, 0], [4, 4, 0]]


def test_a_measured_ratio_is_told_to_the_strategy() -> None:
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


# ------------------------------------------------------------------------------------------------------- devices and noise


@pytest.mark.parametrize(
    "system",
    [
        System(Constant(1.3e-3, 5e-3), jitter=Jitter(0.2, 0.3)),
        System(Constant(1e-3, 5e-3), shared=True, jitter=Jitter(0.1, 0.1)),
        System(Constant(1e-3, 5e-3), together=Together(1.3, 1.6), jitter=Jitter(0.1, 0.3)),
        System(Constant(1e-3, 5e-3), together=Together(2.5, 2.2), jitter=Jitter(0.1, 0.3)),
        System(Constant(1e-3, 5e-3), together=Together(1.5, 1.2)),
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
    lanes = np.array([system.lanes(*pair) for pair in zip(*(one.tolist() for one in found), strict=True)])
    lasting = lanes.sum(axis=1) if system.in_turn else lanes.max(axis=1)
    exact = [float(value) for value in system.stage(4, 5)]
    drawn = lasting.mean(), lanes[:, 0].mean() - 2 * system.network_seconds, lanes[:, 1].mean()
    assert drawn == pytest.approx(exact, rel=0.003)


def test_jitter_costs_what_the_mean_of_a_maximum_costs() -> None:
    still = speed(Pearl(5), Rate(0.8), System(Constant(1e-3, 5e-3)))
    for cv in (0.05, 0.1, 0.2):
        noisy = speed(Pearl(1), Rate(0.8), System(Constant(5e-3, 5e-3), jitter=Jitter(cv, cv)))
        calm = speed(Pearl(1), Rate(0.8), System(Constant(5e-3, 5e-3)))
        assert noisy / calm - 1 == pytest.approx({0.05: -0.028, 0.1: -0.053, 0.2: -0.101}[cv], abs=0.003)
    assert speed(Pearl(5), Rate(0.8), System(Constant(1e-3, 5e-3), jitter=Jitter(0.1, 0.1))) < still


def test_only_strategies_that_draft_pay_for_taking_turns() -> None:
    system = System(
        Constant(1e-3, 5e-3, {5: 6e-3}),
        together=Together(1.1, 1.2),
        overhead_seconds=1e-4,
        turns=Turns(1.2, 1.5),
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
    table = Measured([Measurement(1, 1, 0, 5e-3)], [Measurement(1, 1, 0, 1e-3)], draft_start=7e-4)
    assert table.draft_seconds([0, 1, 4]) == pytest.approx([0, 1.7e-3, 4.7e-3])
    assert System(table).speed_ratio == pytest.approx(5)


def test_one_device_in_turn_takes_the_sum() -> None:
    shared = System(Constant(1e-3, 5e-3), shared=True)
    assert float(shared.stage(5, 5)[0]) == pytest.approx(10e-3)
    assert float(System(Constant(1e-3, 5e-3), together=Together(2, 2)).stage(5, 5)[0]) == pytest.approx(10e-3)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: Constant(0.0, 1.0), "draft step"),
        (lambda: Constant(1.0, float("nan")), "target step"),
        (lambda: Constant(1.0, 1.0, {4: -1.0}), "window of 4"),
        (lambda: Jitter(-0.1), "target_cv"),
        (lambda: Together(0.9, 1.0), "target_factor"),
        (lambda: Turns(0.0, 1.0), "target_factor"),
        (lambda: System(Constant(1.0, 1.0), overhead_seconds=-1.0), "overhead_seconds"),
        (lambda: System(Constant(1.0, 1.0), drafting_overhead_seconds=-1.0), "drafting_overhead_seconds"),
        (lambda: System(Constant(1.0, 1.0), shared=True, network_seconds=1.0), "two devices"),
    ],
)
def test_impossible_devices_are_refused_by_name(make, culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        make()


# ----------------------------------------------------------------------------------------------------------- the searches


@pytest.mark.parametrize(
    ("a", "expected"),
    [(0.5, (1.13, 1.06, 0.91)), (0.7, (1.23, 1.14, 0.98)), (0.9, (1.32, 1.32, 1.22))],
)
def test_pearl_over_the_best_tuned_speculative(a: float, expected: tuple[float, ...]) -> None:
    for c, ratio in zip((3, 5, 10), expected, strict=True):
        system = System(Constant(1 / c, 1.0))
        pearl, speculative = (best_draft_length(cls, Rate(a), system, range(1, 24)) for cls in (Pearl, Speculative))
        assert pearl.speedup_over_ar / speculative.speedup_over_ar == pytest.approx(ratio, abs=0.006)


def test_the_best_draft_length_of_pearl_is_the_speed_ratio() -> None:
    """Paper, section 4.3: at draft length c neither model waits."""
    for c in (2, 3, 4, 5, 8):
        assert best_draft_length(Pearl, Rate(0.8), System(Constant(1 / c, 1.0))).draft_length == c


def test_verdicts_flip_where_the_speeds_cross() -> None:
    system = System(Constant(1.0, 1.6, {2: 2.4, 9: 3.2}))
    makers = {"autoregressive": Autoregressive(), "speculative": Speculative, "pearl": Pearl}
    found = [one for name, maker in makers.items() for one in candidates(name, maker, range(1, 9))]
    flips = acceptance_flips(found, Rate(1.0), system)
    assert flips[0].below.strategy == "autoregressive"
    for flip in flips:
        for side, at in ((flip.below, flip.at - 1e-4), (flip.above, flip.at + 1e-4)):
            assert best_strategy(makers, Rate(at), system, range(1, 9)).strategy == side.strategy
    ratio = speed_ratio_flips(found, Rate(0.6), System(Constant(0.2, 1.0)))
    for flip in ratio:
        for side, at in ((flip.below, flip.at * 0.999), (flip.above, flip.at * 1.001)):
            assert best_strategy(makers, Rate(0.6), System(Constant(1 / at, 1.0)), range(1, 9)).strategy == side.strategy
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
            assert best_strategy(makers, Rate(0.9), System(Constant(1 / at, 1.0)), range(1, 5)).strategy == side.strategy
    assert flips[-1].above.strategy == "elastic"


@pytest.mark.parametrize(
    "model",
    [Markov(0.9, 0.4), PerPosition((0.9, 0.6)), Recorded({0: 30, 1: 5, 2: 8, 7: 20})],
    ids=["markov", "per position", "recorded"],
)
def test_verdicts_flip_for_every_model_of_acceptance(model: Acceptance) -> None:
    system = System(Constant(1.0, 1.6, {2: 2.4, 9: 3.2}))
    found = [one for maker in (Autoregressive(), Speculative, Pearl) for one in candidates(str(maker), maker, range(1, 5))]
    flips = acceptance_flips(found, model, system)
    assert flips[0].below.strategy == str(Autoregressive())
    for flip in flips:
        odds = brentq(lambda odds, at: model.at_odds(odds).mean_rate - at, 1e-3, 1e3, args=(flip.at,))
        for side, better in ((flip.below, 0.999), (flip.above, 1.001)):
            assert best_of(found, model.at_odds(odds * better), system).strategy == side.strategy


def test_odds_are_multiplied_in_every_state_and_place() -> None:
    model = Markov(0.9, 0.4)
    better = model.at_odds(3.0)
    passing = model.passes.sum(axis=1)
    assert better.passes.sum(axis=1) == pytest.approx(3 * passing / (3 * passing + 1 - passing))
    assert (better.passes + better.fails).sum(axis=1) == pytest.approx(1)
    assert Markov(0.9, 0.4).mean_rate == pytest.approx(0.8)
    assert Recorded({0: 1, 4: 1}).mean_rate == pytest.approx(4 / 6)  # two runs and their two rejections
    assert PerPosition((0.5, 0.8)).at_odds(3.0).rates == pytest.approx([0.75, 12 / 13])
    assert Rate(0.5).at_odds(np.array([1.0, 4.0])).rate == pytest.approx([0.5, 0.8])


def test_plain_decoding_is_autoregressive_decoding() -> None:
    system = System(Constant(1e-3, 5e-3), overhead_seconds=2e-4)
    assert float(plain_tokens_per_second(system)) == pytest.approx(speed(Autoregressive(), Rate(0.5), system))


def test_published_speed_ups_are_explained_by_plausible_acceptance() -> None:
    """Llama 3.1 8B / 70B: rates near .95; the gain over speculative decoding is less when that is tuned."""
    for _, _, ratio, speedup in PUBLISHED[:4]:
        found = explained(ratio, speedup)
        assert found.pearl == pytest.approx(speedup, rel=1e-6)
        assert 0.92 < found.acceptance < 0.97
        assert found.pearl / found.untuned == pytest.approx(1.45, abs=0.05)
        assert found.pearl / found.tuned == pytest.approx(1.34, abs=0.02)
    with pytest.raises(InputError, match="its limit"):
        explained(3, 3.2)
