"""Values of options that are written as text, such as parameters, ranges and lists; and what is refused. Knows no command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from specdec.errors import InputError
from specdec.inputs import number_or_text
from specdec.lengths import LONGEST_DRAFT

DIGITS = 9
"""Of a draft length; Python refuses to read thousands of them."""


def parameters(settings: Sequence[str] | None) -> dict[str, Any]:
    """Parameters of a strategy from `NAME=VALUE` texts."""
    return {name: number_or_text(text) for name, text in map(_named, settings or ())}


def parsed_grid(settings: Sequence[str] | None) -> dict[str, list[int | float | str]]:
    """Values by parameter from `NAME=VALUES` texts: `few=1-3` is 1, 2 and 3; `rule=a,b` is both. A policy is one value."""
    found: dict[str, list[int | float | str]] = {}
    for name, text in (_named(setting) for setting in settings or ()):
        for part in [text] if ":" in text else text.split(","):
            first, dash, last = part.strip().partition("-")
            whole = dash and first.isdecimal() and last.isdecimal() and len(last) < 4
            values = range(int(first), int(last) + 1) if whole else [number_or_text(part.strip())]
            found.setdefault(name, []).extend(values)
        if not found.get(name):
            raise InputError(f"--set {name}={text} holds no value: write NAME=1-3, or NAME=2,4")
    return found


def _named(setting: str) -> tuple[str, str]:
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise InputError(f"--set {setting!r} is no parameter: write NAME=VALUE")
    return name, text


def parsed_lengths(text: str | None) -> list[int]:
    """`"1,2,4-6"` as `[1, 2, 4, 5, 6]`."""
    return parsed_counts("draft length", text, LONGEST_DRAFT)


def parsed_counts(what: str, text: str | None, most: int) -> list[int]:
    """Whole numbers from 1 to `most`, and ranges of them; each once. `what` is what errors call them."""
    counts: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.strip().partition("-")
        possible = first.isdecimal() and (last.isdecimal() or not dash)
        if not possible or max(len(first), len(last)) > DIGITS or not 1 <= int(first) <= int(last or first) <= most:
            raise InputError(f"{what} {part!r} is not possible: give integers from 1 to {most}, such as 1,2,4 or 1-8")
        counts += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(counts))


def several(texts: Sequence[str] | None) -> list[str]:
    """The names in options that may be repeated and may hold lists: `["a,b", "c"]` as `["a", "b", "c"]`."""
    return [part.strip() for text in texts or () for part in text.split(",")]


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
