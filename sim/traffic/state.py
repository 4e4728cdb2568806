"""The arrays that the loop of `sim.traffic.engine` works on, as values by name. numba compiles functions of them.

What sequences in a batch do lies by slot, so that an iteration reads memory from one end to the other. All slots of all
replicas lie in one row: those of replica `r` begin at `r` x `Limits.max_batch`.

numba keeps compiled functions, and compiles one again when its own file changes. It does not see that a function changed which
is called from another file. So they are kept in a folder that is named by the text of all files of this room.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numba
import numpy as np

NEVER = np.inf
NOWHERE = -1

Function = TypeVar("Function", bound=Callable[..., Any])
Array: TypeAlias = Any
"""An array of numbers. numpy's types do not say that one element is a number."""

ALONE = {"cache": True, "nogil": True, "_nrt": False}
"""Without `_nrt`, numba counts references wherever a tuple of arrays is read, which took 94 % of the time of a run."""


def _cache_folder() -> str:
    """Where compiled functions of this text of the room are kept: beside it, or at home where that cannot be written."""
    here = Path(__file__).parent
    text = sha256(b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))).hexdigest()[:12]
    root = here / "__pycache__" if os.access(here, os.W_OK) else Path.home() / ".cache" / "specdec"
    return str(root / f"compiled-{text}")


CACHE = _cache_folder()


def _compiled(function: Function, **options: bool) -> Function:
    usual = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = os.environ.get("NUMBA_CACHE_DIR") or CACHE  # type: ignore[attr-defined]
    try:
        return cast(Function, numba.njit(**ALONE, **options)(function))  # type: ignore[call-overload]
    finally:
        numba.config.CACHE_DIR = usual  # type: ignore[attr-defined]


def jit(function: Function) -> Function:
    """The function compiled; it must not make arrays."""
    return _compiled(function)


def inlined(function: Function) -> Function:
    """The same for a function that is called in every iteration: a call would copy what describes its arrays."""
    return _compiled(function, forceinline=True)


class Requests(NamedTuple):
    """`n` requests in order of arrival.

    `arrival`   shape (n,): seconds
    `prompt`    shape (n,): prompt tokens that are read; a cached prefix is left out
    `cached`    shape (n,): tokens of that prefix. Every forward attends to them; they are held once for all, so no blocks count
    `output`    shape (n,): tokens of the answer
    `offset`    shape (n,): number of the first position of its answer among those of all answers
    """

    arrival: Array
    prompt: Array
    cached: Array
    output: Array
    offset: Array


class Rounds(NamedTuple):
    """The compiled chains of one strategy, or of several among which each iteration chooses.

    An edge is the outcome of a round at a node: that of node `x`, when `y` guesses in a row pass, is `x` (`most` + 1) + `y`. If
    a fork prepared for that outcome, it is the edge `twins` further on. Edge `idle`, the last one, stands for no round.

    `chain`         shape (most sequences + 1, rates): which chain is used while so many sequences run, at a counted acceptance
                    rate of 0 to 1 in equal steps
    `start`         shape (chains,): the node where a chain begins
    `slower`        shape (chains,): factor of the target's seconds, for a chain that costs more than its rows
    `first`         the acceptance rate that is assumed without news
    `fading`        what counts of guesses are multiplied by after each iteration
    `most`          guesses tested at once, at most
    `idle`          number of the edge without a round
    `twins`         edges of outcomes that no fork prepared for; 0 where nothing forks
    `next_node`     shape (edges,)
    `tokens`        shape (edges,): committed
    `positions`     shape (stages, edges): positions that the target scores
    `draft_steps`   shape (stages, edges): steps of the draft
    `scored`        shape (edges,): positions in all stages together
    `held`          shape (edges,): KV tokens beyond the text
    `accepted`      shape (edges,): guesses
    `tested`        shape (edges,): guesses of which it is known whether the target accepts them
    `foreseen`      shape (edges,): chance that a fork prepared for the outcome, which is then that of the twin
    `fork_rows`     shape (stages, edges): positions of the draft's forward that begins a fork
    `branches`      shape (stages, edges): of the fork
    `branch_steps`  shape (stages, edges): tokens that it makes for each branch
    """

    chain: Array
    start: Array
    slower: Array
    first: float
    fading: float
    most: int
    idle: int
    twins: int
    next_node: Array
    tokens: Array
    positions: Array
    draft_steps: Array
    scored: Array
    held: Array
    accepted: Array
    tested: Array
    foreseen: Array
    fork_rows: Array
    branches: Array
    branch_steps: Array


class Draws(NamedTuple):
    """What chance decides about the positions of all answers, from position number `before` on; other positions have none.

    `passes`   shape (positions,): how many guesses in a row pass from each on
    `lots`     shape (positions,): uniform numbers, below which a chance comes true; empty where nothing forks
    """

    passes: Array
    lots: Array
    before: int


class Costs(NamedTuple):
    """Seconds of forwards, on a grid, and how two models share devices.

    `sequences`, `width`, `context`   knots of the grid: sequences in a forward, mean positions and mean context of a sequence
    `branches`                        knots of mean branches of a sequence, and of the positions that a fork begins with
    `intervals`                       for each of these four, the interval of knots that begins at or before each whole number
    `target`                          shape (sequences, width, context): seconds of a forward
    `draft`                           shape (sequences, context): seconds of one more draft step
    `draft_start`                     seconds of a draft in addition to its steps
    `fork_first`                      shape (sequences, branches, context): seconds of a fork's first forward over positions
    `fork_step`                       shape (sequences, branches, context): seconds of one more step over all branches
    `prompt_share`                    seconds that the draft reads a prompt, over what the prompt adds to the target's forward
    `in_turn`                         whether the models never work at the same time
    `together`                        shape (sequences, 2): slowdown of draft and target while both work
    `apart`                           shape (sequences, 2): the same while only one of them works
    `network`                         seconds to the draft and back
    `overhead`                        shape (sequences,): seconds of an iteration in which no model works
    `varies`                          coefficients of variation of a draft step and of a forward
    """

    sequences: Array
    width: Array
    context: Array
    branches: Array
    intervals: tuple[Array, Array, Array, Array]
    target: Array
    draft: Array
    draft_start: float
    fork_first: Array
    fork_step: Array
    prompt_share: float
    in_turn: bool
    together: Array
    apart: Array
    network: float
    overhead: Array
    varies: tuple[float, float]


class Limits(NamedTuple):
    """What `sim.traffic.record.Server` allows, as numbers for the loop; `blocks` 0 and `clients` 0 stand for no limit.

    `wake` is that of `sim.setup.system.System`. `padded` says that the runtime is specdec's, `antiphase` that a batch is two
    halves.
    """

    replicas: int
    max_batch: int
    tokens: int
    blocks: int
    block: int
    clients: int
    client_seconds: float
    lag: int
    wake: float
    in_turn: bool
    padded: bool
    antiphase: bool


class Waiting(NamedTuple):
    """Requests outside a batch; arrays of shape (requests,).

    `done`        tokens of the answer, of a request that lost its place
    `eligible`    the first iteration that a request may join
    `behind`      the request behind it in the queue
    """

    done: Array
    eligible: Array
    behind: Array


class Slots(NamedTuple):
    """Sequences in batches, in order of admission; arrays of shape (replicas x slots,).

    `request`   number of the request
    `text`      tokens of the prompt and of the answer so far
    `left`      tokens of the answer that are missing
    `shift`     what leads from `text` to the number of the next position among those of all answers
    `node`      of the chain
    `edge`      of the round in this iteration
    `read`      tokens of `text` that were read; -1 once all are
    `chunk`     tokens that are read in this iteration
    `blocks`    of the KV cache
    `place`     in the cache, if the runtime pads
    """

    request: Array
    text: Array
    left: Array
    shift: Array
    node: Array
    edge: Array
    read: Array
    chunk: Array
    blocks: Array
    place: Array


class Fleet(NamedTuple):
    """What replicas do; arrays of shape (replicas,), but for `first`.

    `ends`        when the iteration under way ends; `NEVER` for an idle replica; filled up to a power of two
    `first`       a tree of replicas: the one at node `i` ends first of those at nodes 2 `i` and 2 `i` + 1
    `working`     whether an iteration is under way, and not just about to begin
    `iteration`   number of the next iteration
    `sequences`   that run
    `head`        the first request in the queue, `NOWHERE` if it is empty
    `tail`        the last one
    `queued`      how many there are
    `free`        blocks
    `accepted`    guesses so far; both counts fade
    `tested`      guesses of which it is known whether they were accepted
    """

    ends: Array
    first: Array
    working: Array
    iteration: Array
    sequences: Array
    head: Array
    tail: Array
    queued: Array
    free: Array
    accepted: Array
    tested: Array


class Times(NamedTuple):
    """The record of requests; arrays of shape (requests,), in seconds but for `replica` and `preemptions`; -1: not yet."""

    submitted: Array
    admitted: Array
    first: Array
    finish: Array
    replica: Array
    preemptions: Array


class Work(NamedTuple):
    """What an iteration has to do.

    `decoding`   sequences that have a round
    `reading`    sequences that read a chunk
    `prompt`     tokens of all chunks
    `context`    tokens that all these sequences hold
    """

    decoding: int
    reading: int
    prompt: int
    context: int


LOG = ("seconds", "target", "draft", "deliveries", "running", "blocks", "queued", "rows", "fork_rows", "held")
"""Columns of the log of iterations, next to the time at which each ends."""
