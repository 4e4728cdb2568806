"""Text without content: what a strategy is shown when only its timing is asked for.

A round depends on the text only through what verification accepts, so a made-up text will do. Token `i` is `i % PERIOD`: the
text repeats itself, which lets strategies that look into it (prompt lookup) find a continuation of up to `PERIOD` tokens, and
whether that continuation is right is left to the acceptance model like any other guess. The target's own token, after a
rejection or as a bonus, is `TARGET_TOKEN`, which equals no guess.

Between rounds the committed prefix is put back to `PREFIX` and guesses move with it, so that states of equal shape are equal.
Not known here: rows `q` (`None` here), so a draft's `stop` rule is never asked and a draft runs to its full length.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from specdec.effects import Both, Committed, Draft, Drafted, Effect, Guess, Known, Score, Scores, Verdict, Verify
from specdec.ending import committed
from specdec.errors import StrategyError

PERIOD = 64
PREFIX = Committed(tuple(range(PERIOD)) * 2)
TARGET_TOKEN = PERIOD


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A drafted token at a place of the text; `serial` is a number that an interpreter may follow it by."""

    place: int
    serial: int = field(default=-1, compare=False)
    q: None = None

    @property
    def token(self) -> int:
        return self.place % PERIOD


def work_done(effect: Effect[Any], serial: int = 0) -> Any:
    """The answer to an effect that occupies devices; its drafted tokens are numbered from `serial` on."""
    match effect:
        case Both(left, right):
            first = work_done(left, serial)
            return first, work_done(right, serial + len(first) if isinstance(first, Guess) else serial)
        case Draft(prefix, after, length):
            start = len(prefix) + len(after)
            return Guess(tuple(Placeholder(start + i, serial + i) for i in range(length)))
        case Score(prefix, guess):
            return Scores(prefix, guess)
        case _:
            raise StrategyError(f"the simulator cannot answer {type(effect).__name__} here")


def verdict(effect: Verify, accepted: int) -> Verdict:
    """The answer to a `Verify` when the first `accepted` guesses pass and the next one, if any, fails."""
    complete = accepted == len(effect.guess)
    own = () if complete and not effect.bonus else (TARGET_TOKEN,)
    return Verdict(Committed(effect.guess[:accepted].tokens + own), accepted, complete)


def settled(state: Any) -> tuple[Any, int]:
    """`state` with its committed prefix put back to `PREFIX`, and by how many tokens that prefix had grown."""
    prefix = committed(state)
    growth = len(prefix) - len(PREFIX)
    return _moved(state, prefix, growth), growth


def _moved(value: Any, prefix: Committed, growth: int) -> Any:
    match value:
        case Committed():
            return PREFIX if value is prefix or value == prefix else value
        case Guess(cells):
            return Guess(tuple(_moved_cell(cell, growth) for cell in cells))
        case tuple():
            return tuple(_moved(item, prefix, growth) for item in value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            inside = {f.name: _moved(getattr(value, f.name), prefix, growth) for f in fields(value) if f.init}
            return replace(value, **inside)
        case _:
            return value


def _moved_cell(cell: Drafted, growth: int) -> Drafted:
    match cell:
        case Placeholder(place, serial):
            return Placeholder(place - growth, serial)
        case Known(token, q) if token < PERIOD:
            return Known((token - growth) % PERIOD, q)
        case Known():
            return cell
        case _:
            raise StrategyError(f"a state may only hold guesses that a draft or Guess.certain made, not {type(cell).__name__}")
