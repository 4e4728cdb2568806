"""Finds what stands in the place of this distribution's own files, and says how to get rid of it.

Two things can: a user's module with the name of one of our packages, which Python finds first (`strategies.py` beside a
script); and the distribution `specdec` of the package index, which is another project and installs a package over ours.
"""

from __future__ import annotations

import sys
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

OURS = "pearl-specdec"
OTHER = "specdec"
"""A distribution of the package index that has an import package, and a command, of this name too."""

RESTORE = f"pip install --force-reinstall --no-deps {OURS}"


def clash(package: str = "specdec") -> str:
    """What stands in the place of one of our import packages, and the remedy; empty where nothing was found."""
    return _other_distribution() or _missing() or _shadow(package)


def ours_first() -> list[str]:
    """Let Python find our packages before modules of their names. Returns what was found in their place, in one line each."""
    packages = sorted({entry.module.partition(".")[0] for entry in distribution(OURS).entry_points})
    root = Path(__file__).resolve().parents[1]
    found = [line for line in (_other_distribution(), _missing()) if line]
    for package in packages:
        if line := _shadow(package):
            found.append(line)
            folders = [Path(entry).resolve() for entry in sys.path]
            folder = _stranger(package).parent
            sys.path.insert(folders.index(folder) if folder in folders else 0, str(root))
            invalidate_caches()
    return found


def _other_distribution() -> str:
    try:
        version = distribution(OTHER).version
    except PackageNotFoundError:
        return ""
    return (
        f"the distribution {OTHER} {version} is another project, and overwrites files of {OURS}: "
        f"pip uninstall {OTHER}, then {RESTORE}"
    )


def _missing() -> str:
    """What the other distribution leaves when it is uninstalled: a package without its first file."""
    if sys.modules["specdec"].__file__ is not None:
        return ""
    return f"the file specdec/__init__.py of {OURS} is missing: {RESTORE}"


def _shadow(package: str) -> str:
    root, stranger = Path(__file__).resolve().parents[1], _stranger(package)
    if stranger in (root / package, root / f"{package}.py"):
        return ""
    return f"{stranger} has the name of a package of {OURS}, and Python finds it first: rename it, or work in another folder"


def _stranger(package: str) -> Path:
    """The file or the folder that Python imports by this name; ours where it finds none."""
    found = find_spec(package)
    file = Path(found.origin if found and found.origin else Path(__file__).parents[1] / package / "__init__.py").resolve()
    return file.parent if file.name == "__init__.py" else file
