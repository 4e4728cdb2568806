"""Values of a serving run: the server, and the record of when each request was served and what each iteration did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.setup.arrays import Counts, Flags, Floats
from sim.traffic.workload import Workload
from specdec import InputError
from specdec.inputs import at_least_one

Routing: TypeAlias = Literal["shortest-queue", "round-robin"]
Runtime: TypeAlias = Literal["vllm", "specdec"]


ITERATION_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Server:
    """The replicas of an engine, and how they are set up. Defaults are vLLM's, but for the memory.

    `replicas`           independent copies of target and draft
    `max_batch`          sequences that a replica runs at once (`max_num_seqs`)
    `kv_tokens`          tokens of text that the KV cache of a replica holds (`num_gpu_blocks` x `block_size`): what the engine
                         prints when it starts, the draft's cache included; `None`: no limit. A token of a branch of
                         a fork takes as much as one of text; none where the draft has a device of its own
    `block_tokens`       tokens of a block of that cache
    `iteration_tokens`   tokens of an iteration, those of rounds and of prompts together (`max_num_batched_tokens`)
    `cached_share`       share of each prompt that prefix caching spares: it is not read, and every forward attends to it
    `clients`            requests that clients have open at once: the next one is sent when an answer is complete (a closed
                         loop, `--concurrency` of benchmark tools); `None`: requests are sent when they arrive
    `client_seconds`     way of a request from its client to the engine
    `lag_iterations`     iterations after the one under way that are planned already when a request reaches a busy engine, and
                         which it therefore misses: 1 with asynchronous scheduling
    `runtime`            how an iteration is made. `vllm` reads prompts in chunks, within it. `specdec` (`specdec.Batch`) reads
                         a prompt whole, while all sequences wait, and pads every forward to its widest window, its longest
                         text, and all slots from the first one in use to the last. It has no token budget, no blocks, and no
                         prefix cache
    `routing`            where a request goes: to the replica with the fewest requests (first of equals), or to the next in turn
    `antiphase`          whether a batch is two halves, of which one is drafted while the other is verified (MineDraft,
                         arXiv 2603.18016); for speculative decoding with a draft on its own device

    Raises `InputError` for a number that is not possible, an unknown routing or runtime, and what a runtime does not have.
    """

    replicas: int = 1
    max_batch: int = 256
    kv_tokens: int | None = None
    block_tokens: int = 16
    iteration_tokens: int = ITERATION_TOKENS
    cached_share: float = 0.0
    clients: int | None = None
    client_seconds: float = 0.0
    lag_iterations: int = 0
    routing: Routing = "shortest-queue"
    runtime: Runtime = "vllm"
    antiphase: bool = False

    def __post_init__(self) -> None:
        optional = {"kv_tokens": self.kv_tokens, "clients": self.clients}
        given = {name: limit for name, limit in optional.items() if limit is not None}
        at_least_one(
            replicas=self.replicas,
            max_batch=self.max_batch,
            block_tokens=self.block_tokens,
            iteration_tokens=self.iteration_tokens,
            **given,
        )
        if not 0 <= self.cached_share <= 1:
            raise InputError(f"cached_share {self.cached_share:g} is not possible: give a share from 0 to 1")
        if not 0 <= self.client_seconds < np.inf or self.lag_iterations < 0:
            raise InputError("client_seconds and lag_iterations are 0 or more: leave out the minus sign")
        if self.routing not in ("shortest-queue", "round-robin"):
            raise InputError(f"unknown routing {self.routing!r}: give shortest-queue or round-robin")
        if self.runtime not in ("vllm", "specdec"):
            raise InputError(f"unknown runtime {self.runtime!r}: give vllm or specdec")
        if self.runtime == "specdec" and (self.kv_tokens or self.cached_share or self.iteration_tokens != ITERATION_TOKENS):
            raise InputError("specdec has no kv_tokens, cached_share or iteration_tokens: leave them out, or give runtime vllm")


ONE_REPLICA = Server()


@dataclass(frozen=True, slots=True, eq=False)
class Iterations:
    """The iterations of all replicas; arrays of shape (iterations,), in the order in which they begin.

    `end_seconds`      when each ends, since the start of the run
    `seconds`          how long each takes
    `target_seconds`   in which the target's device works
    `draft_seconds`    in which the draft's device works
    `deliveries`       sequences that get tokens by a round; for them, `seconds` is the gap to the tokens before
    `running`          sequences that decode or read a prompt
    `blocks`           blocks of the KV cache in use
    `queued`           requests that wait for a slot
    `rows`             positions that the target scores in all stages, and prompt tokens
    `fork_rows`        branches of all sequences in a forward of the draft
    `held`             tokens that all running sequences hold
    `each`             iterations that an entry stands for: 1; in a run of over a million, a random one of every 2, 4, 8, ... is
                       kept
    """

    end_seconds: Floats
    seconds: NDArray[np.float32]
    target_seconds: NDArray[np.float32]
    draft_seconds: NDArray[np.float32]
    deliveries: NDArray[np.float32]
    running: NDArray[np.float32]
    blocks: NDArray[np.float32]
    queued: NDArray[np.float32]
    rows: NDArray[np.float32]
    fork_rows: NDArray[np.float32]
    held: NDArray[np.float32]
    each: int = 1

    def between(self, start: float, end: float) -> Flags:
        """Which of them end after `start` and up to `end` seconds."""
        return (self.end_seconds > start) & (self.end_seconds <= end)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """The record of a run of `n` requests; seconds since the start of the run.

    `workload`              the requests
    `server`                what served them
    `submitted_seconds`     shape (n,): when each client sent its request: at its arrival, or later in a closed loop
    `admitted_seconds`      shape (n,): when each gets a slot in the batch
    `first_token_seconds`   shape (n,): when each gets its first tokens
    `finish_seconds`        shape (n,): when each gets its last token
    `replica`               shape (n,): number of the replica that serves each request, from 0
    `preemptions`           shape (n,): how often each lost its place in the cache, and was read again
    `iterations`            what the replicas do
    """

    workload: Workload
    server: Server
    submitted_seconds: Floats
    admitted_seconds: Floats
    first_token_seconds: Floats
    finish_seconds: Floats
    replica: Counts
    preemptions: Counts
    iterations: Iterations
