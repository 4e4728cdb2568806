"""Finds what a person names by its place: `module:Name`, or `./file.py:Name`; and splits parameters off that follow it."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from specdec.errors import InputError
from specdec.inputs import did_you_mean

OWN_FILES: set[str] = set()
"""Files of the modules that were found at a place: an error there is for the person to correct, and no bug of this package."""


def is_place(text: str) -> bool:
    """Whether a text names a place, and not something that is installed."""
    return ":" in text


def with_settings(text: str) -> tuple[str, list[tuple[str, str]]]:
    """`NAME` or a place, and the parameters of `NAME:A=1,B=2` or `./file.py:Name:A=1` as texts."""
    name, _, settings = text.strip().rpartition(":")
    if "=" not in settings or not name:
        return text.strip(), []
    for part in settings.split(","):
        if not all(part.partition("=")):
            raise InputError(f"{text}: {part!r} is no parameter: write NAME=VALUE")
    parts = [part.partition("=") for part in settings.split(",")]
    return name, [(parameter.strip(), value.strip()) for parameter, _, value in parts]


def found_at(place: str) -> Any:
    """The object at `module:Name` or `path/file.py:Name`. An `InputError` says what is missing.

    Modules in the current folder are found too. The folder comes last on Python's path, so that worker processes can import
    what was found, and no other module is hidden.
    """
    where, _, name = place.rpartition(":")
    is_file = where.endswith(".py")
    file = Path(where).resolve() if is_file else None
    if file is not None and not file.is_file():
        raise InputError(f"{place}: there is no file {where}: correct the path")
    folder, module = (str(file.parent), file.stem) if file else (str(Path.cwd()), where)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = import_module(module)
    except Exception as error:  # a person's module may raise anything when it is imported
        raise InputError(f"{place}: {where} cannot be imported ({type(error).__name__}: {error}): correct it") from error
    if file is not None and Path(found.__file__ or "").resolve() != file:
        raise InputError(f"{place}: another module is called {module} ({found.__file__}): rename the file")
    OWN_FILES.add(found.__file__ or "")
    if not hasattr(found, name):
        hint = did_you_mean(name, vars(found)) or "write the name of a class in it"
        raise InputError(f"{place}: {where} has no {name!r}: {hint}")
    return getattr(found, name)
