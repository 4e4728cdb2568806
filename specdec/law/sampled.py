"""A sample of outputs that are longer than those that are enumerated, compared with the target's own probabilities.

Of each token of an output, the target says how probable it was. Over many tokens, how often some token came may differ from the
sum of its probabilities by a few standard errors only, in whatever way the token is picked, as long as it is picked before it
is drawn: the token that was drawn last, the likeliest one, and so on. If it differs by more than `LIMIT` of them, the output
law is not the target's. This test needs no two outputs alike, so outputs may be long and the models arbitrary. It sees coarse
faults only: of 4000 tokens, a bias of about a twentieth.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, product
from math import sqrt
from random import Random
from typing import Any

from specdec.effects import Committed
from specdec.ending import Ending, committed
from specdec.law.exact import Exact
from specdec.law.oracle import Oracle
from specdec.law.pair import ExactPair, ExactRow, Scattered, Tokens
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy
from specdec.verification import Rule, rule

TEXT_TOKENS = 64
"""Length of the outputs."""

TOKENS = 4000
"""Tokens in all that belong to 200 pairs."""

FEWEST = 800
"""Tokens that are sampled for few pairs: with fewer, no count is large enough to be judged."""

LIMIT = 6.0
"""Standard errors beyond which a law is refuted. By chance that happens to less than one in a million lossless strategies."""

LEAST_VARIANCE = 30.0
"""What is picked more seldom is not judged, since its count is not normally distributed."""

VOCABULARY = 3

ROWS = tuple(tuple(w / sum(weights) for w in weights) for weights in product(range(4), repeat=VOCABULARY) if any(weights))
"""Rows of the models: all with weights of 0 to 3."""


class Sampler(Oracle):
    """Takes one branch at random: each choice is new."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def _new(self, asked: Any, weights: Sequence[Any]) -> int:
        sums = [float(total) for total in accumulate(weights)]
        index = min(bisect(sums, self._random.random() * sums[-1]), len(sums) - 1)
        while not weights[index]:  # rounding, at the end of the sums
            index -= 1
        return index


@dataclass(frozen=True)
class Sample:
    """What a sample showed.

    `tokens`      how many tokens were drawn
    `deviation`   the largest difference between a count and its expectation, in standard errors
    `picked`      which tokens were counted there, in words
    """

    tokens: int
    deviation: float
    picked: str

    @property
    def refutes(self) -> bool:
        """Whether chance alone cannot be the reason."""
        return self.deviation > LIMIT

    def __str__(self) -> str:
        return (
            f"of {self.tokens} sampled tokens, in outputs of {TEXT_TOKENS}, {self.picked} came "
            f"{self.deviation:.1f} standard errors off what the target's probabilities say"
        )


def sample(strategy: DecodingStrategy, verification: str | Rule, tokens: int, seed: int) -> Sample:
    """Draw outputs until they hold `tokens` tokens, and count."""
    counts: dict[str, tuple[float, float]] = {}
    drawn = 0
    for number in range(-(-tokens // TEXT_TOKENS)):
        pair = random_pair(f"{seed} sampled {number}")
        interpreter = Exact(pair, rule(verification), Scattered(f"{seed} {number}", by_tokens=number % 2 == 1))
        text = _text(interpreter, strategy, Sampler(Random(f"{seed} draws {number}")))
        drawn += len(text) - 1
        for position in range(1, len(text)):
            context, p = text[:position], pair.p(text[:position])
            for picked, token in _picked(context, p, pair.q(context), position - 1):
                gap, variance = counts.get(picked, (0.0, 0.0))
                chance = float(p[token])
                counts[picked] = gap + (text[position] == token) - chance, variance + chance * (1 - chance)
    judged = {picked: abs(gap) / sqrt(v) for picked, (gap, v) in counts.items() if v >= LEAST_VARIANCE}
    worst = max(judged, key=lambda picked: judged[picked], default="")
    return Sample(drawn, judged.get(worst, 0.0), worst)


def random_pair(name: str) -> ExactPair:
    """A pair whose rows depend on the whole history: some with zeros, some with q = p. A count needs no fractions."""

    @cache
    def rows(context: Tokens) -> tuple[Any, Any]:
        random = Random(f"{name} {context}")
        p = random.choice(ROWS)
        return p, p if random.random() < 0.2 else random.choice(ROWS)

    return ExactPair(VOCABULARY, lambda context: rows(context)[0], lambda context: rows(context)[1])


def _text(interpreter: Exact, strategy: DecodingStrategy, chance: Sampler) -> Tokens:
    """One output, with its prompt."""
    text: Tokens = (0,)
    ending, reason = Ending(TEXT_TOKENS), None
    state = strategy.init(Committed(text), KnownFacts())
    while reason is None:
        before, state = state, interpreter.next_state(strategy, state, chance)
        fresh, reason = ending.cut(committed(before), committed(state), len(text) - 1)
        text += fresh
    return text


def _picked(context: Tokens, p: ExactRow, q: ExactRow, position: int) -> Iterator[tuple[str, int]]:
    """Tokens that are picked before the next one is drawn, in words; each in the whole output, and in a part of it."""
    tokens = {f"token {token}": token for token in range(VOCABULARY)} | {
        "the token before": context[-1],
        "the target's likeliest token": max(range(VOCABULARY), key=lambda token: p[token]),
        "the draft's likeliest token": max(range(VOCABULARY), key=lambda token: q[token]),
    }
    part = ("first", "second", "third", "last")[4 * position // TEXT_TOKENS]
    for name, token in tokens.items():
        yield name, token
        yield f"{name} in the {part} quarter", token
