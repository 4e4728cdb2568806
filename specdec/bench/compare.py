"""Compares the speeds of contenders within each repeat: a ratio and its bootstrap interval. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specdec.bench.run import Benchmark, Contender
from specdec.bench.values import Interval

FEWEST_REPEATS = 3
"""Repeats below which no interval is made: it would be as narrow as if nothing varied."""

DRAWS = 2000
"""Resamples of the bootstrap."""


@dataclass(frozen=True)
class Speed:
    """Tokens and seconds of one contender, arrays of shape (repeats, prompts)."""

    tokens: Any
    seconds: Any

    @classmethod
    def of(cls, benchmark: Benchmark, contender: Contender) -> Speed:
        """Tokens and seconds of all decodes of a contender."""
        statistics = [decoded[contender].statistics for decoded in benchmark.reported_decodes]
        tokens = np.array([s.new_tokens for s in statistics], float).reshape(benchmark.shape)
        return cls(tokens, np.array([s.decode_seconds for s in statistics]).reshape(benchmark.shape))

    @property
    def by_repeat(self) -> Any:
        """Tokens per second in each repeat."""
        return self.tokens.sum(1) / self.seconds.sum(1)

    @property
    def tokens_per_second(self) -> float:
        """The median over repeats."""
        return float(np.median(self.by_repeat))

    @property
    def by_prompt(self) -> Any:
        """Tokens per second of each decode, shape (repeats, prompts)."""
        return self.tokens / self.seconds

    def resampled(self, repeats: Any, prompts: Any) -> Speed:
        """Resamples, as arrays of shape (draws, repeats, prompts).

        `repeats` and `prompts` are indices, of shape (draws, repeats) and (draws, prompts).
        """
        chosen = repeats[:, :, None], prompts[:, None, :]
        return Speed(self.tokens[chosen], self.seconds[chosen])


def compared(ours: Speed, theirs: Speed) -> tuple[float, Interval | None]:
    """The speed of `ours` over that of `theirs`: the median over repeats, and a 95 % bootstrap interval over both axes.

    There is no interval where there are fewer than three repeats.
    """
    ratio, (repeats, prompts) = float(np.median(ours.by_repeat / theirs.by_repeat)), ours.tokens.shape
    if repeats < FEWEST_REPEATS:
        return ratio, None
    random = np.random.default_rng(0)
    drawn = random.integers(repeats, size=(DRAWS, repeats)), random.integers(prompts, size=(DRAWS, prompts))
    rates = [speed.tokens.sum(-1) / speed.seconds.sum(-1) for speed in (ours.resampled(*drawn), theirs.resampled(*drawn))]
    low, high = np.quantile(np.median(rates[0] / rates[1], axis=1), [0.025, 0.975]).tolist()
    return ratio, (low, high)


def compared_by_prompt(ours: Speed, theirs: Speed) -> tuple[float, ...]:
    """The speed of `ours` over that of `theirs` on each prompt: the median over repeats."""
    return tuple(np.median(ours.by_prompt / theirs.by_prompt, axis=0).tolist())
