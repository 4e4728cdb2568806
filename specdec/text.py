"""Between text and tokens: the token ids of a prompt, and the text of an output that grows."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from specdec.errors import InputError
from specdec.pair import Pair


def prompt_tokens(pair: Pair, prompt: str | Sequence[int]) -> tuple[int, ...]:
    """Token ids of a prompt, checked."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("the prompt is empty: give at least one word")
        if pair.tokenizer is None:
            raise InputError("this pair has no tokenizer: give the prompt as token ids, or take models that have one")
        return tuple(pair.tokenizer(prompt)["input_ids"])  # type: ignore[arg-type]
    tokens = tuple(int(token) for token in prompt)
    if not tokens:
        raise InputError("the prompt is empty: give at least one token")
    vocabulary = pair.vocabulary
    if not all(0 <= token < vocabulary for token in tokens):
        raise InputError(f"the prompt holds token ids outside 0 .. {vocabulary - 1}: use the pair's own tokenizer")
    return tokens


class Text:
    """Text of an output that grows: new characters once they are complete, and stop strings wherever they end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, stop_strings: Sequence[str], prompt_tokens: int) -> None:
        if stop_strings and tokenizer is None:
            raise InputError("stop strings need a tokenizer, and acceptance that is not synthetic: use `eos` or `stop`")
        if isinstance(stop_strings, str):
            stop_strings = [stop_strings]
        if not all(stop_strings):
            raise InputError("a stop string is empty: give at least one character")
        self._tokenizer = tokenizer
        self._stop_strings = stop_strings
        self._prompt_tokens = prompt_tokens
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

    def stops(self, tokens: tuple[int, ...]) -> str | None:
        """`"stop"` when the text of the newest tokens holds a stop string."""
        for stop in self._stop_strings:
            # Every token holds at least a byte, so a stop string that ends here began at most this many tokens ago.
            reach = len(stop.encode()) + 4
            tail = tokens[max(self._prompt_tokens, len(tokens) - reach) :]
            if stop in self.of(tail):
                return "stop"
        return None
