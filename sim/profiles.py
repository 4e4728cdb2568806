"""Reads a profile, what `specdec profile` measured of a pair, as a system and an acceptance model. Unknown keys are ignored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.acceptance import Acceptance, Rate, Recorded
from sim.latency import Measured, measurements
from sim.system import Jitter, System, Together, Turns
from specdec import InputError


@dataclass(frozen=True)
class Profile:
    """A measured pair. `label` names it; acceptance is the mean rate, or the recorded runs of accepted tokens."""

    label: str
    latency: Measured
    together: Together | None
    turns: Turns
    jitter: Jitter
    overhead_seconds: float
    drafting_overhead_seconds: float
    rate: Rate | None
    runs: Acceptance | None

    def system(self, context: int = 256) -> System:
        """The machine that was measured: both models at once, slowed down as they were, or in turn where they could not."""
        return System(
            self.latency,
            shared=self.together is None,
            together=self.together,
            overhead_seconds=self.overhead_seconds,
            jitter=self.jitter,
            context=context,
            turns=self.turns,
            drafting_overhead_seconds=self.drafting_overhead_seconds,
        )


def read_profile(path: str | Path) -> Profile:
    """A profile from its file; an `InputError` names what is missing or wrong."""
    try:
        found = json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(
            f"profile {path} cannot be read ({error.strerror}): give a file that `specdec profile` wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"profile {path} is no JSON ({error}): measure the pair again") from error
    return profile_of(found, f"profile {path}")


def profile_of(found: Any, source: str) -> Profile:
    """A profile from what its file holds; `source` is what errors call it."""
    if not isinstance(found, dict):
        raise InputError(f"{source} holds no JSON object: measure the pair again")
    for key in ("target_seconds", "draft_seconds"):
        if not isinstance(found.get(key), list):
            raise InputError(f"{source} has no {key}: measure the pair again")
    try:
        return _profile(source, found)
    except InputError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{source} holds a value that is no number ({error}): measure the pair again") from error


def _profile(source: str, found: dict[str, Any]) -> Profile:
    target, draft = found["target_seconds"], found["draft_seconds"]
    latency = Measured(
        measurements(target, f"{source}: target_seconds"),
        measurements(draft, f"{source}: draft_seconds"),
        source,
        float(found.get("draft_start_seconds") or 0),
    )
    together, turns, pair = found.get("together", {}), found.get("in_turn") or {}, found.get("pair") or {}
    overhead = float(found.get("round_overhead_seconds") or 0)
    accepted = found.get("acceptance") or {}
    lengths = {int(length): int(count) for length, count in (accepted.get("run_lengths") or {}).items()}
    return Profile(
        f"{pair.get('draft', 'draft')} for {pair.get('target', 'target')}",
        latency,
        None if together is None else Together(*_factors(together)),
        Turns(*_factors(turns)),
        Jitter(_mean_cv(target), _mean_cv(draft)),
        overhead,
        float(found.get("drafting_overhead_seconds", overhead)),
        Rate(float(accepted["rate"])) if "rate" in accepted else None,
        Recorded(lengths) if any(lengths.values()) else None,
    )


def _factors(found: dict[str, Any]) -> tuple[float, float]:
    return float(found.get("target_factor", 1)), float(found.get("draft_factor", 1))


def _mean_cv(rows: list[dict[str, Any]]) -> float:
    """Mean coefficient of variation at batch 1, where a single stream is timed."""
    spreads = [float(row.get("cv") or 0) for row in rows if row.get("batch") == 1]
    return sum(spreads) / len(spreads) if spreads else 0.0
