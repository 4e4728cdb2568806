"""The seconds of an iteration: the work of all sequences in a batch, by tables of a system (`sim.traffic.state.Costs`).

An iteration has the stages of a round. In each stage, the draft takes as many steps as the sequence that drafts longest, for
the whole batch, and the target scores all windows in one forward, whose seconds depend on its rows, its sequences and what they
hold. Both work at the same time or in turn, as the system says.

Prompts are rows of the first forward. The draft reads them too; its seconds for that were not measured, so they are taken to be
the target's x draft step / target step.

A fork is a forward over all windows, then steps over the branches of all sequences. Those that do not fork, or do not draft, in
a stage are not in the draft's batch; those that are have the mean context of all that decode.

In antiphase (`Limits.antiphase`), a batch of several sequences is two halves: one is drafted while the other is verified. An
iteration then takes twice the longer of both works on half the batch.

In specdec's own runtime (`Limits.padded`), prompts are read before the round, each alone and by both models at once. A forward
is as wide as its widest window, over all slots from the first one in use to the last, and reads as much cache as its longest
text has. A round's verdicts are reached one after another, so its overhead grows with the sequences.
"""

from __future__ import annotations

import numpy as np

from sim.traffic.state import Array, Costs, Fleet, Limits, Rounds, Slots, Work, inlined

FAR = 2**40


@inlined
def between(x: float, knots: Array, intervals: Array) -> tuple[int, float]:
    """The interval of `knots` that holds `x`, and how far along: linear beyond the last knot, level before the first.

    Knots are whole numbers, so the interval is known from the whole part of `x`: by a table, which `intervals` is, and beyond
    its end by halving.
    """
    if x <= knots[0]:
        return 0, 0.0
    whole = min(int(x), len(intervals) - 1)
    low = intervals[whole]
    if x >= len(intervals):
        high = len(knots) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if knots[middle] <= x:
                low = middle
            else:
                high = middle
    return low, (x - knots[low]) / (knots[low + 1] - knots[low])


@inlined
def target_seconds(costs: Costs, sequences: float, rows: float, context: float) -> float:
    """Seconds of a forward over `rows` positions of `sequences` that hold `context` tokens together."""
    n, b = between(sequences, costs.sequences, costs.intervals[0])
    w, x = between(rows / sequences, costs.width, costs.intervals[1])
    c, y = between(context / sequences, costs.context, costs.intervals[2])
    return inside(costs.target, n, b, w, x, c, y)


@inlined
def inside(grid: Array, n: int, b: float, w: int, x: float, c: int, y: float) -> float:
    """The value in the cell of a grid that begins at knots `n`, `w` and `c`, the shares `b`, `x` and `y` along."""
    value = 0.0
    for i in range(2):
        share = b if i else 1 - b
        narrow = (1 - y) * grid[n + i, w, c] + y * grid[n + i, w, c + 1]
        wide = (1 - y) * grid[n + i, w + 1, c] + y * grid[n + i, w + 1, c + 1]
        value += share * ((1 - x) * narrow + x * wide)
    return value


@inlined
def draft_seconds(costs: Costs, sequences: float, steps: float, context: float) -> float:
    """Seconds of a draft of `steps` steps for each of `sequences`, which hold `context` tokens together."""
    n, b = between(sequences, costs.sequences, costs.intervals[0])
    c, y = between(context / sequences, costs.context, costs.intervals[2])
    grid = costs.draft
    few = (1 - y) * grid[n, c] + y * grid[n, c + 1]
    many = (1 - y) * grid[n + 1, c] + y * grid[n + 1, c + 1]
    return steps * ((1 - b) * few + b * many) + costs.draft_start


@inlined
def fork_seconds(costs: Costs, sequences: float, rows: float, branches: float, steps: float, context: float) -> float:
    """Seconds of a fork of `sequences`: a forward over `rows` positions, then `steps` over all `branches`."""
    n, b = between(sequences, costs.sequences, costs.intervals[0])
    c, y = between(context / sequences, costs.context, costs.intervals[2])
    r, x = between(rows / sequences, costs.branches, costs.intervals[3])
    w, z = between(branches / sequences, costs.branches, costs.intervals[3])
    return inside(costs.fork_first, n, b, r, x, c, y) + steps * inside(costs.fork_step, n, b, w, z, c, y)


@inlined
def varied(seconds: float, cv: float, steps: float) -> float:
    """The seconds times a lognormal factor of mean 1."""
    if cv == 0.0 or seconds == 0.0:
        return seconds
    variance = np.log1p(cv * cv / max(steps, 1.0))
    return seconds * np.exp(np.sqrt(variance) * np.random.standard_normal() - variance / 2)


@inlined
def at_batch(costs: Costs, sequences: float, values: Array) -> float:
    """What `values` of each number of sequences are at `sequences`."""
    n, share = between(sequences, costs.sequences, costs.intervals[0])
    return (1 - share) * values[n] + share * values[n + 1]


@inlined
def stage_seconds(costs: Costs, draft: float, target: float, sequences: float) -> tuple[float, float, float]:
    """Seconds of a stage, and those in which draft and target work, from their seconds alone (`System.busy_seconds`)."""
    if costs.in_turn or draft == 0.0 or target == 0.0:
        draft *= at_batch(costs, sequences, costs.apart[:, 0])
        target *= at_batch(costs, sequences, costs.apart[:, 1])
        away = costs.network if draft > 0.0 and not costs.in_turn else 0.0
        return draft + away + target, draft, target
    slower_draft = at_batch(costs, sequences, costs.together[:, 0])
    slower_target = at_batch(costs, sequences, costs.together[:, 1])
    slow_draft, slow_target = draft * slower_draft, target * slower_target
    if slow_draft < slow_target:
        draft, target = slow_draft, target + slow_draft * (1 - 1 / slower_target)
    else:
        draft, target = draft + slow_target * (1 - 1 / slower_draft), slow_target
    return max(draft + costs.network, target), draft, target


@inlined
def fork_work(rounds: Rounds, fleet: Fleet, slots: Slots, begin: int, replica: int, stage: int) -> tuple[int, int, int, int]:
    """Sequences that fork in a stage, the positions that they read first, their branches, and the steps of the longest."""
    forking = read = branches = steps = 0
    for i in range(begin, begin + fleet.sequences[replica]):
        edge = slots.edge[i]
        forking, read = forking + (rounds.branches[stage, edge] > 0), read + rounds.fork_rows[stage, edge]
        branches, steps = branches + rounds.branches[stage, edge], max(steps, rounds.branch_steps[stage, edge])
    return forking, read, branches, steps


@inlined
def padded_seconds(
    rounds: Rounds, costs: Costs, limits: Limits, fleet: Fleet, slots: Slots, replica: int, slower: float
) -> tuple[float, float, float, int, int]:
    """`iteration_seconds` in specdec's own runtime."""
    sequences, begin = fleet.sequences[replica], replica * limits.max_batch
    total = target_busy = draft_busy = 0.0
    first, last, longest, all_rows = FAR, 0, 0, 0
    for i in range(begin, begin + sequences):
        place, chunk = slots.place[i], slots.chunk[i]
        first, last, longest = min(first, place), max(last, place), max(longest, slots.text[i])
        if chunk > 0:
            target = varied(target_seconds(costs, 1.0, float(chunk), 0.0), costs.varies[1], 1.0)
            seconds, draft, target = stage_seconds(costs, costs.prompt_share * target, target, 1.0)
            total, target_busy, draft_busy = total + seconds, target_busy + target, draft_busy + draft
            all_rows += chunk
    span = last - first + 1
    halves, drafting, scoring = limits.antiphase and sequences > 1, 0.0, 0.0
    half, fork_rows = 0.5 if halves else 1.0, 0
    together = half * span
    for stage in range(len(rounds.positions)):
        width = steps = read = branches = forked = 0
        first, last = FAR, 0
        for i in range(begin, begin + sequences):
            edge = slots.edge[i]
            width = max(width, rounds.positions[stage, edge])
            steps = max(steps, rounds.draft_steps[stage, edge])
            if rounds.twins:
                read, branches = max(read, rounds.fork_rows[stage, edge]), max(branches, rounds.branches[stage, edge])
                forked = max(forked, rounds.branch_steps[stage, edge])
            if rounds.draft_steps[stage, edge] or rounds.branches[stage, edge]:
                first, last = min(first, slots.place[i]), max(last, slots.place[i])
        apart = half * (last - first + 1)
        target = target_seconds(costs, together, together * width, together * longest) if width else 0.0
        draft = draft_seconds(costs, apart, steps, apart * longest) if steps else 0.0
        if branches:
            draft += fork_seconds(costs, apart, apart * read, apart * branches, forked, apart * longest)
            fork_rows, forked = max(fork_rows, (last - first + 1) * branches), forked + 1
        target, draft = varied(target * slower, costs.varies[1], 1.0), varied(draft, costs.varies[0], steps + forked)
        if halves:
            drafting, scoring = drafting + draft, scoring + target
        else:
            seconds, draft, target = stage_seconds(costs, draft, target, together)
            total, target_busy, draft_busy = total + seconds, target_busy + target, draft_busy + draft
        all_rows += span * width
    if halves:
        seconds, draft, target = stage_seconds(costs, drafting, scoring, together)
        total, target_busy, draft_busy = total + 2 * seconds, target_busy + 2 * target, draft_busy + 2 * draft
    return total + at_batch(costs, 1.0 * sequences, costs.overhead), target_busy, draft_busy, all_rows, fork_rows


@inlined
def iteration_seconds(
    rounds: Rounds, costs: Costs, limits: Limits, fleet: Fleet, slots: Slots, work: Work, replica: int, slower: float
) -> tuple[float, float, float, int, int]:
    """Seconds of the planned iteration, those of the target's and of the draft's work, rows, and branches in a forward."""
    begin, context = replica * limits.max_batch, float(work.context)
    total = target_busy = draft_busy = 0.0
    prompt_seconds, drafts_prompt, scored, all_rows = 0.0, costs.prompt_share > 0.0, False, work.prompt
    halves = limits.antiphase and fleet.sequences[replica] > 1
    share = 0.5 if halves else 1.0
    sequences = 1.0 * fleet.sequences[replica]
    stages, fork_rows = len(rounds.positions), 0
    for stage in range(stages):
        rows = steps = scoring = drafting = 0
        forking, read, branches, forked = (
            fork_work(rounds, fleet, slots, begin, replica, stage) if rounds.twins else (0, 0, 0, 0)
        )
        for i in range(begin, begin + fleet.sequences[replica]):
            edge = slots.edge[i]
            positions, drafted = rounds.positions[stage, edge], rounds.draft_steps[stage, edge]
            rows, steps = rows + positions, max(steps, drafted)
            scoring, drafting = scoring + (positions > 0), drafting + (drafted > 0)
        last = stage == stages - 1
        target = target_seconds(costs, share * scoring, share * rows, share * context) if scoring else 0.0
        if work.reading and not scored and (scoring or last):
            both = scoring + work.reading
            whole = target_seconds(costs, share * both, share * (rows + work.prompt), share * context)
            prompt_seconds, target = whole - target, whole
        scored = scored or scoring > 0
        held = share * context / max(work.decoding, 1)
        draft = draft_seconds(costs, share * drafting, steps, drafting * held) if drafting else 0.0
        if forking:
            draft += fork_seconds(costs, share * forking, share * read, share * branches, forked, forking * held)
            fork_rows, forked = max(fork_rows, branches), forked + 1
        target = varied(target * slower, costs.varies[1], 1.0)
        draft = varied(draft, costs.varies[0], steps + forked)
        if drafts_prompt and prompt_seconds > 0.0 and (drafting or forking or last):
            draft += costs.prompt_share * prompt_seconds
            drafts_prompt = False
        seconds = 0.0
        if not halves:
            seconds, draft, target = stage_seconds(costs, draft, target, sequences)
        total, target_busy, draft_busy = total + seconds, target_busy + target, draft_busy + draft
        all_rows += rows
    if halves:
        seconds, draft, target = stage_seconds(costs, draft_busy, target_busy, share * sequences)
        total, target_busy, draft_busy = 2 * seconds, 2 * target, 2 * draft
    return total + at_batch(costs, sequences, costs.overhead), target_busy, draft_busy, all_rows, fork_rows
