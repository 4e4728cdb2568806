"""Serving: requests share replicas that decode in iterations (continuous batching), one round of each sequence an iteration.

Once we know which request joins the batch at which iteration, everything else a replica does is determined. The rounds of a
request do not depend on time, so `sim.traffic.paths` draws them beforehand. A request that joins the batch adds all its rounds
to totals per iteration: sequences, context, positions, draft steps. The totals give the seconds of each iteration, and the
clock is their running sum.

Between two arrivals no total changes, unless a queued request gets a slot. So a replica jumps to the next arrival, or to the
next slot that becomes free, in one array operation. A jump adds up the same numbers in the same order as single steps do, so
its clock is equal to the bit. Replicas depend on each other only through the routing of arrivals, so no queue of events is
needed. Memory is linear in requests: about 28 bytes for each output token under PEARL.

Iterations are those of Orca (Yu et al., OSDI 2022) with chunked prefill (Sarathi-Serve, OSDI 2024). Not modelled: preemption
(a request that joins reserves memory for its whole answer), prefix caching, routing by more than the number of requests, and
a race that lasts longer because the batch is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.costs import IterationCost
from sim.traffic.paths import Paths, draw_paths
from sim.traffic.record import ONE_REPLICA, Cost, Served, Server
from sim.traffic.replica import Replica
from sim.traffic.workload import Workload, streams
from specdec import InputError


def simulate_serving(
    compiled: Compiled,
    acceptance: Acceptance,
    system: System,
    workload: Workload,
    server: Server = ONE_REPLICA,
    seed: int | np.random.SeedSequence = 0,
) -> Served:
    """Serve a workload with a compiled strategy.

    Two strategies on the same seed and workload meet equal acceptance draws. Raises `InputError` for a request that no replica
    has the memory for, `StrategyError` for a strategy that was compiled for another system and holds for that one only.
    """
    seed = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    draws, *jitter = streams(seed, 1 + server.replicas)
    costs = [IterationCost(compiled, system, stream) for stream in jitter]
    return serve(workload, draw_paths(compiled, acceptance, workload, draws), costs, server)


def serve(workload: Workload, paths: Paths, costs: Sequence[Cost], server: Server, longest_jump: int = 4096) -> Served:
    """Serve every request to its end, with one cost for each replica.

    `longest_jump` is the most iterations that are computed at once; the record does not depend on it.
    """
    _check_memory(paths, server)
    replicas = [Replica(server, paths, cost, longest_jump) for cost in costs]
    chosen = np.zeros(len(workload), np.int64)
    for request, arrival in enumerate(workload.arrival_seconds.tolist()):
        for replica in replicas:
            replica.advance(arrival)
        if server.replicas > 1:
            chosen[request] = _route(server, replicas, request)
        replicas[chosen[request]].enqueue(request, arrival)
    for replica in replicas:
        replica.advance(inf)
    admitted, first, finish = np.empty((3, len(workload)))
    done = [replica.finished(admitted, first, finish) for replica in replicas]
    return Served(workload, chosen, admitted, first, finish, tuple(done))


def _route(server: Server, replicas: list[Replica], request: int) -> int:
    if server.routing == "round-robin":
        return request % len(replicas)
    return min(range(len(replicas)), key=lambda index: replicas[index].requests)


def _check_memory(paths: Paths, server: Server) -> None:
    if server.kv_tokens is not None and (too_large := paths.kv_tokens > server.kv_tokens).any():
        request = int(np.argmax(too_large))
        raise InputError(
            f"kv_tokens {server.kv_tokens} is too small for request {request}, which needs {paths.kv_tokens[request]} "
            "(prompt, answer and look-ahead, for target and draft): give more, or drop the request"
        )
