"""How results are written for people: three significant digits, the unit a person thinks in, strategies by name.

Knows no study. JSON keeps seconds and all digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def digits(value: float) -> str:
    """Three significant digits, without an exponent: 0.0123, 4.57, 1,230."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return f"{round(value, 2 - exponent):,.{max(0, 2 - exponent)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, without the unit."""
    return digits(1e3 * seconds)


def share(value: float) -> str:
    """A share between 0 and 1 as a percentage."""
    return f"{100 * value:.1f} %"


def signed(value: float) -> str:
    """A relative error as a percentage with its sign."""
    return f"{100 * value:+.1f} %"


def named(strategy: str, parameters: Mapping[str, Any]) -> str:
    """A strategy with its parameters: pearl, draft length 5."""
    return ", ".join([strategy, *(f"{name.replace('_', ' ')} {value}" for name, value in parameters.items())])
