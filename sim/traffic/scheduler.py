"""What every sequence does in the next iteration: who goes on, who joins, who loses its blocks. The order is vLLM's (V1)."""

from __future__ import annotations

from sim.traffic.state import NOWHERE, Array, Draws, Fleet, Limits, Requests, Rounds, Slots, Times, Waiting, Work, inlined, jit


@jit
def enqueue(fleet: Fleet, behind: Array, replica: int, request: int, front: bool) -> None:
    """Put a request at the front or at the end of a queue."""
    if front:
        behind[request] = fleet.head[replica]
        fleet.head[replica] = request
    else:
        behind[request] = NOWHERE
        if fleet.head[replica] == NOWHERE:
            fleet.head[replica] = request
        else:
            behind[fleet.tail[replica]] = request
    if behind[request] == NOWHERE:
        fleet.tail[replica] = request
    fleet.queued[replica] += 1


@inlined
def route(fleet: Fleet, limits: Limits, request: int) -> int:
    """The replica that a request goes to: the next in turn, or the one with the fewest requests."""
    if limits.in_turn:
        return request % limits.replicas
    best = 0
    for replica in range(1, limits.replicas):
        if fleet.sequences[replica] + fleet.queued[replica] < fleet.sequences[best] + fleet.queued[best]:
            best = replica
    return best


@jit
def take_blocks(
    requests: Requests,
    limits: Limits,
    fleet: Fleet,
    slots: Slots,
    waiting: Waiting,
    times: Times,
    replica: int,
    slot: int,
    tokens: int,
) -> tuple[bool, bool]:
    """Give a sequence the blocks for `tokens` tokens; whether it still runs, and whether another one, or it, was preempted."""
    begin = replica * limits.max_batch
    need = (tokens + limits.block - 1) // limits.block - slots.blocks[begin + slot]
    preempted = False
    while need > fleet.free[replica]:
        fleet.sequences[replica] -= 1
        last = fleet.sequences[replica]
        request = slots.request[begin + last]
        fleet.free[replica] += slots.blocks[begin + last]
        waiting.done[request] = slots.text[begin + last] - requests.prompt[request]
        times.preemptions[request] += 1
        enqueue(fleet, waiting.behind, replica, request, True)
        preempted = True
        if last == slot:
            return False, True
    if need > 0:
        fleet.free[replica] -= need
        slots.blocks[begin + slot] += need
    return True, preempted


@jit
def lowest_place(place: Array, begin: int, end: int) -> int:
    """The first slot of a cache that no sequence in slots `begin` to `end` has."""
    lowest, slot = 0, begin
    while slot < end:
        slot += 1
        if place[slot - 1] == lowest:
            lowest, slot = lowest + 1, begin
    return lowest


@inlined
def chain_of(rounds: Rounds, fleet: Fleet, replica: int) -> int:
    """The chain of the next iteration: by the sequences that run, and by the acceptance rate that was counted."""
    steps = rounds.chain.shape[1] - 1
    if not steps:
        return rounds.chain[fleet.sequences[replica], 0]
    rate = (fleet.accepted[replica] + rounds.first) / (fleet.tested[replica] + 1.0)
    return rounds.chain[fleet.sequences[replica], int(rate * steps + 0.5)]


@inlined
def edge_of(rounds: Rounds, slots: Slots, draws: Draws, i: int) -> int:
    """The edge of the round of the sequence in slot `i`. A fork's lot is that of the target's own token."""
    position = slots.text[i] + slots.shift[i] - draws.before
    edge = int(slots.node[i] * (rounds.most + 1) + draws.passes[position])
    if rounds.foreseen[edge] > 0.0:
        own = position + min(rounds.accepted[edge], slots.left[i] - 1)
        if draws.lots[own] < rounds.foreseen[edge]:
            edge += rounds.twins
    return edge


@inlined
def serve_running(
    requests: Requests,
    draws: Draws,
    rounds: Rounds,
    limits: Limits,
    fleet: Fleet,
    slots: Slots,
    waiting: Waiting,
    times: Times,
    replica: int,
    start: int,
) -> tuple[Work, int, bool]:
    """A round or a chunk for each sequence that runs: the work, the budget that is left, and whether one was preempted."""
    left, preempted, slot, begin = limits.tokens, False, 0, replica * limits.max_batch
    decoding = reading = prompt = context = 0
    while slot < fleet.sequences[replica]:
        i = begin + slot
        text, read = slots.text[i], slots.read[i]
        edge, chunk = rounds.idle, 0
        if read < 0:
            if start != NOWHERE:
                slots.node[i] = start
            edge = edge_of(rounds, slots, draws, i)
            want, tokens = rounds.scored[edge], text + rounds.held[edge]
            if want > left:  # it waits for the next iteration
                edge, want, tokens = rounds.idle, 0, 0
        else:
            chunk = want = min(text - read, left)
            tokens = read + chunk
        slots.edge[i], slots.chunk[i] = edge, chunk
        if limits.blocks:
            runs, lost = take_blocks(requests, limits, fleet, slots, waiting, times, replica, slot, tokens)
            preempted = preempted or lost
            if not runs:
                continue
        left -= want
        slot += 1
        cached = requests.cached[slots.request[i]]
        if edge != rounds.idle:
            decoding += 1
            context += cached + text
        elif chunk > 0:
            reading += 1
            prompt += chunk
            context += cached + read
    return Work(decoding, reading, prompt, context), left, preempted


@inlined
def plan(
    requests: Requests,
    draws: Draws,
    rounds: Rounds,
    limits: Limits,
    fleet: Fleet,
    slots: Slots,
    waiting: Waiting,
    times: Times,
    replica: int,
    now: float,
) -> Work:
    """Decide what every sequence does in the next iteration: serve those that run, then let others join."""
    start = rounds.start[chain_of(rounds, fleet, replica)] if len(rounds.start) > 1 else NOWHERE
    work, left, preempted = serve_running(requests, draws, rounds, limits, fleet, slots, waiting, times, replica, start)
    decoding, reading, prompt, context = work
    begin = replica * limits.max_batch
    while not preempted and fleet.sequences[replica] < limits.max_batch and left > 0 and fleet.head[replica] != NOWHERE:
        request = fleet.head[replica]
        if waiting.eligible[request] > fleet.iteration[replica] and fleet.sequences[replica] > 0:
            break
        text = requests.prompt[request] + waiting.done[request]
        chunk = min(text, left)
        need = (chunk + limits.block - 1) // limits.block if limits.blocks else 0
        if limits.blocks and need > fleet.free[replica]:
            break
        fleet.free[replica] -= need
        fleet.head[replica] = waiting.behind[request]
        fleet.queued[replica] -= 1
        i = begin + fleet.sequences[replica]
        slots.request[i], slots.text[i], slots.left[i] = request, text, requests.output[request] - waiting.done[request]
        slots.shift[i] = requests.offset[request] - requests.prompt[request]
        slots.node[i] = rounds.start[0] if start == NOWHERE else start
        slots.edge[i], slots.read[i], slots.chunk[i], slots.blocks[i] = rounds.idle, 0, chunk, need
        if limits.padded:
            slots.read[i], slots.place[i] = NOWHERE, lowest_place(slots.place, begin, i)
            slots.edge[i] = edge_of(rounds, slots, draws, i)
        fleet.sequences[replica] += 1
        reading, prompt, left, context = reading + 1, prompt + chunk, left - chunk, context + requests.cached[request]
        if times.admitted[request] < 0:
            times.admitted[request] = now
    return Work(decoding, reading, prompt, context)
