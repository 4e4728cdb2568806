"""Options as text: the numbers in them, and the refusal of those that would be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specdec.errors import InputError


def refuse(options: Mapping[str, Any], why: str) -> None:
    """Refuse the first of these options that was given."""
    for option, value in options.items():
        if value not in (None, [], ()):
            raise InputError(f"{option} {why}")


def numbers(option: str, text: str, count: int | None = None) -> list[float]:
    """Numbers with commas between them; 80% is 0.8."""
    try:
        found = [float(part.rstrip()[:-1]) / 100 if part.rstrip().endswith("%") else float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or (count is not None and len(found) != count):
        wanted = "a number" if count == 1 else f"{count} numbers with a comma" if count else "a number, or several with commas"
        raise InputError(f"{option} {text!r} is not understood: give {wanted}, see --help")
    return found
