"""The loop: rounds of one strategy for many prompts, up to a number of them at a time.

`Batch` iterates over the rounds of all sequences. Where an output ends is `specdec.ending`'s affair, forward passes are
`specdec.runtime`'s, and neither knows a strategy.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from specdec.effects import Committed, Effect, Program, Verify, started
from specdec.ending import Ending, Stop, committed
from specdec.errors import InputError
from specdec.pair import Pair
from specdec.runtime.engine import Engine, Seat
from specdec.sampling import Sampling
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy
from specdec.synthetic import synthetic
from specdec.text import Text, prompt_tokens


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
