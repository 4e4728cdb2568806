"""The seconds of an iteration: the work of all sequences in a batch, by tables of a system (`sim.traffic.state.Costs`).

An iteration has the stages of a round. In each stage, the draft takes as many steps as the sequence that drafts longest, for
the whole batch, and the target scores all windows in one forward, whose seconds depend on its rows, its sequences and what they
hold. Both work at the same time or in turn, as the system says.

Prompts are rows of the first forward. The draft reads them too; its seconds for that were not measured, so they are taken to be
the target's x draft step / target step.

In specdec's own runtime (`Limits.padded`), prompts are read before the round, each alone and by both models at once. A forward
is as wide as its widest window, over all slots from the first one in use to the last, and reads as much cache as its longest
text has. A round's verdicts are reached one after another, so its overhead counts for each sequence.
"""

from __future__ import annotations

import numpy as np

from sim.setup.arrays import Floats
from sim.traffic.state import NOWHERE, Costs, Fleet, Limits, Progress, Requests, Rounds, jit

FAR = 2**40


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


@jit
def padded_seconds(
    requests: Requests, rounds: Rounds, costs: Costs, fleet: Fleet, progress: Progress, replica: int, slower: float
) -> tuple[float, float, float, int, int]:
    """`iteration_seconds` in specdec's own runtime."""
    sequences = fleet.sequences[replica]
    total = target_busy = draft_busy = 0.0
    first, last, longest, all_rows = FAR, 0, 0, 0
    for slot in range(sequences):
        request, chunk = fleet.running[replica, slot], fleet.chunk[replica, slot]
        place = int(progress.place[request])
        first, last = min(first, place), max(last, place)
        longest = max(longest, int(requests.prompt[request] + progress.done[request]))
        if chunk > 0:
            target = varied(target_seconds(costs, 1.0, float(chunk), 0.0), costs.varies[1], 1.0)
            seconds, draft, target = stage_seconds(costs, costs.prompt_share * target, target)
            total, target_busy, draft_busy, all_rows = (
                total + seconds,
                target_busy + target,
                draft_busy + draft,
                all_rows + chunk,
            )
    span = last - first + 1
    for stage in range(rounds.positions.shape[2]):
        width = steps = 0
        for slot in range(sequences):
            node, column = progress.node[fleet.running[replica, slot]], fleet.column[replica, slot]
            width = max(width, int(rounds.positions[node, column, stage]))
            steps = max(steps, int(rounds.draft_steps[node, column, stage]))
        target = target_seconds(costs, span, span * width, span * longest) if width else 0.0
        draft = draft_seconds(costs, span, steps, span * longest) if steps else 0.0
        target, draft = varied(target * slower, costs.varies[1], 1.0), varied(draft, costs.varies[0], steps)
        seconds, draft, target = stage_seconds(costs, draft, target)
        total, target_busy, draft_busy = total + seconds, target_busy + target, draft_busy + draft
        all_rows += span * width
    return total + costs.overhead * sequences, target_busy, draft_busy, sequences, all_rows


@jit
def iteration_seconds(
    requests: Requests,
    rounds: Rounds,
    costs: Costs,
    limits: Limits,
    fleet: Fleet,
    progress: Progress,
    replica: int,
    slower: float,
) -> tuple[float, float, float, int, int]:
    """Seconds of the planned iteration, those of the target's and of the draft's work, sequences that decode, and rows."""
    if limits.padded:
        return padded_seconds(requests, rounds, costs, fleet, progress, replica, slower)
    stages = rounds.positions.shape[2]
    decoding = reading = 0
    context = prompt = 0.0
    all_rows = 0
    for slot in range(fleet.sequences[replica]):
        request = fleet.running[replica, slot]
        if fleet.column[replica, slot] != NOWHERE:
            decoding += 1
            context += float(requests.prompt[request] + progress.done[request])
        elif fleet.chunk[replica, slot] > 0:
            reading += 1
            prompt += float(fleet.chunk[replica, slot])
            context += float(progress.read[request])
    total = target_busy = draft_busy = 0.0
    prompt_seconds, drafts_prompt, scored = 0.0, costs.prompt_share > 0.0, False
    for stage in range(stages):
        rows = steps = scoring = drafting = 0
        for slot in range(fleet.sequences[replica]):
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
