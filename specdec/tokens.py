"""`Tokens`, token ids in order: an immutable sequence that shares its beginning with the one that it was made from.

A decode makes a longer text in each round, and hands it to two models. So a text of `n` tokens must not be copied, compared or
sent whole each time. `Tokens` are a long `head`, which is shared, and a short `tail`, which is copied. Two texts with the very
same head differ in their tails alone (`common_prefix`). Where heads differ, all tokens are compared; the answer is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import final, overload

LONGEST_TAIL = 512
"""Tokens of a tail that `grown` leaves where they are. A longer tail becomes part of the head, which copies the whole text."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Tokens(Sequence[int]):
    """Token ids: those of `head`, then those of `tail`. Equal to any `Tokens` of the same ids, wherever these are divided."""

    head: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokens: Iterable[int]) -> Tokens:
        """These token ids, as they are if they are `Tokens`."""
        return tokens if type(tokens) is Tokens else cls(tuple(tokens))

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def __iter__(self) -> Iterator[int]:
        return chain(self.head, self.tail)

    @overload
    def __getitem__(self, part: int) -> int: ...

    @overload
    def __getitem__(self, part: slice) -> tuple[int, ...]: ...

    def __getitem__(self, part: int | slice) -> int | tuple[int, ...]:
        long = len(self.head)
        if isinstance(part, slice):
            start, stop, step = part.indices(len(self))
            return self.tail[start - long : max(0, stop - long)] if start >= long and step == 1 else self.whole[part]
        at = part if part >= 0 else part + len(self)
        return self.tail[at - long] if at >= long else self.head[at if at >= 0 else part]

    @property
    def whole(self) -> tuple[int, ...]:
        """All of them."""
        return self.head + self.tail if self.tail else self.head

    def __add__(self, more: Sequence[int]) -> Tokens:
        return Tokens(self.head, self.tail + tuple(more)) if more else self

    def grown(self, more: Sequence[int]) -> Tokens:
        """The same as `+`, for a text that will grow on: its tail never has many more than `LONGEST_TAIL` tokens."""
        return self + more if len(self.tail) <= LONGEST_TAIL else Tokens(self.whole, tuple(more))

    def first(self, count: int) -> Tokens:
        """The first `count` tokens."""
        long = len(self.head)
        return Tokens(self.head, self.tail[: count - long]) if count >= long else Tokens(self.head[:count])

    def divided(self, at: int) -> Tokens:
        """The same tokens with a head of `at` tokens."""
        return self if at == len(self.head) else Tokens(self[:at], self[at:])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokens):
            return NotImplemented
        return self.tail == other.tail if self.head is other.head else self.whole == other.whole

    def __hash__(self) -> int:
        return hash(self.whole)


def common_prefix(one: Tokens, other: Tokens) -> int:
    """How many leading tokens of two texts are equal. Texts with the same head are compared from there on."""
    if one.head is other.head:
        return len(one.head) + _equal(one.tail, other.tail)
    return _equal(one[:], other[:])


def _equal(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many leading tokens are equal. Whole slices are compared, at C speed."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # one[:low] is equal, one[:high] is not
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
