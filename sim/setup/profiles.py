"""A `specdec.profile.Profile` as a system and as a model of acceptance."""

from __future__ import annotations

from collections.abc import Sequence

from sim.setup.acceptance import Acceptance, PerPosition, Rate
from sim.setup.acceptance import recorded as recorded_runs
from sim.setup.measured import Measured
from sim.setup.system import Jitter, System
from specdec import InputError
from specdec.acceptance import MeasuredAcceptance
from specdec.profile import DraftTiming, Profile, TargetTiming


def measured_system(profile: Profile, context: int = 256, source: str = "the profile", cells: bool = False) -> System:
    """The machine that was measured, as a system.

    Both models work at once, slowed down as measured. Where they could not, they work in turn. `context` is the mean number of
    tokens before a window; `source` is what errors call the profile; `cells` is that of
    `sim.setup.measured.Forwards`. Raises `InputError` for a profile without times.
    """
    overhead, drafting = profile.round_overhead_seconds, profile.drafting_overhead_seconds
    return System(
        Measured(
            profile.target_seconds,
            profile.draft_seconds,
            source,
            profile.draft_start_seconds,
            cells,
            profile.fork_start_seconds,
        ),
        shared=profile.together is None,
        together=profile.together,
        overhead_seconds=overhead,
        jitter=Jitter(_mean_cv(profile.target_seconds), _mean_cv([one for one in profile.draft_seconds if one.branches == 1])),
        context=context,
        turns=profile.in_turn,
        drafting_overhead_seconds=overhead if drafting is None else drafting,
        batches=profile.batches,
        wake_seconds=profile.wake_seconds,
    )


def measured_acceptance(profile: Profile, *, recorded: bool = False, source: str = "the profile") -> Acceptance:
    """The acceptance rates by position or the mean rate that was measured; the runs of accepted tokens if `recorded`.

    Raises `InputError` where the profile does not hold it; `source` is what the error calls the profile.
    """
    measured = profile.acceptance
    model = _model(measured, recorded, source)
    return model if measured.foresight is None else model.foreseeing(measured.foresight)


def _model(measured: MeasuredAcceptance, recorded: bool, source: str) -> Acceptance:
    if recorded and measured.runs:
        return recorded_runs(measured.run_lengths)
    if not recorded and measured.by_position:
        return PerPosition(measured.by_position)
    if not recorded and measured.rate is not None:
        return Rate(measured.rate)
    kind = "runs of accepted tokens" if recorded else "acceptance rate"
    raise InputError(f"{source} holds no {kind}: give --acceptance, or measure the pair on more prompts")


def _mean_cv(timings: Sequence[TargetTiming | DraftTiming]) -> float:
    """Mean coefficient of variation at batch 1, where a single stream is timed."""
    spreads = [one.cv for one in timings if one.batch == 1]
    return sum(spreads) / len(spreads) if spreads else 0.0
