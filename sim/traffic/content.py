"""The content of a trace file as a table: csv with a header, or one JSON object a line, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from specdec import InputError

if TYPE_CHECKING:
    import polars as pl

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer and not the trace: fetch it with `git lfs pull`",
    b"PAR1": "a parquet file: write it as csv",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it",
    b"BZh": "compressed by bzip2: unpack it",
    b"\xfd7zXZ": "compressed by xz: unpack it",
    b"\xff\xfe": "in UTF-16: save it as UTF-8",
    b"\xfe\xff": "in UTF-16: save it as UTF-8",
    b"<!": "a page of the web and not the trace: download the raw file",
    b"<html": "a page of the web and not the trace: download the raw file",
    b"[": "one JSON array: write one JSON object a line",
}


def read_table(path: Path) -> tuple[pl.DataFrame, int]:
    """All columns as they are written, and the line of the first row.

    Spaces around names and cells of a csv file are left out. Raises `InputError` for what is no such table, by its true name.
    """
    import polars as pl

    content = _content(path)
    try:
        if content.lstrip().startswith(b"{"):
            return pl.read_ndjson(content, infer_schema_length=None), 1
        frame = pl.read_csv(content, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        culprit = _broken_line(content) or str(error).splitlines()[0]
        raise InputError(f"{path}: {culprit}: give a csv file with a header, or one JSON object a line") from error
    frame = frame.with_columns(pl.all().str.strip_chars())
    names = [name.strip() for name in frame.columns]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two columns have one name ({', '.join(names)[:120]}): rename one of them")
    frame.columns = names
    return frame, 2


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken gzip ({error}): fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: give a readable trace file") from error
    content = content.removeprefix(_BYTE_ORDER_MARK).rstrip()
    for beginning, name in _OTHERS.items():
        if content.lower().startswith(beginning.lower()) if beginning.startswith(b"<") else content.startswith(beginning):
            raise InputError(f"{path} is {name}")
    if not content:
        raise InputError(f"{path}: empty file: give a trace with at least one row")
    return content


def _broken_line(content: bytes) -> str | None:
    """The first line that is no JSON object, or that has more cells than the header."""
    lines = content.decode("utf-8", errors="replace").splitlines()
    if not content.lstrip().startswith(b"{"):
        rows = csv.reader(lines)
        header = next(rows)
        long = (rows.line_num for row in rows if len(row) > len(header))
        return next((f"row {number - 1} (line {number}) has more cells than the header" for number in long), None)
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip() and not isinstance(json.loads(line, parse_constant=_refuse), dict):
                raise ValueError
        except ValueError:
            return f"row {number} (line {number}) is not a JSON object"
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
