"""Which strategy at which draft length is best, and where that answer changes.

Two rules settle ties: autoregressive decoding is tried first and wins them; a strategy that finds its own draft length is tried
last and loses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.events import run_stream
from sim.stream.rates import plain_tokens_per_second
from sim.study.search import (
    Candidate,
    Choice,
    Flip,
    Parameter,
    Trial,
    acceptance_flips,
    best_of,
    speed_ratio_flips,
    trials,
)
from specdec.report import Progress, Report, no_progress, table, three_digits
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BASELINE = "autoregressive"
Tunable: TypeAlias = "str | DecodingStrategy | type[DecodingStrategy]"
"""A name, at every draft length; a class, likewise; or an object, as it is."""


@dataclass(frozen=True)
class Point(Report):
    """The speed of a strategy at one draft length.

    `draft_length`                tokens; `None` (null) where the strategy has none to choose
    `speedup_over_ar`             exact long-run speed over autoregressive decoding
    `simulated_speedup_over_ar`   the same by simulation; `None` (null) where nothing was simulated
    """

    draft_length: int | None
    speedup_over_ar: float
    simulated_speedup_over_ar: float | None = None


@dataclass(frozen=True)
class Tuning(Report):
    """Strategies at their draft lengths; what `specdec tune --json` writes.

    `best`             the fastest choice
    `curves`           points of each strategy, by name
    `flips`            where the best strategy changes, first by acceptance, then by speed ratio
    `acceptance_rate`  mean acceptance rate that all this holds for
    `speed_ratio`      target step over draft step that all this holds for
    """

    format: ClassVar[str] = "specdec.tune/1"

    best: Choice
    curves: Mapping[str, tuple[Point, ...]]
    flips: tuple[Flip, ...]
    acceptance_rate: float
    speed_ratio: float

    def flips_nearby(self) -> Iterator[Flip]:
        """Of each parameter the last flip below and the first one above; farther off, equal strategies take turns."""
        here: dict[Parameter, float] = {"acceptance": self.acceptance_rate, "speed_ratio": self.speed_ratio}
        for parameter, value in here.items():
            ours = [flip for flip in self.flips if flip.parameter == parameter]
            yield from [flip for flip in ours if flip.at <= value][-1:]
            yield from [flip for flip in ours if flip.at > value][:1]

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        points = [(name, point) for name, curve in self.curves.items() for point in curve]
        lengths = sorted({point.draft_length for _, point in points if point.draft_length is not None})
        single = [f"{name} {three_digits(point.speedup_over_ar)}x" for name, point in points if point.draft_length is None]
        flips = [f"  {flip}" for flip in self.flips_nearby()]
        return Group(
            f"Speed-up over autoregressive decoding, at acceptance {three_digits(self.acceptance_rate)} and speed ratio "
            f"{three_digits(self.speed_ratio)} (target step / draft step)",
            *([self._table(lengths)] if lengths else []),
            *([f"Without a draft length: {', '.join(single)}."] if single else []),
            f"Best: [bold]{self.best}[/], {three_digits(self.best.speedup_over_ar)}x autoregressive decoding.",
            *(["The best strategy changes at", *flips] if flips else []),
        )

    def _table(self, lengths: Sequence[int]) -> Table:
        speeds = {(name, point.draft_length): point.speedup_over_ar for name, curve in self.curves.items() for point in curve}
        names = list(dict.fromkeys(name for name, length in speeds if length is not None))
        made = table(numbers=("draft length", *names))
        for length in lengths:
            cells = [f"{three_digits(speeds[name, length])}x" if (name, length) in speeds else "-" for name in names]
            best = [(name, length) == (self.best.strategy, self.best.draft_length) for name in names]
            made.add_row(str(length), *(f"[bold green]{cell}[/]" if b else cell for cell, b in zip(cells, best, strict=True)))
        return made


def tune(
    acceptance: Acceptance,
    system: System,
    strategies: Iterable[Tunable] | None = None,
    draft_lengths: Iterable[int] = range(1, 13),
    *,
    tokens: int = 20_000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tuning:
    """Compare strategies, all installed ones that draft unless given, each at every draft length.

    Every point is exact, by the compiled chain; `tokens` tokens are simulated too, to check it, unless that is 0. If acceptance
    depends on position or text, its flip is a mean rate: the odds of every guess are multiplied by one factor until the best
    strategy changes.
    """
    lengths = list(draft_lengths)
    steps = [trial for one in _in_order(strategies) for trial in _trials(one, lengths)]
    curves: dict[str, list[Point]] = {}
    found: list[Candidate] = []
    for trial in progress(steps, len(steps)):
        found.append(trial.compiled(system))
        exact = float(found[-1].speedup(acceptance, system))
        simulated = _simulated(trial.strategy, acceptance, system, tokens, seed) if tokens else None
        curves.setdefault(trial.name, []).append(Point(trial.draft_length, exact, simulated))
    return Tuning(
        best_of(found, acceptance, system),
        {name: tuple(points) for name, points in curves.items()},
        (*acceptance_flips(found, acceptance, system), *speed_ratio_flips(found, acceptance, system)),
        acceptance.mean_rate,
        system.speed_ratio,
    )


def _simulated(strategy: DecodingStrategy, acceptance: Acceptance, system: System, tokens: int, seed: int) -> float:
    run = run_stream(strategy, acceptance, system, tokens=tokens, seed=seed)
    return run.tokens_per_second / float(plain_tokens_per_second(system))


def _in_order(strategies: Iterable[Tunable] | None) -> list[Tunable]:
    """The baseline first; of the installed ones, those that find their own draft length last."""
    if strategies is not None:
        return list(dict.fromkeys((BASELINE, *strategies)))
    drafting = [cls for cls in available().values() if cls.drafts]
    return [BASELINE, *(cls.name for cls in sorted(drafting, key=lambda cls: not issubclass(cls, DraftingStrategy)))]


def _trials(one: Tunable, lengths: Sequence[int]) -> list[Trial]:
    if isinstance(one, DecodingStrategy):
        length = one.draft_length if isinstance(one, DraftingStrategy) else None
        return [Trial(one.name, length if isinstance(length, int) else None, one)]
    maker = partial(create, one) if isinstance(one, str) else one
    single = maker()
    return trials(single.name, maker if isinstance(single, DraftingStrategy) else single, lengths)
