"""The study of a map: which strategy is the best at each acceptance rate and speed ratio, and by how much.

Everything else of the pair and its devices stays as given. Every point is exact, by the compiled chain. With a batch, the
seconds are those of so many sequences, and waiting is left out: all slots are always full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np

from sim.setup.acceptance import Acceptance, Rate, beyond_measured
from sim.setup.arrays import Floats
from sim.setup.latency import Constant, Scaled
from sim.setup.system import System
from sim.study.search import Candidate, Choice, first_of_fastest
from sim.study.tune import Tunable, candidates_of
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.report import Progress, Report, no_progress, table, three_digits

if TYPE_CHECKING:
    from rich.console import RenderableType

Per: TypeAlias = Literal["sequence", "device"]
RATES = np.linspace(0.3, 0.95, 27)
RATIOS = np.geomspace(1.5, 30, 27)
LENGTHS = range(1, 25)
SHOWN = 9
"""Columns of the printed map."""


@dataclass(frozen=True)
class Spot(Report):
    """The best strategy at one acceptance rate and speed ratio.

    `acceptance_rate`   mean acceptance rate
    `speed_ratio`       target step over draft step, of a single sequence
    `best`              the fastest choice
    `second`            the fastest choice of another strategy; `None` (null) where only one is compared
    """

    acceptance_rate: float
    speed_ratio: float
    best: Choice
    second: Choice | None


@dataclass(frozen=True)
class StrategyMap(Report):
    """The best strategy at each acceptance rate and speed ratio; what `specdec map --json` writes.

    `batch`     sequences that run at once
    `per`       what is compared: the speed of a `sequence`, or that speed over the `device`s that the strategy keeps busy
    `spots`     row by row: all rates at the lowest ratio, then at the next
    `here`      the acceptance rate and speed ratio of the pair that was given
    `remarks`   what is extrapolated, in sentences
    """

    format: ClassVar[str] = "specdec.map/1"

    batch: int
    per: Per
    spots: tuple[Spot, ...]
    here: Spot
    remarks: tuple[str, ...] = ()

    @property
    def rates(self) -> list[float]:
        return sorted({spot.acceptance_rate for spot in self.spots})

    @property
    def ratios(self) -> list[float]:
        return sorted({spot.speed_ratio for spot in self.spots})

    def strategies(self) -> list[str]:
        """Those that are the best somewhere, by how many spots they win."""
        names = [spot.best.strategy for spot in self.spots]
        return sorted(dict.fromkeys((self.here.best.strategy, *names)), key=lambda name: -names.count(name))

    def heading(self) -> str:
        """How much runs, and what is compared, in a few words."""
        load = "one sequence" if self.batch == 1 else f"{self.batch} sequences at once"
        return f"Best strategy, {load}{', per device' if self.per == 'device' else ''}"

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        at = {(spot.acceptance_rate, spot.speed_ratio): spot for spot in self.spots}
        rates, ratios = _some(self.rates), _some(self.ratios)
        made = table(numbers=("speed ratio", *(f"{rate:.2f}" for rate in rates)))
        letters = _letters(self.strategies())
        for ratio in reversed(ratios):
            best = [at[rate, ratio].best for rate in rates]
            made.add_row(f"{ratio:.1f}", *(f"{letters[one.strategy]}{one.draft_length or ''}" for one in best))
        legend = ", ".join(f"{letter} {name}" for name, letter in letters.items())
        here, second = self.here, self.here.second
        return Group(
            f"{self.heading()}. Across: acceptance rate. Down: speed ratio (target step / draft step).",
            made,
            f"{legend}. A number is the best draft length.",
            f"You are here: acceptance {three_digits(here.acceptance_rate)}, speed ratio {three_digits(here.speed_ratio)}. "
            f"Best: [bold]{here.best}[/], {three_digits(here.best.speedup_over_ar)}x autoregressive decoding"
            + (f"; next: {second}, {three_digits(second.speedup_over_ar)}x." if second else "."),
            *self.remarks,
        )


def strategy_map(
    acceptance: Acceptance,
    system: System,
    strategies: Iterable[Tunable] | None = None,
    draft_lengths: Iterable[int] = LENGTHS,
    *,
    batch: int = 1,
    per: Per = "sequence",
    rates: Sequence[float] | Floats = RATES,
    ratios: Sequence[float] | Floats = RATIOS,
    progress: Progress = no_progress,
) -> StrategyMap:
    """The best of the strategies that `tune` compares, each at its best draft length, around the pair that is given.

    Along one axis the odds of every guess are multiplied by a factor, along the other the draft's seconds. Per device, both
    devices count, alike, for a strategy whose models work at the same time on one each. Raises `InputError` for a batch of
    constant times and for a first guess that always or never passes, and `StrategyError` for a strategy that cannot be
    compiled.
    """
    at_least_one(batch=batch)
    if batch > 1 and isinstance(system.latency, Constant) and not system.latency.batches_are_free:
        raise InputError("constant step times make batches free, so they say nothing about them: give a profile or a GPU")
    lengths, own_ratio = list(draft_lengths), system.speed_ratio
    found = candidates_of(strategies, lengths, system)
    devices = np.array([_devices(one, system) if per == "device" else 1 for one in found])
    path = Rate(0.5) if isinstance(acceptance, Rate) else acceptance
    mean = path.mean_rate
    if not 0 < mean < 1:
        raise InputError(
            f"the first guess of a window is accepted at a rate of {mean:g}, which no factor of its odds changes: give a rate "
            "between 0 and 1"
        )
    grid = np.asarray(rates, float)
    odds = grid / (1 - grid) * (1 - mean) / mean

    def spots(at: Acceptance, means: Sequence[float], ratio: float) -> list[Spot]:
        scaled = replace(system, latency=Scaled(system.latency, own_ratio / ratio))
        there = scaled if batch == 1 else scaled.at_batch(batch, system.context)
        speeds = np.array([np.broadcast_to(one.speedup(at, there), (len(means),)) for one in found]) / devices[:, None]
        return [_spot(found, column, rate, ratio) for rate, column in zip(means, speeds.T, strict=True)]

    means = [path.at_odds(one).mean_rate for one in odds]
    rows = [spots(path.at_odds(odds), means, float(ratio)) for ratio in progress(list(ratios), len(ratios))]
    return StrategyMap(
        batch,
        per,
        tuple(spot for row in rows for spot in row),
        spots(acceptance, [acceptance.mean_rate], own_ratio)[0],
        beyond_measured(acceptance, max(int(one.compiled.tested.max()) for one in found)),
    )


def _devices(one: Candidate, system: System) -> int:
    """How many devices a strategy keeps busy: two if its models work at the same time, each on its own."""
    return 2 if one.compiled.overlaps and not system.shared and system.together is None else 1


def _spot(found: Sequence[Candidate], speeds: Floats, rate: float, ratio: float) -> Spot:
    """The first of the fastest (up to rounding), and the first of the fastest under another name."""

    def fastest(among: Sequence[int]) -> Choice:
        at = among[first_of_fastest(speeds[among])]
        return Choice(found[at].name, found[at].draft_length, float(speeds[at]))

    best = fastest(range(len(found)))
    others = [at for at, one in enumerate(found) if one.name != best.strategy]
    return Spot(rate, ratio, best, fastest(others) if others else None)


def _some(values: Sequence[float]) -> list[float]:
    """At most `SHOWN` of the values, evenly spaced."""
    return [values[at] for at in dict.fromkeys(np.linspace(0, len(values) - 1, SHOWN).round().astype(int).tolist())]


def _letters(names: Sequence[str]) -> dict[str, str]:
    """A short capital mark for each name: its first letter, or as many as tell it from those before it."""
    marks: dict[str, str] = {}
    for name in names:
        marks[name] = next(mark for mark in (name[:n].upper() for n in range(1, len(name) + 1)) if mark not in marks.values())
    return marks
