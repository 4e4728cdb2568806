"""One output of a decode: what its rounds add, and what it is when it has ended."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from specdec.effects import Committed
from specdec.ending import Ending, committed
from specdec.runtime.sides import Waiting
from specdec.runtime.slot import Slot
from specdec.settings import Settings
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy
from specdec.text import Text
from specdec.verification import is_lossless


@dataclass(frozen=True)
class Round:
    """What one round added to the output.

    `tokens`     new token ids
    `accepted`   how many of them, the first ones, were drafted
    `text`       new text; it may lack the last tokens, since a character may need several
    """

    tokens: tuple[int, ...]
    accepted: int
    text: str


@dataclass(frozen=True)
class Result:
    """A finished output, without the prompt.

    `tokens`      token ids; an end-of-sequence token is kept
    `text`        their text without special tokens; a stop string is kept. Empty when the pair has no tokenizer, and when
                  acceptance was synthetic
    `finished_by` `"eos"`, `"length"`, `"stop"` for a stop string, `"time"` for `max_time`, or any reason that
                  `stop` named; `None` when interrupted
    `statistics`  counts and seconds
    `strategy`    what decoded it, with the draft length that `"auto"` stood for; `None` for what is not a strategy of ours
    `lossless_claimed`   whether strategy and rule claim that the law of the tokens is the target's. A rule that tested no guess
                         has no say, as in autoregressive decoding
    """

    tokens: tuple[int, ...]
    text: str
    finished_by: str | None
    statistics: Statistics
    strategy: DecodingStrategy | None = None
    lossless_claimed: bool = True


class Output:
    """One sequence: its prompt, its strategy's state, the round under way, and the output so far.

    A round is under way while it is `waiting`. One that raised is not: the next one begins anew, from the same state.
    """

    def __init__(self, number: int, prompt: Committed, settings: Settings, ending: Ending, text: Text, slot: Slot) -> None:
        self.number, self.prompt, self.settings, self.slot = number, prompt, settings, slot
        self.ending, self._text = ending, text
        self.state: Any = None
        self.round: Generator[Waiting, None, Any] | None = None
        self.waiting: Waiting | None = None
        self.tokens: tuple[int, ...] = ()
        self.finished_by: str | None = None
        self.strategy: DecodingStrategy | None = None
        self._accepted = 0

    def start(self, round: Generator[Waiting, None, Any]) -> None:
        """Begin a round."""
        self.round = round
        self._accepted = self.slot.statistics.accepted_tokens

    def end(self, state: Any) -> tuple[int, ...]:
        """End the round with its new state. Returns its tokens that belong to the output."""
        new_tokens, reason = self.ending.cut(committed(self.state), committed(state), len(self.tokens))
        self.slot.statistics.new_tokens += len(new_tokens)
        self.state, self.finished_by = state, reason  # last: what raises above (a stop, Ctrl-C) leaves the output as it was
        self.tokens += new_tokens
        return new_tokens

    def report(self, new_tokens: tuple[int, ...]) -> Round:
        """The round that just ended."""
        accepted = min(self.slot.statistics.accepted_tokens - self._accepted, len(new_tokens))
        return Round(new_tokens, accepted, self._text.grown(self.tokens, final=self.finished_by is not None))

    def result(self) -> Result:
        """What was committed so far."""
        text, slot, strategy = self._text.of(self.tokens), self.slot, self.strategy
        decided = slot.statistics.tested_tokens > 0 and not slot.sampling.greedy
        claimed = (strategy is None or strategy.lossless) and (is_lossless(slot.rule) or not decided)
        return Result(self.tokens, text, self.finished_by, slot.statistics, strategy, claimed and not slot.statistics.synthetic)
