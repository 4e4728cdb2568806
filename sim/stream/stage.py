"""The two values that timing depends on: the work of an effect, and what a verification came to.

A new kind of work, or of outcome, is a new field here. Nothing here knows a strategy, or seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.effects import Both, Draft, Effect, Fork, Race, Score
from specdec.errors import StrategyError


@dataclass(frozen=True, slots=True)
class Stage:
    """Work that draft and target do side by side: tokens that the draft makes, positions that the target scores."""

    draft_steps: int = 0
    positions: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """What a verification came to: how many guesses passed."""

    accepted: int


def stage_of(effect: Effect[Any]) -> Stage:
    """The stage of an effect that occupies devices; of a race, the longest that it can be."""
    match effect:
        case Draft():
            return Stage(draft_steps=effect.length)
        case Score():
            return Stage(positions=len(effect.guess) + 1)
        case Both(left, right) | Race(left, right):
            one, other = stage_of(left), stage_of(right)
            if one.positions and other.positions:
                raise StrategyError("two Scores side by side cannot be timed: there is one target, score in turn")
            return Stage(one.draft_steps + other.draft_steps, one.positions + other.positions)
        case _:
            raise not_timed(effect)


def not_timed(effect: Effect[Any]) -> StrategyError:
    """The error for an effect that the simulator has no answer to."""
    if isinstance(effect, Fork):
        return StrategyError("the simulator does not time Fork yet: prove the strategy, or simulate one that does not fork")
    return StrategyError(
        f"the simulator cannot time {type(effect).__name__} here: ask for a Draft, a Score, or one beside the other"
    )
