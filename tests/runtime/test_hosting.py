"""A draft process that was started before its draft was known."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny_models import minuscule

from specdec.cli import options
from specdec.cli.options import ModelOptions
from specdec.runtime.hosting import started_early
from specdec.runtime.lane import ProcessLane
from specdec.runtime.worker import NewWorker


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that were started."""
    found: list[Any] = []
    start = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> Any:
        found.append(start(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return found


def test_a_lane_takes_the_process_and_tells_it_where_modules_are_by_now(
    begun: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = minuscule(12, seed=1)
    kind = type(draft)
    with started_early(True):
        (tmp_path / "found_later.py").write_text(
            f"from {kind.__module__} import {kind.__name__}\n\nclass Later({kind.__name__}):\n    pass\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        draft.__class__ = importlib.import_module("found_later").Later
        lane = ProcessLane(NewWorker(draft, 12))
        lane.submit("forget")()
    assert [process.poll() for process in begun] == [None]
    lane.close()


def test_a_process_that_no_lane_took_ends(begun: list[Any]) -> None:
    with started_early(False):
        assert not begun
    with started_early(True):
        assert [process.poll() for process in begun] == [None]
    assert [process.poll() for process in begun] == [-9]


@pytest.mark.parametrize(
    ("given", "gpu", "cores", "expected"),
    [
        ({}, False, 2, True),
        ({}, True, 2, False),
        ({"device": "cpu"}, True, 2, True),
        ({"device": "cuda"}, False, 2, False),
        ({"target": "t", "draft": "d", "device": "cuda", "draft_device": "cpu"}, True, 2, True),
        ({"target": "t", "draft": "d", "device": "cpu", "draft_device": "cuda"}, True, 2, False),
        ({}, False, 1, False),
        ({"lane": "process"}, False, 1, True),
        ({"lane": "thread"}, False, 2, False),
        ({"target": "t"}, False, 2, False),
        ({"target": "t", "draft": "d", "tensor_parallel": True}, False, 2, False),
    ],
)
def test_a_process_is_started_early_where_it_is_sure_to_be_needed(
    given: dict[str, Any], gpu: bool, cores: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "GPUS", (str(tmp_path if gpu else tmp_path / "none"),))
    monkeypatch.setattr("specdec.machine.available_cores", lambda: cores)
    assert ModelOptions(**given).draft_in_a_process is expected


@pytest.mark.parametrize(
    ("given", "left"),
    [({}, 1), ({"lane": "thread"}, 1), ({"lane": "inline"}, 0), ({"target": "t"}, 0), ({"target": "t", "draft": "d"}, 1)],
)
def test_a_core_is_left_only_to_a_draft_beside_the_target(
    given: dict[str, Any], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr("specdec.runtime.lane.leave_a_core_to_the_draft", lambda: calls.append(1))
    monkeypatch.setattr("specdec.pair.Pair.bundled", lambda **_: None)
    monkeypatch.setattr("specdec.pair.Pair.load", lambda *_, **__: None)
    ModelOptions(**given).load()
    assert len(calls) == left
