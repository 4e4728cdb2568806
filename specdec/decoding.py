"""Decode: the loop around strategies' rounds, on real models.

    result = decode(pair, strategy, "def add(a, b):", max_new_tokens=64)
    results = decode(pair, strategy, prompts, batch_size=8)

`Batch` is the loop, an iterator of the rounds of many sequences; `Decoding` is the same for one, for streaming. Whatever
happens, `result()` holds what was committed so far. Ends and budgets are `specdec.commit`'s, forward passes are
`specdec.runtime`'s, and neither knows a strategy.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, overload

from transformers import PreTrainedTokenizerBase

from specdec.commit import Ending, Stop, committed
from specdec.effects import Committed, Effect, Program, Verify, started
from specdec.errors import InputError, ModelError
from specdec.pair import Pair
from specdec.runtime.engine import Engine, Seat
from specdec.sampling import Sampling
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy
from specdec.synthetic import synthetic


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
    `text`        their text without special tokens; a stop string is kept. Empty when the pair has no tokenizer, and when
                  acceptance was synthetic
    `finished_by` `"eos"`, `"length"` or `"stop"`; `None` when it was interrupted
    """

    tokens: tuple[int, ...]
    text: str
    finished_by: str | None
    statistics: Statistics


class Output:
    """One sequence: its prompt, its strategy's state, what has left so far, and its counts."""

    def __init__(self, number: int, prompt: Committed, ending: Ending, text: Text, seat: Seat) -> None:
        self.number, self.prompt, self.seat = number, prompt, seat
        self._ending, self._text = ending, text
        self.state: Any = None
        self.program: Program[Any] | None = None
        self.effect: Effect[Any] | None = None
        self.tokens: tuple[int, ...] = ()
        self.finished_by: str | None = None
        self._accepted = 0

    def start(self, program: Program[Any]) -> None:
        """Begin a round."""
        self.program = started(program)
        self._accepted = self.seat.statistics.accepted_tokens

    def end(self, state: Any) -> tuple[int, ...]:
        """Take over what a round came to; the tokens that leave."""
        before, self.state, self.program = committed(self.state), state, None
        leaves, self.finished_by = self._ending.cut(before, committed(state), len(self.tokens))
        self.tokens += leaves
        self.seat.statistics.new_tokens += len(leaves)
        return leaves

    def told(self, leaves: tuple[int, ...]) -> Round:
        """The round that just ended."""
        drafted = min(self.seat.statistics.accepted_tokens - self._accepted, len(leaves))
        return Round(leaves, drafted, self._text.grown(self.tokens, final=self.finished_by is not None))

    def result(self) -> Result:
        """What was committed so far."""
        return Result(self.tokens, self._text.of(self.tokens), self.finished_by, self.seat.statistics)


class Batch(Iterator[tuple[int, Round]]):
    """Many decodes, up to `batch_size` at a time; answers every round as it ends, with the number of its prompt.

    Sequences that wait for a model are answered by one forward of it; one that ends makes room for the next. Parameters as for
    `decode`. Prompt `i` is decoded with `seed + i`, to the tokens that `decode` gives it with that seed alone.

    `outputs`  of all prompts, in order
    `seconds`  spent in decoding so far, prompts included
    """

    def __init__(
        self,
        pair: Pair,
        strategy: DecodingStrategy,
        prompts: Sequence[str | Sequence[int]],
        *,
        batch_size: int = 8,
        max_new_tokens: int = 128,
        stop_strings: Sequence[str] = (),
        stop: Stop | None = None,
        eos: Collection[int] | None = None,
        verification: str = "token",
        seed: int | None = None,
        **sampling: Any,
    ) -> None:
        at_least_one(max_new_tokens=max_new_tokens, batch_size=batch_size)
        self._pair, self._strategy = pair, strategy
        size = min(batch_size, len(prompts))
        tokenizer = None if synthetic(verification) else pair.tokenizer
        first_seed = random.randrange(2**32) if seed is None else seed
        self.outputs: list[Output] = []
        for number, prompt in enumerate(prompts):
            tokens = Committed(prompt_tokens(pair, prompt))
            room = pair.context_limit - len(tokens)
            if room < 1:
                raise InputError(
                    f"the prompt has {len(tokens)} tokens and the context holds {pair.context_limit}: shorten the prompt"
                )
            text = Text(tokenizer, stop_strings, len(tokens))
            reason = partial(_reason, text, stop) if stop_strings else stop
            ending = Ending(min(max_new_tokens, room), pair.eos if eos is None else eos, reason)
            self.outputs.append(Output(number, tokens, ending, text, Seat(first_seed + number, verification)))
        self.seconds = 0.0
        self._engine = Engine(
            pair.target_lane,
            pair.draft_lane if strategy.drafts else None,
            sampling_of(sampling),
            pair.context_limit,
            size,
        )
        self._waiting = deque(self.outputs)
        self._free = list(reversed(range(size)))
        self._seated: list[Output] = []
        self._ended: deque[tuple[Output, tuple[int, ...]]] = deque()

    def __next__(self) -> tuple[int, Round]:
        while not self._ended:
            if not self.turn():
                raise StopIteration
        output, leaves = self._ended.popleft()
        return output.number, output.told(leaves)

    def turn(self) -> bool:
        """Go on by one answer of both models, without making texts of the rounds that end; whether there was work left."""
        self._ended.clear()
        while self._waiting and self._free:
            self._seat(self._waiting.popleft())
        if self._seated:
            self._ask()
        return bool(self._ended or self._seated)

    def _seat(self, output: Output) -> None:
        """Give an output a row; those at work wait while its prompt is read."""
        output.state = self._strategy.init(output.prompt, self._pair)
        output.seat.row = self._free.pop()
        self._engine.begin(output.seat, output.prompt.tokens)
        self._spend(output.seat.statistics.prefill_seconds)
        self._seated.append(output)

    def _ask(self) -> None:
        """Ask both models once for everything that is waited for."""
        begin = time.perf_counter()
        for output in self._seated:
            if output.program is None:
                output.start(self._strategy.step(output.state))
                self._go_on(output, None)
        asked = [(output, output.effect) for output in self._seated if output.effect is not None]
        answers = self._engine.answer([(output.seat, effect) for output, effect in asked])
        for (output, _), answer in zip(asked, answers, strict=True):
            self._go_on(output, answer)
        self._spend(time.perf_counter() - begin)
        for output, _ in self._ended:
            if output.finished_by is not None:
                self._seated.remove(output)
                self._free.append(output.seat.row)

    def _go_on(self, output: Output, answer: Any) -> None:
        """Send a program its answer, and verify at once what it wants verified; note it down if its round ends."""
        assert output.program is not None
        try:
            effect = output.program.send(answer)
            while isinstance(effect, Verify):
                effect = output.program.send(self._engine.verify(output.seat, effect))
            output.effect = effect
        except StopIteration as finished:
            output.effect = None
            self._ended.append((output, output.end(finished.value)))

    def _spend(self, seconds: float) -> None:
        self.seconds += seconds
        for output in self._seated:
            output.seat.statistics.decode_seconds += seconds


class Decoding(Iterator[Round]):
    """One decode, a round at a time. Parameters as for `decode`."""

    def __init__(self, pair: Pair, strategy: DecodingStrategy, prompt: str | Sequence[int], **options: Any) -> None:
        self._batch = Batch(pair, strategy, [prompt], batch_size=1, **options)

    def __next__(self) -> Round:
        return next(self._batch)[1]

    def result(self) -> Result:
        """What was committed so far."""
        return self._batch.outputs[0].result()


@overload
def decode(pair: Pair, strategy: DecodingStrategy, prompt: str | Sequence[int], **options: Any) -> Result: ...


@overload
def decode(
    pair: Pair,
    strategy: DecodingStrategy,
    prompt: Sequence[str] | Sequence[Sequence[int]],
    *,
    batch_size: int,
    **options: Any,
) -> list[Result]: ...


def decode(
    pair: Pair, strategy: DecodingStrategy, prompt: Any, *, batch_size: int | None = None, **options: Any
) -> Result | list[Result]:
    """Decode one prompt to its end; or, with a `batch_size`, a list of prompts, so many at a time.

    `prompt`              text, or token ids; a list of these with a `batch_size`
    `max_new_tokens`      budget, 128 unless given; the context limit of the pair ends an output too
    `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty`, `logits_processor`   as in `specdec.Sampling`
    `stop_strings`        end after any of these; `stop`: a function of all tokens so far that names a reason to end
    `eos`                 token ids that end the output; the target's own unless given
    `verification`        `"token"`, `"match"` or `"block"`; or forced acceptance, for speed only, as in `specdec.synthetic`
    `seed`                the same seed gives the same tokens, in whatever lane the draft works, and in whatever batch: prompt
                          `i` of a list is decoded with `seed + i`

    Raises `InputError` for what cannot be decoded, and `ModelError` for a target that fails or whose logits are no
    distribution; what was committed by then is in the error's `results`.
    """
    prompts, size = ([prompt], 1) if batch_size is None else (prompt, batch_size)
    batch = Batch(pair, strategy, prompts, batch_size=size, **options)
    try:
        while batch.turn():
            pass
    except ModelError as error:
        error.results = tuple(output.result() for output in batch.outputs)
        raise
    results = [output.result() for output in batch.outputs]
    return results[0] if batch_size is None else results


def _reason(text: Text, stop: Stop | None, tokens: tuple[int, ...]) -> str | None:
    return text.stops(tokens) or (stop(tokens) if stop else None)


def at_least_one(**numbers: int) -> None:
    """Refuse what is no integer of at least 1, by name."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r} is not possible: give an integer of at least 1")


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
            raise InputError("this pair has no tokenizer: give the prompt as token ids, or take models that have one")
        return tuple(pair.tokenizer(prompt)["input_ids"])  # type: ignore[arg-type]
    tokens = tuple(int(token) for token in prompt)
    if not tokens:
        raise InputError("the prompt is empty: give at least one token")
    if not all(0 <= token < pair.vocabulary for token in tokens):
        raise InputError(f"the prompt holds token ids outside 0 .. {pair.vocabulary - 1}: use the pair's own tokenizer")
    return tokens


class Text:
    """Text of growing outputs: new characters only once they are complete, and stop strings wherever they end."""

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
