"""Predicts PEARL's published speed-ups in batches: each task of a pair of models from all others at the same batch.

The table is that of nano-PEARL's benchmark. A batch runs 200 steps of autoregressive decoding and 100 rounds of PEARL, and both
times hold the reading of the prompts. Of the task that is predicted, only its mean run length and its autoregressive times are
read. The draft length is the one that explains the pair's other tasks best. The seconds of a round, over a step, are fitted to
all other rows of the batch: a time for each pair and, for each target, one for a token that a round gives and one for reading a
prompt.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sim.engines.files import column_names, text_of
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.speed import long_run_speed
from sim.study.table_report import EngineValidation, PredictedCell
from specdec.errors import InputError
from specdec.strategy import create

NUMBERS = ("batch", "pearl_tokens", "pearl_s", "mean_run_length", "ar_tokens", "ar_s")
COLUMNS = ("draft", "target", "task", *NUMBERS)
STEPS, ROUNDS = 200, 100
"""Of each batch: tokens of autoregressive decoding, and rounds of PEARL."""
LENGTHS = range(2, 17)


@dataclass(frozen=True)
class Task:
    """A row of the table: a pair on a task. Seconds are those of one batch.

    `name`         data set of the prompts
    `batch`        sequences
    `step`         seconds of a step of the pair's target
    `prompt`       seconds of the autoregressive run beyond its steps: the prompts are read in them
    `pearl`        seconds of the run of PEARL
    `acceptance`   rate with the published mean run length
    `tokens`       of a round and sequence
    """

    pair: tuple[str, str]
    name: str
    batch: int
    step: float
    prompt: float
    pearl: float
    acceptance: float
    tokens: float

    @property
    def a_round(self) -> float:
        """Seconds of a round, over a step."""
        return (self.pearl - self.prompt) / ROUNDS / self.step

    @property
    def speedup(self) -> float:
        """Over autoregressive decoding, as measured."""
        return self.speedup_of(self.tokens, self.a_round)

    def speedup_of(self, tokens: float, a_round: float) -> float:
        """Over autoregressive decoding, with rounds that give so many tokens and take so long, over a step."""
        seconds = self.prompt + ROUNDS * self.step * a_round
        return ROUNDS * tokens / seconds * (self.prompt + STEPS * self.step) / STEPS


def is_batch_table(text: str) -> bool:
    """Whether it has columns that nobody else's table has."""
    return {"pearl_tokens", "pearl_s", "ar_s"}.issubset(column_names(text))


def read_tasks(path: Path) -> list[Task]:
    """The rows of a table of nano-PEARL's. Raises `InputError` that names the column or the row that is wrong."""
    lines = [line for line in text_of(path).splitlines() if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path} has no column {missing[0]}: a table of PEARL in batches needs {', '.join(COLUMNS)}")
    groups: dict[tuple[str, str, int], list[tuple[str, dict[str, float]]]] = defaultdict(list)
    for number, row in enumerate(reader, start=1):
        values = _numbers(row, f"{path} row {number}")
        groups[row["draft"], row["target"], int(values["batch"])].append((row["task"], values))
    if not groups:
        raise InputError(f"{path} has no row: give at least one task of a pair")
    return [task for (draft, target, batch), rows in groups.items() for task in _tasks((draft, target), batch, rows)]


def _numbers(row: Mapping[str, str], where: str) -> dict[str, float]:
    try:
        found = {name: float(row[name]) for name in NUMBERS}
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}: {', '.join(NUMBERS)} are numbers") from error
    wrong = [name for name, value in found.items() if not 0 < value < float("inf")]
    if wrong or found["mean_run_length"] < 1 or found["batch"] % 1:
        name = wrong[0] if wrong else "batch" if found["batch"] % 1 else "mean_run_length"
        raise InputError(
            f"{where}: {name} {row[name]} is not possible: numbers are above 0, run lengths 1 or more, batches whole"
        )
    return found


def _tasks(pair: tuple[str, str], batch: int, rows: Sequence[tuple[str, Mapping[str, float]]]) -> list[Task]:
    requests = [values["ar_tokens"] / STEPS for _, values in rows]
    alone = [values["ar_s"] * batch / count for (_, values), count in zip(rows, requests, strict=True)]
    step = min(alone) / STEPS
    return [
        Task(
            pair,
            name,
            batch,
            step,
            seconds - STEPS * step,
            values["pearl_s"] * batch / count,
            1 - 1 / values["mean_run_length"],
            values["pearl_tokens"] / (ROUNDS * count),
        )
        for (name, values), count, seconds in zip(rows, requests, alone, strict=True)
    ]


@dataclass(frozen=True)
class PredictedTask:
    """A task and its prediction.

    `speedup`           over autoregressive decoding, as predicted
    `with_its_tokens`   the same if the tokens of a round are those measured, and only its time is predicted
    `draft_length`      that was fitted to the pair's other tasks
    """

    task: Task
    speedup: float
    with_its_tokens: float
    draft_length: int


def predicted_tasks(tasks: Sequence[Task], *, everywhere: bool = False, by_target: bool = True) -> list[PredictedTask]:
    """Every task of one batch, predicted from the others. A pair has two tasks or more.

    `everywhere`   leave the task out of all pairs, not only of the one that is predicted
    `by_target`    whether each target has times of its own for tokens and prompts
    """
    found: list[PredictedTask] = []
    for task in tasks:
        others = [one for one in tasks if one is not task and not (everywhere and one.name == task.name)]
        of_pair = [one for one in others if one.pair == task.pair]
        length = min(LENGTHS, key=lambda g: sum((_tokens(g, one.acceptance) / one.tokens - 1) ** 2 for one in of_pair))
        tokens = _tokens(length, task.acceptance)
        of_model, of_its_own = (task.speedup_of(n, _a_round(task, others, n, by_target)) for n in (tokens, task.tokens))
        found.append(PredictedTask(task, of_model, of_its_own, length))
    return found


def _a_round(task: Task, others: Sequence[Task], tokens: float, by_target: bool) -> float:
    """Seconds of a round that gives so many tokens, over a step. Of the task, only its prompts and step are read."""
    pairs = sorted({one.pair for one in others})
    targets = sorted({target for _, target in pairs})

    def row(one: Task, tokens: float) -> list[float]:
        of_pair = [float(one.pair == pair) for pair in pairs]
        of_target = [float(one.pair[1] == target) for target in targets] if by_target else [1.0]
        return [*of_pair, *(tokens * own for own in of_target), *(one.prompt / one.step * own for own in of_target)]

    columns = np.array([row(one, one.tokens) for one in others])
    fitted, *_ = np.linalg.lstsq(columns, np.array([one.a_round for one in others]))
    return float(fitted @ row(task, tokens))


@cache
def _tokens(length: int, rate: float) -> float:
    """Tokens of a round of PEARL by draft length and acceptance rate, from its chain."""
    system = System(Constant(1e-3, 1.0))
    chain = compile_strategy(create("pearl", draft_length=length), system)
    return float(long_run_speed(chain, Rate(rate), system).tokens_per_round)


def predict_batches(tasks: Sequence[Task]) -> EngineValidation:
    """Every speed-up of a table with its prediction from the other tasks; all are held out. A pair's only task is left out."""
    cells: list[PredictedCell] = []
    left_out: list[str] = []
    for batch in sorted({task.batch for task in tasks}):
        ours = [task for task in tasks if task.batch == batch]
        alone = [task for task in ours if sum(one.pair == task.pair for one in ours) < 2]
        left_out += [f"{' + '.join(task.pair)} at batch {batch} has {task.name} alone: add another task" for task in alone]
        for one in predicted_tasks([task for task in ours if task not in alone]):
            draft, target = one.task.pair
            where = target, draft, "pearl", one.draft_length, one.task.name, batch
            measured = one.task.speedup
            cells.append(PredictedCell(*where, "speedup", one.speedup, measured, one.speedup / measured - 1, True))
    return EngineValidation(tuple(cells), (), tuple(left_out))
