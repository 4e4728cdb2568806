"""Serving: a jump is as good as stepping, queues wait as queueing theory says, and metrics are what they say they are.

Strategies that are served: `test_traffic.py`.
"""

from __future__ import annotations

from dataclasses import replace
from math import factorial
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.stream.intervals import interval, paired_interval
from sim.traffic.metrics import Objectives, Summary, measure, saturation_of
from sim.traffic.paths import Paths
from sim.traffic.record import Cost, Served, Server, Work
from sim.traffic.serving import serve
from sim.traffic.workload import Workload
from specdec import InputError

# ---------------------------------------------------------------------------------------------- jumping against stepping


def any_paths(random: np.random.Generator, requests: int) -> Paths:
    """Rounds that no strategy would ask for: every total is drawn."""
    offsets = np.concatenate(([0], np.cumsum(random.integers(1, 12, requests))))
    rounds = int(offsets[-1])
    totals = [np.ones((1, rounds)), random.integers(1, 50, (1, rounds)), random.integers(0, 6, (2, rounds))]
    prompts = random.integers(0, 40, requests)
    return Paths(
        offsets.tolist(),
        np.concatenate(totals).astype(np.int32),
        random.integers(0, 5, (2, rounds)).astype(np.int32),
        np.zeros(requests, np.int64),
        prompts,
        prompts + random.integers(1, 60, requests),
    )


def any_cost(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = 1e-4 * work.positions.sum(axis=0) + 1e-5 * work.context + 3e-4 * work.sequences + 2e-4 * work.prefill
    draft = 1.1e-3 * work.draft_steps.sum(axis=0)
    return np.maximum(target, draft), target, draft


def by_events(workload: Workload, paths: Paths, server: Server) -> tuple[np.ndarray, ...]:
    """The same replicas as SimPy processes, one event an iteration, one object a sequence; nothing is shared with `sim`."""
    env = simpy.Environment()
    queues: list[list[int]] = [[] for _ in range(server.replicas)]
    batches: list[list[dict[str, Any]]] = [[] for _ in range(server.replicas)]
    wake: list[simpy.Event] = [env.event() for _ in range(server.replicas)]
    admitted, first, finish = np.full((3, len(workload)), np.nan)
    chosen = np.zeros(len(workload), int)

    def arrivals():
        for request, time in enumerate(workload.arrival_seconds):
            if time > env.now:
                yield env.timeout(time - env.now)
            loads = [len(queue) + len(batch) for queue, batch in zip(queues, batches, strict=True)]
            in_turn = server.routing == "round-robin"
            chosen[request] = request % server.replicas if in_turn else loads.index(min(loads))
            queues[chosen[request]].append(request)
            if not wake[chosen[request]].triggered:
                wake[chosen[request]].succeed()

    def fits(batch: list[dict[str, Any]], request: int) -> bool:
        held = sum(paths.kv_tokens[sequence["request"]] for sequence in batch)
        return len(batch) < server.max_batch and held + paths.kv_tokens[request] <= (server.kv_tokens or np.inf)

    def replica(index: int):
        queue, batch = queues[index], batches[index]
        while True:
            while queue and fits(batch, queue[0]):
                request = queue.pop(0)
                admitted[request] = env.now
                rounds = list(range(paths.offsets[request], paths.offsets[request + 1]))
                batch.append({"request": request, "prompt": paths.prompt_tokens[request], "rounds": rounds})
            if not batch:
                wake[index] = env.event()
                yield wake[index]
                continue
            budget, prefill, decoding = server.prefill_chunk or np.inf, 0, []
            for sequence in batch:
                taken = min(budget, sequence["prompt"])
                sequence["prompt"] -= taken
                budget, prefill = budget - taken, prefill + taken
                if sequence["prompt"]:
                    break
                decoding.append(sequence)
            now = [sequence["rounds"].pop(0) for sequence in decoding]
            totals = paths.totals[:, now].sum(axis=1, keepdims=True)
            steps = paths.draft_steps[:, now].max(axis=1, keepdims=True, initial=0)
            yield env.timeout(any_cost(Work(0, totals[0], totals[1], np.array([prefill]), totals[2:], steps))[0][0])
            for sequence in decoding:
                if np.isnan(first[sequence["request"]]):
                    first[sequence["request"]] = env.now
                if not sequence["rounds"]:
                    finish[sequence["request"]] = env.now
                    batch.remove(sequence)

    env.process(arrivals())
    for index in range(server.replicas):
        env.process(replica(index))
    env.run()
    return chosen, admitted, first, finish


def assert_same(jumped: Served, stepped: Served) -> None:
    for name in ("replica", "admitted_seconds", "first_token_seconds", "finish_seconds"):
        assert np.array_equal(getattr(jumped, name), getattr(stepped, name)), name
    for left, right in zip(jumped.iterations, stepped.iterations, strict=True):
        for name in left.__slots__:
            assert np.array_equal(getattr(left, name), getattr(right, name)), name


servers = st.builds(
    Server,
    replicas=st.integers(1, 3),
    max_batch=st.integers(1, 6),
    kv_tokens=st.sampled_from([None, 100, 150, 400]),
    prefill_chunk=st.sampled_from([None, 1, 7, 32]),
    routing=st.sampled_from(["shortest-queue", "round-robin"]),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.001, 0.2), servers)
def test_a_jump_gives_the_clock_of_stepping_and_of_events(seed: int, requests: int, gap: float, server: Server) -> None:
    random = np.random.default_rng(seed)
    paths = any_paths(random, requests)
    together = random.random(requests) < 0.2  # some arrive at the same moment
    arrivals = np.cumsum(np.where(together, 0, random.exponential(gap, requests)))
    workload = Workload(arrivals, np.ones(requests, int), np.ones(requests, int))
    jumped = serve(workload, paths, [any_cost] * server.replicas, server)
    assert_same(jumped, serve(workload, paths, [any_cost] * server.replicas, server, longest_jump=1))
    chosen, *times = by_events(workload, paths, server)
    assert np.array_equal(jumped.replica, chosen)
    ours = (jumped.admitted_seconds, jumped.first_token_seconds, jumped.finish_seconds)
    for left, right in zip(ours, times, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)  # SimPy adds delays up, so its clock drifts


# ------------------------------------------------------------------------------------------------------- queueing theory


def plain_paths(rounds: np.ndarray) -> Paths:
    """`rounds[i]` rounds for request `i`, and nothing else to pay for."""
    offsets = np.concatenate(([0], np.cumsum(rounds)))
    ones, none = np.ones((3, offsets[-1]), np.int32), np.zeros((1, offsets[-1]), np.int32)
    zero = np.zeros(len(rounds), np.int64)
    return Paths(offsets.tolist(), ones, none, zero, zero, zero + 1)


def constant(seconds: float) -> Cost:
    def cost(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        every = np.full(len(work.sequences), seconds)
        return every, every, np.zeros_like(every)

    return cost


def queue(arrivals: np.ndarray, rounds: np.ndarray, seconds: float, server: Server) -> Served:
    workload = Workload(arrivals, np.ones(len(arrivals), int), np.ones(len(arrivals), int))
    return serve(workload, plain_paths(rounds), [constant(seconds)], server)


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
    done = served.iterations[0]
    fresh = np.bincount(np.searchsorted(done.end_seconds, served.first_token_seconds), minlength=len(done.seconds))
    in_batch = done.deliveries + fresh
    service = (served.finish_seconds - served.admitted_seconds).sum()
    assert (in_batch * done.seconds).sum() == pytest.approx(service)


# --------------------------------------------------------------------------------------------------------------- metrics


def by_hand() -> Served:
    """Two requests on one replica, iterations of 1 s: A (2 rounds) from 0 s, B (3 rounds) joins at 1 s having waited 0.5 s."""
    workload = Workload(np.array([0.0, 0.5]), np.ones(2, int), np.array([5, 1]))
    return serve(workload, plain_paths(np.array([2, 3])), [constant(1.0)], Server())


def test_metrics_are_those_counted_by_hand() -> None:
    metrics = measure(by_hand(), Objectives(ttft_seconds=1.2), warm_up=0)
    assert (metrics.ttft.mean, metrics.ttft.p50, metrics.ttft.p99) == (1.25, 1.0, 1.5)
    assert (metrics.e2e.p50, metrics.e2e.p99) == (2.0, 3.5)
    assert metrics.tpot.mean == metrics.tpot.p99 == 0.25  # A only: one second for four tokens; B has one token
    assert metrics.itl == Summary(1.0, 1.0, 1.0, 1.0)
    assert metrics.requests_per_second == metrics.goodput * 2 == 0.5
    assert metrics.output_tokens_per_second == 1.5
    assert metrics.goodput_share == 0.5
    assert (metrics.target_utilisation, metrics.draft_utilisation) == (1.0, 0.0)
    assert metrics.waiting_seconds == 0.25
    assert metrics.waiting_share == pytest.approx(0.5 / 5.5)
    assert metrics.mean_queue == 0.5 / 4


def test_an_answer_of_one_token_cannot_miss_its_tpot() -> None:
    shares = [measure(by_hand(), Objectives(tpot_seconds=limit), warm_up=0).goodput_share for limit in (0.3, 0.2)]
    assert shares == [1.0, 0.5]


def test_gaps_count_each_delivery_but_no_first_one() -> None:
    gaps, seen = by_hand().gaps_between(0.0, 4.0)
    assert gaps.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert seen.tolist() == [0, 1, 1, 1]  # A at 2 s, B at 3 s and 4 s


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
    served = queue(arrivals, np.ones(4000, np.int64), 1.0, Server(max_batch=1))
    metrics = measure(served)
    assert metrics.saturation == verdict
    assert metrics.target_utilisation == pytest.approx(min(load, 1), abs=0.05)


def test_a_busy_last_moment_is_no_overload() -> None:
    arrivals, admitted = np.arange(1000.0), np.arange(1000.0)
    admitted[-50:] += 100
    assert saturation_of(arrivals, admitted, waiting_share=0.01) == "stable"


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
    for setting in ("replicas", "max_batch", "kv_tokens", "prefill_chunk"):
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
    paths = plain_paths(np.array([1, 1]))
    paths.kv_tokens[1] = 2
    with pytest.raises(InputError, match="kv_tokens 1 is too small for request 1, which needs 2"):
        serve(Workload(np.zeros(2), np.ones(2, int), np.ones(2, int)), paths, [constant(1.0)], Server(kv_tokens=1))
