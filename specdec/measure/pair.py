"""Measures the `Profile` of a pair.

Each model is timed alone, in turn with the other one, and together with it, since its speed depends on whether the other one
works too. What is compared is timed within a second or two, and medians of several such passes are kept.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import mean, median

import numpy as np
import torch

from specdec.acceptance import FileAcceptance, ForesightSums, MeasuredAcceptance
from specdec.errors import InputError
from specdec.machine import OtherWork, available_cores, cpu_name, versions
from specdec.measure.acceptance import measure_acceptance
from specdec.measure.contention import LENGTHS, Alone, batch_rounds, in_turn, round_overhead_seconds, together
from specdec.pair import Pair
from specdec.profile import DraftTiming, Hardware, PairNames, Profile, Slowdown, TargetTiming
from specdec.report import Progress, no_progress
from specdec.runtime.lane import InlineLane, Lane, ProcessLane
from specdec.runtime.timing import (
    BLOCK,
    CONTEXT_TOKENS,
    GROWN,
    Timing,
    fan_outs,
    fork_positions,
    timed_batched_drafts,
    timed_batches,
    timed_branches,
    timed_drafts,
    timed_pauses,
    timed_prompts,
    timed_windows,
    timing_context,
)
from specdec.sampling import Sampling
from specdec.summary import model_name


def profile(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    *,
    widths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12),
    batches: Sequence[int] = (1, 2, 4, 8),
    batch_widths: Sequence[int] = (1, 4, 8),
    contexts: Sequence[int] = (64, 256, 768),
    prompt_tokens: Sequence[int] = (),
    branches: Sequence[int] = (2, 4, 8, 16, 24, 32),
    slots: int = 1,
    repeats: int = 20,
    new_tokens: int = 64,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Profile:
    """Measure the profile of a pair. Raises `InputError` for a pair without a draft.

    All that is timed is timed in several passes, and medians over passes are kept: of times, and of factors between times of
    one pass. So a slow moment of the machine spoils a pass, and not the profile.

    `prompts`         token ids of the prompts, by name of their file; acceptance is not measured without any
    `widths`          positions of a window; those that the measurement itself needs are added
    `batches`         numbers of sequences in one forward, and in a round, at the first context
    `batch_widths`    positions of a window in each of these forwards; 1 is added
    `contexts`        tokens before a window
    `prompt_tokens`   lengths of prompts whose reading is timed; they stand in the profile as windows after no context. The
                      middle one is timed after a pause too
    `branches`        numbers of branches of a fork whose draft steps are timed, at the first context
    `slots`           sequences that the caches are made for; a batch that is not full, and one sequence, are timed in these
    `repeats`         repeats of each timing
    `new_tokens`      tokens that the target samples after each prompt, to measure acceptance
    `seed`            of that sampling
    `progress`        gets the steps: one for each pass, and one for acceptance
    """
    with pair.turn(drafts=True) as (target_lane, draft_lane):
        if pair.draft is None or draft_lane is None:
            raise InputError("a profile needs a draft model too: give the pair one")
        pair.matching.require_rows("a profile")
        widths = sorted({1, *widths, *(length + 1 for length in LENGTHS)})
        limit = pair.draft_context_limit
        short = min(timing_context(limit), limit - GROWN - max(LENGTHS) - 1)
        contexts = [context for context in contexts if context + GROWN + max(widths) <= limit] or [short]
        room = limit - contexts[0] - GROWN
        widths = [width for width in widths if width <= room]
        batches = [batch for batch in batches if batch > 1]
        several = [(batch, width) for batch in batches for width in {1, *batch_widths} if width <= room]
        prompt_tokens = [tokens for tokens in prompt_tokens if 1 < tokens < limit]
        branches = [number for number in branches if number > 1 and contexts[0] + fork_positions(number) <= limit]
        plan = _Plan(widths, several, batches, contexts, prompt_tokens, branches, slots)
        others = OtherWork(needed_cores(pair))
        steps = [f"timing both models, pass {number + 1}" for number in range(-(-repeats // BLOCK))]
        passes: list[Profile] = []
        acceptance, busy = MeasuredAcceptance(), 0.0
        for step in progress([*steps, "measuring acceptance"], len(steps) + 1):
            if step in steps:
                passes.append(_measured(pair, target_lane, draft_lane, plan))
                busy = others.share()
            else:
                acceptance = _acceptance(pair, prompts, new_tokens, seed)
        found = Profile.merged(passes)
        return replace(
            found,
            busy=max(found.busy, busy),
            pair=PairNames(model_name(pair.target) or "target", model_name(pair.draft) or "draft"),
            hardware=hardware(pair),
            versions=versions(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            acceptance=acceptance,
        )


@dataclass(frozen=True)
class _Plan:
    """The sizes that are timed: `several` holds (batch, width). The other names are those of `profile`."""

    widths: Sequence[int]
    several: Sequence[tuple[int, int]]
    batches: Sequence[int]
    contexts: Sequence[int]
    prompt_tokens: Sequence[int]
    branches: Sequence[int]
    slots: int


def _measured(pair: Pair, target_lane: Lane, draft_lane: Lane, plan: _Plan) -> Profile:
    """One pass: all times of both models, alone and with each other."""
    target, draft, alone, batched = _timed_alone(target_lane, draft_lane, plan)
    forks, fork_start = _timed_forks(draft_lane, plan, alone[plan.contexts[0]].draft)
    usual = min(plan.contexts, key=lambda tokens: abs(tokens - CONTEXT_TOKENS))
    alternating = in_turn(pair, 2 * BLOCK, usual, alone[usual], plan.slots)
    side_by_side = None
    if not isinstance(draft_lane, InlineLane):
        side_by_side = together(pair, 2 * BLOCK, usual, alone[usual], alternating.start_seconds, plan.slots)
    return Profile(
        target_seconds=target,
        draft_seconds=draft + forks,
        draft_start_seconds=alternating.draft_start_seconds,
        fork_start_seconds=fork_start,
        wake_seconds=_timed_pauses(target_lane, plan),
        in_turn=Slowdown(alternating.target_factor, alternating.draft_factor),
        together=side_by_side,
        round_overhead_seconds=round_overhead_seconds(pair, 2 * BLOCK, usual, plan.slots),
        drafting_overhead_seconds=alternating.overhead_seconds,
        batches=tuple(batch_rounds(pair, BLOCK, plan.contexts[0], one, alternating, plan.slots) for one in batched),
    )


def _timed_alone(
    target_lane: Lane, draft_lane: Lane, plan: _Plan
) -> tuple[tuple[TargetTiming, ...], tuple[DraftTiming, ...], dict[int, Alone], list[Alone]]:
    """Timings of both models, each alone; those of single sequences by context; and those of batches."""
    target: list[TargetTiming] = []
    draft: list[DraftTiming] = []
    alone: dict[int, Alone] = {}
    batched: list[Alone] = []
    for context in plan.contexts:  # the draft first, so that its process is up when the target is timed
        step = Timing.of(timed_drafts(draft_lane, BLOCK, context, Sampling(), plan.slots))
        draft.append(DraftTiming(1, context, step.mean, step.cv))
        windows = timed_windows(target_lane, plan.widths, BLOCK, context, Sampling(), plan.slots)
        timings = {width: Timing.of(seconds) for width, seconds in windows.items()}
        target += [TargetTiming(width, 1, context, timing.mean, timing.cv) for width, timing in timings.items()]
        alone[context] = Alone({width: timing.mean for width, timing in timings.items()}, step.mean)
    first = plan.contexts[0]
    for tokens, seconds in timed_prompts(target_lane, plan.prompt_tokens, BLOCK, plan.slots).items():
        timing = Timing.of(seconds)
        target.append(TargetTiming(tokens, 1, 0, timing.mean, timing.cv))
    windows_of: dict[int, dict[int, float]] = {batch: {} for batch in plan.batches}
    for (batch, width), seconds in timed_batches(target_lane, plan.several, BLOCK, first, plan.slots).items():
        timing = Timing.of(seconds)
        target.append(TargetTiming(width, batch, first, timing.mean, timing.cv))
        windows_of[batch][width] = timing.mean
    for batch, seconds in timed_batched_drafts(draft_lane, plan.batches, BLOCK, first, plan.slots).items():
        timing = Timing.of(seconds)
        draft.append(DraftTiming(batch, first, timing.mean, timing.cv))
        batched.append(Alone(windows_of[batch], timing.mean, batch))
    return tuple(target), tuple(draft), alone, [one for one in batched if max(one.target, default=1) > 1]


def _timed_forks(lane: Lane, plan: _Plan, step: float) -> tuple[tuple[DraftTiming, ...], float]:
    """Tokens of all branches of a fork, and what a fork takes beside its forwards; a plain token takes `step` seconds."""
    first, timings, starts = plan.contexts[0], list[DraftTiming](), [0.0] * (not plan.branches)
    before: list[tuple[int, float]] = []
    for branches, (seconds, start) in timed_branches(lane, plan.branches, BLOCK, first, Sampling(), plan.slots).items():
        timing = Timing.of(seconds)
        timings.append(DraftTiming(1, first, timing.mean, timing.cv, branches=branches))
        before.append((len(fan_outs(branches)), start))
    known = [1, *(timing.branches for timing in timings)], [step, *(timing.mean for timing in timings)]
    starts += [max(0.0, start - np.interp(rows, *known)) for rows, start in before]  # a window takes a step over as many rows
    return tuple(timings), float(mean(starts))


def _timed_pauses(lane: Lane, plan: _Plan) -> float:
    """Seconds by which a usual prompt takes longer after a pause."""
    if not plan.prompt_tokens:
        return 0.0
    return max(0.0, median(timed_pauses(lane, plan.prompt_tokens[len(plan.prompt_tokens) // 2], BLOCK, plan.slots)))


def _acceptance(pair: Pair, prompts: Mapping[str, Sequence[Sequence[int]]], new_tokens: int, seed: int) -> MeasuredAcceptance:
    """Acceptance over all files; each position has the same weight."""
    by_file = {name: measure_acceptance(pair, texts, new_tokens, seed) for name, texts in prompts.items()}
    if not by_file:
        return MeasuredAcceptance()
    positions = sum(measured.positions for measured in by_file.values())
    runs: Counter[int] = sum((Counter(measured.run_lengths) for measured in by_file.values()), Counter())
    return MeasuredAcceptance(
        sum(measured.rate * measured.positions for measured in by_file.values()) / positions if positions else 0.0,
        dict(sorted(runs.items())),
        {name: FileAcceptance(measured.rate, measured.positions) for name, measured in by_file.items()},
        foresight=sum((measured.foreseen for measured in by_file.values()), ForesightSums()).foresight,
    )


def needed_cores(pair: Pair) -> int:
    """Cores that a pair works on: threads of torch in this process, and one of a draft in another."""
    apart = isinstance(pair.draft_lane(), ProcessLane)
    return torch.get_num_threads() + apart if pair.target.device.type == "cpu" else 1 + apart


def hardware(pair: Pair) -> Hardware:
    """The machine and the devices on which a pair works."""
    devices = [pair.target.device] + ([] if pair.draft is None else [pair.draft.device])
    names = [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type for device in devices]
    return Hardware(cpu_name(), available_cores(), tuple(names), platform.platform(terse=True))
