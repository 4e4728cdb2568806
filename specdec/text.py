"""Between text and tokens: the token ids of a prompt, and the text of an output that grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from specdec.chat import chat_tokens, is_conversation
from specdec.encoded import IDS, one_row, rows_of
from specdec.errors import InputError
from specdec.inputs import is_text
from specdec.pair import Pair
from specdec.prompts.messages import Message, are_messages

Prompt: TypeAlias = str | Sequence[int] | Sequence[Message] | Mapping[str, Any] | Tensor
"""Text, token ids, messages, what a tokenizer returned, or a tensor of one row."""


def prompt_tokens(pair: Pair, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt, checked.

    A text is encoded with the tokenizer's special tokens, but gets no second beginning of sequence. Messages are put into the
    tokenizer's chat template. Raises `InputError` for everything else, by its kind.
    """
    if isinstance(prompt, str):
        tokens = text_tokens(pair, prompt)
    elif is_conversation(prompt):
        tokens = chat_tokens(_tokenizer(pair), cast(Sequence[Any], prompt))
    else:
        tokens = one_row(prompt)
    if not tokens:
        raise InputError("the prompt is empty: give at least one token")
    vocabulary = pair.vocabulary
    if not all(0 <= token < vocabulary for token in tokens):
        raise InputError(f"the prompt holds token ids outside 0 .. {vocabulary - 1}: use the pair's own tokenizer")
    return tokens


def prompt_list(prompts: Any) -> list[Any]:
    """The prompts of a batch. Raises `InputError` for a single one, which is not a list of its characters or tokens."""
    if isinstance(prompts, Mapping) and IDS in prompts:
        return list(rows_of(prompts))
    if not isinstance(prompts, Sequence) or isinstance(prompts, str | bytes | bytearray | memoryview):
        raise InputError(f"a batch is a list of prompts, not {type(prompts).__name__}: {_as_list(prompts)}")
    if are_messages(prompts) or (prompts and isinstance(prompts[0], int)):
        raise InputError("a batch is a list of prompts, and this is one prompt: write [prompt], or leave batch_size out")
    return list(prompts)


def _as_list(prompts: Any) -> str:
    """How to make a batch of something else."""
    match prompts:
        case str() | bytes() | bytearray() | memoryview() | Mapping():
            return "write [prompt], or leave batch_size out"
        case Tensor():
            return "give all that the tokenizer returned, or a list of rows without padding"
        case _:
            return "give a list"


def text_tokens(pair: Pair, text: str) -> tuple[int, ...]:
    """Token ids of a text. What the tokenizer puts first is left out if the text begins with that, as rendered templates do."""
    if not text:
        raise InputError("the prompt is empty: give at least one word")
    if not is_text(text):
        raise InputError("the prompt holds bytes that are not UTF-8: convert it")
    tokenizer = _tokenizer(pair)
    whole, bare = (_ids(tokenizer, text, special) for special in (True, False))
    for added in range(1, len(whole) - len(bare) + 1):
        if whole[added : added + len(bare)] == bare and bare[:added] == whole[:added]:
            return bare
    return whole


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> tuple[int, ...]:
    ids: Any = tokenizer(text, add_special_tokens=special)["input_ids"]
    return tuple(ids)


def _tokenizer(pair: Pair) -> PreTrainedTokenizerBase:
    if pair.tokenizer is None:
        raise InputError("this pair has no tokenizer: give the prompt as token ids, or take models that have one")
    return pair.tokenizer


class Text:
    """Text of an output that grows: new characters once they are complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._shown = ""

    def of(self, tokens: tuple[int, ...]) -> str:
        """All of the text."""
        return "" if self._tokenizer is None else str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def grown(self, tokens: tuple[int, ...], *, final: bool) -> str:
        """What was not shown yet. A character waits until all of its bytes are there."""
        text = self.of(tokens)
        if not final:
            text = text.rstrip("\ufffd")
        new, self._shown = text[len(self._shown) :], text
        return new
