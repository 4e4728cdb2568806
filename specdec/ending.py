"""Decides which committed tokens are output, and why the output ends (end of sequence, stop condition, time, budget).

Written once, for every strategy. Looks at the tokens of a round one by one, since an output may end in the middle of a round:
what was committed after the end is dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from specdec.effects import Committed
from specdec.errors import StrategyError
from specdec.tokens import Tokens, common_prefix

Stop = Callable[[tuple[int, ...]], str | None]
"""Given all tokens so far, prompt included: the reason to stop here, or `None`.

A stop that has a `reach` looks at so many of the last tokens, and is given these alone: a long text takes no longer then.
"""


class TimeLimit:
    """Ends an output with the first token that comes later than `seconds` after the start. A `Stop`."""

    reach = 0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf

    def start(self) -> None:
        """Let the time run."""
        self._until = time.monotonic() + self._seconds

    def __call__(self, tokens: tuple[int, ...]) -> str | None:
        return "time" if time.monotonic() > self._until else None


@dataclass(frozen=True, slots=True)
class Ending:
    """When an output ends: at a token of `eos` (kept), when one of `stops` says so, or after `max_new_tokens`."""

    max_new_tokens: int
    eos: Collection[int] = ()
    stops: tuple[Stop, ...] = ()

    def start(self) -> None:
        """Let the time of a `TimeLimit` run."""
        for stop in self.stops:
            if isinstance(stop, TimeLimit):
                stop.start()

    def cut(self, before: Committed, after: Committed, new_tokens: int) -> tuple[tuple[int, ...], str | None]:
        """Which tokens of a round are output, and why the output ends with them (`None`: it goes on).

        `before` and `after` are what was committed before the round and after it; `new_tokens` counts the tokens that earlier
        rounds output. The reason is `"eos"`, `"length"` or what one of `stops` returned.
        """
        fresh = after.text[len(before) :]
        if common_prefix(before.text, after.text) < len(before) or not fresh:
            raise StrategyError("a round must add at least one token to what is committed, and change none of it")
        for i, token in enumerate(fresh, start=1):
            if token in self.eos:
                return fresh[:i], "eos"
            for stop in self.stops:
                if reason := stop(_seen(stop, after.text, len(before) + i)):
                    return fresh[:i], reason
            if new_tokens + i >= self.max_new_tokens:
                return fresh[:i], "length"
        return fresh, None


def _seen(stop: Stop, text: Tokens, end: int) -> tuple[int, ...]:
    """What `stop` is given of the first `end` tokens of a text."""
    return text[max(0, end - getattr(stop, "reach", end)) : end]


def committed(state: Any) -> Committed:
    """The committed tokens of a state of any class; a `StrategyError` for a state that has none."""
    tokens = getattr(state, "committed", None)
    if not isinstance(tokens, Committed):
        raise StrategyError(f"a state must hold `committed: Committed`, {type(state).__name__} holds {type(tokens).__name__}")
    return tokens
