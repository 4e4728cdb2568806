"""Predicts PEARL's published speed-ups from the run lengths that are published with them.

For each pair of models, one draft length is fitted on some tasks, the first two unless named. All tasks are predicted with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from sim.engines.table import COLUMNS as OF_RUNS
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.speed import long_run_speed, plain_tokens_per_second
from specdec.errors import InputError
from specdec.report import Report
from specdec.strategy import create

COLUMNS = ("draft", "target", "task", "mean_run_length", "speedup_over_ar")
FITTED_LENGTHS = range(2, 17)


@dataclass(frozen=True)
class Predicted(Report):
    """A published speed-up of PEARL, and its prediction.

    `draft`, `target`       names of the models
    `task`                  data set of the prompts
    `reported_speedup`      over autoregressive decoding, as published
    `predicted_speedup`     by the compiled chain, at the published acceptance and the fitted draft length
    `held_out`              whether the draft length was fitted without this task
    `error`                 predicted over reported, minus 1
    `fitted_draft_length`   the draft length fitted on `fitted_tasks`: the one that predicts them best for this pair
    """

    draft: str
    target: str
    task: str
    reported_speedup: float
    predicted_speedup: float
    held_out: bool
    error: float
    fitted_draft_length: int


@dataclass(frozen=True)
class Cell:
    """A published speed-up of PEARL.

    `draft`, `target`   names of the models
    `task`              data set of the prompts
    `mean_run_length`   tokens from one rejection to the next, the corrected token included
    `speedup_over_ar`   over autoregressive decoding
    """

    draft: str
    target: str
    task: str
    mean_run_length: float
    speedup_over_ar: float

    @property
    def acceptance(self) -> float:
        """The i.i.d. acceptance rate with that mean run length, 1 - 1/length."""
        return 1 - 1 / self.mean_run_length


def bundled_table() -> Path:
    """The table of what nano-PEARL reports on H200 at batch 1, greedy (from its repository)."""
    return Path(str(files("sim") / "data" / "nano_pearl_h200_bs1.csv"))


def read_cells(path: Path) -> list[Cell]:
    """The rows of a CSV file with the columns draft, target, task, mean_run_length, speedup_over_ar.

    Lines that begin with `#` say what the table is, and are skipped.

    Raises `InputError` that names the file, and the row if a row is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(line for line in file if not line.startswith("#"))
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"'{path}' has no column {missing[0]}: it needs {', '.join(COLUMNS)}; or {', '.join(OF_RUNS)} for runs of "
                    "an engine; separated by commas"
                )
            cells = [_cell(row, f"'{path}' row {number}") for number, row in enumerate(reader, start=1)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"published table '{path}' cannot be read ({error}): give a CSV file") from error
    if not cells:
        raise InputError(f"published table '{path}' is empty: give at least one row")
    return cells


def _cell(row: dict[str, str], where: str) -> Cell:
    try:
        length, speedup = float(row["mean_run_length"]), float(row["speedup_over_ar"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}: mean_run_length and speedup_over_ar are numbers") from error
    if not (1 <= length < float("inf") and 0 < speedup < float("inf")):
        raise InputError(f"{where}: a run length is at least 1 and a speed-up above 0, not {length} and {speedup}")
    return Cell(row["draft"], row["target"], row["task"], length, speedup)


def pearl_speedups(acceptances: Sequence[float], draft_length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """PEARL's speed-ups over autoregressive decoding if a target step takes as long as `draft_length` draft steps."""
    system = System(Constant(1 / draft_length, 1.0))
    compiled = compile_strategy(create("pearl", draft_length=draft_length))
    speeds = long_run_speed(compiled, Rate(np.array(acceptances)), system).tokens_per_second
    return speeds / plain_tokens_per_second(system)


def predicted_cells(cells: Sequence[Cell], fitted_tasks: Sequence[str] = ()) -> Iterator[Predicted]:
    """Every cell with its prediction. A pair's draft length is the one that predicts its `fitted_tasks` best.

    Without `fitted_tasks`, the first two tasks of the table are fitted. All other tasks are held out. Raises `InputError` for a
    task that is not in the table, or a pair that has none of the fitted ones.
    """
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    unknown = [task for task in fitted_tasks if task not in tasks]
    if unknown:
        raise InputError(f"task {unknown[0]!r} is not in the table: it has {', '.join(tasks)}")
    chosen = list(fitted_tasks) or tasks[:2]
    for pair in dict.fromkeys((cell.draft, cell.target) for cell in cells):
        ours = [cell for cell in cells if (cell.draft, cell.target) == pair]
        fitted = [cell for cell in ours if cell.task in chosen]
        if not fitted:
            raise InputError(f"{pair[0]} + {pair[1]} has no row of {' or '.join(chosen)}: add one, or fit on another task")
        length = min(FITTED_LENGTHS, key=lambda length: _misfit(fitted, length))
        for cell, speedup in zip(ours, pearl_speedups([cell.acceptance for cell in ours], length), strict=True):
            yield Predicted(
                cell.draft,
                cell.target,
                cell.task,
                cell.speedup_over_ar,
                float(speedup),
                cell.task not in chosen,
                float(speedup / cell.speedup_over_ar - 1),
                length,
            )


def _misfit(cells: Sequence[Cell], length: int) -> float:
    predicted = pearl_speedups([cell.acceptance for cell in cells], length)
    return mean((value / cell.speedup_over_ar - 1) ** 2 for value, cell in zip(predicted, cells, strict=True))
