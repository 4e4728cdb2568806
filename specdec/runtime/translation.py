"""Between two vocabularies: which tokens are common, and a text in one tokenizer's tokens read by the other.

`Vocabularies` is what two tokenizers have in common. `Reader` writes contexts of the target in the draft's tokens. Both know no
model. Source: token-level intersection and string-level exact match of Timor et al. 2025, arXiv 2502.05202.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from specdec.runtime.spelling import Spelling
from specdec.runtime.vocabulary import STAND_IN
from specdec.tokens import Tokens, common_prefix

PIECE = 32
"""Tokens after which the next word begins a new piece. A text is read piece by piece, so that few are read again."""

LONGEST_PIECE = 4 * PIECE
"""Tokens after which a piece ends before any character."""


@dataclass(frozen=True, eq=False)
class Vocabularies:
    """How target and draft spell. It can be pickled."""

    target: Spelling
    draft: Spelling

    @cached_property
    def common(self) -> dict[int, int]:
        """The draft's token for each of the target's that both spell alike, one to one.

        Tokens that end a text are the same by what they are for, other special ones by their name.
        """
        target, draft = self.target, self.draft
        found = {token: draft.ids[spelt] for spelt, token in target.ids.items() if spelt in draft.ids}
        if target.ends is not None and draft.ends is not None:
            found[target.ends] = draft.ends
        named = {name: token for token, name in draft.special.items() if token != draft.ends}
        found |= {token: named[name] for token, name in target.special.items() if name in named and token != target.ends}
        return found

    def share(self, texts: Sequence[str]) -> float:
        """The share of the target's tokens in these texts that are common; 0 without any token."""
        tokens = [token for text in texts for token in self.target.encoded(text.encode(), first=True)]
        return sum(token in self.common for token in tokens) / len(tokens) if tokens else 0.0

    def continued(self, context: Sequence[int], fresh: bytes) -> list[int]:
        """Tokens of the target that continue `context` by the text `fresh`.

        They are the rest of one tokenization of the last words and the new text, if that begins with the tokens of those words,
        which may have been tokenized otherwise. If it does not, the new text is tokenized alone.
        """
        start = len(context)
        while start > max(0, len(context) - LONGEST_PIECE) and context[start - 1] not in self.target.special:
            start -= 1
            if len(context) - start > PIECE and begins_word(self.target.tokens.get(context[start], b"")):
                break
        last, first = list(context[start:]), start == 0 or context[start - 1] in self.target.special
        whole = self.target.encoded(self.spelt(last, first=first) + fresh, first=first)
        return whole[len(last) :] if whole[: len(last)] == last else self.target.encoded(fresh, first=False)

    def spelt(self, tokens: Sequence[int], *, first: bool) -> bytes:
        """What tokens of the target spell; special ones spell nothing."""
        spelt = b"".join([self.target.tokens.get(token, b"") for token in tokens])
        return spelt.removeprefix(b" ") if first and self.target.adds_space else spelt


@dataclass(frozen=True, slots=True)
class _Mark:
    """A place where a piece begins: the token at which it does, and how many of the draft's tokens stand before it."""

    start: int
    read: int
    first: bool


@dataclass(slots=True)
class _Text:
    """What was read last in one slot: the context, where its pieces begin, and the draft's tokens of all but the last piece."""

    held: Tokens = field(default_factory=Tokens)
    marks: list[_Mark] = field(default_factory=list[_Mark])
    read: list[int] = field(default_factory=list[int])


class Reader:
    """Writes contexts of the target in the draft's tokens.

    What it writes is a function of the context alone: in every lane and batch it is the same. The text is cut into pieces of
    about `PIECE` tokens, each at the beginning of a word, and each piece is tokenized by itself. So a longer context changes
    the tokens of its last piece only, and the draft's cache keeps all others. At most `limit` tokens are written, the last
    ones: where they are cut moves by half of the limit at a time. The draft reads `known` tokens.
    """

    def __init__(self, vocabularies: Vocabularies, limit: int, known: int) -> None:
        self._vocabularies, self._limit, self._known = vocabularies, limit, known
        self._texts: defaultdict[int, _Text] = defaultdict(_Text)

    def read(self, slot: int, context: Sequence[int]) -> list[int]:
        """The context of `slot` in the draft's tokens, at least one."""
        text, tokens = self._texts[slot], Tokens.of(context)
        self._roll_back(text, common_prefix(text.held, tokens))
        text.held = tokens
        open_piece = self._go_on(text)
        found = [token if token < self._known else STAND_IN for token in (*text.read, *open_piece)] or [STAND_IN]
        over, half = len(found) - self._limit, max(1, self._limit // 2)
        return found if over <= 0 else found[-(-over // half) * half :]

    def _roll_back(self, text: _Text, kept: int) -> None:
        """Forget the pieces that depend on tokens after the first `kept`."""
        while text.marks and text.marks[-1].start >= kept:
            text.marks.pop()
        if not text.marks:
            text.read = list(self._vocabularies.draft.opening)
            text.marks.append(_Mark(0, len(text.read), first=True))
        del text.read[text.marks[-1].read :]

    def _go_on(self, text: _Text) -> list[int]:
        """Read from the last mark on, and set marks. Returns the draft's tokens of the piece that is still open."""
        target, tokens = self._vocabularies.target, text.held
        before, mark = b"", text.marks[-1]
        for i in range(mark.start, len(tokens)):
            spelt = target.tokens.get(tokens[i], b"")
            special = tokens[i] in target.special
            if special or self._ends_piece(i - mark.start, before, spelt):
                text.read += self._piece(tokens[mark.start : i], mark)
                text.read += self._special(tokens[i], i) if special else []
                mark = _Mark(i + special, len(text.read), first=special)
                text.marks.append(mark)
            before = spelt
        return self._piece(tokens[mark.start :], mark)

    def _ends_piece(self, length: int, before: bytes, spelt: bytes) -> bool:
        """Whether a piece of this length ends between two tokens."""
        if length < PIECE:
            return False
        word = begins_word(spelt) and not before[-1:].isspace()
        return word or (length >= LONGEST_PIECE and bool(spelt) and not 0x80 <= spelt[0] < 0xC0)

    def _piece(self, tokens: Sequence[int], mark: _Mark) -> list[int]:
        spelt = self._vocabularies.spelt(tokens, first=mark.first)
        return self._vocabularies.draft.encoded(spelt, first=mark.first)

    def _special(self, token: int, at: int) -> list[int]:
        """The draft's own token for a special one of the target's; none where it has none, or has written it already."""
        own = self._vocabularies.common.get(token)
        return [] if own is None or (at == 0 and self._vocabularies.draft.opening) else [own]


def begins_word(spelt: bytes) -> bool:
    """Whether a token is a space and a letter, at least."""
    return spelt[:1] == b" " and spelt[1:2].isalpha()
