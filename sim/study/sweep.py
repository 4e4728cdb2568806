"""The study of a grid: many strategies under many loads, on all cores, kept as they finish.

The work is spread by joblib. Around `sweep`, `joblib.parallel_config` carries it to a cluster. A result depends on its point
alone, so neither the number of workers nor their order matters.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np

from sim.study.load import NO_OBJECTIVES
from sim.study.sweep_backend import end_with
from sim.study.sweep_file import Results
from sim.study.sweep_point import Point, Refused, Swept, solved
from sim.traffic.workload import Workload
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.report import Progress, Report, no_progress, share, table, three_digits

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Ranking: TypeAlias = Literal["goodput", "e2e", "speed"]
RANKED = {
    "goodput": "the most requests that meet the objectives, and of equals the shortest mean time to the last token",
    "e2e": "the shortest mean time to the last token",
    "speed": "the highest speed of one sequence",
}
FEW = 4
"""Points of each worker that are lost when a sweep on ray is killed."""
PRINTED = 60
"""Points at most that are printed; of more, only the best ones are."""


@dataclass(frozen=True)
class Sweep(Report):
    """The points of a grid with their results; what `specdec sweep --json` writes.

    `points`      in the order of the grid
    `best`        keys of the best points: one for each acceptance, load and number of replicas
    `ranked_by`   what makes a point the best: `goodput` where there are objectives, else `e2e`; `speed` without requests
    `refused`     points that cannot be simulated
    `output`      the file of results; `None` (null) without one
    """

    format: ClassVar[str] = "specdec.sweep/1"

    points: tuple[Swept, ...]
    best: tuple[str, ...]
    ranked_by: Ranking
    refused: tuple[Refused, ...] = ()
    output: str | None = None

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        where = f" in {self.output}" if self.output else ""
        shown = [point for point in self.points if len(self.points) <= PRINTED or point.key in self.best]
        reasons = {one.why: sum(other.why == one.why for other in self.refused) for one in self.refused}
        remarks = dict.fromkeys(f"{point.acceptance}: {told}" for point in shown for told in point.remarks)
        return Group(
            f"[bold]{len(self.points):,} points[/]{where}; marked: {RANKED[self.ranked_by]}",
            *([] if len(shown) == len(self.points) else [f"  The best {len(shown)} are shown."]),
            *(f"  [bold]refused[/]     {count} points: {why}" for why, count in reasons.items()),
            *(f"  [bold]remark[/]      {told}" for told in remarks),
            self._table(shown),
        )

    def _table(self, shown: Sequence[Swept]) -> Table:
        served = self.ranked_by != "speed"
        varied = [name for name in ("acceptance", "replicas", "max_batch") if len({getattr(p, name) for p in self.points}) > 1]
        numbers = [name.replace("_", " ") for name in varied] + ["draft length"]
        numbers += ["TTFT p99", "TPOT", "E2E ms", "goodput/s", "rho"] if served else ["tok/s", "over AR"]
        made = table("", "load", "strategy", numbers=numbers)
        for _, group in groupby(shown, group_of):
            for point in group:
                drafted = str(point.parameters.get("draft_length", "-"))
                row = ["*" if point.key in self.best else "", point.under, point.strategy]
                row += [str(getattr(point, name)) for name in varied] + [drafted]
                made.add_row(*row, *_figures(point))
            made.add_section()
        return made


def _figures(point: Swept) -> list[str]:
    if point.load is None:
        return [three_digits(point.tokens_per_second), f"{three_digits(point.speedup_over_ar)}x"]
    load = point.load
    times = (load.ttft_seconds.p99, load.tpot_seconds.mean, load.e2e_seconds.mean)
    rho = [] if load.load is None else [share(load.load)]
    state = ", ".join([*rho, *([] if load.saturation == "stable" else [load.saturation])]) or "-"
    return [*("-" if t is None else three_digits(1e3 * t) for t in times), three_digits(load.goodput), state]


def sweep(
    points: Sequence[Point],
    *,
    output: str | Path | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Sweep:
    """Simulate every point of a `grid` on all cores, or on so many `workers`; each is appended to `output` when it is finished.

    Points that `output` holds already are not simulated again. Points that cannot be simulated are named in the result. Raises
    `InputError` without points, if none of them can be simulated, and for an `output` of another sweep; a `KeyboardInterrupt`
    says how to go on.
    """
    if not points:
        raise InputError("a sweep has no points: give at least one strategy")
    if workers is not None:
        at_least_one(workers=workers)
    wanted = {point.key(): point for point in points}
    refused: list[Refused] = []
    with Results(output, wanted) as results, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* still being processed by the workers")  # joblib's, of an interrupt
        waiting = {key: point for key, point in wanted.items() if key not in results.found}
        try:
            with closing(_results(waiting, workers)) as found_next:
                for done in progress(found_next, len(waiting)):
                    if isinstance(done, Swept):
                        results.add(done)
                    else:
                        refused.append(done)
        except KeyboardInterrupt:
            kept = f"{len(results.found)} of {len(wanted)} points are in {output}: the same command goes on from there"
            raise KeyboardInterrupt(kept if output else "nothing is kept without --output") from None
    if not results.found:
        raise InputError(f"no point can be simulated. The first: {refused[0].point}: {refused[0].why}")
    found = tuple(results.found[key] for key in wanted if key in results.found)
    ranking = _ranking(points)
    refusals = tuple(sorted(refused, key=lambda one: (one.why, one.point)))
    return Sweep(found, best_of(found, ranking), ranking, refusals, None if output is None else str(output))


def _results(waiting: dict[str, Point], workers: int | None) -> Generator[Swept | Refused]:
    """The results of points in the order in which they finish; on ray, a few of them at a time, since it returns lists."""
    from joblib import Parallel, delayed, effective_n_jobs
    from joblib.parallel import LokyBackend, get_active_backend

    served = [point for point in waiting.values() if point.traffic is not None]
    if served and workers != 1:
        _compile(served[0])
    parallel: Any = Parallel
    backend: Any = get_active_backend()[0]
    many: Any = workers or -1
    work = [delayed(solved)(point, key) for key, point in waiting.items()]
    if backend.supports_return_generator:
        watched = {"initializer": end_with, "initargs": (os.getpid(),)} if isinstance(backend, LokyBackend) else {}
        yield from parallel(n_jobs=many, return_as="generator_unordered", **watched)(work)
        return
    cores: Any = effective_n_jobs(many)
    few = FEW * cores
    for first in range(0, len(work), few):
        yield from parallel(n_jobs=many)(work[first : first + few])


def _compile(point: Point) -> None:
    """Serve one request, so that workers find the engine compiled and do not each compile it."""
    one = Workload(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    solved(replace(point, traffic=one, server=replace(point.server, max_batch=1)), "")


def _ranking(points: Sequence[Point]) -> Ranking:
    if any(point.traffic is None for point in points):
        return "speed"
    return "e2e" if points[0].objectives == NO_OBJECTIVES else "goodput"


def group_of(point: Swept) -> tuple[str, str, int]:
    """Points that compete: those at one acceptance and load, on equally many replicas."""
    return point.acceptance, point.under, point.replicas


def best_of(points: Sequence[Swept], ranking: Ranking) -> tuple[str, ...]:
    """The key of the best point of each group."""
    best: dict[tuple[str, str, int], Swept] = {}
    for point in points:
        other = best.get(group_of(point))
        if other is None or _worth(point, ranking) > _worth(other, ranking):
            best[group_of(point)] = point
    return tuple(point.key for point in best.values())


def _worth(point: Swept, ranking: Ranking) -> tuple[float, float]:
    if ranking == "speed" or point.load is None:
        return point.tokens_per_second, 0.0
    soon = -(np.inf if point.load.e2e_seconds.mean is None else point.load.e2e_seconds.mean)
    good = point.load.goodput_share if point.clients is None else point.load.goodput
    return (good if ranking == "goodput" else 0.0), soon
