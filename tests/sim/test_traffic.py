"""Compiled strategies under traffic: the clock of the event simulation, equal acceptance draws, prompts and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov
from sim.setup.latency import Constant
from sim.setup.measured import Measured
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.run import paired_interval
from sim.stream.speed import long_run_speed
from sim.traffic.metrics import Metrics, measure
from sim.traffic.record import Served, Server
from sim.traffic.serving import simulate_serving
from sim.traffic.tables import costs_table
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload, streams
from specdec import Both, DecodingStrategy, Draft, Guess, InputError, Score, Verify
from specdec.profile import BatchRounds, DraftTiming, Slowdown, TargetTiming
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
RATE = Rate(0.8)


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


def served(
    strategy: DecodingStrategy, workload: Workload, system: System = PLAIN, acceptance: Acceptance = RATE, **server: Any
) -> Served:
    return simulate_serving(compile_strategy(strategy, system), acceptance, system, workload, Server(**server))


@pytest.mark.parametrize(
    "acceptance", [Rate(0.8), PerPosition([0.9, 0.6]), markov(0.9, 0.5)], ids=["rate", "position", "markov"]
)
@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("strategy", BUILT_IN, ids=str)
def test_a_lone_request_has_the_speed_of_the_chain(strategy: DecodingStrategy, name: str, acceptance: Acceptance) -> None:
    system, tokens = SYSTEMS[name], 60_000
    record = served(strategy, requests((0.0, 1, tokens)), system, acceptance)
    exact = long_run_speed(compile_strategy(strategy, system), acceptance, system)
    decoding = record.finish_seconds[0] - record.first_token_seconds[0]
    assert decoding / tokens == pytest.approx(1 / exact.tokens_per_second, rel=0.02)
    busy = record.iterations.target_seconds.sum(dtype=float) / record.finish_seconds[0]
    assert busy == pytest.approx(1 - exact.target_idle_share, abs=0.01)


def test_a_round_of_two_verdicts_takes_its_time_and_commits_at_its_end() -> None:
    record = served(Twice(), requests((0.0, 1, 301)), acceptance=Rate(1.0))  # two tokens in two stages of 5 ms
    assert record.finish_seconds[0] == pytest.approx(0.005 + 150 * 0.01)


def test_an_answer_ends_inside_a_block() -> None:
    workload = requests((0.0, 1, 4), (0.0, 1, 5), (0.0, 1, 1))
    pearl = served(Pearl(2), workload, acceptance=Rate(1.0))  # commits 1 with the prompt, then 1, 2, 2, ...
    assert np.rint(pearl.finish_seconds / 0.005).tolist() == [3, 4, 1]
    alone = served(Autoregressive(), workload)
    assert np.rint(alone.finish_seconds / 0.005).tolist() == [4, 5, 1]


def test_jitter_keeps_its_mean_and_slows_a_strategy_that_waits_for_both() -> None:
    workload = requests(*[(0.0, 1, 1000)] * 40)

    def seconds(strategy: DecodingStrategy, jitter: Jitter) -> float:
        return served(strategy, workload, System(STEPS, jitter=jitter), max_batch=1).finish_seconds[-1]

    assert seconds(Autoregressive(), Jitter(0.3)) == pytest.approx(seconds(Autoregressive(), Jitter()), rel=0.01)
    assert seconds(Pearl(5), Jitter(0.3, 0.3)) > 1.03 * seconds(Pearl(5), Jitter())
    shaken = served(Speculative(4), workload, System(Constant(0.001, 0.005), jitter=Jitter(0, 0.3)), max_batch=1)
    rounds = shaken.iterations.seconds[shaken.iterations.deliveries > 0]
    assert rounds.std() == pytest.approx(0.3 / 2 * 0.004, rel=0.05)  # four steps, half the cv


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
    long = served(Autoregressive(), requests((0.0, 1000, 1)), GROWING)
    assert long.finish_seconds[0] == pytest.approx(0.005 + 0.0999, rel=1e-3)
    halves = served(Autoregressive(), requests((0.0, 1000, 1)), GROWING, iteration_tokens=500)
    assert halves.finish_seconds[0] == pytest.approx(2 * (0.005 + 0.0499) + 0.0005, rel=1e-3)
    both = served(Autoregressive(), requests((0.0, 1, 100), (0.1, 1000, 1)), GROWING)
    assert both.iterations.seconds.max() == pytest.approx(0.005 + 0.1, rel=1e-3)
    chunked = served(Autoregressive(), requests((0.0, 1, 100), (0.1, 1000, 1)), GROWING, iteration_tokens=101)
    assert chunked.iterations.seconds.max() == pytest.approx(0.005 + 0.01 + 0.001, rel=0.02)
    assert chunked.first_token_seconds[1] > both.first_token_seconds[1]
    cached = served(Autoregressive(), requests((0.0, 1000, 1)), GROWING, cached_share=0.9)
    assert cached.finish_seconds[0] == pytest.approx(0.005 + 0.0099 + 0.0009, rel=1e-3)  # the cached part is attended to


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

    with pytest.raises(
        InputError, match=r"Falling gives -\S+ s for a forward at batch 1, width 1, context \d+: correct the latency"
    ):
        served(Autoregressive(), requests((0.0, 7000, 5)), System(Falling()))


def test_a_draft_reads_the_prompt_too() -> None:
    workload = requests((0.0, 1000, 1))
    one, two = (
        served(Speculative(2), workload, system).finish_seconds[0] for system in (GROWING, replace(GROWING, shared=True))
    )
    assert one == pytest.approx(0.005 + 0.0999, rel=1e-3)  # at the same time
    assert two == pytest.approx(1.1 * (0.005 + 0.0999), rel=0.01)  # one after the other, at a tenth of the target's seconds


def test_a_bigger_batch_costs_more_by_its_rows() -> None:
    alone = served(Autoregressive(), requests((0.0, 1, 50)), GROWING).finish_seconds[0]
    eight = served(Autoregressive(), requests(*[(0.0, 1, 50)] * 8), GROWING).finish_seconds[0]
    assert eight - alone == pytest.approx(50 * 7 * (1e-4 + 25.5e-6), rel=0.01)  # seven rows and contexts more


def test_memory_grows_block_by_block_and_counts_the_look_ahead() -> None:
    workload = requests(*[(0.0, 48, 48)] * 12)

    def most_blocks(strategy: DecodingStrategy, **server: Any) -> tuple[float, int]:
        record = served(strategy, workload, **server)
        return float(record.iterations.blocks.max()), int(record.preemptions.sum())

    assert most_blocks(Autoregressive(), kv_tokens=12 * 96) == (72, 0)  # 6 blocks each, for 96 tokens
    assert most_blocks(Speculative(4), kv_tokens=12 * 112)[0] > 72  # and one more for the positions that are scored
    used, preempted = most_blocks(Autoregressive(), kv_tokens=12 * 96 - 16)
    assert used == 71
    assert preempted > 0


def test_replicas_share_the_load() -> None:
    workload = Traffic(Arrivals(20.0), Lengths(10), Lengths(100, 2.0), 400).workload(np.random.SeedSequence(0))
    one, three = (measure(served(Pearl(5), workload, max_batch=2, replicas=replicas)) for replicas in (1, 3))
    assert one.ttft_growth > 5
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


def test_an_overhead_that_falls_with_the_batch_is_level_beyond_what_was_measured() -> None:
    system = System(STEPS, overhead_seconds=5e-4, batches=(BatchRounds(8, round_overhead_seconds=3e-4),))
    costs = costs_table(compile_strategy(Autoregressive(), system), system, 256, 256, 64, 0)
    assert costs.overhead.min() == pytest.approx(3e-4)
