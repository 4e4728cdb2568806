"""The file of a sweep: a line of JSON for each point, appended when the point is finished.

A line counts when its end is written. So a process that is killed loses the point under way and nothing else.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sim.study.sweep_point import Swept
from specdec.errors import InputError

if TYPE_CHECKING:
    from typing import Self

BEGINNING = f'{{"format": "{Swept.format}"'.encode()
"""Of every line."""


class Results:
    """The finished points of a sweep, in memory and, with a path, in a file that only one process writes at a time.

    `found`   by key
    """

    def __init__(self, path: str | Path | None, keys: Collection[str]) -> None:
        """Read what the file holds. Raises `InputError` for a file that is not of a sweep with these keys."""
        self.found: dict[str, Swept] = {}
        self._path, self._file = path, None
        if path is None:
            return
        self._file = _opened(Path(path))
        try:
            self._read(Path(path), self._file, keys)
        except InputError:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, point: Swept) -> None:
        """Keep a finished point."""
        self.found[point.key] = point
        if self._file is not None:
            try:
                self._file.write(json.dumps(point.to_dict()).encode() + b"\n")
            except OSError as error:
                raise InputError(
                    f"{self._path} cannot be written ({error.strerror}): make room, and run the same sweep again, which goes on"
                ) from error

    def _read(self, path: Path, file: IO[bytes], keys: Collection[str]) -> None:
        *lines, half = file.read().split(b"\n")
        for number, line in enumerate(lines, start=1):
            point = _point(line, f"{path}, line {number}")
            if point.key not in keys:
                raise InputError(
                    f"{path} is of another sweep (line {number}: {point}, which is not among the points of this one, or has "
                    "other inputs, another seed, or another version of the simulator): give another --output"
                )
            self.found[point.key] = point
        if half and not (half.startswith(BEGINNING) or BEGINNING.startswith(half)):
            raise InputError(f"{path} is no file of a sweep: give another --output")
        file.seek(-len(half), 2)
        file.truncate()


def _opened(path: Path) -> IO[bytes]:
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): give a file in an existing, writable folder") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path} is written by another sweep right now: wait for its end, or give another --output") from None
    except OSError:  # a file system without locks
        pass
    file.seek(0)
    return file


def _point(line: bytes, source: str) -> Swept:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{source} is no JSON: give a file of a sweep, or another --output") from error
    return Swept.from_dict(found, source)
