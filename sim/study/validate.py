"""Predicted against measured: what the simulator's numbers are worth.

    published   cells of speed-up and mean run length that others report: one draft length a pair is fitted on two tasks, and
                the other tasks are predicted with it
    bundled     strategies timed on a real pair, against the compiled chain fed with the same run's profile

Both sides of a comparison are kept, with the sign of the error; nothing is fitted to what is then called a prediction.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.rates import plain_tokens_per_second, rates
from sim.study.predict import predict
from specdec import DecodingStrategy, InputError, Pair, create, decode
from specdec.measure import profile
from specdec.profile import Profile

COLUMNS = ("draft", "target", "task", "mean_run_length", "speedup_over_ar")
FITTED_LENGTHS = range(2, 17)


@dataclass(frozen=True)
class Cell:
    """A published number: speed-up and mean run length between rejections (accepted tokens and the corrected one)."""

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
    """nano-PEARL's cells on H200, batch 1, greedy (facts from its repository)."""
    return Path(str(files("sim") / "data" / "nano_pearl_h200_bs1.csv"))


def read_cells(path: Path) -> list[Cell]:
    """The rows of a table with the columns draft, target, task, mean_run_length, speedup_over_ar."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"'{path}' has no column {missing[0]}: it needs {', '.join(COLUMNS)}")
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
    """PEARL over autoregressive when `draft_length` draft steps take as long as a target step (its speed ratio)."""
    system = System(Constant(1 / draft_length, 1.0))
    compiled = compile_strategy(create("pearl", draft_length=draft_length))
    speeds = rates(compiled, Rate(np.array(acceptances)), system).tokens_per_second
    return speeds / plain_tokens_per_second(system)


def published(cells: Sequence[Cell], fitted_tasks: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Every cell with its prediction. The draft length of a pair is the one that fits its `fitted_tasks` best.

    Those are the first two tasks of the table unless named; all others are `held_out`.
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
        for cell, predicted in zip(ours, pearl_speedups([cell.acceptance for cell in ours], length), strict=True):
            yield {
                "draft": cell.draft,
                "target": cell.target,
                "task": cell.task,
                "reported_speedup": cell.speedup_over_ar,
                "predicted_speedup": float(predicted),
                "held_out": cell.task not in chosen,
                "error": float(predicted / cell.speedup_over_ar - 1),
                "fitted_draft_length": length,
            }


def _misfit(cells: Sequence[Cell], length: int) -> float:
    predicted = pearl_speedups([cell.acceptance for cell in cells], length)
    return mean((value / cell.speedup_over_ar - 1) ** 2 for value, cell in zip(predicted, cells, strict=True))


def mean_error(rows: Sequence[dict[str, Any]]) -> float:
    """Mean of the absolute relative errors."""
    return mean(abs(row["error"]) for row in rows)


@dataclass
class Comparison:
    """Strategies timed on a real pair, with profiles of it taken in between. Iterate to run it, a repeat at a time.

    Every answer has exactly `tokens` tokens at temperature 1, and speeds leave the prompt's own forward out. Repeats are
    interleaved with profiles, so that a machine that slows down does so for the measured and the predicted side alike.
    """

    pair: Pair
    strategies: Sequence[DecodingStrategy]
    prompts: Sequence[Sequence[int]]
    tokens: int = 64
    repeats: int = 3
    seed: int = 0
    speeds: list[list[float]] = field(default_factory=list[list[float]])
    profiles: list[Profile] = field(default_factory=list[Profile])

    def __len__(self) -> int:
        return 2 * self.repeats + 1

    def __iter__(self) -> Iterator[str]:
        """Run it; yields what is done next."""
        yield "measuring the models"
        self._measure(0)
        for repeat in range(self.repeats):
            yield f"decoding, repeat {repeat + 1} of {self.repeats}"
            self.speeds.append(self._decode(self.seed + repeat * len(self.prompts)))
            yield "measuring the models again"
            self._measure(repeat + 1)

    def _measure(self, number: int) -> None:
        longest = max(len(prompt) for prompt in self.prompts) + self.tokens
        self.profiles.append(
            profile(
                self.pair,
                {"prompts": [*self.prompts, *self.prompts]},  # as long as the answers, so that nothing later is counted
                widths=range(1, 10),
                batches=(),
                contexts=(longest // 3, longest),
                repeats=8,
                new_tokens=self.tokens,
                seed=1000 + number,
            )
        )

    def _decode(self, seed: int) -> list[float]:
        """Tokens per second of each strategy; which comes first turns with the prompt."""
        seconds = [0.0] * len(self.strategies)
        for number, prompt in enumerate(self.prompts):
            for i in range(len(self.strategies)):
                at = (number + i) % len(self.strategies)
                answer = decode(self.pair, self.strategies[at], prompt, max_new_tokens=self.tokens, eos=(), seed=seed + number)
                seconds[at] += answer.statistics.decode_seconds
        return [self.tokens * len(self.prompts) / total for total in seconds]

    def report(self) -> list[dict[str, Any]]:
        """Measured and predicted tokens per second of each strategy; needs at least one repeat."""
        measured = [median(speeds) for speeds in zip(*self.speeds, strict=True)]
        found = Profile.merged(self.profiles)
        context = round(mean(len(prompt) for prompt in self.prompts) + self.tokens / 2)
        rows: list[dict[str, Any]] = []
        for strategy, speed in zip(self.strategies, measured, strict=True):
            predicted = predict(strategy, found, context, self.tokens)
            rows.append(
                {
                    "strategy": strategy.name,
                    "parameters": strategy.parameters,
                    "measured_tokens_per_second": speed,
                    "predicted_tokens_per_second": predicted,
                    "error": predicted / speed - 1,
                }
            )
        return rows
