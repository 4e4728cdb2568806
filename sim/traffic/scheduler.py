"""What every sequence does in the next iteration: who goes on, who joins, who loses its blocks. The order is vLLM's (V1)."""

from __future__ import annotations

from sim.traffic.state import NOWHERE, Fleet, Limits, Progress, Requests, Rounds, Times, jit


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
        if fleet.sequences[replica] + fleet.queued[replica] < fleet.sequences[best] + fleet.queued[best]:
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
        fleet.sequences[replica] -= 1
        last = fleet.running[replica, fleet.sequences[replica]]
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
def outcome(requests: Requests, rounds: Rounds, progress: Progress, request: int) -> int:
    """The column of a sequence's next round."""
    passes = requests.passes[requests.offset[request] + progress.done[request]]
    return int(rounds.column[min(passes, rounds.tested[progress.node[request]])])


@jit
def lowest_place(fleet: Fleet, progress: Progress, replica: int) -> int:
    """The first slot of a cache that no running sequence has."""
    place, slot = 0, 0
    while slot < fleet.sequences[replica]:
        slot += 1
        if progress.place[fleet.running[replica, slot - 1]] == place:
            place, slot = place + 1, 0
    return place


@jit
def plan(
    requests: Requests, rounds: Rounds, limits: Limits, fleet: Fleet, progress: Progress, times: Times, replica: int, now: float
) -> None:
    """Decide what every sequence does in the next iteration: serve those that run, then let others join."""
    left, preempted, slot = limits.tokens, False, 0
    start = rounds.start[rounds.chain[fleet.sequences[replica]]]
    several = len(rounds.start) > 1
    while slot < fleet.sequences[replica]:
        request = fleet.running[replica, slot]
        text = requests.prompt[request] + progress.done[request]
        chunk, column, want = 0, NOWHERE, 0
        if progress.read[request] >= 0:
            chunk = want = min(text - progress.read[request], left)
            tokens = int(progress.read[request] + chunk)
        else:
            if several:
                progress.node[request] = start
            node = progress.node[request]
            column = outcome(requests, rounds, progress, request)
            want = rounds.scored[node, column]
            tokens = int(text + rounds.held[node, column])
        if want > left:  # it waits for the next iteration
            column, tokens = NOWHERE, 0
        runs, lost = take_blocks(fleet, progress, limits, times, rounds.start[0], replica, request, tokens)
        preempted = preempted or lost
        if runs:
            fleet.chunk[replica, slot], fleet.column[replica, slot] = chunk, column
            if want <= left:
                left -= want
            slot += 1
    while not preempted and fleet.sequences[replica] < limits.max_batch and left > 0 and fleet.head[replica] != NOWHERE:
        request = fleet.head[replica]
        if progress.eligible[request] > fleet.iteration[replica] and fleet.sequences[replica] > 0:
            break
        chunk = min(requests.prompt[request] + progress.done[request], left)
        need = (chunk + limits.block - 1) // limits.block if limits.blocks else 0
        if limits.blocks and need > fleet.free[replica]:
            break
        fleet.free[replica] -= need
        progress.blocks[request] = need
        fleet.head[replica] = progress.behind[request]
        fleet.queued[replica] -= 1
        column = NOWHERE
        if limits.padded:
            progress.read[request], progress.place[request] = -1, lowest_place(fleet, progress, replica)
            if several:
                progress.node[request] = start
            column = outcome(requests, rounds, progress, request)
        slot = fleet.sequences[replica]
        fleet.running[replica, slot], fleet.chunk[replica, slot], fleet.column[replica, slot] = request, chunk, column
        fleet.sequences[replica] += 1
        left -= chunk
        if times.admitted[request] < 0:
            times.admitted[request] = now
