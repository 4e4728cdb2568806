"""Serving: the engine does what an engine written step by step does, queues wait as theory says, metrics are what they say.

What strategies are served with: `test_traffic.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import factorial
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from step_by_step import serve

from sim.planning.candidates import Candidate
from sim.planning.methods import Method, Place
from sim.planning.screen import Demand, ceiling
from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov
from sim.setup.arrays import Floats
from sim.setup.latency import Constant, forked
from sim.setup.model_size import read_model
from sim.setup.roofline import Roofline
from sim.setup.segments import Segments
from sim.setup.system import Jitter, System
from sim.stream.chain import Compiled, compile_strategy
from sim.stream.run import interval, paired_interval
from sim.stream.speed import long_run_speed
from sim.traffic.journal import EACH, WRITTEN, Journal, thin
from sim.traffic.metrics import Objectives, Summary, growth_of, measure, saturation_of
from sim.traffic.record import Served, Server
from sim.traffic.schedule import AdaptiveSchedule, Schedule
from sim.traffic.serving import capacity_per_second, simulate_serving
from sim.traffic.tables import Answers
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload, streams
from specdec import DecodingStrategy, InputError, StrategyError
from specdec.acceptance import Foresight
from specdec.profile import Slowdown
from strategies import Autoregressive, Elastic, Hedged, Pearl, Saguaro, Speculative

# --------------------------------------------------------------------------------------- the engine against one step by step


class Linear:
    """Every seat, position and token of context costs something."""

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        steps, sequences, held = (np.asarray(x, float) for x in (tokens, batch, context))
        return steps * (1e-3 + 2e-5 * sequences + 1e-8 * sequences * held)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        positions, sequences, held = (np.asarray(x, float) for x in (width, batch, context))
        return np.where(positions > 0, 5e-3 + 1e-4 * positions * sequences + 1e-7 * sequences * held, 0.0)

    fork_reach = 1000

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        sequences, held = np.asarray(batch, float), np.asarray(context, float)

        def forward(number: ArrayLike) -> Floats:
            return 2e-3 + 3e-5 * np.asarray(number, float) * sequences + 1e-8 * sequences * held

        return forked(forward, rows, branches, steps)


SYSTEMS = [
    System(Linear()),
    System(Linear(), network_seconds=3e-4, overhead_seconds=1e-3, wake_seconds=2e-2),
    System(Linear(), shared=True, turns=Slowdown(1.2, 1.5)),
    System(Linear(), shared=True, together=Slowdown(1.3, 1.7)),
]
CHAINS = [
    [compile_strategy(one) for one in some]
    for some in (
        [Autoregressive()],
        [Speculative(4)],
        [Pearl(3)],
        [Saguaro(2, 3, "none")],
        [Hedged(2, 3)],
        [Speculative(4), Speculative(1), Autoregressive()],
    )
]
FORKING = [compile_strategy(Saguaro(3, 2))]
BORDERS = (3, 6)
FORESEEING = Rate(0.8).foreseeing(Foresight((0.2, 0.4, 0.45), (0.6, 0.7, 0.9)))
ENGINES: dict[str, Any] = {
    "replicas": st.integers(1, 3),
    "max_batch": st.sampled_from([1, 4, 8, 32]),
    "clients": st.sampled_from([None, 1, 5, 12]),
    "client_seconds": st.sampled_from([0.0, 0.004]),
    "lag_iterations": st.integers(0, 2),
    "routing": st.sampled_from(["shortest-queue", "round-robin"]),
}
servers = st.builds(Server, **ENGINES, runtime=st.just("specdec"), antiphase=st.booleans()) | st.builds(
    Server,
    kv_tokens=st.sampled_from([None, 900, 1200, 2000]),
    block_tokens=st.sampled_from([1, 16]),
    iteration_tokens=st.sampled_from([32, 100, 2048]),
    antiphase=st.booleans(),
    **ENGINES,
)


def both(
    chains: list[Compiled],
    acceptance: Acceptance,
    system: System,
    workload: Workload,
    server: Server,
    seed: int,
    adaptive: bool = False,
) -> tuple[Served, dict[str, Any]]:
    """The record of the engine, and what an engine written step by step finds on the same draws."""
    borders = BORDERS[: len(chains) - 1]
    several = AdaptiveSchedule(chains) if adaptive else Schedule(chains, borders)
    ours = simulate_serving(several, acceptance, system, workload, server, seed)
    acceptance_seed, _, lots_seed = streams(np.random.SeedSequence(seed), 3)
    random, total = np.random.default_rng(streams(acceptance_seed, 1)[0]), int(workload.output_tokens.sum())
    lots = np.random.default_rng(streams(lots_seed, 1)[0]).random(total, np.float32)
    if not acceptance.begins_anew:
        draws = acceptance.draws(random, total)
    else:
        draws = np.concatenate([acceptance.draws(random, int(tokens)) for tokens in workload.output_tokens])
    begins = np.cumsum(workload.output_tokens) - workload.output_tokens
    choose = fastest_of(chains, system, workload) if adaptive else lambda n, *_: chains[int(np.searchsorted(borders, n))]
    own_draws = [draws[begin:] for begin in begins]
    return ours, serve(chains, choose, 0.95, acceptance, system, workload, server, own_draws, lots)


def fastest_of(chains: list[Compiled], system: System, workload: Workload) -> Callable[[int, float, float], Compiled]:
    """The chain that commits most tokens in a second at the counted rate, in steps of 1/40, and at a quarter of a doubling."""
    held = float(np.mean(workload.input_tokens + workload.output_tokens / 2))

    def choose(sequences: int, accepted: float, tested: float) -> Compiled:
        rate = Rate(int(40 * (accepted + 0.8) / (tested + 1) + 0.5) / 40)
        batch = max(int(2 ** (step / 4)) for step in range(40) if int(2 ** (step / 4)) <= max(1, sequences))
        return max(chains, key=lambda one: long_run_speed(one, rate, system.at_batch(batch, held)).tokens_per_second)

    return choose


@settings(max_examples=60, deadline=None)
@example(0, FORKING, Rate(0.7), SYSTEMS[0], Server(max_batch=8), False)
@example(0, FORKING, FORESEEING, SYSTEMS[0], Server(max_batch=8, runtime="specdec"), False)
@example(0, FORKING, FORESEEING, SYSTEMS[3], Server(max_batch=8, kv_tokens=1200), False)
@example(0, CHAINS[-1], markov(0.9, 0.5), SYSTEMS[0], Server(replicas=2, max_batch=8), True)
@example(0, CHAINS[-1], Rate(0.2), SYSTEMS[2], Server(max_batch=32, kv_tokens=2000), True)
@example(0, CHAINS[-1], Rate(0.6), SYSTEMS[1], Server(max_batch=8, runtime="specdec"), True)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([*CHAINS, FORKING]),
    st.sampled_from([Rate(0.7), PerPosition([0.9, 0.6]), markov(0.9, 0.5), FORESEEING]),
    st.sampled_from(SYSTEMS),
    servers,
    st.booleans(),
)
def test_the_engine_is_the_one_written_step_by_step(
    seed: int, chains: list[Compiled], acceptance: Acceptance, system: System, server: Server, adaptive: bool
) -> None:
    workload = Traffic(Arrivals(30.0, 2.0), Lengths(120, 1.0), Lengths(40, 1.0), 40).workload(np.random.SeedSequence(seed))
    workload = Workload(
        workload.arrival_seconds, np.minimum(workload.input_tokens, 600), np.minimum(workload.output_tokens, 200)
    )
    if system.in_turn or server.max_batch < 2 or not chains[0].strategy.drafts or chains[0].overlaps:
        server = replace(server, antiphase=False)
    ours, theirs = both(chains, acceptance, system, workload, server, seed, adaptive and chains is CHAINS[-1])
    found = {
        "submitted": ours.submitted_seconds,
        "first": ours.first_token_seconds,
        "finish": ours.finish_seconds,
        "replica": ours.replica,
        "preemptions": ours.preemptions,
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, theirs[name], rtol=0, atol=1e-9, err_msg=name)


def test_an_idle_machine_wakes_once() -> None:
    """Requests at 0, 0.001 and 0.9 s: the first and the last wake it, and the second joins the first."""
    system = System(Constant(1.0, 0.01, batches_are_free=True))
    workload = Workload(np.array([0.0, 0.001, 0.9]), np.ones(3, int), np.full(3, 4))
    plain, waking = (
        simulate_serving(CHAINS[0][0], Rate(0.5), replace(system, wake_seconds=seconds), workload, Server())
        for seconds in (0.0, 0.1)
    )
    assert waking.first_token_seconds == pytest.approx([0.11, 0.11, 1.01])
    assert waking.finish_seconds - waking.first_token_seconds == pytest.approx([0.03] * 3)
    assert plain.first_token_seconds == pytest.approx([0.01, 0.02, 0.91])


def test_segments_begin_with_every_answer() -> None:
    """Answers of 15 tokens, one after another, on a text of 10 that always pass and 10 that never do: all take as long."""
    workload = Workload(np.zeros(4), np.ones(4, int), np.full(4, 15))
    text, system = Segments([(10, 1.0), (10, 0.0)]), System(Linear())
    served = simulate_serving(compile_strategy(Speculative(4)), text, system, workload, Server(max_batch=1))
    each = served.finish_seconds - served.admitted_seconds
    assert each == pytest.approx(np.full(4, each[0]))


def test_halves_in_antiphase_hide_the_shorter_work() -> None:
    """Two sequences, seconds in proportion to the batch: a round of both takes the longer work, not the sum of both."""

    class Proportional(Linear):
        def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            return np.asarray(tokens, float) * np.asarray(batch) * 0.25

        def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            return np.where(np.asarray(width) > 0, 3.0 * np.asarray(batch), 0.0)

    workload, system = Workload(np.zeros(2), np.ones(2, int), np.full(2, 50)), System(Proportional())
    chain = compile_strategy(Speculative(4))
    plain, halves = (
        simulate_serving(chain, Rate(0.5), system, workload, Server(antiphase=mode)).iterations for mode in (False, True)
    )
    assert plain.seconds[plain.deliveries == 2] == pytest.approx(2 * (3 + 1))
    assert halves.seconds[halves.deliveries == 2] == pytest.approx(2 * 3)
    with pytest.raises(InputError, match="device of its own"):
        simulate_serving(chain, Rate(0.5), System(Proportional(), shared=True), workload, Server(antiphase=True))


@pytest.mark.parametrize(
    ("strategy", "batch", "reason"),
    [
        (Autoregressive(), 8, "antiphase hides the time of a draft, and autoregressive has none"),
        (Speculative(4), 1, "antiphase needs two sequences at least"),
        *((one, 8, f"{one.name} drafts while it verifies") for one in (Pearl(3), Saguaro(2, 3), Hedged(2, 3), Elastic())),
    ],
    ids=str,
)
def test_what_has_no_halves_is_refused(strategy: DecodingStrategy, batch: int, reason: str) -> None:
    workload = Workload(np.zeros(2), np.ones(2, int), np.full(2, 50))
    system = System(Linear())
    with pytest.raises((InputError, StrategyError), match=reason):
        simulate_serving(
            compile_strategy(strategy, system), Rate(0.5), system, workload, Server(max_batch=batch, antiphase=True)
        )


def test_speculation_that_is_switched_off_and_still_configured_costs_its_factor() -> None:
    """Two answers at once are decoded without a draft, in forwards that take a tenth more."""
    chains, workload = [CHAINS[1][0], CHAINS[0][0]], Workload(np.zeros(2), np.ones(2, int), np.full(2, 20))
    plain, slower = (
        simulate_serving(Schedule(chains, [1], factors), Rate(0.5), SYSTEMS[0], workload) for factors in (None, [1.0, 1.1])
    )
    rounds = plain.iterations.deliveries == 2
    assert slower.iterations.seconds[rounds] == pytest.approx(1.1 * plain.iterations.seconds[rounds])


def test_the_round_in_which_another_request_joins_has_the_factor_of_its_own_length() -> None:
    """One answer is decoded with a draft. While the prompt of the second is read, it still is, and nothing is slower."""
    chains, workload = [CHAINS[1][0], CHAINS[0][0]], Workload(np.array([0.0, 0.05]), np.ones(2, int), np.full(2, 60))
    plain, slower = (
        simulate_serving(Schedule(chains, [1], factors), Rate(0.5), SYSTEMS[0], workload).iterations
        for factors in (None, [1.0, 1.1])
    )
    joins = (plain.deliveries == 1) & (plain.running == 2)
    assert joins.sum() == 1
    assert slower.seconds[joins] == pytest.approx(plain.seconds[joins])


LENGTHS = [*(compile_strategy(Speculative(length)) for length in range(6, 0, -1)), compile_strategy(Autoregressive())]


def tokens_per_second(several: Schedule | AdaptiveSchedule, acceptance: Acceptance, clients: int) -> float:
    """Of clients that always want more."""
    workload = Workload(np.zeros(200), np.full(200, 20), np.full(200, 100))
    served = simulate_serving(several, acceptance, SYSTEMS[0], workload, Server(clients=clients))
    return float(workload.output_tokens.sum() / served.finish_seconds.max())


@pytest.mark.parametrize("clients", [1, 12, 100])
@pytest.mark.parametrize("rate", [0.15, 0.5, 0.9])
def test_an_adaptive_schedule_is_about_as_fast_as_the_best_length_whatever_the_acceptance(rate: float, clients: int) -> None:
    """It begins with a rate of 0.8 each time; the length that is best at one rate loses far more at another."""
    adaptive = tokens_per_second(AdaptiveSchedule(LENGTHS), Rate(rate), clients)
    fixed = [tokens_per_second(Schedule([one]), Rate(rate), clients) for one in LENGTHS]
    assert adaptive > 0.96 * max(fixed)
    assert min(fixed) < 0.85 * max(fixed)


def test_an_adaptive_schedule_tries_to_draft_again() -> None:
    """No guess of the first 300 tokens passes, then all do: without a draft there is no news, and counts fade."""
    text, workload = Segments([(300, 0.0), (700, 1.0)]), Workload(np.zeros(1), np.ones(1, int), np.full(1, 1000))
    chains = [LENGTHS[2], LENGTHS[-1]]
    plain, sure, doubtful = (
        simulate_serving(one, text, SYSTEMS[0], workload).finish_seconds[0]
        for one in (chains[1], AdaptiveSchedule(chains, first=0.8), AdaptiveSchedule(chains, first=0.0))
    )
    assert sure < 0.75 * plain
    assert doubtful == pytest.approx(plain)


def test_an_adaptive_schedule_counts_what_being_off_costs() -> None:
    """A guess takes 1.12 ms of draft and target, and a step 5.1 ms: it pays from a rate of 0.22 on, or of 0.11."""
    workload = Workload(np.zeros(1), np.full(1, 20), np.full(1, 100))
    for factor, pays_from in ((1.0, 0.22), (1.1, 0.11)):
        several = AdaptiveSchedule([LENGTHS[-2], LENGTHS[-1]], [1.0, factor])
        chains = several.rounds(1, Rate(0.5), SYSTEMS[0], workload).chain[1]
        assert chains.tolist() == [int(step / 40 < pays_from) for step in range(41)]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"chains": []}, "give at least one chain"),
        ({"slower": [1.0]}, "one factor for each of its lengths"),
        ({"first": 1.2}, "first rate of an adaptive schedule 1.2"),
        ({"fading": -0.5}, "fading of an adaptive schedule -0.5"),
    ],
)
def test_an_adaptive_schedule_that_cannot_be_is_refused(given: dict[str, Any], reason: str) -> None:
    arguments: dict[str, Any] = {"chains": LENGTHS, **given}
    with pytest.raises(InputError, match=reason):
        AdaptiveSchedule(**arguments)


def test_a_full_memory_preempts_who_came_last() -> None:
    """Three answers of 100 tokens behind prompts of 16: blocks for two and a half of them."""
    workload = Workload(np.zeros(3), np.full(3, 16), np.full(3, 100))
    served = simulate_serving(CHAINS[0][0], Rate(0.5), SYSTEMS[0], workload, Server(kv_tokens=288))
    assert served.preemptions.tolist() == [0, 0, 1]
    assert served.first_token_seconds[2] == served.first_token_seconds[0]  # what was delivered stays delivered
    assert served.finish_seconds[2] > served.finish_seconds[0]


# ------------------------------------------------------------------------------------------------------------ long runs


def many(requests: int, **server: Any) -> Served:
    workload = Traffic(Arrivals(3.0), Lengths(60, 1.0), Lengths(50, 1.0), requests).workload(np.random.SeedSequence(1))
    system = replace(SYSTEMS[1], jitter=Jitter(0.2, 0.2))
    chain = compile_strategy(Pearl(3), system)
    return simulate_serving(chain, markov(0.9, 0.5), system, workload, Server(**server), 7)


@pytest.mark.parametrize("server", [{}, {"replicas": 3}, {"clients": 5}, {"max_batch": 2}])
def test_draws_that_are_made_as_requests_come_are_those_made_at_once(
    server: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.traffic.tables.DRAWN_AT_ONCE", 150)
    later, draw = many(400, **server), Answers.draw
    monkeypatch.setattr(Answers, "draw", lambda answers, oldest: [draw(answers, 0) for _ in range(150)])
    at_once = many(400, **server)
    assert later.iterations.seconds.tolist() == at_once.iterations.seconds.tolist()
    assert later.finish_seconds.tolist() == at_once.finish_seconds.tolist()


def test_memory_does_not_grow_with_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws of answers that are complete are forgotten, and the log is thinned."""
    held, draw = [0], Answers.draw

    def watched(answers: Answers, oldest: int) -> None:
        draw(answers, oldest)
        held.append(len(answers.draws.passes))

    monkeypatch.setattr(Answers, "draw", watched)
    monkeypatch.setattr("sim.traffic.tables.DRAWN_AT_ONCE", 1000)
    monkeypatch.setattr("sim.traffic.journal.LONGEST", 512)
    served = many(3000)
    assert max(held) < 8000 < served.workload.output_tokens.sum()
    assert len(served.iterations.seconds) < 512


def test_a_thinned_log_tells_what_the_whole_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = many(4000, replicas=2, kv_tokens=2000)
    monkeypatch.setattr("sim.traffic.journal.LONGEST", 2**14)
    part = many(4000, replicas=2, kv_tokens=2000)
    assert part.finish_seconds.tolist() == whole.finish_seconds.tolist()
    rows, each = len(part.iterations.seconds), part.iterations.each
    assert each >= 4
    assert rows * each == pytest.approx(len(whole.iterations.seconds), abs=2 * each)
    found, expected = measure(part), measure(whole)
    assert found.target_utilisation == pytest.approx(expected.target_utilisation, rel=0.02)
    assert found.kv_share == pytest.approx(expected.kv_share, rel=0.02)
    assert found.itl.mean == pytest.approx(expected.itl.mean, rel=0.01)
    assert found.itl.p99 == pytest.approx(expected.itl.p99, rel=0.05)


def test_of_each_two_rows_any_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas in turn, of which one is never lost by keeping every other row."""
    monkeypatch.setattr("sim.traffic.journal.SHORTEST", 2000)
    journal = Journal.empty()
    journal.ends[:], journal.rows[:] = np.arange(2000), np.tile([0, 1], 1000)[:, None]
    thin(journal)
    assert journal.state[WRITTEN] == 1000
    assert journal.state[EACH] == 2
    assert (journal.ends[:1000] // 2).tolist() == list(range(1000))
    assert journal.rows[:1000].mean() == pytest.approx(0.5, abs=0.08)
    np.testing.assert_array_equal(journal.rows[:1000, 0], journal.ends[:1000] % 2)


def test_capacity_of_very_many_requests_is_found_from_some(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Traffic(Arrivals(3.0), Lengths(60, 1.0), Lengths(50, 1.0), 3000).workload(np.random.SeedSequence(1))
    question: Any = (CHAINS[2][0], Rate(0.8), SYSTEMS[0], workload, Server(max_batch=8))
    whole = capacity_per_second(*question)
    monkeypatch.setattr("sim.traffic.serving.ENOUGH", 1000)
    assert capacity_per_second(*question) == pytest.approx(whole, rel=0.05)
    assert capacity_per_second(*question) != whole


# ------------------------------------------------------------------------------------------------------- queueing theory


def queue(arrivals: np.ndarray, rounds: np.ndarray, seconds: float, server: Server) -> Served:
    """Autoregressive requests with prompts of one token: `rounds[i]` iterations of equal length for request `i`."""
    workload = Workload(arrivals, np.ones(len(arrivals), int), rounds)
    return simulate_serving(CHAINS[0][0], Rate(0.5), System(Constant(seconds, seconds)), workload, server)


def erlang_wait(servers: int, load: float) -> float:
    """M/M/c: mean wait in units of the mean service time (Erlang C)."""
    blocked = load**servers / factorial(servers) * servers / (servers - load)
    return blocked / (sum(load**k / factorial(k) for k in range(servers)) + blocked) / (servers - load)


ROUNDS = 100  # of a request that stands for an exponential service: geometric, so its variance is 1 - 1 / ROUNDS

QUEUES = {
    "M/D/1": (1, 0.7, lambda random, n: np.ones(n, np.int64), 1.0, 0.7 / (2 * 0.3)),
    "M/M/1": (1, 0.7, lambda random, n: random.geometric(1 / ROUNDS, n), 1 / ROUNDS, 0.7 / 0.3),
    "M/M/4": (4, 3.2, lambda random, n: random.geometric(1 / ROUNDS, n), 1 / ROUNDS, erlang_wait(4, 3.2)),
}


@pytest.mark.parametrize("name", QUEUES)
def test_waiting_is_what_queueing_theory_says(name: str) -> None:
    slots, load, draw, seconds, expected = QUEUES[name]
    waits = []
    for seed in np.random.SeedSequence(5).spawn(12):
        random = np.random.default_rng(seed)
        arrivals = np.cumsum(random.exponential(1 / load, 5000))
        served = queue(arrivals, draw(random, 5000), seconds, Server(max_batch=slots))
        waits.append(measure(served).waiting_seconds)
    low, high = interval(waits, confidence=0.99)
    assert low < expected < high
    assert high - low < 0.5 * expected


def test_littles_law_holds_in_the_record() -> None:
    random = np.random.default_rng(0)
    served = queue(np.cumsum(random.exponential(1.0, 5000)), random.geometric(1 / 50, 5000), 1 / 20, Server(max_batch=4))
    done = served.iterations
    service = (served.finish_seconds - served.admitted_seconds).sum()
    assert (done.running.astype(float) * done.seconds).sum() == pytest.approx(service)


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    served = queue(np.zeros(40), np.full(40, 10), 0.1, Server(clients=4))
    assert served.submitted_seconds == pytest.approx(np.repeat(np.arange(10.0), 4))
    assert (served.finish_seconds - served.submitted_seconds) == pytest.approx(1.0)
    late = queue(np.zeros(40), np.full(40, 10), 0.1, Server(clients=4, client_seconds=0.05, lag_iterations=0))
    assert (late.first_token_seconds - late.submitted_seconds)[4:] == pytest.approx(0.15)  # all four leave together
    staggered = queue(np.arange(40) * 0.25, np.full(40, 10), 0.1, Server(clients=2, client_seconds=0.01, lag_iterations=1))
    waits = (staggered.first_token_seconds - staggered.submitted_seconds)[10:]
    assert waits.max() == pytest.approx(0.3)  # the iteration under way, the one that was planned, and its own


# --------------------------------------------------------------------------------------------------------------- metrics


def by_hand() -> Served:
    """Two requests on one replica, iterations of 1 s: A (2 tokens) from 0 s, B (3 tokens) joins at 1 s having waited 0.5 s."""
    return queue(np.array([0.0, 0.5]), np.array([2, 3]), 1.0, Server())


def test_metrics_are_those_counted_by_hand() -> None:
    metrics = measure(by_hand(), Objectives(ttft_seconds=1.2), warm_up=0)
    assert (metrics.ttft.mean, metrics.ttft.p50, metrics.ttft.p99) == (1.25, 1.0, 1.5)
    assert (metrics.e2e.p50, metrics.e2e.p99) == (2.0, 3.5)
    assert metrics.tpot.mean == metrics.tpot.p99 == 1.0
    assert metrics.itl == Summary(1.0, 1.0, 1.0, 1.0)
    assert metrics.requests_per_second == metrics.goodput * 2 == 0.5
    assert metrics.output_tokens_per_second == 1.25
    assert metrics.goodput_share == 0.5
    assert (metrics.target_utilisation, metrics.draft_utilisation) == (1.0, 0.0)
    assert metrics.waiting_seconds == 0.25
    assert metrics.waiting_share == pytest.approx(0.5 / 5.5)
    assert metrics.mean_queue == 0.5 / 4
    assert metrics.preemptions == 0
    assert np.isnan(metrics.kv_share)


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_idle_replica_uses_none_of_its_cache(replicas: int) -> None:
    """Two requests hold one of four blocks, each for 10 of 110 s."""
    served = queue(np.array([0.0, 100.0]), np.array([10, 10]), 1.0, Server(replicas, kv_tokens=64))
    assert measure(served, warm_up=0).kv_share == pytest.approx(20 / (110 * replicas) / 4)


def test_an_answer_of_one_token_cannot_miss_its_tpot() -> None:
    served = queue(np.array([0.0, 0.5]), np.array([2, 1]), 1.0, Server())
    shares = [measure(served, Objectives(tpot_seconds=limit), warm_up=0).goodput_share for limit in (1.1, 0.9)]
    assert shares == [1.0, 0.5]


def test_gaps_count_each_delivery_but_no_first_one() -> None:
    done = by_hand().iterations
    assert done.end_seconds.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert done.deliveries.tolist() == [0, 1, 1, 1]  # A at 2 s, B at 3 s and 4 s


def test_weights_count_values_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    values, weights = random.random(200), random.integers(0, 5, 200)
    repeated = Summary.of(np.repeat(values, weights))
    weighted = Summary.of(values, weights)
    assert weighted.mean == pytest.approx(repeated.mean)
    assert (weighted.p50, weighted.p90, weighted.p99) == (repeated.p50, repeated.p90, repeated.p99)


@pytest.mark.parametrize(("load", "verdict"), [(0.1, "stable"), (0.9, "backlogged"), (1.1, "overloaded")])
def test_the_verdict_follows_the_load(load: float, verdict: str) -> None:
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / load, 4000))
    metrics = measure(queue(arrivals, np.ones(4000, np.int64), 1.0, Server(max_batch=1)), load=load)
    assert metrics.saturation == verdict
    assert metrics.target_utilisation == pytest.approx(min(load, 1), abs=0.05)


def test_a_wait_that_grows_in_the_run_is_said() -> None:
    assert growth_of(np.linspace(1, 3, 100)) == pytest.approx(2.98 / 1.18, rel=0.01)
    assert saturation_of(waiting_share=0.01, ttft_growth=11, load=None) == "backlogged"
    assert saturation_of(waiting_share=0.01, ttft_growth=9, load=0.9) == "stable"
    assert saturation_of(waiting_share=0.01, ttft_growth=9, load=1.0) == "overloaded"


def test_capacity_is_what_is_finished_while_more_waits() -> None:
    workload = Workload(np.arange(50.0), np.ones(50, int), np.full(50, 10))
    system = System(Constant(0.1, 0.1))
    assert capacity_per_second(CHAINS[0][0], Rate(0.5), system, workload, Server(2, max_batch=4)) == pytest.approx(
        8.0, rel=0.02
    )


def test_the_warm_up_is_left_out() -> None:
    arrivals = np.arange(100.0) * 10
    rounds = np.full(100, 2)
    rounds[:10] = 9
    served = queue(arrivals, rounds, 1.0, Server())
    assert measure(served, warm_up=0.1).e2e.mean == 2
    assert measure(served, warm_up=0).e2e.mean == pytest.approx(2.7)


def test_intervals_are_students_and_pairing_cancels_what_is_shared() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        low, high = interval(random.normal(3, 1, 5))
        covered += low < 3 < high
    assert 930 <= covered <= 970
    shared = random.normal(0, 100, 8)
    low, high = paired_interval(shared + random.normal(1, 0.1, 8), shared)
    assert 0.8 < low < 1 < high < 1.2
    with pytest.raises(InputError, match="at least 2"):
        interval([1.0])
    with pytest.raises(InputError, match="cannot be paired"):
        paired_interval([1.0, 2.0], [1.0])


def test_impossible_settings_are_refused_by_name() -> None:
    for setting in ("replicas", "max_batch", "kv_tokens", "block_tokens", "iteration_tokens", "clients"):
        with pytest.raises(InputError, match=f"{setting} 0"):
            replace(Server(), **{setting: 0})
    with pytest.raises(InputError, match="routing 'random'"):
        Server(routing="random")  # type: ignore[arg-type]
    for setting in ("ttft_seconds", "tpot_seconds", "e2e_seconds"):
        for bad in (0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match=setting):
                Objectives(**{setting: bad})
    with pytest.raises(InputError, match="warm-up share 1"):
        measure(by_hand(), warm_up=1.0)
    for odd in ({"cached_share": 1.5}, {"client_seconds": -1.0}, {"lag_iterations": -1}):
        with pytest.raises(InputError, match=next(iter(odd))):
            Server(**odd)  # type: ignore[arg-type]
    large = Workload(np.zeros(2), np.array([1, 40]), np.ones(2, int))
    with pytest.raises(InputError, match="kv_tokens 40 is too small for 1 of 2 requests, of which number 1 needs 48"):
        simulate_serving(CHAINS[0][0], Rate(0.5), SYSTEMS[0], large, Server(kv_tokens=40))
    with pytest.raises(InputError, match="iteration_tokens 4 is less than one round"):
        simulate_serving(CHAINS[1][0], Rate(0.5), SYSTEMS[0], large, Server(iteration_tokens=4))
    with pytest.raises(InputError, match="pearl remembers a round"):
        simulate_serving(Schedule([CHAINS[2][0], CHAINS[0][0]], [4]), Rate(0.5), SYSTEMS[0], large)
    with pytest.raises(InputError, match="rising borders"):
        Schedule(CHAINS[-1], [6, 3])


def test_a_cached_prefix_is_attended_to_though_it_is_not_read() -> None:
    """One request at a time: its answer takes as long as without a cache, its first token less."""
    system = System(Roofline("H100", read_model("qwen3-8b"), read_model("qwen3-0.6b")), shared=True)
    workload = Workload(np.array([0.0, 100.0]), np.full(2, 10_000), np.full(2, 50))
    served = {share: _serve_ar(workload, system, share) for share in (0.0, 0.9)}
    first, pace = (
        {share: of(one) for share, one in served.items()}
        for of in (
            lambda one: one.first_token_seconds - one.submitted_seconds,
            lambda one: one.finish_seconds - one.first_token_seconds,
        )
    )
    np.testing.assert_allclose(pace[0.9], pace[0.0], rtol=1e-9)
    assert (first[0.9] < 0.3 * first[0.0]).all()
    whole = [ceiling_of(workload, system, share) for share in (0.0, 0.9)]
    short = ceiling_of(replace(workload, input_tokens=np.full(2, 1_000)), system, 0.0)
    assert whole[0] < whole[1] < short


def _serve_ar(workload: Workload, system: System, cached_share: float) -> Served:
    server = Server(cached_share=cached_share, max_batch=1)
    return simulate_serving(compile_strategy(Autoregressive(), system), Rate(0.0), system, workload, server)


def ceiling_of(workload: Workload, system: System, cached_share: float) -> float:
    candidate = Candidate(Method("ar", (Place("shared", system),)), Place("shared", system), "autoregressive", 0)
    tokens = float(workload.input_tokens[0])
    read = (1 - cached_share) * tokens
    return ceiling(candidate, Demand(read, 50.0, None, tokens - read), ())
