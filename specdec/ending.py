"""What leaves a decode: the commit rule, written once for every strategy and every interpreter.

Tokens are committed one by one, so that end-of-sequence tokens, stop conditions, budgets and streaming are right in the
middle of a block: what a round committed beyond the end is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from specdec.effects import Committed
from specdec.errors import StrategyError

Stop = Callable[[tuple[int, ...]], str | None]
"""Given all tokens so far, prompt included: the reason to stop here, or `None`."""


@dataclass(frozen=True, slots=True)
class Ending:
    """When an output ends: at a token of `eos` (kept), after `max_new_tokens`, or when `stop` says so."""

    max_new_tokens: int
    eos: Collection[int] = ()
    stop: Stop | None = None

    def cut(self, before: Committed, after: Committed, new_tokens: int) -> tuple[tuple[int, ...], str | None]:
        """What of a round's commits leaves, and why the output ends there (`None`: it goes on).

        `new_tokens` counts those that left in earlier rounds. The reason is `"eos"`, `"length"` or what `stop` returned.
        """
        fresh = after.tokens[len(before) :]
        if after.tokens[: len(before)] != before.tokens or not fresh:
            raise StrategyError("a round must add at least one token to what is committed, and change none of it")
        for i, token in enumerate(fresh, start=1):
            reason = (
                "eos"
                if token in self.eos
                else (self.stop and self.stop(before.tokens + fresh[:i]))
                or ("length" if new_tokens + i >= self.max_new_tokens else None)
            )
            if reason:
                return fresh[:i], reason
        return fresh, None


def committed(state: Any) -> Committed:
    """The committed tokens of any state, checked."""
    tokens = getattr(state, "committed", None)
    if not isinstance(tokens, Committed):
        raise StrategyError(f"a state must hold `committed: Committed`, {type(state).__name__} holds {type(tokens).__name__}")
    return tokens
