"""Serving: requests share replicas that decode in iterations (continuous batching), each sequence one round an iteration.

A replica's day is fixed once it is known which request joins at which iteration: a request's rounds do not depend on time
(`sim.paths` draws them beforehand), so joining adds its whole path to running totals per iteration (sequences, context, widths,
draft steps), and time is the running sum of priced totals. Nothing happens between two arrivals that could change a total,
unless a queued request waits for a place; so a replica jumps to the next arrival, or to the next place that becomes free,
in one array operation. A jump adds up the same numbers in the same order as stepping would, so its clock is equal to the bit.
Only arrivals tie replicas together, so no event queue is needed, and no clock drifts by adding delays. Memory is linear in
requests: about 28 bytes an output token under PEARL.

Iterations are those of Orca (Yu et al., OSDI 2022) with chunked prefill (Sarathi-Serve, OSDI 2024). Not modelled: preemption
(memory for a whole answer is reserved when a request joins), prefix caching, a router that knows more than counts, and a draft
that races the target for longer because its batch is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.acceptance import Acceptance
from sim.chain import Compiled
from sim.paths import Paths, draw_paths
from sim.pricing import IterationPrice
from sim.replica import Iterations, Price, Replica
from sim.system import System
from sim.workload import Workload, streams
from specdec import InputError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Routing: TypeAlias = Literal["shortest-queue", "round-robin"]


@dataclass(frozen=True, slots=True)
class Server:
    """What is bought and how it is set up.

    `replicas`       independent copies of target and draft
    `max_batch`      sequences a replica decodes or prefills at once
    `kv_tokens`      cache slots of a replica, target and draft together; `None` is no limit
    `prefill_chunk`  prompt tokens an iteration may add to its decoding; `None` takes whole prompts
    `routing`        where an arrival goes: the fewest requests in the system (first of equals), or in turn
    """

    replicas: int = 1
    max_batch: int = 64
    kv_tokens: int | None = None
    prefill_chunk: int | None = None
    routing: Routing = "shortest-queue"

    def __post_init__(self) -> None:
        for name in ("replicas", "max_batch", "kv_tokens", "prefill_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} {value} leaves nothing to serve with: give at least 1")
        if self.routing not in ("shortest-queue", "round-robin"):
            raise InputError(f"unknown routing {self.routing!r}: give shortest-queue or round-robin")


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """The record of a run: when each request got its place, its first tokens and its last ones, shape (n,) each."""

    workload: Workload
    replica: Counts
    admitted_seconds: Floats
    first_token_seconds: Floats
    finish_seconds: Floats
    iterations: tuple[Iterations, ...]

    def gaps_between(self, start: float, end: float) -> tuple[Floats, Counts]:
        """Gaps between deliveries that end within `start` to `end` seconds, and how often each was seen."""
        within = [_between(done, start, end) for done in self.iterations]
        gaps = [done.seconds[part] for done, part in zip(self.iterations, within, strict=True)]
        seen = [done.deliveries[part] for done, part in zip(self.iterations, within, strict=True)]
        return np.concatenate(gaps), np.concatenate(seen)

    def busy_seconds(self, start: float, end: float) -> tuple[float, float]:
        """Seconds of work between `start` and `end` of a target and of a draft device, mean over replicas."""
        within = [_between(done, start, end) for done in self.iterations]
        target = [done.target_seconds[part].sum() for done, part in zip(self.iterations, within, strict=True)]
        draft = [done.draft_seconds[part].sum() for done, part in zip(self.iterations, within, strict=True)]
        return float(np.mean(target)), float(np.mean(draft))


def _between(done: Iterations, start: float, end: float) -> slice:
    return slice(*np.searchsorted(done.end_seconds, (start, end), side="right"))


def simulate_serving(
    compiled: Compiled,
    acceptance: Acceptance,
    system: System,
    workload: Workload,
    server: Server = Server(),
    seed: int | np.random.SeedSequence = 0,
) -> Served:
    """Serve a workload with a compiled strategy. Strategies on the same seed and workload share all luck but jitter's size.

    Raises `InputError` for a request that no replica has the memory for.
    """
    seed = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    luck, *jitter = streams(seed, 1 + server.replicas)
    prices = [IterationPrice(compiled, system, stream) for stream in jitter]
    return serve(workload, draw_paths(compiled, acceptance, workload, luck), prices, server)


def serve(workload: Workload, paths: Paths, prices: Sequence[Price], server: Server, longest_jump: int = 4096) -> Served:
    """Run every request to its end, with one price for each replica.

    `longest_jump=1` steps through the iterations one by one, to the same record.
    """
    _check_memory(paths, server)
    replicas = [Replica(server, paths, price, longest_jump) for price in prices]
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
            f"kv_tokens {server.kv_tokens} is too small for request {request}, which needs {paths.kv_tokens[request]} slots "
            "(prompt, answer and look-ahead, for target and draft): give more, or drop the request"
        )
