"""Forks in the simulator: closed forms, both interpreters, hits and misses, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pytest

from sim.setup.acceptance import Acceptance, Foresight, PerPosition, Rate, markov
from sim.setup.latency import Constant, fork_seconds
from sim.setup.measured import Measured
from sim.setup.profiles import measured_acceptance
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed
from sim.stream.stage import Outcome
from specdec import Both, DecodingStrategy, Fork, Guess, InputError, Program, Score, State, StrategyError, Verify
from specdec.acceptance import MeasuredAcceptance
from specdec.profile import DraftTiming, Profile, TargetTiming
from strategies import Hedged, Pearl, Saguaro

GRID = list(product((0.3, 0.8, 0.95), (3.0, 5.0), (1, 4), (0.2, 0.9), (1.0, 1.5)))
"""Acceptance, target step / draft step, draft length, chance of a hit after a rejection, cost of a step over the branches."""

AFTER_ALL = 0.7


def closed_form(strategy: DecodingStrategy, a: float, c: float, length: int, hit: float, w: float) -> float:
    """Tokens per target step. Windows are flat, and every forward of a fork costs `w` draft steps."""
    full = sum(a**i for i in range(length + 1))
    corrected = 0.0 if isinstance(strategy, Hedged) else hit
    ready = (1 - a**length) * corrected + a**length * AFTER_ALL
    together = max(1.0, (1 + length) * w / c)
    if strategy == Saguaro(length):
        return full / (together + (1 - ready) * length / c)
    pending = AFTER_ALL / (1 - ready + AFTER_ALL)  # share of rounds with a window
    return (pending * full + (1 - pending)) / together


@pytest.mark.parametrize("kind", ["draft", "none", "hedged"])
def test_the_chain_gives_the_closed_forms(kind: str) -> None:
    for a, c, length, hit, w in GRID:
        strategy = Hedged(length, 2) if kind == "hedged" else Saguaro(length, on_a_miss=kind)
        # The first forward of a fork is over few rows: the factor is flat, so that it costs as much as the others.
        system = System(Constant(1 / c, 1.0, branched={1: w}))
        acceptance = Rate(a).foreseeing(Foresight((0.0, hit), (0.0, AFTER_ALL)))
        speed = long_run_speed(compile_strategy(strategy, system), acceptance, system).tokens_per_second
        assert float(speed) == pytest.approx(closed_form(strategy, a, c, length, hit, w), rel=1e-12)


def best(kind: type[Pearl] | type[Saguaro], acceptance: Acceptance, system: System) -> float:
    """Tokens per second at the best length."""
    chains = [compile_strategy(kind(length), system) for length in range(1, 13)]
    return max(float(long_run_speed(chain, acceptance, system).tokens_per_second) for chain in chains)


@pytest.mark.parametrize(
    ("c", "hit", "w", "ratio"),
    [(5, 0.9, 1.0, 1.36), (5, 0.85, 1.5, 1.01), (3, 0.57, 1.0, 1), (5, 0.41, 1.0, 1), (10, 0.17, 1.0, 1)],
)
def test_when_forks_beat_pearl(c: float, hit: float, w: float, ratio: float) -> None:
    """The break-even points at acceptance 0.8 that were derived by hand."""
    system = System(Constant(1 / c, 1.0, branched={1: w}))
    acceptance = Rate(0.8).foreseeing(Foresight((hit,), (hit,)))
    assert best(Saguaro, acceptance, system) / best(Pearl, acceptance, system) == pytest.approx(ratio, abs=0.01)


ACCEPTANCES = {
    "rate": Rate(0.8),
    "measured": Rate(0.8).foreseeing(Foresight((0.17, 0.28), (0.48, 0.55))),
    "positions": PerPosition((0.9, 0.6)).foreseeing(Foresight((0.5,), (0.9,))),
    "hidden": markov(0.9, 0.4),
}


@pytest.mark.parametrize("acceptance", ACCEPTANCES.values(), ids=list(ACCEPTANCES))
@pytest.mark.parametrize("strategy", [Saguaro(3, 2), Saguaro(3, 2, "none"), Hedged(3, 2)], ids=str)
def test_events_agree_with_the_chain(strategy: DecodingStrategy, acceptance: Acceptance) -> None:
    system = System(Constant(1e-3, 5e-3, {4: 5.5e-3}, branched={8: 1.4}), jitter=Jitter(0.05, 0.1), overhead_seconds=1e-4)
    exact = long_run_speed(compile_strategy(strategy, system), acceptance, system)
    run = run_stream(strategy, acceptance, system, tokens=12_000, seed=5)
    low, high = run.interval(0.99) or (0, 0)
    assert low <= float(exact.tokens_per_second) <= high
    assert high - low < 0.1 * low
    assert run.accepted / run.drafted == pytest.approx(float(exact.draft_acceptance_rate), rel=0.04)
    assert run.draft_idle_share == pytest.approx(float(exact.draft_idle_share), abs=0.02)
    detailed, plain = (run_stream(strategy, acceptance, system, tokens=300, seed=5, detailed=mode) for mode in (True, False))
    assert detailed.seconds == plain.seconds
    assert detailed.drafted == plain.drafted
    fates = [fate for span in detailed.spans for fate in span.fates]
    assert fates.count("accepted") == detailed.accepted


def test_a_table_has_hits_and_misses() -> None:
    compiled = compile_strategy(Saguaro(2, 3))
    assert len(compiled) == 2  # nothing is pending at first, and two tokens ever after
    assert compiled.outcomes == tuple(Outcome(accepted, hit) for accepted in range(3) for hit in (False, True))
    assert compiled.fan_out.tolist() == [[3, 3, 0, 0, 0, 0], [3, 3, 3, 3, 3, 3]]
    hit, miss = (compiled.outcomes.index(Outcome(1, foreseen)) for foreseen in (True, False))
    assert compiled.forks[1, hit].tolist() == [[3, 9, 2], [0, 0, 0]]
    assert compiled.draft_steps[1, hit].tolist() == [0, 0]
    assert compiled.draft_steps[1, miss].tolist() == [0, 2]
    assert compiled.drafted[1, hit] == 18
    hedged = compile_strategy(Hedged(2, 3))
    assert hedged.fan_out.max(axis=0).tolist() == [3, 3, 0, 3, 3]  # only behind the whole window


def test_more_foresight_is_faster() -> None:
    system = System(Constant(0.2, 1.0))
    compiled = compile_strategy(Saguaro(4, 2), system)
    hits = np.linspace(0, 1, 5)
    speeds = [
        float(long_run_speed(compiled, Rate(0.8).foreseeing(Foresight((hit,), (hit,))), system).tokens_per_second)
        for hit in hits
    ]
    assert speeds == sorted(speeds)
    grid = long_run_speed(compiled, Rate(np.array([0.5, 0.8])), system).tokens_per_second
    assert grid[1] == pytest.approx(float(long_run_speed(compiled, Rate(0.8), system).tokens_per_second))


@dataclass(frozen=True)
class Keeps(DecodingStrategy):
    """Keeps its forks, or asks for two at once."""

    name: ClassVar[str] = "keeps"
    two: bool = False

    def step(self, state: State) -> Program[State]:
        fork = Fork(state.committed, Guess.empty, 2, 2)
        if self.two:
            yield from Both(fork, fork)
        scores, forks = yield from Both(Score(state.committed, Guess.empty), fork)
        return state.then((yield from Verify(scores, Guess.empty)), memory=forks)  # type: ignore[arg-type]


@pytest.mark.parametrize(("strategy", "said"), [(Keeps(), "keeps Forks"), (Keeps(two=True), "two Forks in one Both")])
def test_what_cannot_be_simulated_is_refused(strategy: DecodingStrategy, said: str) -> None:
    with pytest.raises(StrategyError, match=said):
        compile_strategy(strategy)
    with pytest.raises(StrategyError, match=said):
        run_stream(strategy, Rate(0.8), System(Constant(1.0, 3.0)), tokens=9)


@pytest.mark.parametrize("chances", [(), (0.5, 0.4), (1.2,)])
def test_a_foresight_refuses_what_is_none(chances: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="after_acceptance"):
        Foresight((0.5,), chances)


def test_the_seconds_of_a_fork() -> None:
    flat = Constant(0.1, 1.0, branched={11: 2.0})
    assert float(fork_seconds(flat, 6, 11, 3)) == pytest.approx(0.1 * (1.5 + 3 * 2))
    assert float(fork_seconds(flat, 6, 21, 3)) == pytest.approx(0.1 * (1.5 + 3 * 3))  # along the same line beyond
    assert float(fork_seconds(Constant(0.1, 1.0, branched={2: 2.0, 4: 1.0}), 0, 9, 1)) == pytest.approx(0.1 * (1.0 + 1))
    assert float(fork_seconds(flat, 0, 0, 0)) == 0

    class Plain:
        """A stranger's source, without times of branches."""

        def draft_seconds(self, tokens: object, batch: object = 1, context: object = 0) -> object:
            return 0.1 * np.asarray(tokens, float)

        target_seconds = draft_seconds

    plain: object = Plain()
    assert float(fork_seconds(plain, 6, 11, 3)) == pytest.approx(0.4)  # type: ignore[arg-type]  # pyright: ignore
    for bad in ({0: 1.0}, {2: 0.0}):
        with pytest.raises(InputError, match="branches"):
            Constant(0.1, 1.0, branched=bad)


def test_a_draft_step_over_branches_takes_what_was_measured() -> None:
    """A forward over 3 rows lies between 1 and 4 branches; then two steps over 4; what a draft costs to start, and a fork."""
    draft = [DraftTiming(1, 64, 1e-3), DraftTiming(1, 64, 2e-3, branches=4)]
    measured = Measured([TargetTiming(1, 1, 64, 5e-3)], draft, draft_start=5e-4, fork_start=3e-4)
    assert float(measured.fork_seconds(3, 4, 2)) == pytest.approx((5 / 3 + 2 * 2) * 1e-3 + 8e-4)
    assert float(measured.fork_seconds(3, 0, 2)) == 0
    assert float(measured.draft_seconds(3)) == pytest.approx(3e-3 + 5e-4)


def test_a_profile_s_foresight_is_that_of_its_acceptance() -> None:
    foresight = Foresight((0.3, 0.5), (0.7, 0.9))
    profile = Profile(
        (TargetTiming(1, 1, 64, 5e-3),), (DraftTiming(1, 64, 1e-3),), acceptance=MeasuredAcceptance(0.8, foresight=foresight)
    )
    found = measured_acceptance(profile)
    assert [float(found.foreseen(1, 2, complete)) for complete in (False, True)] == [0.5, 0.9]
