"""The arrays that the loop of `sim.traffic.engine` works on, as values by name. numba compiles functions of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from sim.setup.arrays import Counts, Floats

NEVER = np.inf
NOWHERE = -1

jit = numba.njit(cache=True, nogil=True)


class Requests(NamedTuple):
    """`n` requests in order of arrival.

    `arrival`   shape (n,): seconds
    `prompt`    shape (n,): prompt tokens that are read; a cached prefix is left out
    `output`    shape (n,): tokens of the answer
    `offset`    shape (n,): where the positions of its answer begin in `passes`
    `passes`    how many guesses in a row pass from each position of all answers on
    """

    arrival: Floats
    prompt: Counts
    output: Counts
    offset: Counts
    passes: Any


class Rounds(NamedTuple):
    """The compiled chains of one strategy, or of several among which the running batch chooses.

    `chain`         shape (most sequences + 1,): which chain is used while so many sequences run
    `start`         shape (chains,): the node where a chain begins
    `slower`        shape (chains,): factor of the target's seconds, for a chain that costs more than its rows
    `tested`        shape (nodes,): guesses tested at a node
    `column`        shape (most accepted + 1,): column of the outcome with so many accepted guesses
    `next_node`     shape (nodes, columns)
    `tokens`        shape (nodes, columns): committed
    `positions`     shape (nodes, columns, stages): positions that the target scores
    `draft_steps`   shape (nodes, columns, stages): steps of the draft
    `scored`        shape (nodes, columns): positions in all stages together
    `held`          shape (nodes, columns): KV tokens beyond the text
    """

    chain: Counts
    start: Counts
    slower: Floats
    tested: Counts
    column: Counts
    next_node: Counts
    tokens: Counts
    positions: Counts
    draft_steps: Counts
    scored: Counts
    held: Counts


class Costs(NamedTuple):
    """Seconds of forwards, on a grid, and how two models share devices.

    `sequences`, `width`, `context`   knots of the grid: sequences in a forward, mean positions and mean context of a sequence
    `target`                          shape (sequences, width, context): seconds of a forward
    `draft`                           shape (sequences, context): seconds of one more draft step
    `draft_start`                     seconds of a draft in addition to its steps
    `prompt_share`                    seconds that the draft reads a prompt, over what the prompt adds to the target's forward
    `in_turn`                         whether the models never work at the same time
    `together`                        slowdown of draft and target while both work
    `apart`                           slowdown of draft and target while only one of them works
    `network`                         seconds to the draft and back
    `overhead`                        seconds of an iteration in which no model works
    `varies`                          coefficients of variation of a draft step and of a forward
    """

    sequences: Floats
    width: Floats
    context: Floats
    target: Floats
    draft: Floats
    draft_start: float
    prompt_share: float
    in_turn: bool
    together: tuple[float, float]
    apart: tuple[float, float]
    network: float
    overhead: float
    varies: tuple[float, float]


class Limits(NamedTuple):
    """What `sim.traffic.record.Server` allows, as numbers for the loop; `blocks` 0 and `clients` 0 stand for no limit.

    `padded` says that the runtime is specdec's.
    """

    replicas: int
    max_batch: int
    tokens: int
    blocks: int
    block: int
    clients: int
    client_seconds: float
    lag: int
    in_turn: bool
    padded: bool


class Progress(NamedTuple):
    """Where requests stand; arrays of shape (requests,).

    `read`        tokens of the prompt, and of the answer before a preemption, that were read; -1 once all are
    `done`        tokens of the answer
    `node`        of the chain
    `blocks`      held
    `eligible`    the first iteration that a request may join
    `behind`      the request behind it in the queue
    `place`       the slot of the cache that it has, if the runtime pads
    """

    read: Counts
    done: Counts
    node: Counts
    blocks: Counts
    eligible: Counts
    behind: Counts
    place: Counts


class Fleet(NamedTuple):
    """What replicas do; arrays of shape (replicas,), and (replicas, slots) for the last three.

    `ends`        when the iteration under way ends; `NEVER` for an idle replica
    `working`     whether an iteration is under way, and not just about to begin
    `iteration`   number of the next iteration
    `sequences`   that run
    `head`        the first request in the queue, `NOWHERE` if it is empty
    `tail`        the last one
    `queued`      how many there are
    `free`        blocks
    `running`     sequences in order of admission
    `chunk`       prompt tokens that each reads in this iteration
    `column`      outcome of each one's round in this iteration; `NOWHERE` where it has none
    """

    ends: Floats
    working: Any
    iteration: Counts
    sequences: Counts
    head: Counts
    tail: Counts
    queued: Counts
    free: Counts
    running: Counts
    chunk: Counts
    column: Counts


class Times(NamedTuple):
    """The record of requests; arrays of shape (requests,), in seconds but for `replica` and `preemptions`."""

    submitted: Floats
    admitted: Floats
    first: Floats
    finish: Floats
    replica: Counts
    preemptions: Counts


LOG = ("seconds", "target", "draft", "deliveries", "running", "blocks", "queued", "rows", "replica")
"""Columns of the log of iterations, next to the time at which each ends."""
