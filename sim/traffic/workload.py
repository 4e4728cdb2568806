"""Requests: when they arrive and how long prompts and answers are, given or drawn at random. `sim.traffic.trace` reads them.

A request is a time and two token counts: text, models and strategies are not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sim.setup.arrays import Counts, Flags, Floats
from specdec import InputError
from specdec.inputs import at_least_one


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """`n` requests in order of arrival.

    `arrival_seconds`   shape (n,): since the start of the run, never falling
    `input_tokens`      shape (n,): prompt tokens, at least 1
    `output_tokens`     shape (n,): tokens of the answer, at least 1
    `source`            where the requests come from, for messages

    Raises `InputError` for arrays of unequal shape, and names the first request with an impossible value.
    """

    arrival_seconds: Floats
    input_tokens: Counts
    output_tokens: Counts
    source: str = "workload"

    def __post_init__(self) -> None:
        columns = {
            "arrival_seconds": np.asarray(self.arrival_seconds, np.float64),
            "input_tokens": np.asarray(self.input_tokens, np.float64),
            "output_tokens": np.asarray(self.output_tokens, np.float64),
        }
        if len({column.shape for column in columns.values()}) > 1 or columns["arrival_seconds"].ndim != 1:
            raise InputError(f"{self.source}: arrivals, inputs and outputs differ in shape: give one of each per request")
        check_requests(self.source, columns, lambda request: f"request {request}")
        object.__setattr__(self, "arrival_seconds", columns["arrival_seconds"])
        object.__setattr__(self, "input_tokens", columns["input_tokens"].astype(np.int64))
        object.__setattr__(self, "output_tokens", columns["output_tokens"].astype(np.int64))

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    def chosen(self, which: Flags | Counts | slice) -> Workload:
        """Some of the requests, in order: by flags, numbers or a slice."""
        return Workload(self.arrival_seconds[which], self.input_tokens[which], self.output_tokens[which], self.source)

    @property
    def rate_per_second(self) -> float | None:
        """Requests that arrive in a second, on average; `None` where all arrive at once."""
        span = float(self.arrival_seconds[-1] - self.arrival_seconds[0])
        return (len(self) - 1) / span if span else None

    def repeated(self, times: int) -> Workload:
        """The same requests so many times over, one mean gap between the last of them and the first again."""
        span = float(self.arrival_seconds[-1])
        period = span + span / max(1, len(self) - 1)
        arrivals = np.concatenate([self.arrival_seconds + period * n for n in range(times)])
        return Workload(arrivals, np.tile(self.input_tokens, times), np.tile(self.output_tokens, times), self.source)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Arrivals with gamma-distributed gaps.

    `rate_per_second`   requests per second on average
    `cv`                coefficient of variation of the gaps: 1 is Poisson, 0 is equal gaps

    Raises `InputError` for a rate that is not above 0, or a negative cv.
    """

    rate_per_second: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_second < np.inf:
            raise InputError(f"arrival rate {self.rate_per_second:g}/s is not possible: give a rate above 0")
        if not 0 <= self.cv < np.inf:
            raise InputError(f"arrival cv {self.cv:g} is not possible: give 0 or more (1 is Poisson)")

    def seconds(self, requests: int, random: np.random.Generator) -> Floats:
        """Arrival times in seconds, shape (requests,)."""
        mean = 1 / self.rate_per_second
        if self.cv == 0:
            return mean * np.arange(1, requests + 1, dtype=np.float64)
        return np.cumsum(random.gamma(self.cv**-2, mean * self.cv**2, requests), dtype=np.float64)


LONGEST_MEAN = 1e9
MOST_TOKENS = 1000 * LONGEST_MEAN
"""Of a prompt or an answer."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths of prompts or answers.

    `mean_tokens`   mean number of tokens, from 1 to 1e9; no request has more than a thousand times as many
    `cv`            coefficient of variation: 0 is a constant length

    Raises `InputError` for other values than these.
    """

    mean_tokens: float
    cv: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.mean_tokens <= LONGEST_MEAN:
            raise InputError(f"a mean length of {self.mean_tokens:g} tokens is not possible: give from 1 to {LONGEST_MEAN:g}")
        if not 0 <= self.cv < np.inf:
            raise InputError(f"length cv {self.cv:g} is not possible: give 0 or more (0 is a constant length)")

    def tokens(self, requests: int, random: np.random.Generator) -> Counts:
        """Token counts, at least 1 each, shape (requests,)."""
        variance = np.log1p(self.cv**2)
        drawn = random.lognormal(np.log(self.mean_tokens) - variance / 2, np.sqrt(variance), requests)
        return np.clip(np.rint(drawn), 1, MOST_TOKENS).astype(np.int64)


def streams(seed: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    """Children of a seed. Unlike `SeedSequence.spawn`, this gives the same ones each time that it is called."""
    return [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, child)) for child in range(count)]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that are drawn at random.

    `arrivals`        when they arrive; `None`: all are there at the beginning, for a closed loop (`Server.clients`)
    `input_tokens`    how long prompts are
    `output_tokens`   how long answers are
    `requests`        how many are drawn

    Raises `InputError` for a number of requests below 1.
    """

    arrivals: Arrivals | None
    input_tokens: Lengths
    output_tokens: Lengths
    requests: int

    def __post_init__(self) -> None:
        at_least_one(requests=self.requests)

    def repeated(self, times: int) -> Traffic:
        """So many times as many requests."""
        return replace(self, requests=times * self.requests)

    def workload(self, seed: np.random.SeedSequence) -> Workload:
        """The requests. Times and lengths come from separate streams of `seed`, so changing one of them keeps the others."""
        clock, inputs, outputs = (np.random.default_rng(stream) for stream in streams(seed, 3))
        drawn = self.arrivals
        return Workload(
            np.zeros(self.requests) if drawn is None else drawn.seconds(self.requests, clock),
            self.input_tokens.tokens(self.requests, inputs),
            self.output_tokens.tokens(self.requests, outputs),
            "all at once" if drawn is None else f"gamma arrivals at {drawn.rate_per_second:g}/s, cv {drawn.cv:g}",
        )


def check_requests(source: str, columns: dict[str, Floats], where: Callable[[int], str]) -> None:
    """Refuse the first request whose time (the first column) falls, or whose tokens are no whole numbers of at least 1."""
    (time_name, times), *tokens = columns.items()
    if not len(times):
        raise InputError(f"{source}: no requests: give at least one")
    for name, values in columns.items():
        if (bad := ~np.isfinite(values)).any():
            row = int(np.argmax(bad))
            raise InputError(f"{source}: {where(row)}: {name} is {values[row]:g}: give a finite number")
    if (bad := np.append(times[0] < 0, np.diff(times) < 0)).any():
        row = int(np.argmax(bad))
        if row == 0:
            raise InputError(f"{source}: {where(row)}: {time_name} is {times[0]:g}, before the start: give 0 or more")
        raise InputError(f"{source}: {where(row)} arrives before the one above it: sort by {time_name}")
    for name, values in tokens:
        if (bad := (values < 1) | (values != np.floor(values))).any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{source}: {where(row)}: {name} is {values[row]:g}: give a whole number of at least 1, or remove it"
            )
        if (bad := values > MOST_TOKENS).any():
            row = int(np.argmax(bad))
            raise InputError(f"{source}: {where(row)}: {name} is {values[row]:g}: give at most {MOST_TOKENS:g}, or remove it")
