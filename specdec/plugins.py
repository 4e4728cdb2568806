"""What installed packages bring: strategies, verification rules and checks, found by entry point.

A package registers an object under a name in a group, such as `specdec.rules`. The built-in ones are registered the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, TypeVar

from specdec.errors import InputError

T = TypeVar("T")


def installed(group: str) -> dict[str, Any]:
    """The objects of an entry-point group by name, in order of names; one that cannot be imported is an `InputError`."""
    found: dict[str, Any] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            found[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            raise InputError(
                f"{entry.name} of {group} cannot be loaded from {entry.value} ({error}): reinstall the package that brings it"
            ) from error
    return found


def named(kind: str, name: str, found: Mapping[str, T]) -> T:
    """`found[name]`; for an unknown name, an `InputError` with the closest one and all there are."""
    if name in found:
        return found[name]
    close = get_close_matches(name, found, n=1)
    hint = f"did you mean {close[0]}? Installed are" if close else "installed are"
    raise InputError(f"unknown {kind} {name!r}: {hint} {', '.join(found)}")
