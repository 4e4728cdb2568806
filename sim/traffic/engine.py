"""An inference engine, iteration by iteration: continuous batching with chunked prompts, a memory of blocks, and preemption.

`run` is one loop over events. An event is a request that reaches the engine, or an iteration of a replica that ends. In an
iteration, every sequence that decodes does one round, prompts are read in chunks, and all of it is one forward of the target in
each stage of the round. The order of things is vLLM's (V1):

1. Sequences that run are served in order of admission: a round, or the next chunk of a prompt, while the budget of tokens lasts.
   A sequence that needs a block when none is free preempts the sequence that was admitted last. That one waits at the head of
   the queue, and later reads its prompt and its answer so far again.
2. If none was preempted, requests from the queue join: while there are slots, budget, and blocks for their first chunk.
3. The last chunk of a prompt brings the first token. Rounds begin with the iteration after it.

Strategies, latencies and acceptance are tables here (`sim.traffic.tables`). The loop is compiled by numba: it takes about 50 ns
a sequence and iteration.

Sources: Orca (Yu et al., OSDI 2022), vLLM (Kwon et al., SOSP 2023), Sarathi-Serve (Agrawal et al., OSDI 2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from sim.setup.arrays import Counts, Floats

NEVER = np.inf
NOWHERE = -1


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
    """What `sim.traffic.record.Server` allows, as numbers for the loop; `blocks` 0 and `clients` 0 stand for no limit."""

    replicas: int
    max_batch: int
    tokens: int
    blocks: int
    block: int
    clients: int
    client_seconds: float
    lag: int
    in_turn: bool


jit = numba.njit(cache=True, nogil=True)


@jit
def between(x: float, knots: Floats) -> tuple[int, float]:
    """The interval of `knots` that holds `x`, and how far along: linear beyond the last knot, level before the first."""
    low, high = 0, len(knots) - 1
    if high == 0 or x <= knots[0]:
        return 0, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= x:
            low = middle
        else:
            high = middle
    return low, (x - knots[low]) / (knots[high] - knots[low])


@jit
def target_seconds(costs: Costs, sequences: float, rows: float, context: float) -> float:
    """Seconds of a forward over `rows` positions of `sequences` that hold `context` tokens together."""
    n, b = between(sequences, costs.sequences)
    w, x = between(rows / sequences, costs.width)
    c, y = between(context / sequences, costs.context)
    grid, seconds = costs.target, 0.0
    for i in range(2):
        for j in range(2):
            for k in range(2):
                weight = (b if i else 1 - b) * (x if j else 1 - x) * (y if k else 1 - y)
                if weight != 0.0:
                    seconds += weight * grid[n + i, w + j, c + k]
    return seconds


@jit
def draft_seconds(costs: Costs, sequences: float, steps: float, context: float) -> float:
    """Seconds of a draft of `steps` steps for each of `sequences`, which hold `context` tokens together."""
    n, b = between(sequences, costs.sequences)
    c, y = between(context / sequences, costs.context)
    grid, step = costs.draft, 0.0
    for i in range(2):
        for k in range(2):
            weight = (b if i else 1 - b) * (y if k else 1 - y)
            if weight != 0.0:
                step += weight * grid[n + i, c + k]
    return steps * step + costs.draft_start


@jit
def varied(seconds: float, cv: float, steps: float) -> float:
    """The seconds times a lognormal factor of mean 1."""
    if cv == 0.0 or seconds == 0.0:
        return seconds
    variance = np.log1p(cv * cv / max(steps, 1.0))
    return seconds * np.exp(np.sqrt(variance) * np.random.standard_normal() - variance / 2)


@jit
def stage_seconds(costs: Costs, draft: float, target: float) -> tuple[float, float, float]:
    """Seconds of a stage, and those in which draft and target work, from their seconds alone (`System.busy_seconds`)."""
    if costs.in_turn or draft == 0.0 or target == 0.0:
        draft, target = draft * costs.apart[0], target * costs.apart[1]
        away = costs.network if draft > 0.0 and not costs.in_turn else 0.0
        return draft + away + target, draft, target
    slow_draft, slow_target = draft * costs.together[0], target * costs.together[1]
    if slow_draft < slow_target:
        draft, target = slow_draft, target + slow_draft * (1 - 1 / costs.together[1])
    else:
        draft, target = draft + slow_target * (1 - 1 / costs.together[0]), slow_target
    return max(draft + costs.network, target), draft, target


class Progress(NamedTuple):
    """Where requests stand; arrays of shape (requests,).

    `read`        tokens of the prompt, and of the answer before a preemption, that were read; -1 once all are
    `done`        tokens of the answer
    `node`        of the chain
    `blocks`      held
    `eligible`    the first iteration that a request may join
    `behind`      the request behind it in the queue
    """

    read: Counts
    done: Counts
    node: Counts
    blocks: Counts
    eligible: Counts
    behind: Counts


class Fleet(NamedTuple):
    """What replicas do; arrays of shape (replicas,), and (replicas, slots) for the last three.

    `ends`        when the iteration under way ends; `NEVER` for an idle replica
    `working`     whether an iteration is under way, and not just about to begin
    `iteration`   number of the next iteration
    `count`       sequences that run
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
    count: Counts
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


@jit
def enqueue(fleet: Fleet, progress: Progress, replica: int, request: int, front: bool) -> None:
    """Put a request at the front or at the end of a queue."""
    if front:
        progress.behind[request] = fleet.head[replica]
        fleet.head[replica] = request
    else:
        progress.behind[request] = NOWHERE
        if fleet.head[replica] == NOWHERE:
            fleet.head[replica] = request
        else:
            progress.behind[fleet.tail[replica]] = request
    if progress.behind[request] == NOWHERE:
        fleet.tail[replica] = request
    fleet.queued[replica] += 1


@jit
def route(fleet: Fleet, limits: Limits, request: int) -> int:
    """The replica that a request goes to: the next in turn, or the one with the fewest requests."""
    if limits.in_turn:
        return request % limits.replicas
    best = 0
    for replica in range(1, limits.replicas):
        if fleet.count[replica] + fleet.queued[replica] < fleet.count[best] + fleet.queued[best]:
            best = replica
    return best


@jit
def take_blocks(
    fleet: Fleet, progress: Progress, limits: Limits, times: Times, start: int, replica: int, request: int, tokens: int
) -> tuple[bool, bool]:
    """Give a sequence the blocks for `tokens` tokens; whether it still runs, and whether another one, or it, was preempted."""
    if limits.blocks == 0:
        return True, False
    need = (tokens + limits.block - 1) // limits.block - progress.blocks[request]
    preempted = False
    while need > fleet.free[replica]:
        fleet.count[replica] -= 1
        last = fleet.running[replica, fleet.count[replica]]
        fleet.free[replica] += progress.blocks[last]
        progress.blocks[last], progress.read[last], progress.node[last] = 0, 0, start
        times.preemptions[last] += 1
        enqueue(fleet, progress, replica, last, True)
        preempted = True
        if last == request:
            return False, True
    if need > 0:
        fleet.free[replica] -= need
        progress.blocks[request] += need
    return True, preempted


@jit
def plan(
    requests: Requests, rounds: Rounds, limits: Limits, fleet: Fleet, progress: Progress, times: Times, replica: int, now: float
) -> None:
    """Decide what every sequence does in the next iteration: serve those that run, then let others join."""
    left, preempted, slot = limits.tokens, False, 0
    start = rounds.start[rounds.chain[fleet.count[replica]]]
    several = len(rounds.start) > 1
    while slot < fleet.count[replica]:
        request = fleet.running[replica, slot]
        text = requests.prompt[request] + progress.done[request]
        chunk, column, want = 0, NOWHERE, 0
        if progress.read[request] >= 0:
            chunk = want = min(text - progress.read[request], left)
            tokens = progress.read[request] + chunk
        else:
            if several:
                progress.node[request] = start
            node = progress.node[request]
            passes = requests.passes[requests.offset[request] + progress.done[request]]
            column = rounds.column[min(passes, rounds.tested[node])]
            want = rounds.scored[node, column]
            tokens = text + rounds.held[node, column]
        if want > left:  # it waits for the next iteration
            column, tokens = NOWHERE, 0
        runs, lost = take_blocks(fleet, progress, limits, times, rounds.start[0], replica, request, tokens)
        preempted = preempted or lost
        if runs:
            fleet.chunk[replica, slot], fleet.column[replica, slot] = chunk, column
            if want <= left:
                left -= want
            slot += 1
    while not preempted and fleet.count[replica] < limits.max_batch and left > 0 and fleet.head[replica] != NOWHERE:
        request = fleet.head[replica]
        if progress.eligible[request] > fleet.iteration[replica] and fleet.count[replica] > 0:
            break
        chunk = min(requests.prompt[request] + progress.done[request], left)
        need = (chunk + limits.block - 1) // limits.block if limits.blocks else 0
        if limits.blocks and need > fleet.free[replica]:
            break
        fleet.free[replica] -= need
        progress.blocks[request] = need
        fleet.head[replica] = progress.behind[request]
        fleet.queued[replica] -= 1
        slot = fleet.count[replica]
        fleet.running[replica, slot], fleet.chunk[replica, slot], fleet.column[replica, slot] = request, chunk, NOWHERE
        fleet.count[replica] += 1
        left -= chunk
        if times.admitted[request] < 0:
            times.admitted[request] = now


@jit
def iteration_seconds(
    requests: Requests, rounds: Rounds, costs: Costs, fleet: Fleet, progress: Progress, replica: int, slower: float
) -> tuple[float, float, float, int, int]:
    """Seconds of the planned iteration, those of the target's and of the draft's work, sequences that decode, and rows."""
    stages = rounds.positions.shape[2]
    decoding = reading = 0
    context = prompt = 0.0
    all_rows = 0
    for slot in range(fleet.count[replica]):
        request = fleet.running[replica, slot]
        if fleet.column[replica, slot] != NOWHERE:
            decoding += 1
            context += requests.prompt[request] + progress.done[request]
        elif fleet.chunk[replica, slot] > 0:
            reading += 1
            prompt += fleet.chunk[replica, slot]
            context += progress.read[request]
    total = target_busy = draft_busy = 0.0
    prompt_seconds, drafts_prompt, scored = 0.0, costs.prompt_share > 0.0, False
    for stage in range(stages):
        rows = steps = scoring = drafting = 0
        for slot in range(fleet.count[replica]):
            column = fleet.column[replica, slot]
            if column != NOWHERE:
                node = progress.node[fleet.running[replica, slot]]
                if rounds.positions[node, column, stage] > 0:
                    rows += rounds.positions[node, column, stage]
                    scoring += 1
                if rounds.draft_steps[node, column, stage] > 0:
                    steps = max(steps, rounds.draft_steps[node, column, stage])
                    drafting += 1
        last = stage == stages - 1
        target = target_seconds(costs, scoring, rows, context) if scoring else 0.0
        if reading and not scored and (scoring or last):
            whole = target_seconds(costs, scoring + reading, rows + prompt, context)
            prompt_seconds, target = whole - target, whole
        scored = scored or scoring > 0
        draft = draft_seconds(costs, drafting, steps, context) if drafting else 0.0
        target = varied(target * slower, costs.varies[1], 1.0)
        draft = varied(draft, costs.varies[0], steps)
        if drafts_prompt and prompt_seconds > 0.0 and (drafting or last):
            draft += costs.prompt_share * prompt_seconds
            drafts_prompt = False
        seconds, draft, target = stage_seconds(costs, draft, target)
        total, target_busy, draft_busy = total + seconds, target_busy + target, draft_busy + draft
        all_rows += rows
    return total + costs.overhead, target_busy, draft_busy, decoding, all_rows + int(prompt)


@jit
def complete(
    requests: Requests, rounds: Rounds, fleet: Fleet, progress: Progress, times: Times, replica: int, now: float, freed: Floats
) -> int:
    """Deliver what the iteration that ends now brought; how many requests are done. Their times go to `freed`."""
    kept = done = 0
    for slot in range(fleet.count[replica]):
        request = fleet.running[replica, slot]
        column, chunk = fleet.column[replica, slot], fleet.chunk[replica, slot]
        if column != NOWHERE:
            node = progress.node[request]
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
    fleet.count[replica] = kept
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
    ends, log, written = np.empty(4096), np.empty((4096, 9), np.float32), 0
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
        if fleet.count[replica] == 0 and fleet.head[replica] == NOWHERE:
            fleet.ends[replica] = NEVER
            continue
        plan(requests, rounds, limits, fleet, progress, times, replica, now)
        slower = rounds.slower[rounds.chain[fleet.count[replica]]]
        seconds, target, draft, decoding, rows = iteration_seconds(requests, rounds, costs, fleet, progress, replica, slower)
        if written == len(ends):
            ends, log = np.concatenate((ends, np.empty(written))), np.concatenate((log, np.empty((written, 9), np.float32)))
        fleet.ends[replica], fleet.working[replica] = now + seconds, True
        fleet.iteration[replica] += 1
        ends[written] = now + seconds
        used, running = float(limits.blocks - fleet.free[replica]), float(fleet.count[replica])
        queued, decodes = float(fleet.queued[replica]), float(decoding)
        log[written] = (seconds, target, draft, decodes, running, used, queued, float(rows), float(replica))
        written += 1
    return times, ends[:written], log[:written]
