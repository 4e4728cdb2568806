"""A pair of models as exact functions, its target's own law of outputs, and schedules that end races."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any, TypeAlias

from specdec.effects import Committed, Guess

Tokens: TypeAlias = tuple[int, ...]
ExactRow: TypeAlias = tuple[Fraction, ...]
ExactLaw: TypeAlias = dict[Tokens, Fraction]
"""The probability of each output."""


@dataclass(frozen=True, eq=False)
class ExactPair:
    """A target and a draft, as functions from the whole context to a row.

    `vocabulary`   number of tokens
    `p`, `q`       the target and the draft; a row is `vocabulary` fractions that sum to 1
    `eos`          the token that ends an output, if there is one
    `written`      for a draft that writes text: the law of the certain tokens that it answers after a context. `q` is not used
                   then, nor is a stop rule
    """

    vocabulary: int
    p: Callable[[Tokens], ExactRow]
    q: Callable[[Tokens], ExactRow]
    eos: int | None = None
    written: Callable[[Tokens], Mapping[Tokens, Fraction]] | None = None


Schedule: TypeAlias = Callable[[Committed, Guess], int]
"""How many tokens the draft of a `Race` makes after `(committed, after)`; at least 1 and at most its length are made."""


@dataclass(frozen=True, slots=True)
class Scattered:
    """A schedule of lengths from 1 to 4 that look random. They are a function of the context, so that equal states stay equal.

    `name`        another name gives other lengths
    `by_tokens`   whether they depend on the tokens, pending ones too (which are drawn for it), or on how many there are
    """

    name: str = ""
    by_tokens: bool = False

    def __call__(self, committed: Committed, after: Guess) -> int:
        seen = (committed.tokens, after.tokens) if self.by_tokens else (len(committed), len(after))
        return Random(f"{self.name} {seen}").randint(1, 4)


SCATTERED: Schedule = Scattered()


def target_law(pair: ExactPair, prompt: Tokens = (0,), max_new_tokens: int = 3) -> ExactLaw:
    """The target's own law of outputs: products of its rows, written without any strategy."""
    laws: ExactLaw = {(): Fraction(1)}
    done: ExactLaw = {}
    for _ in range(max_new_tokens):
        longer: ExactLaw = {}
        for output, weight in laws.items():
            for token, probability in enumerate(pair.p(prompt + output)):
                if probability:
                    (done if token == pair.eos else longer)[(*output, token)] = weight * probability
        laws = longer
    return done | laws


def total_variation(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> Any:
    """Half the sum of absolute differences."""
    return sum(abs(left.get(key, 0) - right.get(key, 0)) for key in {*left, *right}) / 2
