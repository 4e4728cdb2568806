"""Which tokens follow where a text repeats itself: a suffix automaton that grows with the text, and counts.

A state of the automaton stands for strings that occur at the same places of the text. From a state, one can read how often
its strings occur, and which token follows them most often. A token is added in constant time on average, so nothing is built
again when a text grows (Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text").

A `TextIndex` holds the text of one decode, and follows its end through a corpus, an automaton that does not change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from specdec.effects import Committed
from specdec.errors import InputError

MOST_SUFFIXES = 64
"""States that are counted for each token, the longest suffixes first: a text that repeats one token has one for each token."""

END = -1
"""Stands between two texts of a corpus. It is never guessed."""


class Automaton:
    """All substrings of a text, with the number of their occurrences. State 0 is the empty string.

    `next`     of each state: the state after one token more
    `link`     of each state: that of its longest suffix which occurs at other places too
    `length`   of each state: tokens of its longest string
    `count`    of each state: occurrences of its strings
    `likely`   of each state: the token that followed most often, the latest among equals; `None` where none did
    `last`     the state of the whole text
    `size`     tokens of the text
    """

    def __init__(self) -> None:
        self.next: list[dict[int, int]] = [{}]
        self.link, self.length, self.count = [-1], [0], [0]
        self.likely: list[int | None] = [None]
        self.last = self.size = 0

    def path(self, state: int, length: int, least_chance: float, ending: Collection[int]) -> tuple[tuple[int, ...], float]:
        """The likeliest tokens after `state`, at most `length`, and how many of them are expected to be right.

        The chance of a token is its share of what followed its context. The path ends before the product of these falls below
        `least_chance`. The text ends in the strings of the states `ending`, so their last occurrence is followed by nothing.
        """
        tokens: list[int] = []
        chance, expected = 1.0, 0.0
        while len(tokens) < length and (token := self.likely[state]) is not None and token != END:
            after, followed = self.next[state][token], self.count[state] - (state in ending)
            chance *= min(1.0, self.count[after] / max(1, followed))  # above 1 only where `MOST_SUFFIXES` left counts behind
            if chance < least_chance:
                break
            tokens.append(token)
            expected += chance
            state = after
        return tuple(tokens), expected

    def append(self, token: int) -> None:
        """Add one token to the end of the text."""
        before, added = self.last, self._state({}, self.size + 1, 0, None)
        state = before
        while state >= 0 and token not in self.next[state]:
            self.next[state][token] = added
            state = self.link[state]
        self.link[added] = 0 if state < 0 else self._exactly(state, token)
        self.last, self.size = added, self.size + 1
        for state in self.suffixes(added):
            self.count[state] += 1
        for state in self.suffixes(before):
            after, likely = self.next[state], self.likely[state]
            if likely is None or self.count[after[token]] >= self.count[after[likely]]:
                self.likely[state] = token

    def _exactly(self, state: int, token: int) -> int:
        """The state of the longest string of `state` and `token`, apart from longer strings: these may occur less often now."""
        found = self.next[state][token]
        if self.length[found] == self.length[state] + 1:
            return found
        apart = self._state(dict(self.next[found]), self.length[state] + 1, self.count[found], self.likely[found])
        self.link[apart], self.link[found] = self.link[found], apart
        while state >= 0 and self.next[state].get(token) == found:
            self.next[state][token] = apart
            state = self.link[state]
        return apart

    def _state(self, after: dict[int, int], length: int, count: int, likely: int | None) -> int:
        self.next.append(after)
        self.link.append(0)
        self.length.append(length)
        self.count.append(count)
        self.likely.append(likely)
        return len(self.next) - 1

    def suffixes(self, state: int) -> Iterator[int]:
        """The states of the suffixes of `state`, itself first and the empty one last, but at most `MOST_SUFFIXES`."""
        return islice(self._linked(state), MOST_SUFFIXES)

    def _linked(self, state: int) -> Iterator[int]:
        while state >= 0:
            yield state
            state = self.link[state]


class TextIndex:
    """Where a text repeats itself, or a corpus. It belongs to the states of one decode, and grows with their text.

    It is a function of the text, kept because the next text begins with it. A state whose text it no longer is, since another
    state has gone on, gets an index of its own (`at`).
    """

    def __init__(self, text: Committed, corpus: Automaton | None = None) -> None:
        self._text, self._corpus = Committed(), corpus
        self._own = Automaton()
        self._place = self._matched = 0  # the longest suffix of the text that occurs in the corpus: its state, and its tokens
        self._grow(text, text)

    def at(self, text: Committed) -> TextIndex:
        """The index of `text`: this one, if `text` is what it was grown to."""
        return self if text is self._text else TextIndex(text, self._corpus)

    def then(self, text: Committed, tokens: Committed) -> TextState:
        """The state after `text` and `tokens`, with the index of both. It is this index, if that of `text` is this one."""
        index, grown = self.at(text), text + tokens
        index._grow(grown, tokens)
        return TextState(grown, index)

    def _grow(self, grown: Committed, tokens: Iterable[int]) -> None:
        self._text = grown
        for token in tokens:
            self._own.append(token)
            if self._corpus is not None:
                self._follow(self._corpus, token)

    def _follow(self, corpus: Automaton, token: int) -> None:
        while self._place > 0 and token not in corpus.next[self._place]:
            self._place = corpus.link[self._place]
            self._matched = corpus.length[self._place]
        if token in corpus.next[self._place]:
            self._place = corpus.next[self._place][token]
            self._matched += 1

    def continuation(self, length: int, growth: float, least_chance: float) -> tuple[int, ...]:
        """The path of which most tokens are expected to be right, over all suffixes of the text, here and in the corpus.

        After a suffix of `n` tokens it has at most `growth * n` tokens, and at most `length`. Of equals, that of the longest
        suffix of the text itself.
        """
        best, most = (), 0.0
        for automaton, state, matched, ending in self._suffixes():
            longest = min(length, int(growth * matched))
            if most >= longest:
                continue  # no path of so few tokens can be better
            tokens, expected = automaton.path(state, longest, least_chance, ending)
            if expected > most:
                best, most = tokens, expected
        return best

    def _suffixes(self) -> Iterator[tuple[Automaton, int, int, frozenset[int]]]:
        """All suffixes that occurred before: where, their state, their tokens, and the states that the text there ends in."""
        own, *others = self._own.suffixes(self._own.last)
        ending = frozenset([own, *others])
        for state in others:
            yield self._own, state, self._own.length[state], ending
        if self._corpus is not None:
            for state in self._corpus.suffixes(self._place):
                yield self._corpus, state, min(self._matched, self._corpus.length[state]), frozenset()


@dataclass(frozen=True, slots=True)
class TextState:
    """The state of a strategy that looks into its text: equal where the text is, since the `index` follows from the text."""

    committed: Committed
    index: TextIndex = field(compare=False, repr=False)


@lru_cache(maxsize=4)
def corpus(path: str) -> Automaton:
    """The texts of a file: token ids, separated by blanks, one text on each line. A file is read once.

    Raises `InputError` for a file that cannot be read, or holds anything else.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise InputError(
            f"corpus {path!r} cannot be read ({reason}): name a file of token ids, one text on each line"
        ) from error
    found = Automaton()
    for number, line in enumerate(lines, start=1):
        for word in line.split():
            if not (word.isdecimal() and len(word) < 10):
                raise InputError(
                    f"corpus {path!r} holds {word[:20]!r} on line {number}, which is no token id: write the ids "
                    "that the target's tokenizer gives, separated by blanks, one text on each line"
                )
            found.append(int(word))
        found.append(END)
    if all(token == END for token in found.next[0]):
        raise InputError(f"corpus {path!r} holds no token: write token ids, one text on each line")
    return found
