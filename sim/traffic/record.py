"""Values of a serving run: the server, the work and cost of iterations, and the record of when each request was served.

Replicas and costs know each other through these values only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from sim.setup.arrays import Counts, Floats
from sim.traffic.workload import Workload
from specdec import InputError
from specdec.inputs import at_least_one

Routing: TypeAlias = Literal["shortest-queue", "round-robin"]


@dataclass(frozen=True, slots=True)
class Server:
    """The replicas, and how they are set up.

    `replicas`        independent copies of target and draft
    `max_batch`       sequences that a replica decodes or prefills at once
    `kv_tokens`       KV tokens that a replica has memory for, target and draft together; `None`: no limit
    `prefill_chunk`   prompt tokens that an iteration may read in addition to its decoding; `None`: whole prompts
    `routing`         where a request goes: to the replica with the fewest requests (first of equals), or to the next in turn

    Raises `InputError` for a number below 1, or an unknown routing.
    """

    replicas: int = 1
    max_batch: int = 64
    kv_tokens: int | None = None
    prefill_chunk: int | None = None
    routing: Routing = "shortest-queue"

    def __post_init__(self) -> None:
        limits = {"kv_tokens": self.kv_tokens, "prefill_chunk": self.prefill_chunk}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        at_least_one(replicas=self.replicas, max_batch=self.max_batch, **given)
        if self.routing not in ("shortest-queue", "round-robin"):
            raise InputError(f"unknown routing {self.routing!r}: give shortest-queue or round-robin")


ONE_REPLICA = Server()


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """The work of a replica in `k` iterations in a row, all sequences together.

    `first`         number of the first of these iterations
    `sequences`     shape (k,): sequences that decode
    `context`       shape (k,): tokens in their caches, all together
    `prefill`       shape (k,): prompt tokens read in addition to the decoding
    `positions`     shape (stages, k): positions that the target scores, all together
    `draft_steps`   shape (stages, k): draft steps of the sequence that drafts longest
    """

    first: int
    sequences: Counts
    context: Counts
    prefill: Counts
    positions: Counts
    draft_steps: Counts


Cost: TypeAlias = Callable[[Work], tuple[Floats, Floats, Floats]]
"""A function of work: seconds of each iteration, of the target's device at work, of the draft's at work; shape (k,) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Iterations:
    """The iterations of one replica in order; arrays of shape (iterations,).

    `end_seconds`      when each ends, since the start of the run
    `seconds`          how long each takes
    `deliveries`       sequences that get tokens in it and got some in the one before: for them, `seconds` is a gap
    `target_seconds`   in which the target's device works
    `draft_seconds`    in which the draft's device works
    """

    end_seconds: Floats
    seconds: Floats
    deliveries: Counts
    target_seconds: Floats
    draft_seconds: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """The record of a run of `n` requests; seconds since the start of the run.

    `workload`              the requests
    `replica`               shape (n,): number of the replica that serves each request, from 0
    `admitted_seconds`      shape (n,): when each gets a slot in the batch
    `first_token_seconds`   shape (n,): when each gets its first tokens
    `finish_seconds`        shape (n,): when each gets its last token
    `iterations`            what each replica does
    """

    workload: Workload
    replica: Counts
    admitted_seconds: Floats
    first_token_seconds: Floats
    finish_seconds: Floats
    iterations: tuple[Iterations, ...]

    def gaps_between(self, start: float, end: float) -> tuple[Floats, Counts]:
        """Gaps in seconds between deliveries that end from `start` to `end` seconds, and how often each occurs."""
        within = [_between(done, start, end) for done in self.iterations]
        gaps = [done.seconds[part] for done, part in zip(self.iterations, within, strict=True)]
        seen = [done.deliveries[part] for done, part in zip(self.iterations, within, strict=True)]
        return np.concatenate(gaps), np.concatenate(seen)

    def busy_seconds(self, start: float, end: float) -> tuple[float, float]:
        """Seconds of work of a target's and of a draft's device from `start` to `end`, mean over replicas."""
        within = [_between(done, start, end) for done in self.iterations]
        target = [done.target_seconds[part].sum() for done, part in zip(self.iterations, within, strict=True)]
        draft = [done.draft_seconds[part].sum() for done, part in zip(self.iterations, within, strict=True)]
        return float(np.mean(target)), float(np.mean(draft))


def _between(done: Iterations, start: float, end: float) -> slice:
    return slice(*np.searchsorted(done.end_seconds, (start, end), side="right"))
