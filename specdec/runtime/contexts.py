"""Contexts between two processes: of each context, only what it adds to the last one of its slot is sent.

Every request has its whole context on both sides (rule 4 of `specdec.effects`); this is how it crosses. `Sender` and `Receiver`
each hold the last context of every slot. It does not matter what that context was, or which decode it belonged to: the sender
compares, and says how many tokens the receiver is to keep. Where nothing is held, that is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from specdec.tokens import Tokens, common_prefix

Difference: TypeAlias = tuple[int, int, tuple[int, ...], int]
"""A slot; how many tokens of its last context are kept; the tokens after these; how many tokens the head of the context has."""


class Sender:
    """The side that knows contexts."""

    def __init__(self) -> None:
        self._last: dict[int, Tokens] = {}

    def difference(self, slot: int, context: Sequence[int]) -> Difference:
        """What to send. Until it is `sent`, the slot has no last context, so nothing rests on a lost message."""
        text = Tokens.of(context)
        kept = common_prefix(self._last.pop(slot, Tokens()), text)
        return slot, kept, text[kept:], len(text.head)

    def sent(self, slot: int, context: Sequence[int]) -> None:
        """The receiver gets this context now."""
        self._last[slot] = Tokens.of(context)


class Receiver:
    """The other side."""

    def __init__(self) -> None:
        self._last: dict[int, Tokens] = {}

    def context(self, difference: Difference) -> Tokens:
        """The context. It shares its beginning with the last one as it does where it was sent."""
        slot, kept, fresh, head = difference
        self._last[slot] = text = (self._last.get(slot, Tokens()).first(kept) + fresh).divided(head)
        return text
