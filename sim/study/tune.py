"""The study of choices: which strategy at which draft length is best, and where the best strategy changes.

Of equally fast strategies, the one that is tried first is best. Autoregressive decoding is tried first, a strategy that finds
its own draft length last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from sim.setup.acceptance import Acceptance, beyond_measured
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import plain_tokens_per_second
from sim.study.search import (
    Candidate,
    Choice,
    Flip,
    Varied,
    acceptance_flips,
    best_of,
    candidates,
    speed_ratio_flips,
)
from specdec.errors import InputError, StrategyError
from specdec.report import Progress, Report, no_progress, spelled, table, three_digits
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BASELINE = "autoregressive"


@dataclass(frozen=True)
class Variant:
    """A strategy by name with some of its parameters, which is tried at every draft length unless they hold one."""

    name: str
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.name, *self.parameters.items()))


Tunable: TypeAlias = "str | Variant | DecodingStrategy | type[DecodingStrategy]"
"""A strategy by name or class, which is tried at every draft length, or an object, which is tried as it is."""


def variants(names: Sequence[str], grid: Mapping[str, Sequence[Any]]) -> list[Tunable]:
    """Each strategy with every combination of those values in `grid` that are of its own parameters.

    All that use the draft unless `names` are given. Raises `InputError` for a parameter that no strategy has.
    """
    found: list[Tunable] = []
    used: set[str] = set()
    for name in names or _drafting():
        known = {field.name for field in fields(create(name))}  # type: ignore[arg-type]
        own = {parameter: values for parameter, values in grid.items() if parameter in known}
        used |= own.keys()
        combined = product(*own.values())
        found += [Variant(name, dict(zip(own, values, strict=True))) if own else name for values in combined]
    for parameter in grid:
        if parameter not in used:
            raise InputError(f"no strategy that is compared has a parameter {parameter!r}: see specdec strategies")
    return found


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
    `remarks`          what is extrapolated, in sentences
    """

    format: ClassVar[str] = "specdec.tune/1"

    best: Choice
    curves: Mapping[str, tuple[Point, ...]]
    flips: tuple[Flip, ...]
    acceptance_rate: float
    speed_ratio: float
    remarks: tuple[str, ...] = ()

    def flips_nearby(self) -> Iterator[Flip]:
        """For each parameter, the nearest flip below the value given and the nearest above it.

        Farther away, equally fast strategies may alternate.
        """
        here: dict[Varied, float] = {"acceptance": self.acceptance_rate, "speed_ratio": self.speed_ratio}
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
            *self.remarks,
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
    """Compare strategies, each at every draft length; those installed that draft and do not fork unless `strategies` are given.

    Every point is exact, by the compiled chain. To check it, `tokens` tokens are simulated too, unless that is 0. If acceptance
    depends on position or text, its flip is a mean rate: the odds of every guess are multiplied by one factor until the best
    strategy changes. Raises `StrategyError` for a strategy that cannot be compiled.
    """
    lengths = list(draft_lengths)
    found = candidates_of(strategies, lengths, system)
    curves: dict[str, list[Point]] = {}
    for one in progress(found, len(found)):
        exact = float(one.speedup(acceptance, system))
        simulated = _simulated(one.strategy, acceptance, system, tokens, seed) if tokens else None
        curves.setdefault(one.name, []).append(Point(one.draft_length, exact, simulated))
    return Tuning(
        best_of(found, acceptance, system),
        {name: tuple(points) for name, points in curves.items()},
        (*acceptance_flips(found, acceptance, system), *speed_ratio_flips(found, acceptance, system)),
        acceptance.mean_rate,
        system.speed_ratio,
        beyond_measured(acceptance, max(int(one.compiled.tested.max()) for one in found)),
    )


def candidates_of(strategies: Iterable[Tunable] | None, lengths: Sequence[int], system: System) -> list[Candidate]:
    """What is compared: the baseline, then every strategy at every draft length."""
    return [candidate for one in _in_order(strategies) for candidate in _candidates(one, lengths, system)]


def _simulated(strategy: DecodingStrategy, acceptance: Acceptance, system: System, tokens: int, seed: int) -> float:
    run = run_stream(strategy, acceptance, system, tokens=tokens, seed=seed)
    return run.tokens_per_second / float(plain_tokens_per_second(system))


def _in_order(strategies: Iterable[Tunable] | None) -> list[Tunable]:
    """The baseline first; of the installed ones, those that find their own draft length last."""
    if strategies is not None:
        return list(dict.fromkeys((BASELINE, *strategies)))
    return [BASELINE, *_drafting()]


def _drafting() -> list[str]:
    """The installed strategies that draft, can be compiled, and do not fork.

    How often a fork foresees the target's token is a measurement. Without one, a comparison would rest on an assumption. So
    strategies that fork are compared where they are named.
    """
    drafting = [cls for cls in available().values() if cls.drafts and _is_compared(cls)]
    return [cls.name for cls in sorted(drafting, key=lambda cls: not issubclass(cls, DraftingStrategy))]


@cache
def _is_compared(cls: type[DecodingStrategy]) -> bool:
    try:
        return not compile_strategy(cls()).forks.any()
    except StrategyError:  # a memory that does not repeat
        return False


def _candidates(one: Tunable, lengths: Sequence[int], system: System) -> list[Candidate]:
    if isinstance(one, DecodingStrategy):
        length = one.draft_length if isinstance(one, DraftingStrategy) else None
        return [Candidate(one.name, length if isinstance(length, int) else None, one, system)]
    given = one.parameters if isinstance(one, Variant) else {}
    maker = (
        partial(create, one.name, **given)
        if isinstance(one, Variant)
        else partial(create, one)
        if isinstance(one, str)
        else one
    )
    single = maker()
    searched = isinstance(single, DraftingStrategy) and "draft_length" not in given
    return candidates(spelled(single.name, given), maker if searched else single, lengths, system)
