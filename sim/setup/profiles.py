"""A measured pair as the simulator takes it: a `specdec.profile.Profile` as a system and as a model of acceptance."""

from __future__ import annotations

from collections.abc import Sequence

from sim.setup.acceptance import Acceptance, Rate, Recorded
from sim.setup.latency import Measured, Measurement
from sim.setup.system import Jitter, System, Together, Turns
from specdec import InputError
from specdec.profile import DraftTiming, Profile, Slowdown, TargetTiming


def measured_system(profile: Profile, context: int = 256, source: str = "the profile") -> System:
    """The machine that was measured: both models at once, slowed down as they were, or in turn where they could not.

    `context` is the mean number of tokens before a window; `source` is what errors call the profile.
    """
    overhead, drafting = profile.round_overhead_seconds, profile.drafting_overhead_seconds
    return System(
        Measured(
            [Measurement(row.width, row.batch, row.context, row.mean) for row in profile.target_seconds],
            [Measurement(1, row.batch, row.context, row.mean) for row in profile.draft_seconds],
            source,
            profile.draft_start_seconds,
        ),
        shared=profile.together is None,
        together=None if profile.together is None else Together(*_factors(profile.together)),
        overhead_seconds=overhead,
        jitter=Jitter(_mean_cv(profile.target_seconds), _mean_cv(profile.draft_seconds)),
        context=context,
        turns=Turns(*_factors(profile.in_turn)),
        drafting_overhead_seconds=overhead if drafting is None else drafting,
    )


def measured_acceptance(profile: Profile, *, recorded: bool = False, source: str = "the profile") -> Acceptance:
    """The mean rate that was measured or, if `recorded`, the runs of accepted tokens."""
    measured = profile.acceptance
    if recorded and measured.runs:
        return Recorded(measured.run_lengths)
    if not recorded and measured.rate is not None:
        return Rate(measured.rate)
    kind = "runs of accepted tokens" if recorded else "acceptance rate"
    raise InputError(f"{source} holds no {kind}: give --acceptance, or measure the pair on more prompts")


def _factors(slowdown: Slowdown) -> tuple[float, float]:
    return slowdown.target_factor, slowdown.draft_factor


def _mean_cv(rows: Sequence[TargetTiming | DraftTiming]) -> float:
    """Mean coefficient of variation at batch 1, where a single stream is timed."""
    spreads = [row.cv for row in rows if row.batch == 1]
    return sum(spreads) / len(spreads) if spreads else 0.0
