"""An inference engine, iteration by iteration: continuous batching with chunked prompts, a memory of blocks, and preemption.

`run` is one loop over events. An event is a request that reaches the engine, or an iteration of a replica that ends. In an
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

Strategies, latencies and acceptance are tables here (`sim.traffic.tables`). The loop is compiled by numba: it takes about 50 ns
a sequence and iteration.

Sources: Orca (Yu et al., OSDI 2022), vLLM (Kwon et al., SOSP 2023), Sarathi-Serve (Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.setup.arrays import Floats
from sim.traffic.scheduler import enqueue, plan, route
from sim.traffic.seconds import iteration_seconds
from sim.traffic.state import LOG, NEVER, NOWHERE, Costs, Fleet, Limits, Progress, Requests, Rounds, Times, jit

COLUMNS = len(LOG)


@jit
def complete(
    requests: Requests, rounds: Rounds, fleet: Fleet, progress: Progress, times: Times, replica: int, now: float, freed: Floats
) -> int:
    """Deliver what the iteration that ends now brought; how many requests are done. Their times go to `freed`."""
    kept = done = 0
    for slot in range(fleet.sequences[replica]):
        request = fleet.running[replica, slot]
        column, chunk = fleet.column[replica, slot], fleet.chunk[replica, slot]
        if column != NOWHERE:
            node = progress.node[request]
            if progress.done[request] == 0:
                times.first[request] = now
            progress.done[request] += rounds.tokens[node, column]
            progress.node[request] = rounds.next_node[node, column]
        elif chunk > 0:
            progress.read[request] += chunk
            if progress.read[request] == requests.prompt[request] + progress.done[request]:
                progress.read[request] = -1
                if progress.done[request] == 0:
                    times.first[request] = now
                progress.done[request] += 1
        if progress.done[request] >= requests.output[request]:
            times.finish[request] = now
            fleet.free[replica] += progress.blocks[request]
            freed[done] = now
            done += 1
        else:
            fleet.running[replica, kept] = request
            kept += 1
    fleet.sequences[replica] = kept
    return done


@jit
def run(requests: Requests, rounds: Rounds, costs: Costs, limits: Limits, seed: int) -> tuple[Times, Floats, Any]:
    """Serve every request to its end: the record of requests, and the log of iterations (when each ends, and `LOG`)."""
    np.random.seed(seed)
    n, replicas = len(requests.arrival), limits.replicas
    times = Times(np.zeros(n), np.full(n, -1.0), np.zeros(n), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.int64))
    progress = Progress(
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.full(n, NOWHERE),
        np.zeros(n, np.int64),
    )
    slots = (replicas, limits.max_batch)
    fleet = Fleet(
        np.full(replicas, NEVER),
        np.zeros(replicas, np.bool_),
        np.zeros(replicas, np.int64),
        np.zeros(replicas, np.int64),
        np.full(replicas, NOWHERE),
        np.full(replicas, NOWHERE),
        np.zeros(replicas, np.int64),
        np.full(replicas, limits.blocks),
        np.zeros(slots, np.int64),
        np.zeros(slots, np.int64),
        np.zeros(slots, np.int64),
    )
    ends, log, written = np.empty(4096), np.empty((4096, COLUMNS), np.float32), 0
    free_clients = np.zeros(max(limits.clients, 1))  # a ring: since when each free client has been free
    first_free, free = 0, limits.clients
    freed = np.empty(limits.max_batch)
    submitted = finished = 0
    while finished < n:
        arrival = NEVER
        if submitted < n and (limits.clients == 0 or free > 0):
            arrival = requests.arrival[submitted]
            if limits.clients:
                arrival = max(arrival, free_clients[first_free])
            arrival += limits.client_seconds
        replica = int(np.argmin(fleet.ends))
        now = fleet.ends[replica]
        if arrival <= now:
            replica = route(fleet, limits, submitted)
            times.submitted[submitted], times.replica[submitted] = arrival - limits.client_seconds, replica
            progress.eligible[submitted] = fleet.iteration[replica] + limits.lag
            progress.node[submitted] = rounds.start[0]
            enqueue(fleet, progress, replica, submitted, False)
            if fleet.ends[replica] == NEVER:
                fleet.ends[replica] = arrival
            submitted += 1
            if limits.clients:
                first_free, free = (first_free + 1) % limits.clients, free - 1
            continue
        if fleet.working[replica]:
            done = complete(requests, rounds, fleet, progress, times, replica, now, freed)
            finished += done
            if limits.clients:
                for i in range(done):
                    free_clients[(first_free + free) % limits.clients] = freed[i]
                    free += 1
            fleet.working[replica] = False
            if done and submitted < n and limits.clients and limits.client_seconds == 0.0:
                continue  # who waited for these answers sends the next request before the next iteration begins
        if fleet.sequences[replica] == 0 and fleet.head[replica] == NOWHERE:
            fleet.ends[replica] = NEVER
            continue
        plan(requests, rounds, limits, fleet, progress, times, replica, now)
        slower = float(rounds.slower[rounds.chain[fleet.sequences[replica]]])
        seconds, target, draft, decoding, rows = iteration_seconds(
            requests, rounds, costs, limits, fleet, progress, replica, slower
        )
        if written == len(ends):
            ends, log = (
                np.concatenate((ends, np.empty(written))),
                np.concatenate((log, np.empty((written, COLUMNS), np.float32))),
            )
        fleet.ends[replica], fleet.working[replica] = now + seconds, True
        fleet.iteration[replica] += 1
        ends[written] = now + seconds
        used, running = float(limits.blocks - fleet.free[replica]), float(fleet.sequences[replica])
        queued, decodes = float(fleet.queued[replica]), float(decoding)
        log[written] = (seconds, target, draft, decodes, running, used, queued, float(rows), float(replica))
        written += 1
    return times, ends[:written], log[:written]
