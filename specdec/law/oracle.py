"""Follows every branch of a random program, by a depth-first search over its choices.

    def run(oracle): return oracle.choose((1/2, 1/2)), oracle.choose((1/4, 3/4))

    list(branches(run)) == [((0, 0), 1/8), ((0, 1), 3/8), ((1, 0), 1/8), ((1, 1), 3/8)]

A program that is half run cannot be copied, so it is run anew for each branch. An `Oracle` first repeats the choices of its
*trail*, then takes the first option of each choice that is new. After each run, the last choice on the trail that has another
option takes it, and what followed that choice is forgotten. In the example, run 3 repeats `1` alone and chooses the rest anew.

The program must ask the same questions when it gets the same answers; a `StrategyError` says if it does not. Weights may be
numbers of any kind; the exact law uses `Fraction`. An `Oracle` is a `specdec.verification.Chance`, so a rule can be followed as
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from specdec.errors import NotLossless, StrategyError
from specdec.verification import Row

T = TypeVar("T")

ROUNDING = 1e-9
"""What a float weight may lie below 0."""


class Step(NamedTuple):
    """One choice on a branch: the first of `options` is taken, the others are still to be tried.

    `asked`     what was asked: weights, or the probability of a trial
    `options`   (index, its probability) of what is possible and was not tried yet
    `before`    weight of the branch before this choice
    `weight`    weight of the branch with it
    """

    asked: Any
    options: tuple[tuple[int, Any], ...]
    before: Any
    weight: Any

    def following(self) -> Step:
        """The same choice with the next option taken."""
        options = self.options[1:]
        return Step(self.asked, options, self.before, self.before * options[0][1])


class Oracle:
    """Repeats the choices of `trail`, then takes the first option of each new one and adds it to the trail."""

    def __init__(self, trail: Sequence[Step] = ()) -> None:
        self.trail = list(trail)
        self._made = 0

    @property
    def weight(self) -> Any:
        """The weight of the branch so far."""
        return self.trail[-1].weight if self.trail else 1

    def choose(self, weights: Sequence[Any]) -> int:
        """An index, with probability equal to its weight (they sum to 1). Impossible options are never taken."""
        return self._taken(weights) if self._repeats else self._new(weights, weights)

    @property
    def _repeats(self) -> bool:
        return self._made < len(self.trail)

    def _new(self, asked: Any, weights: Sequence[Any]) -> int:
        """The first option of a new choice."""
        options = tuple([(index, weight) for index, weight in enumerate(weights) if weight])
        before = self.weight
        self.trail.append(Step(asked, options, before, before if len(options) == 1 else before * options[0][1]))
        return self._taken(asked)

    def _taken(self, asked: Any) -> int:
        """The option that the trail takes."""
        step = self.trail[self._made]
        if asked is not step.asked and asked != step.asked:
            raise _asked_differently()
        self._made += 1
        return step.options[0][0]

    def _succeeds(self, probability: Any) -> bool:
        """A trial. While a trail is repeated, its weights need not be computed again."""
        if self._repeats:
            return self._taken(probability) == 0
        if _negative(probability):
            raise NotLossless(f"a rule accepts with probability {probability}: a negative one makes no law, so clip it at 0")
        return self._new(probability, (1, 0) if probability >= 1 else (probability, 1 - probability)) == 0

    def end(self) -> None:
        """The run is over; a `StrategyError` if it did not repeat the whole trail."""
        if self._made < len(self.trail):
            raise _asked_differently()

    def leading(self, probabilities: Iterable[Any]) -> int:
        count = 0
        for probability in probabilities:
            if not self._succeeds(probability):
                break
            count += 1
        return count

    def last(self, probabilities: Sequence[Any]) -> int:
        for index in range(len(probabilities), 0, -1):
            if self._succeeds(probabilities[index - 1]):
                return index
        return 0

    def pick(self, weights: Row) -> int:
        asked = list(weights)
        if self._repeats:
            return self._taken(asked)
        total = weights.sum()
        if not total or any(map(_negative, asked)):
            written = ", ".join(map(str, asked))
            raise NotLossless(f"a rule picks a token by the weights ({written}): give some above 0, and none below")
        return self._new(asked, [weight / total for weight in asked])


def branches(run: Callable[[Oracle], T]) -> Iterator[tuple[T, Any]]:
    """Every result of `run` with its weight. Weights sum to 1."""
    trail: list[Step] = []
    while True:
        oracle = Oracle(trail)
        result = run(oracle)
        oracle.end()
        yield result, oracle.weight
        trail = oracle.trail
        while trail and len(trail[-1].options) == 1:
            trail.pop()
        if not trail:
            return
        trail[-1] = trail[-1].following()


def _negative(weight: Any) -> bool:
    """Whether a weight is below 0; one that was rounded may be so by a little."""
    return bool((weight.numerator if type(weight) is Fraction else weight + ROUNDING) < 0)  # fractions compare slowly


def _asked_differently() -> StrategyError:
    return StrategyError(
        "a round that was run again asked for other things than before, so it is not a function of its state alone: let "
        "neither the strategy nor the rule change itself, or use randomness of its own"
    )
