"""How long a forward pass takes: constants, or anything with the same two methods, such as `sim.setup.measured`.

Times are in seconds; people type '5ms'. Strategies are not known here, and neither are shared devices and jitter, which are in
`sim.setup.system`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, ClassVar, NamedTuple, Protocol
from unicodedata import normalize

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from specdec import InputError
from specdec.state import on_curve

LONGEST = 1e9
"""Seconds; more make sums of times overflow."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*(s|ms|us|\u03bcs|ns)\s*")


class Reach(NamedTuple):
    """How large forwards were measured.

    `rows`        width x batch, at most
    `sequences`   batch, at most
    `context`     tokens before a window, at most
    """

    rows: float = inf
    sequences: float = inf
    context: float = inf


class Latency(Protocol):
    """Mean seconds of a pair's work: the plug-in point for other sources of times.

    `tokens`, `width` and `batch` are counts, `context` is the number of tokens before the window. All may be arrays, which
    broadcast against each other; the answer has their shape. No tokens or positions take 0 seconds.

    A source that was measured may say in an attribute `reach`, a `Reach`, how large its forwards were. Reports of load then say
    in which share of the time forwards are larger. A source may say in `tag` how its seconds came about; plans take them as
    assumed otherwise.

    A source may know forks: `fork_seconds(rows, branches, steps, batch, context)` as the function of that name here, and in an
    attribute `fork_reach` over how many rows (branches x batch) at most. Load with forks is refused without one.
    """

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        """The draft writes `tokens` tokens, one after the other, for each of `batch` sequences."""
        ...

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        """The target scores `width` positions in each of `batch` sequences, in one forward."""
        ...


@dataclass(frozen=True)
class AtBatch:
    """A latency at a fixed number of sequences and tokens of context, for the exact speed of one of them."""

    latency: Latency
    sequences: float
    held: float

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.latency.draft_seconds(tokens, self.sequences, self.held)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.latency.target_seconds(width, self.sequences, self.held)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        return fork_seconds(self.latency, rows, branches, steps, self.sequences, self.held)


@dataclass(frozen=True, eq=False)
class Scaled:
    """A latency whose draft and target take some times as long, by a number or a grid each."""

    latency: Latency
    draft: float | Floats = 1.0
    target: float | Floats = 1.0

    @property
    def reach(self) -> Reach:
        return reach(self.latency)

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.draft * self.latency.draft_seconds(tokens, batch, context)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        return self.draft * fork_seconds(self.latency, rows, branches, steps, batch, context)

    @property
    def fork_reach(self) -> float:
        return fork_reach(self.latency)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self.target * self.latency.target_seconds(width, batch, context)


def fork_seconds(
    latency: Latency, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
) -> Floats:
    """Mean seconds of a fork: the draft reads `rows` positions in one forward, then writes `steps` tokens for each branch.

    All branches share each forward. Where a source has no times of its own for that, each forward takes as long as a plain step
    of the draft, as it does while the weights' transport is what takes time.
    """
    own = getattr(latency, "fork_seconds", None)
    if own is not None:
        return own(rows, branches, steps, batch, context)
    return latency.draft_seconds(np.where(np.asarray(branches) > 0, np.asarray(steps) + 1, 0), batch, context)


def reach(latency: Latency) -> Reach:
    """How large the forwards of a latency were; without end for one that was not measured."""
    return getattr(latency, "reach", Reach())


def fork_reach(latency: Latency) -> float:
    """Over how many rows (branches x batch) a latency knows a fork's forwards; 0 where it knows nothing of branches."""
    return float(getattr(latency, "fork_reach", 0))


def forked(forward: Callable[[ArrayLike], Any], rows: ArrayLike, branches: ArrayLike, steps: ArrayLike) -> Floats:
    """A forward over `rows` positions, then `steps` over all branches; 0 without branches. `forward(n)` is one over n rows."""
    return np.where(np.asarray(branches) > 0, forward(rows) + np.asarray(steps) * forward(branches), 0.0)


def steps_over(factors: Mapping[int, float], rows: ArrayLike) -> Floats:
    """Plain draft steps that a forward over `rows` takes as long as, linear between the given {rows: factor} and beyond."""
    return on_curve(tuple(sorted(factors.items())), rows)


def parse_seconds(text: str, what: str = "duration") -> float:
    """Seconds of '1ms', '300us', '0.005s'. Anything else, and a negative time, is refused by an `InputError` about `what`."""
    match = _DURATION.fullmatch(normalize("NFKC", text).lower())  # of the two letters that look like a mu, the Greek one
    try:
        seconds = float(match[1]) * _UNITS[match[2]] if match else float("nan")
    except ValueError:
        seconds = float("nan")
    if not isfinite(seconds):
        raise InputError(f"{what} {text!r} is no duration: give a number with its unit, such as 5ms, 300us or 0.005s")
    if seconds < 0:
        raise InputError(f"{what} {text!r} must not be negative: leave out the minus sign")
    if seconds > LONGEST:
        raise InputError(f"{what} {text!r} is longer than can be simulated: give at most {LONGEST:g}s")
    return seconds


def _positive(seconds: ArrayLike, what: str) -> None:
    """Refuse times that are not finite and above 0."""
    if not (np.isfinite(seconds) & (np.asarray(seconds) > 0)).all():
        raise InputError(f"{what} {seconds} s is not possible: give a time above 0")


@dataclass(frozen=True, eq=False)
class Constant:
    """Times that depend on neither batch nor context.

    `draft_step`    seconds of a drafted token, or an array of them, for a grid
    `target_step`   seconds of a target forward over one position, or an array
    `windows`       seconds of wider target forwards {width: seconds}; the time is linear between two given widths, and stays
                    beyond the last
    `branched`      a draft step over several branches, in plain steps {branches: factor}; linear from 1 at one branch, and
                    beyond the last as between the last two, but it does not fall there
    `batches_are_free`   whether it is meant that a batch, and a prompt, take no more time than one position: studies of load
                         refuse constants otherwise

    Raises `InputError` for a time that is not above 0.
    """

    draft_step: float | Floats
    target_step: float | Floats
    windows: Mapping[int, float] = field(default_factory=dict[int, float])
    batches_are_free: bool = False
    branched: Mapping[int, float] = field(default_factory=dict[int, float])
    fork_reach: ClassVar[float] = inf

    def __post_init__(self) -> None:
        for branches, factor in self.branched.items():
            if branches < 1:
                raise InputError(f"a draft step over {branches} branches is not possible: give at least 1")
            _positive(factor, f"factor of {branches} branches")
        _positive(self.draft_step, "draft step")
        _positive(self.target_step, "target step")
        for width, seconds in self.windows.items():
            if width < 1:
                raise InputError(f"target window of {width} positions is not possible: give a width of at least 1")
            _positive(seconds, f"target window of {width}")

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.asarray(tokens, float) * self.draft_step

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        factors = {1: 1.0, **self.branched}
        return forked(lambda number: steps_over(factors, number), rows, branches, steps) * self.draft_step

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        width = np.asarray(width, float)
        if not self.windows:
            return np.where(width > 0, self.target_step, 0.0)
        widths = sorted({1, *self.windows})
        of_one = np.interp(width, widths, [float(at not in self.windows) for at in widths])  # the share of a single position
        of_windows = np.interp(width, widths, [self.windows.get(at, 0.0) for at in widths])
        return np.where(width > 0, of_one * self.target_step + of_windows, 0.0)
