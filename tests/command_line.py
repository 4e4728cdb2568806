"""What tests of commands share: a run with its outputs, the shape of an error, and plug-ins that are not installed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

import pytest


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def assert_one_line(ran: Ran, *parts: str) -> None:
    """The command was refused in one line that has these parts."""
    assert ran.code == 2, ran
    assert ran.out == ""
    assert re.fullmatch(r"specdec: [^\n]+\n", ran.err), ran.err
    for part in parts:
        assert part in ran.err


def with_entry_points(monkeypatch: pytest.MonkeyPatch, where: str, *more: EntryPoint) -> None:
    """Let a module find these plug-ins beside the installed ones."""
    real = entry_points()
    every = EntryPoints([*(entry for group in real.groups for entry in real.select(group=group)), *more])
    monkeypatch.setattr(f"{where}.entry_points", lambda **wanted: every.select(**wanted))
