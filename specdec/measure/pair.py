"""Measures the `Profile` of a pair.

Each model is timed alone, in turn with the other one, and together with it, since its speed depends on whether the other one
works too.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import torch

from specdec.errors import InputError
from specdec.machine import available_cores, cpu_name, versions
from specdec.measure.acceptance import measure_acceptance
from specdec.measure.contention import LENGTHS, Alone, in_turn, round_overhead_seconds, together
from specdec.pair import Pair
from specdec.profile import (
    DraftTiming,
    FileAcceptance,
    Hardware,
    MeasuredAcceptance,
    PairNames,
    Profile,
    Slowdown,
    TargetTiming,
)
from specdec.runtime.lane import InlineLane, Lane
from specdec.runtime.timing import CONTEXT_TOKENS, Timing, batched_seconds, timed_drafts, timed_windows, timing_context
from specdec.sampling import Sampling
from specdec.summary import model_name


def profile(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    *,
    widths: Sequence[int] = (1, 2, 3, 4, 6, 8, 12),
    batches: Sequence[int] = (1, 2, 4, 8),
    contexts: Sequence[int] = (64, 256, 768),
    repeats: int = 20,
    new_tokens: int = 64,
    seed: int = 0,
) -> Profile:
    """Measure the profile of a pair. Raises `InputError` for a pair without a draft.

    `prompts`      token ids of the prompts, by name of their file; acceptance is not measured without any
    `widths`       positions of a window; those that the measurement itself needs are added
    `batches`      numbers of sequences in one forward, at the first context
    `contexts`     tokens before a window
    `repeats`      repeats of each timing
    `new_tokens`   tokens that the target samples after each prompt, to measure acceptance
    `seed`         of that sampling
    """
    with pair.turn(drafts=True) as (target_lane, draft_lane):
        if pair.draft is None or draft_lane is None:
            raise InputError("a profile needs a draft model too: give the pair one")
        widths = sorted({1, *widths, *(length + 1 for length in LENGTHS)})
        limit = pair.draft_context_limit
        contexts = [context for context in contexts if context + max(widths) < limit] or [timing_context(limit)]
        target, draft, alone = _timed_alone(target_lane, draft_lane, widths, batches, contexts, repeats)
        usual = min(contexts, key=lambda tokens: abs(tokens - CONTEXT_TOKENS))
        alternating = in_turn(pair, 2 * repeats, usual, alone[usual])
        side_by_side = None
        if not isinstance(draft_lane, InlineLane):
            side_by_side = together(pair, 2 * repeats, usual, alone[usual], alternating.start_seconds)
        return Profile(
            target_seconds=target,
            draft_seconds=draft,
            pair=PairNames(model_name(pair.target) or "target", model_name(pair.draft) or "draft"),
            hardware=hardware(pair),
            versions=versions(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            draft_start_seconds=(alternating.start_seconds + alternating.transport_seconds) / alternating.draft_factor,
            in_turn=Slowdown(alternating.target_factor, alternating.draft_factor),
            together=side_by_side,
            round_overhead_seconds=round_overhead_seconds(pair, 2 * repeats, usual),
            drafting_overhead_seconds=alternating.overhead_seconds,
            acceptance=_acceptance(pair, prompts, new_tokens, seed),
        )


def _timed_alone(
    target_lane: Lane, draft_lane: Lane, widths: Sequence[int], batches: Sequence[int], contexts: Sequence[int], repeats: int
) -> tuple[tuple[TargetTiming, ...], tuple[DraftTiming, ...], dict[int, Alone]]:
    """Timings of both models, each alone; and those of single sequences by context."""
    target: list[TargetTiming] = []
    draft: list[DraftTiming] = []
    alone: dict[int, Alone] = {}
    for context in contexts:  # the draft first, so that its process is up when the target is timed
        step = Timing.of(timed_drafts(draft_lane, repeats, context, Sampling()))
        draft.append(DraftTiming(1, context, step.mean, step.cv))
        windows = timed_windows(target_lane, widths, repeats, context, Sampling())
        timings = {width: Timing.of(seconds) for width, seconds in windows.items()}
        target += [TargetTiming(width, 1, context, timing.mean, timing.cv) for width, timing in timings.items()]
        alone[context] = Alone({width: timing.mean for width, timing in timings.items()}, step.mean)
    for batch, timing in _batched(target_lane, batches, repeats, contexts[0], drafting=False):
        target.append(TargetTiming(1, batch, contexts[0], timing.mean, timing.cv))
    for batch, timing in _batched(draft_lane, batches, repeats, contexts[0], drafting=True):
        draft.append(DraftTiming(batch, contexts[0], timing.mean, timing.cv))
    return tuple(target), tuple(draft), alone


def _batched(lane: Lane, batches: Sequence[int], repeats: int, context: int, *, drafting: bool) -> list[tuple[int, Timing]]:
    """Timings of batches of more than one sequence."""
    found = batched_seconds(lane, [batch for batch in batches if batch > 1], repeats, context, drafting=drafting)
    return [(batch, Timing.of(seconds)) for batch, seconds in found.items()]


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
    )


def hardware(pair: Pair) -> Hardware:
    """The machine and the devices on which a pair works."""
    devices = [pair.target.device] + ([] if pair.draft is None else [pair.draft.device])
    names = [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type for device in devices]
    return Hardware(cpu_name(), available_cores(), tuple(names), platform.platform(terse=True))
