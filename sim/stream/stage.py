"""The two values that time depends on: `Stage`, the work of an effect, and `Outcome`, how many guesses a verification accepts.

Another kind of work, or of outcome, becomes another field here. Strategies and seconds are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specdec.effects import Both, Draft, Effect, Fork, Race, Score
from specdec.errors import StrategyError


@dataclass(frozen=True, slots=True)
class Stage:
    """Work that draft and target do at the same time.

    `draft_steps`   tokens that the draft makes; 0 if it has no work
    `positions`     positions that the target scores in one forward; 0 if it has no work
    """

    draft_steps: int = 0
    positions: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """How a verification ends: how many guesses are `accepted`."""

    accepted: int


def stage_of(effect: Effect[Any]) -> Stage:
    """The stage of an effect that occupies devices; for a race, the longest that it can be.

    Raises `StrategyError` for two `Score`s at once, and for an effect that the simulator has no answer to.
    """
    match effect:
        case Draft():
            return Stage(draft_steps=effect.length)
        case Score():
            return Stage(positions=len(effect.guess) + 1)
        case Both(left, right) | Race(left, right):
            one, other = stage_of(left), stage_of(right)
            if one.positions and other.positions:
                raise StrategyError("two Scores in one Both cannot be timed: there is one target, ask for one after the other")
            return Stage(one.draft_steps + other.draft_steps, one.positions + other.positions)
        case _:
            raise not_timed(effect)


def not_timed(effect: Effect[Any]) -> StrategyError:
    """The error for an effect that the simulator has no answer to."""
    if isinstance(effect, Fork):
        return StrategyError("the simulator does not time Fork yet: prove the strategy, or simulate one that does not fork")
    return StrategyError(f"the simulator cannot time {type(effect).__name__} here: ask for a Draft, a Score, or Both of them")
