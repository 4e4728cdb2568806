"""PEARL's published speed-ups in batches: tables whose rows obey the fitted form are predicted exactly."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim import Constant, Rate, System, compile_strategy, long_run_speed
from sim.study.pearl_batches import COLUMNS, predict_batches, predicted_tasks, read_tasks
from specdec import InputError
from specdec.cli import main
from strategies import Pearl

PAIRS = {("small", "large"): (6, 0.30, 0.02), ("tiny", "large"): (9, 0.35, 0.02), ("small", "huge"): (4, 0.20, 0.05)}
"""Draft length, and seconds of a round over a step: the same each time, and those of each token."""
TASKS = {"chat": (3.0, 1.0), "code": (8.0, 2.0), "maths": (15.0, 4.0), "news": (4.5, 9.0)}
"""Mean run length, and steps that reading the prompts of a batch takes."""
STEP = 0.02


def tokens_of(length: int, rate: float) -> float:
    system = System(Constant(1e-3, 1.0))
    return float(long_run_speed(compile_strategy(Pearl(length), system), Rate(rate), system).tokens_per_round)


def row(pair: tuple[str, str], task: str, batch: int, tokens: float | None = None) -> dict[str, Any]:
    """Two batches: 200 steps and 100 rounds each, behind the prompts."""
    length, fixed, each = PAIRS[pair]
    run_length, reading = TASKS[task]
    given = tokens_of(length, 1 - 1 / run_length) if tokens is None else tokens
    a_round = (1 + fixed + each * given) * (1 + batch / 100) + 0.1 * each * reading
    seconds = [2 * STEP * (reading + steps) for steps in (200, 100 * a_round)]
    counts = {"pearl_tokens": 2 * batch * 100 * given, "ar_tokens": 2 * batch * 200}
    models = {"draft": pair[0], "target": pair[1], "task": task, "batch": batch}
    return {**models, **counts, "mean_run_length": run_length, "ar_s": seconds[0], "pearl_s": seconds[1]}


EVERY = [row(pair, task, batch) for pair in PAIRS for task in TASKS for batch in (1, 32)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "pearl.csv"
        with path.open("w", newline="") as file:
            file.write("# made up\n")
            table = csv.DictWriter(file, rows[0].keys())
            table.writeheader()
            table.writerows(rows)
        return path

    return write


def test_rows_of_the_fitted_form_are_predicted_exactly(written: Callable[..., Path]) -> None:
    found = predict_batches(read_tasks(written(EVERY)))
    assert [cell.concurrency for cell in found.published] == [1] * 12 + [32] * 12
    for cell, given in zip(found.published, sorted(EVERY, key=lambda one: one["batch"]), strict=True):
        assert (cell.draft, cell.target, cell.dataset) == (given["draft"], given["target"], given["task"])
        assert cell.k == PAIRS[cell.draft, cell.target][0]
        speeds = given["pearl_tokens"] / given["pearl_s"], given["ar_tokens"] / given["ar_s"]
        assert cell.measured == pytest.approx(speeds[0] / speeds[1])
        assert cell.error == pytest.approx(0, abs=1e-6)
        assert cell.held_out
    assert found.choices == found.left_out == ()


def test_of_the_task_only_acceptance_and_autoregressive_times_are_read(written: Callable[..., Path]) -> None:
    """A round that takes far longer than the form says is an error of that row alone."""
    slow = [{**one, "pearl_s": 1.5 * one["pearl_s"]} if i == 0 else one for i, one in enumerate(EVERY)]
    first = predict_batches(read_tasks(written(slow))).published[0]
    assert first.predicted == pytest.approx(predict_batches(read_tasks(written(EVERY))).published[0].predicted)
    assert first.error == pytest.approx(0.5, rel=1e-3)


def test_a_task_may_be_left_out_of_all_pairs(written: Callable[..., Path]) -> None:
    """Chat is slow in the other two pairs too, which says nothing of the first where it is left out there."""
    slow = [{**one, "pearl_s": 1.5 * one["pearl_s"]} if one["task"] == "chat" else one for one in EVERY if one["batch"] == 1]
    tasks = read_tasks(written(slow))
    off = [predicted_tasks(tasks, everywhere=mode)[0].speedup / tasks[0].speedup - 1 for mode in (False, True)]
    assert off[1] == pytest.approx(0.5, rel=1e-3)
    assert off[0] < 0.4


def test_a_step_is_that_of_the_task_whose_prompts_are_read_soonest(written: Callable[..., Path]) -> None:
    tasks = [task for task in read_tasks(written(EVERY)) if task.batch == 1][:4]
    assert [task.step for task in tasks] == pytest.approx([STEP * 201 / 200] * 4)
    assert [task.prompt for task in tasks] == pytest.approx([0, STEP, 3 * STEP, 8 * STEP])


def test_a_time_for_all_targets_together_explains_less(written: Callable[..., Path]) -> None:
    tasks = [task for task in read_tasks(written(EVERY)) if task.batch == 1]
    own, shared, without = (predicted_tasks(tasks, **how) for how in ({}, {"by_target": False}, {"everywhere": True}))
    worst = [max(abs(one.speedup / one.task.speedup - 1) for one in found) for found in (own, shared, without)]
    assert worst[0] < 1e-6 < 1e-3 < worst[1]
    assert worst[2] < 1e-6


def test_tokens_of_a_round_that_were_measured_leave_its_time_to_predict(written: Callable[..., Path]) -> None:
    """Acceptance of a text does not say how many tokens a round gave, since guesses depended on each other."""
    rows = [*EVERY[:-2], row(("small", "huge"), "news", 1, tokens=2.5), EVERY[-1]]
    *_, last = predicted_tasks([task for task in read_tasks(written(rows)) if task.batch == 1])
    assert last.with_its_tokens == pytest.approx(last.task.speedup)
    assert last.speedup != pytest.approx(last.task.speedup, rel=0.05)


def test_a_pair_with_one_task_is_left_out(written: Callable[..., Path]) -> None:
    found = predict_batches(read_tasks(written([*EVERY[:8], EVERY[8]])))
    assert {cell.draft for cell in found.published} == {"small"}
    assert found.left_out == ("tiny + large at batch 1 has chat alone: add another task",)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pearl.csv"
    path.write_text(f"# nothing yet\n{','.join(COLUMNS)}\n")
    with pytest.raises(InputError, match="has no row: give at least one task"):
        read_tasks(path)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_table_without_a_column_is_refused(written: Callable[..., Path], column: str) -> None:
    with pytest.raises(InputError, match=f"has no column {column}: a table of PEARL in batches needs"):
        read_tasks(written([{name: value for name, value in one.items() if name != column} for one in EVERY]))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("pearl_s", "soon", "could not convert string to float: 'soon'"),
        ("ar_s", "0", "ar_s 0 is not possible"),
        ("ar_tokens", "inf", "ar_tokens inf is not possible"),
        ("mean_run_length", "0.5", "mean_run_length 0.5 is not possible"),
        ("batch", "1.5", "batch 1.5 is not possible"),
    ],
)
def test_a_number_that_cannot_be_is_refused(written: Callable[..., Path], column: str, value: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"pearl.csv row 2: {reason}"):
        read_tasks(written([EVERY[0], {**EVERY[1], column: value}]))


def test_the_command_predicts_such_a_table(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, answer = written(EVERY), tmp_path / "answer.json"
    assert main(["validate", "--published", str(table), "--json", str(answer)]) == 0
    found = json.loads(answer.read_text())
    assert found["format"] == "specdec.validate-engine/1"
    assert {cell["quantity"] for cell in found["published"]} == {"speedup"}
    assert len(found["published"]) == len(EVERY)
    capsys.readouterr()
    assert main(["validate", "--published", str(table), "--fitted-task", "chat"]) == 2
    assert "--fitted-task has no effect on the runs" in capsys.readouterr().err
