"""Decode: the loop around a strategy's rounds, on real models.

    result = decode(pair, strategy, "def add(a, b):", max_new_tokens=64)

`Decoding` is the same thing as an iterator of rounds, for streaming; whatever happens, its `result()` holds what was committed
so far. Ends and budgets are `specdec.commit`'s, forward passes are `specdec.runtime`'s, and neither knows a strategy.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from specdec.commit import Ending, Stop, committed
from specdec.effects import Committed, drive
from specdec.errors import InputError
from specdec.pair import Pair
from specdec.runtime.engine import Engine
from specdec.sampling import Sampling
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy


@dataclass(frozen=True)
class Round:
    """What one round added: `tokens`, of which the first `accepted` were drafted, and the new `text` (may lag a token)."""

    tokens: tuple[int, ...]
    accepted: int
    text: str


@dataclass(frozen=True)
class Result:
    """A finished output, without the prompt.

    `tokens`      token ids; an end-of-sequence token is kept
    `text`        their text without special tokens; a stop string is kept. Empty when the pair has no tokenizer
    `finished_by` `"eos"`, `"length"` or `"stop"`; `None` when it was interrupted
    """

    tokens: tuple[int, ...]
    text: str
    finished_by: str | None
    statistics: Statistics


class Decoding(Iterator[Round]):
    """One decode, a round at a time. Parameters as for `decode`."""

    def __init__(
        self,
        pair: Pair,
        strategy: DecodingStrategy,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        stop_strings: Sequence[str] = (),
        stop: Stop | None = None,
        eos: Collection[int] | None = None,
        verification: str = "token",
        seed: int | None = None,
        **sampling: Any,
    ) -> None:
        self._pair, self._strategy = pair, strategy
        self._prompt = Committed(prompt_tokens(pair, prompt))
        room = pair.context_limit - len(self._prompt)
        if room < 1:
            raise InputError(
                f"the prompt has {len(self._prompt)} tokens and the context holds {pair.context_limit}: shorten the prompt"
            )
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens!r} is not possible: give an integer of at least 1")
        self._text = Text(pair, stop_strings, len(self._prompt))
        self._stop = stop
        self._ending = Ending(min(max_new_tokens, room), pair.eos if eos is None else eos, self._stops)
        self._engine = Engine(
            pair.target_lane,
            pair.draft_lane if strategy.drafts else None,
            sampling_of(sampling),
            verification,
            random.randrange(2**32) if seed is None else seed,
            pair.context_limit,
        )
        self._tokens: tuple[int, ...] = ()
        self._finished_by: str | None = None
        self._state: Any = None

    def __next__(self) -> Round:
        if self._finished_by is not None:
            raise StopIteration
        statistics = self._engine.statistics
        if self._state is None:
            self._state = self._strategy.init(self._prompt, self._pair)
            self._engine.begin(self._prompt.tokens)
        start = time.perf_counter()
        accepted = statistics.accepted_tokens
        before = committed(self._state)
        self._state = drive(self._strategy.step(self._state), self._engine.answer)
        leaves, self._finished_by = self._ending.cut(before, committed(self._state), len(self._tokens))
        self._tokens += leaves
        statistics.new_tokens += len(leaves)
        statistics.decode_seconds += time.perf_counter() - start
        drafted = min(statistics.accepted_tokens - accepted, len(leaves))
        return Round(leaves, drafted, self._text.grown(self._tokens, final=self._finished_by is not None))

    def _stops(self, tokens: tuple[int, ...]) -> str | None:
        return self._text.stops(tokens) or (self._stop(tokens) if self._stop else None)

    def result(self) -> Result:
        """What was committed so far."""
        return Result(self._tokens, self._text.of(self._tokens), self._finished_by, self._engine.statistics)


def decode(pair: Pair, strategy: DecodingStrategy, prompt: str | Sequence[int], **options: Any) -> Result:
    """Decode one prompt to its end.

    `prompt`              text, or token ids
    `max_new_tokens`      budget, 128 unless given; the context limit of the pair ends an output too
    `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `logits_processor`   as in `specdec.Sampling`
    `stop_strings`        end after any of these; `stop`: a function of all tokens so far that names a reason to end
    `eos`                 token ids that end the output; the target's own unless given
    `verification`        `"token"`, `"match"` or `"block"`
    `seed`                the same seed gives the same tokens, in whatever lane the draft works

    Raises `InputError` for what cannot be decoded and `ModelError` for logits that are no distribution.
    """
    decoding = Decoding(pair, strategy, prompt, **options)
    for _ in decoding:
        pass
    return decoding.result()


def sampling_of(options: dict[str, Any]) -> Sampling:
    """Keyword arguments as `Sampling`; unknown ones are refused by name."""
    known = [field.name for field in fields(Sampling)]
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r}: sampling options are {', '.join(known)}")
    return Sampling(**options)


def prompt_tokens(pair: Pair, prompt: str | Sequence[int]) -> tuple[int, ...]:
    """Token ids of a prompt, checked."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError("the prompt is empty: give at least one word")
        if pair.tokenizer is None:
            raise InputError("this pair has no tokenizer: give the prompt as token ids")
        return tuple(pair.tokenizer(prompt)["input_ids"])  # type: ignore[arg-type]
    tokens = tuple(int(token) for token in prompt)
    if not tokens:
        raise InputError("the prompt is empty: give at least one token")
    if not all(0 <= token < pair.vocabulary for token in tokens):
        raise InputError(f"the prompt holds token ids outside 0 .. {pair.vocabulary - 1}: use the pair's own tokenizer")
    return tokens


class Text:
    """Text of growing outputs: new characters only once they are complete, and stop strings wherever they end."""

    def __init__(self, pair: Pair, stop_strings: Sequence[str], prompt_tokens: int) -> None:
        if stop_strings and pair.tokenizer is None:
            raise InputError("stop strings need a tokenizer, and this pair has none: use `eos` or `stop`")
        if isinstance(stop_strings, str):
            stop_strings = [stop_strings]
        if not all(stop_strings):
            raise InputError("a stop string is empty: give at least one character")
        self._tokenizer = pair.tokenizer
        self._stop_strings = stop_strings
        self._prompt_tokens = prompt_tokens
        self._shown = ""

    def of(self, tokens: tuple[int, ...]) -> str:
        """All of the text."""
        return "" if self._tokenizer is None else str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def grown(self, tokens: tuple[int, ...], *, final: bool) -> str:
        """What was not shown yet; a character whose bytes are not all there waits for the rest."""
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
