"""Acceptance that changes in the middle of an answer: a rate for each segment of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.acceptance import Acceptance, Foresight, Rate, runs_of
from sim.setup.arrays import Floats, Int32s
from specdec import InputError, StrategyError


@dataclass(frozen=True)
class Segments(Acceptance):
    """`segments`: (tokens, acceptance rate) of each stretch of an answer, in order; after the last, they begin again.

    For simulations, by events and under load: there is no exact answer, since this text has no long run.
    """

    segments: Sequence[tuple[int, float]]

    def __post_init__(self) -> None:
        if not self.segments or any(tokens < 1 for tokens, _ in self.segments):
            raise InputError(
                f"segments {self.segments!r} are not possible: give at least one (tokens, rate) with tokens above 0"
            )
        for _, rate in self.segments:
            Rate(rate)

    @property
    def begins_anew(self) -> bool:
        """True: the first segment is at the beginning of every answer."""
        return True

    def rate_at(self, position: int) -> float:
        """The acceptance rate of a position of the answer."""
        ends = list(accumulate(tokens for tokens, _ in self.segments))
        return self.segments[bisect_right(ends, position % ends[-1])][1]

    def accept(self, index: int) -> Floats:
        raise StrategyError("acceptance that changes in the middle of an answer has no long run: simulate it by events")

    reject = accept

    def at_odds(self, odds: ArrayLike) -> Segments:
        better = [(tokens, float(Rate(rate).at_odds(odds).rate)) for tokens, rate in self.segments]
        return Segments(better).foreseeing(self.foresight)

    def foreseen_at(self, position: int, accepted: int, fan_out: int, complete: bool) -> Floats:
        rate = Rate(self.rate_at(position + accepted))
        foresight: Foresight | None = self.foresight
        return (rate if foresight is None else rate.foreseeing(foresight)).foreseen(accepted, fan_out, complete)

    def draws(self, random: np.random.Generator, tokens: int) -> Int32s:
        rates = np.repeat([rate for _, rate in self.segments], [tokens for tokens, _ in self.segments])
        return runs_of(random.random(tokens) < np.resize(rates, tokens))
