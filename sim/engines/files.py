"""Files as they come: their text, the JSON in it, and numbers by name, refused in one line where they are not what they
seem."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from sim.engines.run import MOST, Times
from specdec.errors import InputError

LFS = "version https://git-lfs.github.com/"


def column_names(text: str) -> list[str]:
    """The names in the first line of a CSV table that is no remark (`#`); none of an empty one."""
    head = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    return [name.strip() for name in next(csv.reader([head]), [])]


def text_of(path: Path) -> str:
    """The text of a file, unpacked if it is gzip. Raises `InputError` for what cannot be read, is empty, or is no text."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is a gzip file that breaks off or is damaged ({error}): fetch it again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a file, or a folder of files") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} holds no text (byte {error.start} is not UTF-8): give a file that a tool below wrote"
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty: the run that should have written it failed, or the file was not fetched")
    if text.startswith(LFS):
        raise InputError(f"{path} is a pointer of Git LFS, and not the file itself: fetch it with `git lfs pull`")
    return text


def documents(text: str, source: str) -> list[tuple[str, Any]]:
    """The JSON objects of a text that holds one, a list of them, or one a line, each with where it is.

    Raises `InputError` for JSON that breaks off.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{source} is nested too deep for a result: give the file as the tool wrote it") from error
    except ValueError as whole:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        return [(f"{source} line {number}", _line(line, f"{source} line {number}", whole)) for number, line in lines]
    if isinstance(found, list):
        return [(f"{source} [{number}]", one) for number, one in enumerate(found)]
    return [(source, found)]


def _line(line: str, source: str, whole: ValueError) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{source} is no JSON, or breaks off ({whole}): write or fetch the file again") from whole


@dataclass(frozen=True)
class Found:
    """What a file says: values by key, and where they are, for messages."""

    source: str
    values: Mapping[str, Any]

    def inside(self, *path: str) -> Found:
        """The object below `path`; empty where it is not there."""
        found: Any = self.values
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return Found(self.source, found if isinstance(found, Mapping) else {})

    def number(self, *keys: str) -> float | None:
        """The first of these keys that is there, as a number. Raises `InputError` for what is none, or not finite."""
        for key in keys:
            value = self.values.get(key)
            if value is None or value == "":
                continue
            return self._finite(key, value)
        return None

    def count(self, *keys: str) -> int | None:
        """The same as a number of things. Raises `InputError` for a fraction, or a number below 0."""
        value = self.number(*keys)
        if value is not None and (not 0 <= value < MOST or value != int(value)):
            raise InputError(f"{self.source}: {keys[0]} is {value:g}, and must be a number of things: the file is damaged")
        return None if value is None else int(value)

    def text(self, *keys: str) -> str:
        """The first of these keys that is there, as text; empty where none is."""
        return next((str(value) for key in keys if (value := self.values.get(key)) not in (None, "")), "")

    def request_rate(self) -> float | None:
        """Requests that arrive per second; `None` where all arrive at once (`inf`), and where nothing is said."""
        if self.text("request_rate").lower() in ("inf", "infinity", "none"):
            return None
        return self.number("request_rate")

    def numbers(self, key: str) -> list[float]:
        """A list of numbers; empty where it is not there. Lists in it are flattened."""
        value = self.values.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InputError(f"{self.source}: {key} is no list of numbers: the file is damaged")
        return [self._finite(key, one) for one in _flat(value)]

    def milliseconds(self, name: str) -> Times:
        """The latency of which a tool writes `mean_NAME_ms`, `median_NAME_ms` and `p99_NAME_ms`, in seconds."""
        mean, median, p99 = (self.number(f"{what}_{name}_ms") for what in ("mean", "median", "p99"))
        if median is None:
            median = self.number(f"p50_{name}_ms")
        return self.times(mean, median, p99, 1e-3, name)

    def times(self, mean: float | None, median: float | None, p99: float | None, unit: float, name: str) -> Times:
        """A latency from numbers in `unit` seconds."""
        found = [None if value is None else value * unit for value in (mean, median, p99)]
        try:
            return Times(*found)
        except InputError as error:
            raise InputError(f"{self.source}: {name}: {error}") from error

    def _finite(self, key: str, value: Any) -> float:
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not isfinite(number):
            raise InputError(
                f"{self.source}: {key} is {str(value)[:40]!r}, and must be a number: the run failed, or the file is damaged"
            )
        return number


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value
