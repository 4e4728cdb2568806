"""The two values that time depends on: `Stage`, the work of an effect, and `Outcome`, how a verification ends.

Another kind of work, or of outcome, becomes another field here. Strategies and seconds are not known here.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from operator import add
from typing import Any

from specdec.effects import Both, Draft, Effect, Fork, Race, Score
from specdec.errors import StrategyError


@dataclass(frozen=True, slots=True)
class Stage:
    """Work that draft and target do at the same time.

    `draft_steps`    tokens that the draft makes one after another; 0 if it makes none
    `positions`      positions that the target scores in one forward; 0 if it has no work
    `fork_rows`      positions of the draft's forward that begins a fork; 0 if it forks nothing
    `branches`       of that fork
    `branch_steps`   tokens that the draft makes for each branch, all branches in one forward
    """

    draft_steps: int = 0
    positions: int = 0
    fork_rows: int = 0
    branches: int = 0
    branch_steps: int = 0

    @property
    def draft_forwards(self) -> int:
        """Forwards of the draft, one after another."""
        return self.draft_steps + (self.branch_steps + 1 if self.branches else 0)

    @property
    def drafted(self) -> int:
        """Tokens that the draft makes, in all branches."""
        return self.draft_steps + self.branches * self.branch_steps


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """How a verification ends.

    `accepted`   how many guesses are accepted
    `foreseen`   whether a fork prepared for the token that the target adds
    """

    accepted: int
    foreseen: bool = False


def stage_of(effect: Effect[Any]) -> Stage:
    """The stage of an effect that occupies devices; for a race, the longest that it can be.

    Raises `StrategyError` for two `Score`s or two `Fork`s at once, for a stop rule, since it looks at `q`, which is not known
    here, and for an effect that the simulator has no answer to.
    """
    match effect:
        case Draft() | Fork() if effect.stop is not None:
            raise StrategyError(
                f"a draft that {effect.stop} ends depends on the draft's probabilities, which a simulation does not know: give "
                "draft_length an integer, auto, or a policy that counts, such as heuristic, bandit or closed_form"
            )
        case Draft():
            return Stage(draft_steps=effect.length)
        case Score():
            return Stage(positions=len(effect.guess) + 1)
        case Fork():
            return Stage(fork_rows=len(effect.window) + 1, branches=sum(effect.fan_outs), branch_steps=effect.length)
        case Both(left, right) | Race(left, right):
            one, other = stage_of(left), stage_of(right)
            if one.positions and other.positions:
                raise StrategyError("two Scores in one Both cannot be timed: there is one target, ask for one after the other")
            if one.branches and other.branches:
                raise StrategyError("two Forks in one Both cannot be timed: ask for one with more branches")
            return Stage(*map(add, astuple(one), astuple(other)))
        case _:
            raise not_timed(effect)


def not_timed(effect: Effect[Any]) -> StrategyError:
    """The error for an effect that the simulator has no answer to."""
    asked = type(effect).__name__
    return StrategyError(f"the simulator cannot time {asked} here: ask for a Draft, a Fork, a Score, or Both of them")


def forks_of(effect: Effect[Any]) -> list[Fork]:
    """The forks that an effect asks for."""
    match effect:
        case Fork():
            return [effect]
        case Both(left, right) | Race(left, right):
            return forks_of(left) + forks_of(right)
        case _:
            return []
