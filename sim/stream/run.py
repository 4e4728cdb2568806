"""The record of a simulated stream: when rounds end, what they commit, who works when; and intervals by Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import stdtrit

from sim.setup.arrays import Counts, Floats
from specdec import InputError

BATCHES = 20
Model: TypeAlias = Literal["draft", "target"]
Fate: TypeAlias = Literal["accepted", "rejected", "wasted"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of work of one model.

    `model`           `draft` or `target`
    `start_seconds`   since the start of the decode, as `end_seconds`
    `round`           number of the round, from 0
    `positions`       that a forward of the target scores; 0 for a draft
    `fates`           of the tokens of a draft, in order; empty for the target
    """

    model: Model
    start_seconds: float
    end_seconds: float
    round: int
    positions: int = 0
    fates: tuple[Fate, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The record of one stream; times in seconds.

    `round_end_seconds`     shape (rounds,): when each round ends, since the start
    `round_tokens`          shape (rounds,): tokens committed in each round
    `verifications`         how many there were
    `drafted`               guesses that were made, those of the draft and certain ones
    `accepted`              accepted guesses
    `target_busy_seconds`   in which the target works
    `draft_busy_seconds`    in which the draft works
    `most_tested`           guesses in the longest verification
    `spans`                 work of both models in order of its start; empty unless the run is detailed
    """

    round_end_seconds: Floats
    round_tokens: Counts
    verifications: int
    drafted: int
    accepted: int
    target_busy_seconds: float
    draft_busy_seconds: float
    most_tested: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def rounds(self) -> int:
        return len(self.round_tokens)

    @property
    def tokens(self) -> int:
        return int(self.round_tokens.sum())

    @property
    def seconds(self) -> float:
        return float(self.round_end_seconds[-1])

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def target_idle_share(self) -> float:
        return 1 - self.target_busy_seconds / self.seconds

    @property
    def draft_idle_share(self) -> float:
        return 1 - self.draft_busy_seconds / self.seconds

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Confidence interval of the long-run tokens per second, from 20 batches of rounds (a ratio of means).

        `None` below 40 rounds: a batch needs at least two.
        """
        if self.rounds < 2 * BATCHES:
            return None
        seconds = np.diff(self.round_end_seconds, prepend=0.0)
        rate = self.tokens_per_second
        batches = np.array_split(self.round_tokens - rate * seconds, BATCHES)
        errors = np.array([batch.sum() for batch in batches]) * BATCHES / self.seconds
        half = float(student_t(BATCHES, confidence) * errors.std(ddof=1) / BATCHES**0.5)
        return rate - half, rate + half


def student_t(samples: int, confidence: float) -> float:
    """Half the width of the interval for the mean of so many samples, in standard errors of that mean."""
    return float(stdtrit(samples - 1, (1 + confidence) / 2))


def interval(values: Sequence[float] | Floats, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the mean of independent replications. Raises `InputError` for fewer than two."""
    if len(values) < 2:
        raise InputError(f"{len(values)} replication has no interval: give at least 2")
    half = float(student_t(len(values), confidence) * (np.std(values, ddof=1) / np.sqrt(len(values))))
    mean = float(np.mean(values))
    return mean - half, mean + half


def paired_interval(
    left: Sequence[float] | Floats, right: Sequence[float] | Floats, confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of the mean of `left - right`, replication by replication.

    What both have in common cancels (common random numbers). Raises `InputError` for fewer than two, or unequally many.
    """
    if len(left) != len(right):
        raise InputError(f"{len(left)} and {len(right)} replications cannot be paired: run both on the same seeds")
    return interval(np.subtract(left, right), confidence)
