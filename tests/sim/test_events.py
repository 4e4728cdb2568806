"""The same strategies by events: against the chain, two modes with one clock, and common random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov, recorded
from sim.setup.latency import Constant
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.run import Run
from sim.stream.speed import long_run_speed
from specdec import DecodingStrategy, DraftLength, InputError, Verdict, available
from specdec.profile import Slowdown
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative

SYSTEMS = {
    "two devices": System(Constant(1e-3, 4e-3, {6: 5e-3})),
    "overhead": System(Constant(1e-3, 4e-3), overhead_seconds=3e-4),
    "in turn": System(Constant(1e-3, 4e-3), shared=True),
    "together": System(Constant(1e-3, 4e-3), together=Slowdown(1.2, 1.7)),
    "network": System(Constant(1e-3, 4e-3), network_seconds=4e-4),
    "jitter": System(Constant(1e-3, 4e-3), jitter=Jitter(0.1, 0.2)),
    "turns": System(Constant(1e-3, 4e-3), overhead_seconds=1e-4, turns=Slowdown(1.2, 1.5), drafting_overhead_seconds=6e-4),
}


@pytest.mark.parametrize(
    ("name", "system"),
    [
        pytest.param(name, system, id=f"{kind}-{name}")
        for kind, system in SYSTEMS.items()
        for name in sorted(available())
        if (kind, name) != ("jitter", "elastic")  # the chain decides a race by mean times, events by the times drawn
        and name != "adaptive"  # its memory does not repeat, so that it has no chain
    ],
)
def test_events_agree_with_the_chain(name: str, system: System) -> None:
    strategy = available()[name]()
    compiled = compile_strategy(strategy, system)
    exact = long_run_speed(compiled, Rate(0.8), system)
    tokens = 40_000 if system is SYSTEMS["overhead"] else 8_000
    bound = 0.0125 * (40_000 / tokens) ** 0.5
    run = run_stream(strategy, Rate(0.8), system, tokens=tokens, seed=7)
    expected = float(exact.tokens_per_second)
    assert run.tokens_per_second == pytest.approx(expected, rel=bound)
    low, high = run.interval(0.99) or (0, 0)
    assert low * (1 - 1e-9) <= expected <= high * (1 + 1e-9)
    assert run.target_idle_share == pytest.approx(float(exact.target_idle_share), abs=bound)
    assert run.draft_idle_share == pytest.approx(float(exact.draft_idle_share), abs=bound)
    assert run.tokens / run.rounds == pytest.approx(float(exact.tokens_per_round), rel=bound)


def test_intervals_cover_as_often_as_they_say() -> None:
    system = SYSTEMS["two devices"]
    expected = float(long_run_speed(compile_strategy(Pearl(4)), Rate(0.8), system).tokens_per_second)
    found = [run_stream(Pearl(4), Rate(0.8), system, tokens=1500, seed=seed).interval(0.9) or (0, 0) for seed in range(120)]
    covered = sum(low <= expected <= high for low, high in found)
    assert 98 <= covered <= 118  # 108 of 120 are expected, the binomial's 99.8 % range


def test_few_rounds_have_no_interval() -> None:
    assert run_stream(Pearl(4), Rate(0.8), SYSTEMS["jitter"], tokens=50).interval() is None


# ----------------------------------------------------------------------------------------------------- two modes, one clock


@dataclass(frozen=True)
class Wandering(DraftLength):
    """A length that never repeats: only events can follow it."""

    def init(self, facts: object) -> int:
        return 0

    def length(self, memory: int) -> int:
        return 1 + memory * memory % 7

    def update(self, memory: int, verdict: Verdict) -> int:
        return memory + 1 + verdict.accepted


lengths = st.integers(1, 9)
seconds = st.floats(1e-5, 0.1)
strategies = st.one_of(
    st.just(Autoregressive()),
    st.just(Pearl(Wandering())),
    st.builds(Speculative, lengths),
    st.builds(Pearl, lengths),
    st.builds(Elastic, lengths),
    st.builds(PromptLookup, lengths),
)
accepting = st.one_of(
    st.builds(Rate, st.floats(0, 1)),
    st.builds(markov, st.floats(0, 0.99), st.floats(0.01, 1)),
    st.builds(PerPosition, st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple)),
    st.just(recorded({0: 3, 2: 1, 9: 2})),
)
factors = st.floats(1, 4)


@st.composite
def systems(draw: st.DrawFn) -> System:
    kind = draw(st.sampled_from(["two", "network", "in turn", "together"]))
    return System(
        Constant(draw(seconds), draw(seconds), draw(st.dictionaries(st.integers(2, 9), seconds, max_size=3))),
        shared=kind == "in turn",
        together=Slowdown(draw(factors), draw(factors)) if kind == "together" else None,
        network_seconds=draw(st.floats(0, 0.01)) if kind == "network" else 0.0,
        overhead_seconds=draw(st.sampled_from([0.0, 1.7e-4])),
        jitter=draw(st.sampled_from([Jitter(), Jitter(0.1, 0.3)])),
        turns=draw(st.sampled_from([Slowdown(), Slowdown(1.1, 0.9)])),
        drafting_overhead_seconds=draw(st.sampled_from([None, 4e-4])),
    )


@settings(max_examples=60)
@given(strategies, accepting, systems(), st.integers(0, 2**32))
def test_both_modes_read_the_same_clock(strategy: DecodingStrategy, acceptance: Acceptance, system: System, seed: int) -> None:
    quick, detailed = (run_stream(strategy, acceptance, system, tokens=60, seed=seed, detailed=mode) for mode in (False, True))
    assert quick.round_end_seconds.tolist() == detailed.round_end_seconds.tolist()
    assert quick.round_tokens.tolist() == detailed.round_tokens.tolist()
    for name in ("verifications", "drafted", "accepted", "target_busy_seconds", "draft_busy_seconds"):
        assert getattr(quick, name) == getattr(detailed, name)
    check_spans(detailed)


@pytest.mark.parametrize("together", [None, Slowdown(1.4, 1.9)], ids=["two devices", "together"])
def test_a_draft_in_a_race_ends_with_the_token_in_progress(together: Slowdown | None) -> None:
    """Whatever each forward of the target takes: no token is begun after its answer, and none is cut off."""
    system = System(Constant(1e-3, 5e-3, {8: 7e-3}), together=together, jitter=Jitter(0.4, 0.0))
    run = run_stream(Elastic(9), Rate(0.8), system, tokens=10_000, rounds=400, detailed=True)
    made = set[int]()
    for draft, target in zip(*([s for s in run.spans if s.model == model] for model in ("draft", "target")), strict=True):
        made.add(len(draft.fates))
        assert draft.end_seconds >= target.end_seconds or len(draft.fates) == 9
        pace = (target.end_seconds - target.start_seconds) / (together.draft_factor if together else 1.0)
        assert (len(draft.fates) - 1) * 1e-3 < pace
    assert made > {2, 3, 4}


def check_spans(run: Run) -> None:
    """A model does one thing at a time, all it did is there, and every accepted token was drafted once."""
    for model, busy in (("draft", run.draft_busy_seconds), ("target", run.target_busy_seconds)):
        spans = [span for span in run.spans if span.model == model]
        for before, after in pairwise(spans):
            assert before.end_seconds <= after.start_seconds
        assert sum(span.end_seconds - span.start_seconds for span in spans) == pytest.approx(busy, abs=1e-9)
    fates = [fate for span in run.spans for fate in span.fates]
    if fates:
        assert len(fates) == run.drafted
        assert fates.count("accepted") == run.accepted


# --------------------------------------------------------------------------------------------------- common random numbers


def test_common_random_numbers_make_differences_three_times_sharper() -> None:
    """Seconds of PEARL - SD over the same answers of 50 to 400 tokens, against the interval of independent draws."""
    system, requests = System(Constant(1e-3, 5e-3)), 150
    tokens = np.random.default_rng(0).integers(50, 400, requests).tolist()

    def seconds(strategy: DecodingStrategy, seed: int) -> list[float]:
        return [run_stream(strategy, Rate(0.8), system, tokens=n, seed=seed, request=i).seconds for i, n in enumerate(tokens)]

    pearl, speculative = np.array([seconds(Pearl(5), 0), seconds(Speculative(4), 0)])
    shuffled = np.random.default_rng(1).permutation(seconds(Speculative(4), 1))
    quantile = t.ppf(0.975, requests - 1) / requests**0.5
    paired, unpaired = (quantile * (pearl - other).std(ddof=1) for other in (speculative, shuffled))
    assert unpaired / paired >= 3


def test_answers_of_equal_length_are_paired_by_their_hard_tokens_alone() -> None:
    """Both times are functions of the same draws, so nothing random is left to share; what remains is how windows fall on them.

    Given how many tokens of an answer would be rejected, the two are nearly independent. So the correlation is the product of
    theirs with that number, and the interval narrows by less than 3.
    """
    system, hard, seconds = System(Constant(1e-3, 5e-3)), [], {Pearl(5): [], Speculative(4): []}
    for request in range(300):
        draws = Rate(0.8).draws(np.random.default_rng(np.random.SeedSequence([0, request]).spawn(3)[0]), 100 + 4096)
        hard.append(np.sum(draws[:100] == 0))
        for strategy, found in seconds.items():
            found.append(run_stream(strategy, Rate(0.8), system, tokens=100, request=request).seconds)
    pearl, speculative = map(np.array, seconds.values())
    pair, one, other = (np.corrcoef(*columns)[0, 1] for columns in ((pearl, speculative), (pearl, hard), (speculative, hard)))
    assert pair == pytest.approx(one * other, abs=0.05)
    narrower = np.hypot(pearl.std(), speculative.std()) / (pearl - speculative).std()
    assert 2 < narrower < 3


def test_draws_belong_to_the_position_not_to_the_strategy() -> None:
    """With one guess at a time, PEARL and SD are tested at every position that they both ask about with the same answer."""
    draws = Rate(0.5).draws(np.random.default_rng(np.random.SeedSequence([4, 2]).spawn(3)[0]), 4000 + 4096)
    run = run_stream(Pearl(1), Rate(0.5), SYSTEMS["two devices"], tokens=4000, seed=4, request=2)
    assert run.accepted == int((draws[:4000] > 0).sum())


def test_another_request_and_another_seed_have_other_draws() -> None:
    runs = [
        run_stream(Pearl(3), Rate(0.7), SYSTEMS["jitter"], tokens=200, seed=s, request=r).seconds
        for s, r in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(runs)) == 3
    assert runs[0] == run_stream(Pearl(3), Rate(0.7), SYSTEMS["jitter"], tokens=200).seconds


def test_nothing_to_simulate_is_refused() -> None:
    with pytest.raises(InputError, match="tokens 0"):
        run_stream(Pearl(3), Rate(0.7), SYSTEMS["jitter"], tokens=0)
    with pytest.raises(InputError, match="rounds 0"):
        run_stream(Pearl(3), Rate(0.7), SYSTEMS["jitter"], tokens=1, rounds=0)
