"""Values of a serving run: what is bought, what an iteration does and costs, and the record of what happened.

Replicas and prices know each other through these values only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from sim.setup.arrays import Counts, Floats
from sim.traffic.workload import Workload
from specdec import InputError

Routing: TypeAlias = Literal["shortest-queue", "round-robin"]


@dataclass(frozen=True, slots=True)
class Server:
    """What is bought and how it is set up.

    `replicas`       independent copies of target and draft
    `max_batch`      sequences a replica decodes or prefills at once
    `kv_tokens`      KV tokens that a replica has memory for, target and draft together; `None` is no limit
    `prefill_chunk`  prompt tokens an iteration may add to its decoding; `None` takes whole prompts
    `routing`        where an arrival goes: the replica with the fewest requests (first of equals), or the next one in turn
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


ONE_REPLICA = Server()


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What is done in a run of `k` iterations, all sequences together, from iteration number `first` on.

    `sequences`    shape (k,), that decode
    `context`      shape (k,), tokens already in their caches
    `prefill`      shape (k,), prompt tokens read beside the decoding
    `positions`    shape (stages, k), that the target scores
    `draft_steps`  shape (stages, k), of the sequence that drafts longest
    """

    first: int
    sequences: Counts
    context: Counts
    prefill: Counts
    positions: Counts
    draft_steps: Counts


Cost: TypeAlias = Callable[[Work], tuple[Floats, Floats, Floats]]
"""Seconds of each iteration of some work, and those in which the target's and the draft's device are busy; (k,) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Iterations:
    """What one replica did, shape (iterations,) each, in order.

    `deliveries` counts the sequences that got tokens in this iteration and in the one before, so `seconds` is a gap to them.
    """

    end_seconds: Floats
    seconds: Floats
    deliveries: Counts
    target_seconds: Floats
    draft_seconds: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """The record of a run: when each request got its slot, its first tokens and its last ones, shape (n,) each."""

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
