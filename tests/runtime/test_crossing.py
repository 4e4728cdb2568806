"""What cannot cross to another process is found out before one starts, and what goes wrong there is said in one line."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from specdec import Pair, PairError, create, decode
from specdec.runtime import host
from specdec.runtime.channel import Channel
from specdec.runtime.crossing import CannotCross, received, rows_and_answered, send
from specdec.runtime.host import Hosted
from specdec.runtime.hosting import nameless_file, search_path
from specdec.runtime.lane import SHARED_ROWS, ProcessLane
from specdec.runtime.worker import NewWorker
from specdec.testing.models import greedy_tokens, resembling

VOCABULARY = 12


class Doubled(nn.Module):
    """A parametrization; torch does not pickle modules that have one."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2


def with_a_hook(model: Any) -> None:
    model.model.layers[0].register_forward_hook(lambda *_: None)


def with_a_forward_of_its_own(model: Any) -> None:
    layer = model.model.layers[0]
    forward = layer.forward

    def local(*arguments: Any, **named: Any) -> Any:
        return forward(*arguments, **named)

    layer.forward = local


def of_a_local_class(model: Any) -> None:
    model.__class__ = type("Local", (type(model),), {"__qualname__": "of_a_local_class.<locals>.Local"})


def of_the_users_script(model: Any) -> None:
    model.__class__ = type("Mine", (type(model),), {"__module__": "__main__"})
    sys.modules["__main__"].Mine = model.__class__  # type: ignore[attr-defined]


def of_a_module_in_memory(model: Any) -> None:
    made: Any = types.ModuleType("made_in_memory")
    made.Mine = type("Mine", (type(model),), {"__module__": "made_in_memory"})
    sys.modules["made_in_memory"] = made
    model.__class__ = made.Mine


def parametrized(model: Any) -> None:
    parametrize.register_parametrization(model.lm_head, "weight", Doubled())


def holding_a_lock(model: Any) -> None:
    model.lock = threading.Lock()


OBSTACLES: dict[str, tuple[Callable[[Any], None], str]] = {
    "hook": (with_a_hook, "<lambda>"),
    "forward": (with_a_forward_of_its_own, "local"),
    "local class": (of_a_local_class, "Local"),
    "class of the script": (of_the_users_script, "__main__.Mine"),
    "module in memory": (of_a_module_in_memory, "made_in_memory.Mine"),
    "parametrization": (parametrized, "parametrized modules"),
    "lock": (holding_a_lock, "lock"),
}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_cannot_cross_is_found_out_before_a_process_starts(
    kind: str, target: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    change, word = OBSTACLES[kind]
    draft = resembling(target, 0.4)
    change(draft)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    with Pair(target, draft, lane="process") as pair, pytest.raises(PairError) as refused:
        decode(pair, create("speculative", draft_length=3), [1], max_new_tokens=6, temperature=0)
    said = str(refused.value)
    assert word in said
    assert "use lane='thread' or 'inline'" in said
    assert "\n" not in said
    monkeypatch.setattr("specdec.pair.available_cores", lambda: 2)
    with Pair(target, draft) as pair, pytest.warns(RuntimeWarning, match=r"^the draft .*: it works inline"):
        result = decode(pair, create("speculative", draft_length=3), [1], max_new_tokens=6, temperature=0)
    assert result.tokens == greedy_tokens(target, [1], 6)
    assert result.statistics.drafted_tokens > 0
    assert not result.statistics.draft_failure
    assert capfd.readouterr() == ("", "")


def crossed(value: Any) -> Any:
    with nameless_file() as file:
        send(value, file)
        return received(file)


class Layer(nn.Module):
    """Importable here, as the models of a package are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def halved(self: Layer, x: torch.Tensor) -> torch.Tensor:
    return x * self.weight / 2


Layer.__module__ = halved.__module__ = "importable_layer"


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that has `Layer` and `halved`."""
    path = tmp_path / "importable_layer.py"
    path.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    module: Any = importlib.import_module("importable_layer")
    module.Layer, module.halved = Layer, halved
    monkeypatch.setitem(sys.modules, "importable_layer", module)
    return path


@pytest.mark.usefixtures("importable")
def test_a_method_that_was_bound_by_hand_stays_so() -> None:
    """pickle would look it up by its name, and find the class's own."""
    layer = Layer()
    halved.__name__ = "forward"
    try:
        layer.forward = types.MethodType(halved, layer)
        again = crossed(layer)
    finally:
        halved.__name__ = "halved"
    assert torch.equal(again(torch.ones(3)), torch.tensor([0.0, 0.5, 1.0]))
    assert again.forward.__self__ is again


def test_shared_memory_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for known in (True, False):
        if not known:
            monkeypatch.delattr(os, "memfd_create", raising=False)
        with nameless_file() as file:
            rows, answered = rows_and_answered(file.fileno(), 3, 5, torch.float64)
            others, number = rows_and_answered(file.fileno(), 3, 5, torch.float64)
        rows[:], answered[0] = 0.25, 7
        assert others.shape == (3, 5)
        assert (others == 0.25).all()
        assert number.tolist() == [7]
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["raise ImportError('gone by then')", "Layer = None", "def Layer("])
def test_a_worker_that_cannot_take_its_model_says_so_in_one_line(
    fault: str, importable: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Here, in this process, since one that starts takes seconds. The module changes between the two."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    ours, theirs = socket.socketpair()
    with nameless_file() as model, nameless_file() as shared:
        made: Any = Layer()
        send(Hosted(NewWorker(made, VOCABULARY), SHARED_ROWS, torch.float32), model)
        importable.write_text(fault)
        monkeypatch.delitem(sys.modules, "importable_layer")
        importlib.invalidate_caches()
        Channel(ours).send(pickle.dumps(search_path()))
        host.main(str(theirs.detach()), str(os.dup(model.fileno())), str(shared.fileno()))
    message = Channel(ours).receive(1)
    ours.close()
    assert message is not None
    refusal = pickle.loads(message)
    assert isinstance(refusal, PairError)
    assert "the draft process cannot take the draft" in str(refusal)
    assert "\n" not in str(refusal)
    assert capfd.readouterr() == ("", "")


def test_a_refusal_of_the_worker_comes_out_of_the_lane(draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = ProcessLane(NewWorker(draft, VOCABULARY))
    monkeypatch.setattr(lane, "_receive", lambda _: PairError("the draft process cannot take the draft"))
    with pytest.raises(PairError, match="cannot take the draft"):
        lane.submit("forget")
    assert lane.ended


def test_a_process_that_cannot_start_is_no_traceback(draft: Any, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(CannotCross, match=r"cannot be started .*temporarily unavailable"):
        ProcessLane(NewWorker(draft, VOCABULARY))


def test_no_file_of_the_current_folder_takes_the_place_of_a_module(
    draft: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def started(command: list[str], **options: Any) -> None:
        asked.update(options, command=command)
        raise OSError("not today")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in an interactive session, where it is meant
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotCross):
        ProcessLane(NewWorker(draft, VOCABULARY))
    assert "-P" in asked["command"]
    assert asked["env"]["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), *sys.path[1:]]
