"""Placeholder text and placeholder answers: what a strategy works on when only its time is asked for.

A round depends on the text only through what verification accepts, so a made-up text will do. Token `i` is `i % PERIOD`. The
text repeats itself, so strategies that look into it (prompt lookup) find a continuation of up to `PERIOD` tokens. Whether that
continuation is right is left to the acceptance model, as for any other guess. The target's own token, after a rejection or as
a bonus, is `TARGET_TOKEN`, or `FORESEEN_TOKEN` where a `Fork` has prepared for it. Both equal no guess.

Between rounds a state is normalised: its committed prefix is put back to `PREFIX`, and guesses move with it. So states of equal
shape are equal. The rows `q` are not known (`None`), so a draft that a `stop` rule may end is refused (`sim.stream.stage`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from sim.stream.stage import Outcome, Stage, not_timed, stage_of
from specdec.effects import Both, Committed, Draft, Drafted, Effect, Fork, Guess, Known, Score, Scores, Verdict, Verify
from specdec.ending import committed
from specdec.errors import StrategyError

PERIOD = 64
PREFIX = Committed(tuple(range(PERIOD)) * 2)
TARGET_TOKEN, FORESEEN_TOKEN = PERIOD, PERIOD + 1


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A drafted token at a `position` of the text. An interpreter may give it a `serial` number, to find it again."""

    position: int
    serial: int = field(default=-1, compare=False)
    q: None = None

    @property
    def token(self) -> int:
        return self.position % PERIOD


@dataclass(frozen=True, slots=True)
class PlaceholderForks:
    """The answer to a `Fork`: a continuation after each verdict that adds `FORESEEN_TOKEN`."""

    fork: Fork
    serial: int

    def after(self, verdict: Verdict) -> Guess:
        """The continuation after `verdict.tokens`; empty on a miss."""
        if len(verdict.tokens) == verdict.accepted or verdict.tokens.tokens[-1] != FORESEEN_TOKEN:
            return Guess.empty
        start = len(self.fork.committed) + len(verdict.tokens)
        return Guess(tuple(Placeholder(start + i, self.serial + i) for i in range(self.fork.length)))


def work_done(effect: Effect[Any], serial: int = 0) -> Any:
    """The answer to an effect that occupies devices; its drafted tokens are numbered from `serial` on."""
    match effect:
        case Both(left, right):
            return work_done(left, serial), work_done(right, serial + serials(stage_of(left)))
        case Draft(prefix, after, length):
            start = len(prefix) + len(after)
            return Guess(tuple(Placeholder(start + i, serial + i) for i in range(length)))
        case Fork():
            return PlaceholderForks(effect, serial)
        case Score(prefix, guess):
            return Scores(prefix, guess)
        case _:
            raise not_timed(effect)


def serials(stage: Stage) -> int:
    """How many serial numbers the drafted tokens of a stage take: one branch of a fork is used at most, so all share theirs."""
    return stage.draft_steps + stage.branch_steps


def verdict(effect: Verify, outcome: Outcome) -> Verdict:
    """The answer to a `Verify` with this outcome: the accepted guesses pass, and the next one, if any, fails."""
    ends_with_a_guess = outcome.accepted == len(effect.guess) and not effect.bonus
    own = FORESEEN_TOKEN if outcome.foreseen else TARGET_TOKEN
    return Verdict.of(effect.guess, outcome.accepted, None if ends_with_a_guess else own)


def foreseen_at(effect: Verify, accepted: int, fork: Fork | None) -> int:
    """How many tokens of the target's the last fork foresees where so many guesses are accepted; 0 where it adds none."""
    if fork is None or accepted >= len(fork.fan_outs) or (accepted == len(effect.guess) and not effect.bonus):
        return 0
    return fork.fan_outs[accepted]


def normalised(state: Any) -> tuple[Any, int]:
    """`state` with its committed prefix put back to `PREFIX`, and the number of tokens that were committed since."""
    prefix = committed(state)
    growth = len(prefix) - len(PREFIX)
    return _moved(state, prefix, growth), growth


def _moved(value: Any, prefix: Committed, growth: int) -> Any:
    match value:
        case Committed():
            return PREFIX if value is prefix or value == prefix else value
        case PlaceholderForks():
            raise StrategyError("a state keeps Forks, which hold for one round: keep the guess that `after` returned")
        case Guess(guessed):
            return Guess(tuple(_moved_token(drafted, growth) for drafted in guessed))
        case tuple():
            items = [_moved(item, prefix, growth) for item in value]
            return tuple(items) if type(value) is tuple else type(value)(*items)  # a NamedTuple keeps its names
        case _ if is_dataclass(value) and not isinstance(value, type):
            inside = {f.name: _moved(getattr(value, f.name), prefix, growth) for f in fields(value) if f.init}
            return replace(value, **inside)
        case _:
            return value


def _moved_token(drafted: Drafted, growth: int) -> Drafted:
    match drafted:
        case Placeholder(position, serial):
            return Placeholder(position - growth, serial)
        case Known(token, q) if token < PERIOD:
            return Known((token - growth) % PERIOD, q)
        case Known():
            return drafted
        case _:
            raise StrategyError(
                f"a state may only hold guesses that a draft or Guess.certain made, not {type(drafted).__name__}"
            )
