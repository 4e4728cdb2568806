"""How results are written for people: three significant digits, the unit a person thinks in, strategies by name."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log10
from typing import Any


def named(strategy: str, parameters: Mapping[str, Any]) -> str:
    """A strategy with its draft length, for sentences: `pearl (draft length 4)`."""
    drafted = parameters.get("draft_length")
    return strategy if drafted is None else f"{strategy} (draft length {drafted})"


def spelled(strategy: str, parameters: Mapping[str, Any]) -> str:
    """A strategy with all its parameters: `pearl draft_length=4`."""
    return " ".join([strategy, *(f"{name}={value}" for name, value in parameters.items())])


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.0f} %"


def three_digits(value: float) -> str:
    """A number with three significant digits and no exponent: `0.213`, `11.6`, `1234`."""
    rounded = float(f"{value:.2e}")
    places = 2 - floor(log10(abs(rounded))) if rounded else 0
    return f"{value:.{max(0, places)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, for people: `11.6 ms`."""
    return f"{three_digits(1000 * seconds)} ms"
