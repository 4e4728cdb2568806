"""What a comparison of load found: each quantity as predicted and as measured, and once more at the machine's own pace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.profile import Profile, busy_sentence
from specdec.report import Report, named, share, table, three_digits

BAR = 0.1
"""Errors of latencies beyond which are worth a look."""

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Compared(Report):
    """One quantity, predicted and measured.

    `quantity`        `ttft_mean`, `ttft_p90`, the same of `tpot` and `e2e` (seconds), or `output_tokens_per_second`
    `predicted`       mean over simulations of the same arrivals
    `measured`        median over repeats
    `error`           predicted over measured, minus 1
    `repeats`         what was measured in each repeat
    `at_pace`         what is predicted for each repeat at the machine's pace in it, at each moment
    `error_at_pace`   median over repeats of that over what was measured, minus 1
    `chance`          standard deviation of one simulated run, over the mean: other guesses are accepted each time
    `elasticity`      by how many percent it grows, as simulated, if all work takes 1 % longer: queues multiply that
    """

    quantity: str
    predicted: float
    measured: float
    error: float
    repeats: tuple[float, ...] = ()
    at_pace: tuple[float, ...] = ()
    error_at_pace: float | None = None
    chance: float = 0.0
    elasticity: float | None = None

    def beyond(self, bar: float, repeats: int) -> float:
        """The probability that a perfect prediction is off by more than `bar`, by chance alone, after so many repeats.

        A run is taken to be normal, and the median of repeats to vary as little as their mean.
        """
        deviation = self.chance / sqrt(repeats)
        return erfc(bar / deviation / sqrt(2)) if deviation else 0.0

    @property
    def scatter(self) -> float:
        """By how much one repeat is off the median of all, on average."""
        return mean(abs(one / self.measured - 1) for one in self.repeats) if self.repeats else 0.0


@dataclass(frozen=True)
class LoadPoint(Report):
    """One strategy at one load.

    `strategy`              name of the strategy
    `parameters`            its parameters by name
    `load`                  share of the capacity that was found by simulation before anything was played
    `requests_per_second`   that arrive
    `busy`                  share of the needed cores that other processes took meanwhile; of repeats, the median
    `compared`              what was predicted and measured
    `pace`                  of each repeat: how much longer everything took than simulated, by its seconds of work. Above 1, the
                            machine was slower than in the profiles, or fewer guesses were accepted
    `pace_variation`        of each repeat: the standard deviation of the pace within it, over its mean
    """

    strategy: str
    parameters: Mapping[str, Any]
    load: float
    requests_per_second: float
    busy: float
    compared: tuple[Compared, ...]
    pace: tuple[float, ...] = ()
    pace_variation: tuple[float, ...] = ()


@dataclass(frozen=True)
class LoadValidation(Report):
    """Load that was played on a pair and simulated; what `specdec validate --load --json` writes.

    `batch_size`   sequences that run at once
    `requests`     of each run
    `repeats`      runs of each strategy at each load
    `busy`         the largest of those of the points and of the profiles: from 0.15 on, errors say nothing
    `points`       strategies at loads
    `profile`      of the pair: medians of those that were taken before and after each repeat. It says where and when
    `interrupted`  whether a person ended it early, so that there are fewer repeats
    """

    format: ClassVar[str] = "specdec.validate-load/1"

    batch_size: int
    requests: int
    repeats: int
    busy: float
    points: tuple[LoadPoint, ...]
    profile: Profile | None = None
    interrupted: bool = False

    @property
    def errors(self) -> list[float]:
        """All signed errors."""
        return [one.error for point in self.points for one in point.compared]

    def beyond_by_chance(self, bar: float, repeats: int) -> float:
        """How many latencies of a perfect simulator would be off by more than `bar`, at a constant speed of the machine."""
        return sum(one.beyond(bar, repeats) for one in self.latencies)

    @property
    def latencies(self) -> list[Compared]:
        """All that was compared but throughput."""
        return [one for point in self.points for one in point.compared if one.quantity != THROUGHPUT]

    @property
    def errors_at_pace(self) -> list[float]:
        """All signed errors that remain at the pace of each run."""
        found = [one.error_at_pace for point in self.points for one in point.compared]
        return [error for error in found if error is not None]

    @property
    def paces(self) -> list[float]:
        """The pace of every run."""
        return [pace for point in self.points for pace in point.pace]

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        title = f"Predicted / measured under load (batches of up to {self.batch_size}; ms and tok/s)"
        names = [_HEADINGS[one.quantity] for one in self.points[0].compared]
        made = table("strategy", "load", numbers=["busy", *names], title=title, collapse_padding=True)
        for point in self.points:
            cells = [_cell(one) for one in point.compared]
            made.add_row(
                named(point.strategy, point.parameters),
                f"{share(point.load)}\n{point.requests_per_second:.2f}/s",
                share(point.busy),
                *cells,
            )
        errors = busy_sentence(self.busy) or f"{_said('Mean error', self.errors)}{self._scatter()}"
        return Group(made, errors, *self._multiplied(), *self._at_pace())

    @property
    def elasticities(self) -> dict[str, float]:
        """The largest of each latency over all points, where they are known."""
        found: dict[str, float] = {}
        for one in self.latencies:
            if one.elasticity is not None:
                found[one.quantity] = max(one.elasticity, found.get(one.quantity, one.elasticity))
        return found

    def _multiplied(self) -> list[str]:
        """The sentence on what a slower machine changes."""
        most = self.elasticities
        if not most:
            return []
        tpot, e2e, ttft = ([most[f"{name}_{kind}"] for kind in ("mean", "p90")] for name in ("tpot", "e2e", "ttft"))
        return [
            "Queues multiply what the machine's speed changes: if all work takes 1 % longer, TPOT grows by up to "
            f"{tpot[0]:.1f} % (mean) and {tpot[1]:.1f} % (P90), E2E by {e2e[0]:.1f} % and {e2e[1]:.1f} %, "
            f"TTFT by {ttft[0]:.1f} % and {ttft[1]:.1f} %."
        ]

    def _scatter(self) -> str:
        scatter = [one.scatter for point in self.points for one in point.compared]
        if not any(scatter):
            return ""
        return f" A repeat is off the median of all by {100 * mean(scatter):.1f} %, at most {100 * max(scatter):.1f} %."

    def _varied(self) -> str:
        varied = [100 * one for point in self.points for one in point.pace_variation]
        if not varied:
            return ""
        return f" Within a run, the machine's speed varied by {min(varied):.1f} to {max(varied):.1f} % (standard deviation)."

    def _at_pace(self) -> list[str]:
        """The sentence on the machine's pace, where it was measured."""
        if not self.paces:
            return []
        slowest, fastest = max(self.paces), min(self.paces)
        said = [
            f"Seconds of work in a run were off the prediction by {100 * (fastest - 1):+.1f} to {100 * (slowest - 1):+.1f} %."
            f"{self._varied()} {_said('At the pace of each run, the mean error is', self.errors_at_pace)}"
        ]
        if (by_chance := self.beyond_by_chance(BAR, self.repeats)) >= 0.1:
            said.append(
                f"By chance alone, {by_chance:.1f} of the {len(self.latencies)} latencies of a perfect simulator would be off "
                f"by more than {100 * BAR:.0f} %: measure more repeats."
            )
        return said


THROUGHPUT = "output_tokens_per_second"

_HEADINGS = {
    "ttft_mean": "TTFT\nmean",
    "ttft_p90": "TTFT\nP90",
    "tpot_mean": "TPOT\nmean",
    "tpot_p90": "TPOT\nP90",
    "e2e_mean": "E2E\nmean",
    "e2e_p90": "E2E\nP90",
    THROUGHPUT: "tok/s",
}


def _said(what: str, errors: list[float]) -> str:
    return f"{what} {100 * mean(map(abs, errors)):.1f} %, largest {100 * max(errors, key=abs):+.1f} %."


def _cell(one: Compared) -> str:
    """Predicted, measured, and the error; below it, the one at the pace of the run."""
    scale = 1 if one.quantity == THROUGHPUT else 1000
    lines = [three_digits(scale * one.predicted), three_digits(scale * one.measured), f"{100 * one.error:+.1f} %"]
    if one.error_at_pace is not None:
        lines.append(f"({100 * one.error_at_pace:+.1f} %)")
    return "\n".join(lines)
