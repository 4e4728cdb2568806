"""How a tokenizer spells: the bytes of each of its tokens, and tokens for any bytes.

It knows tokenizers of Hugging Face's `tokenizers` library whose tokens stand for bytes (GPT-2, Llama 3, Qwen) or for characters
with `▁` for a space (Llama 2, Gemma, Mistral). Others, such as WordPiece, drop spaces, and have no spelling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from specdec.errors import PairError

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of a `▁` vocabulary that stands for one byte, for characters that have no token."""

SPACE = "▁"
"""Stands for a space in such a vocabulary."""

LEAD = "\n"
"""Written before a text that is not the first, and its tokens cut off after: no tokenizer joins it to a word."""


@dataclass(frozen=True, eq=False)
class Spelling:
    """One tokenizer's.

    `backend`      the tokenizer
    `tokens`       the bytes of each ordinary token, by its id
    `single`       those of them that stand for a single byte in need
    `special`      special tokens, by id
    `opening`      what the tokenizer puts before each text
    `ends`         the token that ends a text; `None` without one
    `adds_space`   whether a text gets a space in front that its reader takes away again
    """

    backend: Tokenizer
    tokens: Mapping[int, bytes]
    single: frozenset[int]
    special: Mapping[int, str]
    opening: tuple[int, ...]
    ends: int | None
    adds_space: bool

    def encoded(self, data: bytes, *, first: bool) -> list[int]:
        """Tokens of a text, or of bytes that are not quite one: those that are no UTF-8 get a token each, where there is one.

        `first` says whether nothing stands before it. Special tokens are not added.
        """
        found: list[int] = []
        while data:
            try:
                text, wrong, data = data.decode(), b"", b""
            except UnicodeDecodeError as error:
                text, wrong, data = data[: error.start].decode(), data[error.start : error.end], data[error.end :]
            found += self._encoded(text, first=first and not found) if text else []
            found += [self.ids[one] for byte in wrong if (one := bytes([byte])) in self.ids]
        return found

    def _encoded(self, text: str, *, first: bool) -> list[int]:
        if not first:
            lead, whole = (self._plainly(one) for one in (LEAD, LEAD + text))
            if whole[: len(lead)] == lead:
                return whole[len(lead) :]
        return self._plainly(text)

    def _plainly(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each spelling: of several the lowest, and one that is not `single` if there is one."""
        ordered = sorted(self.tokens, key=lambda token: (token in self.single, token), reverse=True)
        return {self.tokens[token]: token for token in ordered}


def spelling_of(tokenizer: PreTrainedTokenizerBase, name: str) -> Spelling:
    """How the tokenizer of `name` spells. Raises `PairError` for one whose tokens have no spelling."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    names: dict[int, str] = {token: text for text, token in tokenizer.get_vocab().items()}
    tokens = _ordinary(names, getattr(backend, "decoder", None))
    if tokens is None:
        raise PairError(
            f"the tokens of {name} have no spelling, since its tokenizer is of a kind that is not known here: "
            "take a draft of the target's own family"
        )
    added = {token: bool(one.special) for token, one in tokenizer.added_tokens_decoder.items() if token in names}
    tokens |= {token: names[token].encode() for token in added}
    special = {token: names[token] for token, is_special in added.items() if is_special}
    bare, whole = (backend.encode("a", add_special_tokens=opened).ids for opened in (False, True))
    ends: Any = tokenizer.eos_token_id
    return Spelling(
        backend,
        {token: spelt for token, spelt in tokens.items() if spelt and token not in special},
        frozenset(token for token, text in names.items() if BYTE.fullmatch(text)),
        special,
        opening=tuple(whole[: len(whole) - len(bare)] if bare and whole[-len(bare) :] == bare else ()),
        ends=ends,
        adds_space=bool(bare) and tokens.get(bare[0], b"").startswith(b" "),
    )


def _ordinary(names: Mapping[int, str], decoder: Any) -> dict[int, bytes] | None:
    """The bytes of each token, which are wrong for added ones; `None` for a decoder of an unknown kind."""
    kind: bytes = b"" if decoder is None else decoder.__getstate__()
    if b'"ByteLevel"' in kind:
        byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return {token: bytes([byte_of[letter] for letter in text if letter in byte_of]) for token, text in names.items()}
    if SPACE.encode() in kind:
        single = {token: bytes.fromhex(text[3:5]) for token, text in names.items() if BYTE.fullmatch(text)}
        return {token: text.replace(SPACE, " ").encode() for token, text in names.items()} | single
    return None
