"""An inference engine, iteration by iteration: continuous batching with chunked prompts, a memory of blocks, and preemption.

`advance` is one loop over events. An event is a request that reaches the engine, or an iteration of a replica that ends. In an
iteration, every sequence that decodes does one round, prompts are read in chunks, and all of it is one forward of the target in
each stage of the round. The order of things is vLLM's (V1):

1. Sequences that run are served in order of admission: a round, or the next chunk of a prompt, while the budget of tokens
   lasts. A sequence that needs a block when none is free preempts the sequence that was admitted last. That one waits at
   the head of the queue, and later reads its prompt and its answer so far again.
2. If none was preempted, requests from the queue join: while there are slots, budget, and blocks for their first chunk.
3. The last chunk of a prompt brings the first token. Rounds begin with the iteration after it.

Our own runtime, `specdec.Batch`, does the same but for this (`Server.runtime`): a request that joins has its prompt read
alone, by both models at once, while all sequences wait, and then takes part in the round, which brings its first tokens.
Forwards are padded.

Strategies, latencies and acceptance are tables here (`sim.traffic.tables`). The loop is compiled by numba. An iteration takes
about 100 ns, and 15 to 30 ns for each sequence. The loop stops where the next request has no acceptance draws yet, so that only
those of requests in the engine are in memory. The log of a very long run holds a part of its iterations
(`sim.traffic.journal`).

Sources: Orca (Yu et al., OSDI 2022), vLLM (Kwon et al., SOSP 2023), Sarathi-Serve (Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim.setup.arrays import Counts
from sim.traffic.journal import Journal, is_full, record
from sim.traffic.scheduler import chain_of, enqueue, plan, route
from sim.traffic.seconds import iteration_seconds, padded_seconds
from sim.traffic.state import (
    NEVER,
    NOWHERE,
    Array,
    Costs,
    Draws,
    Fleet,
    Limits,
    Requests,
    Rounds,
    Slots,
    Times,
    Waiting,
    inlined,
    jit,
)

SUBMITTED, FINISHED, FIRST_FREE, FREE = range(4)
"""What `Engine.counts` counts: requests that were sent, and answered; the first free client in the ring, and free clients."""


class Engine(NamedTuple):
    """The state of a run.

    `counts`   see `SUBMITTED`
    `since`    a ring: since when each free client has been free
    """

    fleet: Fleet
    slots: Slots
    waiting: Waiting
    times: Times
    journal: Journal
    counts: Array
    since: Array


def started(requests: int, limits: Limits) -> Engine:
    """Idle replicas, before the first request."""

    def zeros(count: int, arrays: int) -> list[Counts]:
        return [np.zeros(count, np.int64) for _ in range(arrays)]

    replicas, places = limits.replicas, 1 << (limits.replicas - 1).bit_length()
    iteration, sequences, queued = zeros(replicas, 3)
    fleet = Fleet(
        np.full(places, NEVER),
        np.array([0, *(max(0, _leftmost(node, places)) for node in range(1, 2 * places))]),
        np.zeros(replicas, np.bool_),
        iteration,
        sequences,
        np.full(replicas, NOWHERE),
        np.full(replicas, NOWHERE),
        queued,
        np.full(replicas, limits.blocks),
        np.zeros(replicas),
        np.zeros(replicas),
    )
    times = Times(*(np.full(requests, -1.0) for _ in range(4)), *zeros(requests, 2))  # type: ignore[call-arg]
    counts = np.array([0, 0, 0, limits.clients])
    slots = Slots(*zeros(replicas * limits.max_batch, len(Slots._fields)))
    return Engine(fleet, slots, Waiting(*zeros(requests, 3)), times, Journal.empty(), counts, np.zeros(max(limits.clients, 1)))


def _leftmost(node: int, places: int) -> int:
    """The first replica below a node of the tree."""
    while node < places:
        node *= 2
    return node - places


@inlined
def ends_at(fleet: Fleet, replica: int, seconds: float) -> None:
    """Set when the iteration of a replica ends."""
    fleet.ends[replica] = seconds
    node = (len(fleet.ends) + replica) // 2
    while node:
        left, right = fleet.first[2 * node], fleet.first[2 * node + 1]
        fleet.first[node] = left if fleet.ends[left] <= fleet.ends[right] else right
        node //= 2


@inlined
def complete(
    requests: Requests, rounds: Rounds, limits: Limits, fleet: Fleet, slots: Slots, times: Times, replica: int, now: float
) -> int:
    """Deliver what the iteration that ends now brought; how many requests are done."""
    begin, sequences, kept = replica * limits.max_batch, fleet.sequences[replica], replica * limits.max_batch
    accepted, tested, adapts = 0, 0, rounds.chain.shape[1] > 1
    for i in range(begin, begin + sequences):
        edge, got = slots.edge[i], 0
        if edge != rounds.idle:
            got = rounds.tokens[edge]
            if adapts:
                accepted, tested = accepted + rounds.accepted[edge], tested + rounds.tested[edge]
            slots.node[i] = rounds.next_node[edge]
            if limits.padded and times.first[slots.request[i]] < 0:
                times.first[slots.request[i]] = now
        elif slots.chunk[i] > 0:
            slots.read[i] += slots.chunk[i]
            if slots.read[i] == slots.text[i]:
                slots.read[i], got = NOWHERE, 1
                if times.first[slots.request[i]] < 0:
                    times.first[slots.request[i]] = now
        slots.text[i] += got
        slots.left[i] -= got
        if slots.left[i] <= 0:
            times.finish[slots.request[i]] = now
            fleet.free[replica] += slots.blocks[i]
        else:
            if kept != i:
                move(slots, i, kept)
            kept += 1
    fleet.sequences[replica] = kept - begin
    if adapts:
        fleet.accepted[replica] = rounds.fading * fleet.accepted[replica] + accepted
        fleet.tested[replica] = rounds.fading * fleet.tested[replica] + tested
    return begin + sequences - kept


@jit
def move(slots: Slots, old: int, new: int) -> None:
    """Give a sequence another slot."""
    slots.request[new], slots.text[new], slots.left[new] = slots.request[old], slots.text[old], slots.left[old]
    slots.shift[new], slots.node[new], slots.read[new] = slots.shift[old], slots.node[old], slots.read[old]
    slots.blocks[new], slots.place[new] = slots.blocks[old], slots.place[old]


@inlined
def submit(limits: Limits, engine: Engine, request: int, arrival: float) -> None:
    """Bring a request to the queue of a replica, which it reaches at `arrival`."""
    fleet, counts = engine.fleet, engine.counts
    replica = route(fleet, limits, request)
    engine.times.submitted[request], engine.times.replica[request] = arrival - limits.client_seconds, replica
    engine.waiting.eligible[request] = fleet.iteration[replica] + limits.lag
    enqueue(fleet, engine.waiting.behind, replica, request, False)
    if fleet.ends[replica] == NEVER:
        ends_at(fleet, replica, arrival + limits.wake)
    counts[SUBMITTED] += 1
    if limits.clients:
        counts[FIRST_FREE] = (counts[FIRST_FREE] + 1) % limits.clients
        counts[FREE] -= 1


@jit
def advance(requests: Requests, rounds: Rounds, costs: Costs, limits: Limits, engine: Engine, draws: Draws, drawn: int) -> None:
    """Serve until all requests are answered, until request number `drawn` is due, or until the journal is full."""
    fleet, slots, counts = engine.fleet, engine.slots, engine.counts
    n = len(requests.arrival)
    while counts[FINISHED] < n and not is_full(engine.journal):
        arrival = NEVER
        if counts[SUBMITTED] < n and (limits.clients == 0 or counts[FREE] > 0):
            arrival = requests.arrival[counts[SUBMITTED]]
            if limits.clients:
                arrival = max(arrival, engine.since[counts[FIRST_FREE]])
            arrival += limits.client_seconds
        replica = fleet.first[1]
        now = fleet.ends[replica]
        if arrival <= now:
            if counts[SUBMITTED] == drawn:
                return
            submit(limits, engine, counts[SUBMITTED], arrival)
            continue
        if fleet.working[replica]:
            done = complete(requests, rounds, limits, fleet, slots, engine.times, replica, now)
            counts[FINISHED] += done
            fleet.working[replica] = False
            if done and limits.clients:
                for _ in range(done):
                    engine.since[(counts[FIRST_FREE] + counts[FREE]) % limits.clients] = now
                    counts[FREE] += 1
                if counts[SUBMITTED] < n and limits.client_seconds == 0.0:
                    continue  # who waited for these answers sends the next request before the next iteration begins
        if fleet.sequences[replica] == 0 and fleet.head[replica] == NOWHERE:
            ends_at(fleet, replica, NEVER)
            continue
        slower = rounds.slower[chain_of(rounds, fleet, replica)]  # of the chain that `plan` takes: before others join
        work = plan(requests, draws, rounds, limits, fleet, slots, engine.waiting, engine.times, replica, now)
        if limits.padded:
            spent = padded_seconds(rounds, costs, limits, fleet, slots, replica, slower)
        else:
            spent = iteration_seconds(rounds, costs, limits, fleet, slots, work, replica, slower)
        seconds, target, draft, rows, fork_rows = spent
        ends_at(fleet, replica, now + seconds)
        fleet.working[replica] = True
        fleet.iteration[replica] += 1
        deliveries = fleet.sequences[replica] if limits.padded else work.decoding
        record(engine.journal, limits, fleet, replica, seconds, target, draft, deliveries, rows, fork_rows, work.context)


@jit
def set_seed(seed: int) -> None:
    """Of the draws of jitter."""
    np.random.seed(seed)
