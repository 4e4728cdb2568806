"""What tests of the simulator's commands share: common options, and what a command writes, prints or refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from command_line import Ran, assert_one_line

from sim import Constant, System

Run: TypeAlias = Callable[..., Ran]

STEPS = ("--draft-step", "1ms", "--target-step", "5ms")
COMMON = ("--acceptance", "0.8", *STEPS)
SYSTEM = System(Constant(1e-3, 5e-3))
"""The devices of `STEPS`."""
FREE = System(Constant(1e-3, 5e-3, batches_are_free=True))
"""Those of `STEPS` with `--batches-are-free`."""


def answer(run: Run, *arguments: str) -> dict[str, Any]:
    """The JSON that a command writes."""
    ran = run(*arguments, "--json", "-")
    assert ran.code == 0, ran
    return ran.json


def printed(run: Run, *arguments: str) -> str:
    """What a command prints."""
    ran = run(*arguments)
    assert ran.code == 0, ran
    return ran.out


def refused(run: Run, *arguments: str) -> str:
    """The one line in which a command refuses its options."""
    ran = run(*arguments)
    assert_one_line(ran)
    return ran.err.strip()


def check_pictures(names: list[Path]) -> None:
    svg, png, html = (name.read_bytes() for name in names)
    assert svg.startswith(b"<svg")
    assert png.startswith(b"\x89PNG")
    assert b"<html" in html
    assert b'src="http' not in html
    assert html.index(b"max-width: 100%") < html.index(b"<script"), "an .html fits its window by a style in its head"
    assert len(png) < 100_000
