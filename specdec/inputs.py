"""Checks of what a person passes in, and the hint that an error gives for a name that is nearly right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

from specdec.errors import InputError


def is_integer(value: object) -> bool:
    """Whether it is an integer, of numpy too. `True` is none here."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A number of numpy as one of Python, as JSON and processes take it; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def plain_fields(options: Any) -> None:
    """Make the numbers in a frozen dataclass plain ones. It calls this when it is made."""
    for field in fields(options):
        object.__setattr__(options, field.name, plain(getattr(options, field.name)))


def at_least_one(**numbers: int) -> None:
    """Refuse by name every number that is not an integer of at least 1. `True` is no integer here."""
    for name, value in numbers.items():
        if not is_integer(value) or value < 1:
            raise InputError(f"{name} {value!r} is not possible: give an integer of at least 1")


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: not, if Python read other bytes and holds each as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts(**values: str) -> None:
    """Refuse by name every value that is no text. A text that looks like a number is read as one on a command line."""
    for name, value in values.items():
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"{name} {value!r} is not possible: give a text (a file's name that is a number: ./{value})")


def between(low: float, high: float, **numbers: float) -> None:
    """Refuse by name every value that is not a number from `low` to `high`. `True` is no number here."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
            raise InputError(f"{name} {value!r} is not possible: give a number from {low:g} to {high:g}")


def number_or_text(text: str) -> int | float | str:
    """The text as an integer or a number if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"did you mean pearl?"`, with the known name that is closest to `name`; `""` when none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
