"""Models for outputs that are long and yet cheap to enumerate: nearly every token is certain, and few positions are open.

At an open position both rows are random, as in the pairs for short outputs. Everywhere else the target has one possible token,
and so has the draft, which agrees or does not. So the texts of a pair are few, however long they are, and equal states merge.
The open positions are neighbours in half of the pairs, and scattered over the whole output in the others. Those of different
pairs begin at different places. In outputs of the usual length they cover every position, so a bias that begins late is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from specdec.law.pair import ExactRow, Tokens

NEW_TOKENS = 24
"""Length of the outputs, unless another one is asked for."""

PAIRS = 32
"""How many such pairs belong to 200 pairs for short outputs."""

OPEN = 4
"""Open positions of a pair."""


@dataclass(frozen=True)
class LongPair:
    """The rows of one pair, as functions of the whole history.

    `name`        gives the random choices
    `vocabulary`  2, or 3 where the last token ends the output
    `open`        lengths of the histories after which rows are random
    `disagree`    share of the other histories after which the draft is certain of another token than the target
    """

    name: str
    vocabulary: int
    open: frozenset[int]
    disagree: float

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token, if there is one. Only open positions have it."""
        return 2 if self.vocabulary == 3 else None

    def row(self, model: str, context: Tokens) -> ExactRow:
        """The row of `"p"` or `"q"` after a history."""
        if len(context) in self.open:
            random = Random(f"{self.name} {model} {context}")
            weights = [random.randint(1, 3) for _ in range(self.vocabulary)]
            return tuple(Fraction(weight, sum(weights)) for weight in weights)
        random = Random(f"{self.name} {context}")
        token, differs = random.randrange(2), random.random() < self.disagree
        certain = 1 - token if differs and model == "q" else token
        return tuple(Fraction(int(other == certain)) for other in range(self.vocabulary))


def long_pairs(count: int, seed: int, prompt_tokens: int, new_tokens: int) -> Iterator[tuple[LongPair, int]]:
    """`count` pairs for outputs of at most `new_tokens` tokens, each with the length of output that it is for."""
    for number in range(count):
        random, vocabulary = Random(f"{seed} long {number}"), 3 if number % 4 == 3 else 2
        if number % 2:
            chosen = sorted(random.sample(range(new_tokens), min(OPEN, new_tokens)))
        else:
            last = max(0, new_tokens - OPEN)
            first = round(last * (number + 2) / (count + count % 2)) if number + 2 < count else last
            chosen = range(first, min(new_tokens, first + OPEN))
        opened = frozenset(prompt_tokens + position for position in chosen)
        yield LongPair(f"{seed} long {number}", vocabulary, opened, (0.0, 0.2)[number // 2 % 2]), chosen[-1] + 1
