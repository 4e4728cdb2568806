"""Compiled strategies under traffic: the clock of the event simulation, equal acceptance draws, prompts and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov
from sim.setup.latency import Constant, Measured
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.intervals import paired_interval
from sim.traffic.costs import IterationCost
from sim.traffic.metrics import Metrics, measure
from sim.traffic.paths import draw_paths
from sim.traffic.serving import Served, Server, serve, simulate_serving
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload, streams
from specdec import Both, DecodingStrategy, Draft, Guess, InputError, Score, Verify
from specdec.profile import DraftTiming, Slowdown, TargetTiming
from strategies import Autoregressive, Elastic, Pearl, PromptLookup, Speculative

BUILT_IN = [Autoregressive(), Elastic(), Speculative(4), Pearl(2), Pearl("auto"), PromptLookup(3)]
STEPS = Constant(0.001, 0.005, {8: 0.006})
SYSTEMS = {
    "two devices": System(STEPS),
    "far apart": System(STEPS, network_seconds=0.0004, overhead_seconds=0.0002),
    "in turn": System(STEPS, shared=True),
    "side by side": System(STEPS, shared=True, together=Slowdown(1.3, 1.7)),
    "turns": System(STEPS, together=Slowdown(1.1, 1.2), turns=Slowdown(1.2, 1.5), drafting_overhead_seconds=0.0003),
    "turns on one": System(STEPS, shared=True, turns=Slowdown(1.2, 1.5)),
}
PLAIN = SYSTEMS["two devices"]


@dataclass(frozen=True)
class Twice(DecodingStrategy):
    """Two verdicts a round: a short window, then another one."""

    name = "twice"

    def step(self, state: Any):
        for length in (2, 3):
            scores, guess = yield from Both(Score(state.committed, Guess.empty), Draft(state.committed, Guess.empty, length))
            verdict = yield from Verify(scores, guess[:1])
            state = state.then(verdict)
        return state


def requests(*columns: tuple[float, int, int]) -> Workload:
    """Arrival, input and output of each."""
    arrivals, inputs, outputs = (np.array(column) for column in zip(*columns, strict=True))
    return Workload(arrivals, inputs, outputs)


def served(strategy: DecodingStrategy, workload: Workload, system: System = PLAIN, rate: float = 0.8, **server: Any) -> Served:
    return simulate_serving(compile_strategy(strategy, system), Rate(rate), system, workload, Server(**server))


@pytest.mark.parametrize(
    "acceptance", [Rate(0.8), PerPosition([0.9, 0.6]), markov(0.9, 0.5)], ids=["rate", "position", "markov"]
)
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("strategy", BUILT_IN, ids=str)
def test_a_lone_request_has_the_clock_of_the_event_simulation(
    strategy: DecodingStrategy, name: str, acceptance: Acceptance
) -> None:
    system, workload = SYSTEMS[name], requests((0.0, 1, 700))
    events = run_stream(strategy, acceptance, system, tokens=700, seed=3)
    compiled = compile_strategy(strategy, system)
    paths = draw_paths(compiled, acceptance, workload, np.random.SeedSequence([3, 0]).spawn(3)[0])
    cost = IterationCost(compiled, system, np.random.SeedSequence(0))
    record = serve(workload, paths, [cost], Server())
    assert record.finish_seconds[0] == pytest.approx(events.seconds, rel=1e-9)
    assert record.first_token_seconds[0] == pytest.approx(events.round_end_seconds[0], rel=1e-9)
    target, draft = record.busy_seconds(0, np.inf)
    assert target == pytest.approx(events.target_busy_seconds, rel=1e-9)
    assert draft == pytest.approx(events.draft_busy_seconds, rel=1e-9)


def test_a_round_of_two_verdicts_takes_its_time_and_commits_at_its_end() -> None:
    workload = requests((0.0, 1, 300))
    record = served(Twice(), workload, rate=1.0)  # two tokens in two stages of 5 ms
    assert record.finish_seconds[0] == pytest.approx(150 * 0.01)
    assert record.first_token_seconds[0] == pytest.approx(0.01)


systems = st.sampled_from([*SYSTEMS.values(), System(STEPS, jitter=Jitter(0.2, 0.3))])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(BUILT_IN), systems, st.integers(1, 2), st.integers(1, 8))
def test_a_jump_of_a_strategy_gives_the_clock_of_stepping(
    seed: int, strategy: DecodingStrategy, system: System, replicas: int, max_batch: int
) -> None:
    root = np.random.SeedSequence(seed)
    workload = Traffic(Arrivals(8.0, 1.5), Lengths(50, 1.0), Lengths(30, 1.0), 60).workload(root)
    compiled, server = compile_strategy(strategy, system), Server(replicas, max_batch, prefill_chunk=64)

    def run(longest_jump: int) -> Served:
        costs = [IterationCost(compiled, system, stream) for stream in streams(root, replicas)]
        return serve(workload, draw_paths(compiled, Rate(0.7), workload, root), costs, server, longest_jump)

    jumped, stepped = run(4096), run(1)
    assert np.array_equal(jumped.finish_seconds, stepped.finish_seconds)
    for left, right in zip(jumped.iterations, stepped.iterations, strict=True):
        assert np.array_equal(left.end_seconds, right.end_seconds)


def test_an_answer_ends_inside_a_block() -> None:
    workload = requests((0.0, 1, 3), (0.0, 1, 4), (0.0, 1, 1))
    pearl = served(Pearl(2), workload, rate=1.0)  # commits 1, 2, 2, ...
    assert np.rint(pearl.finish_seconds / 0.005).tolist() == [2, 3, 1]
    alone = served(Autoregressive(), workload, rate=1.0)
    assert np.rint(alone.finish_seconds / 0.005).tolist() == [3, 4, 1]


def test_jitter_keeps_its_mean_and_slows_a_strategy_that_waits_for_both() -> None:
    workload = requests(*[(0.0, 1, 1000)] * 40)

    def seconds(strategy: DecodingStrategy, jitter: Jitter) -> float:
        return served(strategy, workload, System(STEPS, jitter=jitter), max_batch=1).finish_seconds[-1]

    assert seconds(Autoregressive(), Jitter(0.3)) == pytest.approx(seconds(Autoregressive(), Jitter()), rel=0.01)
    assert seconds(Pearl(5), Jitter(0.3, 0.3)) > 1.03 * seconds(Pearl(5), Jitter())
    shaken = served(Speculative(4), workload, System(Constant(0.001, 0.005), jitter=Jitter(0, 0.3)), max_batch=1)
    assert shaken.iterations[0].seconds.std() == pytest.approx(0.3 / 2 * 0.004, rel=0.05)  # four steps, half the cv


SETTINGS = [(width, batch, context) for width in (1, 16) for batch in (1, 8) for context in (0, 1000)]
GROWING = (
    System(  # a position costs 0.1 ms, a thousand tokens of context in a batch 1 ms, a draft step a tenth of a target step
        Measured(
            [TargetTiming(w, b, c, 0.005 + 1e-4 * (w * b - 1) + 1e-6 * b * c) for w, b, c in SETTINGS],
            [DraftTiming(b, c, 0.0005) for _, b, c in SETTINGS],
        )
    )
)


def test_prompts_take_time_by_their_tokens_and_stall_the_others() -> None:
    long = served(Autoregressive(), requests((0.0, 1001, 1)), GROWING)
    assert long.finish_seconds[0] == pytest.approx(0.005 + 0.1 + 0.001, rel=1e-3)
    halves = served(Autoregressive(), requests((0.0, 1001, 1)), GROWING, prefill_chunk=500)
    assert halves.finish_seconds[0] == pytest.approx(2 * (0.005 + 0.05) + 0.001, rel=1e-3)
    both = served(Autoregressive(), requests((0.0, 1, 100), (0.1, 1001, 1)), GROWING)
    beside = 0.005 + 0.0001 + 0.00103  # a second position, and the two contexts
    assert both.iterations[0].seconds.max() == pytest.approx(beside + 0.1, rel=1e-3)
    chunked = served(Autoregressive(), requests((0.0, 1, 100), (0.1, 1001, 1)), GROWING, prefill_chunk=100)
    assert chunked.iterations[0].seconds.max() == pytest.approx(beside + 0.01, rel=1e-2)
    assert chunked.first_token_seconds[1] > both.first_token_seconds[1]


def test_a_table_that_noise_made_fall_is_continued_level() -> None:
    draft = [DraftTiming(1, 0, 0.001)]
    falling = Measured([TargetTiming(1, 1, context, seconds) for context, seconds in ((0, 0.005), (1000, 0.004))], draft)
    assert falling.target_seconds(1, 1, 500) == pytest.approx(0.0045)
    assert falling.target_seconds(1, 1, 7000) == pytest.approx(0.004)
    rising = Measured([TargetTiming(1, 1, context, seconds) for context, seconds in ((0, 0.004), (1000, 0.005))], draft)
    assert rising.target_seconds(1, 1, 7000) == pytest.approx(0.011)


def test_a_latency_below_zero_is_refused() -> None:
    class Falling:
        def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> NDArray[np.float64]:
            return np.asarray(tokens, float)

        def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> NDArray[np.float64]:
            return 0.005 - 1e-6 * np.asarray(context, float) + 0 * np.asarray(width, float)

    with pytest.raises(InputError, match=r"latency at batch 1, context 7004 and 0 prompt tokens is -0.002004 s: "):
        served(Autoregressive(), requests((0.0, 7000, 5)), System(Falling()))


def test_a_draft_reads_the_prompt_too() -> None:
    workload = requests((0.0, 1001, 1))
    speculative, pearl = (served(strategy, workload, GROWING) for strategy in (Speculative(2), Pearl(2)))
    assert speculative.finish_seconds[0] == pytest.approx(0.001 + 0.01 + 0.005 + 0.1 + 0.0002 + 0.001, rel=1e-3)
    assert pearl.finish_seconds[0] == pytest.approx(0.005 + 0.1 + 0.001, rel=1e-3)  # at the same time


def test_a_bigger_batch_costs_more_by_its_positions() -> None:
    alone = served(Autoregressive(), requests((0.0, 1, 50)), GROWING).finish_seconds[0]
    eight = served(Autoregressive(), requests(*[(0.0, 1, 50)] * 8), GROWING).finish_seconds[0]
    assert eight - alone == pytest.approx(50 * 7 * (1e-4 + 25.5e-6), rel=0.01)  # seven positions and contexts more


def test_memory_counts_target_draft_and_look_ahead() -> None:
    workload = requests(*[(0.0, 50, 50)] * 12)

    def most_at_once(strategy: DecodingStrategy, kv_tokens: int) -> int:
        record = served(strategy, workload, kv_tokens=kv_tokens)
        return max(np.sum((record.admitted_seconds <= t) & (record.finish_seconds > t)) for t in record.admitted_seconds)

    assert most_at_once(Autoregressive(), 6 * 101) == 6  # 100 tokens and the one being decoded
    assert most_at_once(Autoregressive(), 6 * 101 - 1) == 5
    assert most_at_once(Speculative(4), 3 * (105 + 104)) == 3  # five positions in the target, four guesses in the draft
    assert most_at_once(Speculative(4), 3 * (105 + 104) - 1) == 2
    assert most_at_once(Pearl(4), 3 * (104 + 107)) == 3  # the draft runs four tokens ahead of a window of four positions
    assert most_at_once(Pearl(4), 3 * (104 + 107) - 1) == 2


def test_replicas_share_the_load() -> None:
    workload = Traffic(Arrivals(20.0), Lengths(10), Lengths(100, 2.0), 400).workload(np.random.SeedSequence(0))
    one, three = (measure(served(Pearl(5), workload, max_batch=2, replicas=replicas)) for replicas in (1, 3))
    assert one.saturation == "overloaded"
    assert three.e2e.mean < one.e2e.mean / 4
    turns = served(Pearl(5), workload, max_batch=2, replicas=3, routing="round-robin")
    assert turns.replica[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert measure(turns).waiting_seconds > 1.2 * three.waiting_seconds  # not looking at queues costs


def compared(strategy: DecodingStrategy, root: int) -> list[Metrics]:
    found = []
    for seed in streams(np.random.SeedSequence(root), 12):
        arrivals, draws = streams(seed, 2)
        workload = Traffic(Arrivals(4.0), Lengths(500, 1.0), Lengths(200, 1.0), 300).workload(arrivals)
        found.append(measure(simulate_serving(compile_strategy(strategy), Rate(0.8), PLAIN, workload, seed=draws)))
    return found


def test_common_random_numbers_narrow_the_difference_of_strategies() -> None:
    """By 3 and more in means and tails of whole answers, whose lengths are shared too; per token, by draws alone, by less."""
    runs = compared(Pearl(5), 1), compared(Speculative(4), 1), compared(Speculative(4), 2)
    for metric, statistic, narrower in (("e2e", "mean", 3), ("e2e", "p99", 3), ("tpot", "mean", 1.7)):
        pearl, sd, other = ([getattr(getattr(run, metric), statistic) for run in found] for found in runs)
        paired = np.ptp(paired_interval(pearl, sd))
        unpaired = np.ptp(stats.ttest_ind(pearl, other, equal_var=False).confidence_interval())
        assert paired_interval(pearl, sd)[1] < 0
        assert unpaired > narrower * paired


def test_a_seed_gives_the_same_record_however_often_it_is_used() -> None:
    seed, compiled = np.random.SeedSequence(0), compile_strategy(Pearl(5))
    workload = Traffic(Arrivals(4.0), Lengths(50), Lengths(50), 50).workload(seed)
    first, again, other = (simulate_serving(compiled, Rate(0.8), PLAIN, workload, seed=used) for used in (seed, seed, 1))
    assert np.array_equal(first.finish_seconds, again.finish_seconds)
    assert not np.array_equal(first.finish_seconds, other.finish_seconds)


def test_memory_is_linear_in_requests() -> None:
    def peak_bytes(count: int) -> int:
        workload = Traffic(Arrivals(5.0), Lengths(100), Lengths(200), count).workload(np.random.SeedSequence(0))
        tracemalloc.start()
        served(Pearl(5), workload)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(4000) < 2.3 * peak_bytes(2000) < 2.3 * 2000 * 10_000
