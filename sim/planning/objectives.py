"""What a deployment must keep: limits of latencies, each for the mean or for a percentile of the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from sim.setup.arrays import Floats
from sim.setup.latency import parse_seconds
from sim.traffic.metrics import Objectives
from specdec.errors import InputError
from specdec.inputs import did_you_mean
from specdec.report import Report, milliseconds, three_digits

Quantity: TypeAlias = Literal["ttft", "tpot", "e2e"]
Statistic: TypeAlias = Literal["mean", "p50", "p90", "p95", "p99"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
SIGMAS = 1.645
"""Standard deviations of a one-sided 95 % interval."""
NAMES = [f"{quantity}-{statistic}" for quantity in QUANTITIES for statistic in STATISTICS]

Latencies: TypeAlias = Mapping[Quantity, Floats]
"""Seconds of each measured request; NaN for the TPOT of an answer of one token."""


def statistic_of(seconds: Floats, statistic: Statistic) -> float:
    """The mean, or the percentile that so many requests do not exceed; NaN without requests."""
    seconds = seconds[~np.isnan(seconds)]
    if not len(seconds):
        return float("nan")
    if statistic == "mean":
        return float(seconds.mean())
    return float(np.quantile(seconds, int(statistic[1:]) / 100, method="inverted_cdf"))


def bound_of(seconds: Floats, statistic: Statistic) -> float:
    """The upper end of a one-sided 95 % interval of that statistic: more requests might show as much.

    Of a percentile, an order statistic (binomial, approximated by a normal law). Requests are taken as independent.
    """
    seconds = seconds[~np.isnan(seconds)]
    if not len(seconds):
        return float("nan")
    if statistic == "mean":
        return float(seconds.mean() + SIGMAS * seconds.std() / np.sqrt(len(seconds)))
    share, count = int(statistic[1:]) / 100, len(seconds)
    rank = int(np.ceil(count * share + SIGMAS * np.sqrt(count * share * (1 - share))))
    return float(np.partition(seconds, min(rank, count) - 1)[min(rank, count) - 1])


@dataclass(frozen=True)
class Objective(Report):
    """A limit of a latency.

    `quantity`    `ttft`, `tpot` or `e2e`
    `statistic`   `mean`, or the percentile that must not exceed the limit: `p50`, `p90`, `p95`, `p99`
    `seconds`     the limit

    Raises `InputError` for a limit that is not above 0.
    """

    quantity: Quantity
    statistic: Statistic
    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"objective {self.name} of {self.seconds:g} s cannot be met: give a time above 0")

    @property
    def name(self) -> str:
        return f"{self.quantity}-{self.statistic}"

    @property
    def words(self) -> str:
        """For sentences: `P99 TTFT`, `mean TPOT`."""
        return f"{self.statistic if self.statistic == 'mean' else self.statistic.upper()} {self.quantity.upper()}"

    def value(self, latencies: Latencies) -> float:
        """The statistic of measured requests, in seconds."""
        return statistic_of(latencies[self.quantity], self.statistic)

    def against(self, latencies: Latencies) -> str:
        """The statistic beside the limit: `P99 TTFT 382 of 500 ms`; `-` where no request has this latency."""
        value = self.value(latencies)
        return f"{self.words} {'-' if np.isnan(value) else three_digits(1e3 * value)} of {milliseconds(self.seconds)}"

    def pressure(self, latencies: Latencies) -> float:
        """The statistic over the limit: at most 1 where the objective is met."""
        value = self.value(latencies)
        return 0.0 if np.isnan(value) else value / self.seconds

    def surely_met(self, latencies: Latencies) -> bool:
        """Whether the upper end of the statistic's 95 % interval is within the limit."""
        return not bound_of(latencies[self.quantity], self.statistic) > self.seconds

    def __str__(self) -> str:
        return f"{self.words} at most {milliseconds(self.seconds)}"


def objectives_of(given: Mapping[str, str | float | None]) -> tuple[Objective, ...]:
    """Objectives by name, such as `{"ttft-p99": "500ms", "tpot-p99": 0.04}`. Raises `InputError` for an unknown name."""
    found: list[Objective] = []
    for name, limit in given.items():
        if name not in NAMES:
            raise InputError(f"unknown objective {name!r}: {did_you_mean(name, NAMES) or 'known are ' + ', '.join(NAMES)}")
        quantity, _, statistic = name.partition("-")
        if limit is not None:
            seconds = parse_seconds(limit, f"--{name}") if isinstance(limit, str) else limit
            found.append(Objective(quantity, statistic, seconds))  # type: ignore[arg-type]
    return tuple(found)


def per_request(objectives: Sequence[Objective]) -> Objectives:
    """The limits as those of single requests, for goodput; of several for one latency, the tightest."""
    limits = {
        quantity: min((one.seconds for one in objectives if one.quantity == quantity), default=None) for quantity in QUANTITIES
    }
    return Objectives(limits["ttft"], limits["tpot"], limits["e2e"])
