"""Requests: when they arrive and how long prompts and answers are, drawn at random or read from a trace file.

A request is a time and two token counts: text, models and strategies are not known here. None of the public traces holds text.

Sources: Azure LLM inference traces (Splitwise, ISCA 2024), Mooncake (FAST 2025), BurstGPT (2024), and the column names of
GuideLLM for everybody else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.setup.arrays import Counts, Floats
from specdec import InputError
from specdec.inputs import at_least_one

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """`n` requests in order of arrival.

    `arrival_seconds`   shape (n,): since the start of the run, never falling
    `input_tokens`      shape (n,): prompt tokens, at least 1
    `output_tokens`     shape (n,): tokens of the answer, at least 1
    `source`            where the requests come from, for messages

    Raises `InputError` for arrays of unequal shape, and names the first request with an impossible value.
    """

    arrival_seconds: Floats
    input_tokens: Counts
    output_tokens: Counts
    source: str = "workload"

    def __post_init__(self) -> None:
        columns = {
            "arrival_seconds": np.asarray(self.arrival_seconds, np.float64),
            "input_tokens": np.asarray(self.input_tokens, np.float64),
            "output_tokens": np.asarray(self.output_tokens, np.float64),
        }
        if len({column.shape for column in columns.values()}) > 1 or columns["arrival_seconds"].ndim != 1:
            raise InputError(f"{self.source}: arrivals, inputs and outputs differ in shape: give one of each per request")
        _check(self.source, columns, lambda request: f"request {request}")
        object.__setattr__(self, "arrival_seconds", columns["arrival_seconds"])
        object.__setattr__(self, "input_tokens", columns["input_tokens"].astype(np.int64))
        object.__setattr__(self, "output_tokens", columns["output_tokens"].astype(np.int64))

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    def repeated(self, times: int) -> Workload:
        """The same requests so many times over, one mean gap between the last of them and the first again."""
        span = float(self.arrival_seconds[-1])
        period = span + span / max(1, len(self) - 1)
        arrivals = np.concatenate([self.arrival_seconds + period * n for n in range(times)])
        return Workload(arrivals, np.tile(self.input_tokens, times), np.tile(self.output_tokens, times), self.source)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Arrivals with gamma-distributed gaps.

    `rate_per_second`   requests per second on average
    `cv`                coefficient of variation of the gaps: 1 is Poisson, 0 is equal gaps

    Raises `InputError` for a rate that is not above 0, or a negative cv.
    """

    rate_per_second: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate_per_second < np.inf:
            raise InputError(f"arrival rate {self.rate_per_second:g}/s is not possible: give a rate above 0")
        if not 0 <= self.cv < np.inf:
            raise InputError(f"arrival cv {self.cv:g} is not possible: give 0 or more (1 is Poisson)")

    def seconds(self, requests: int, random: np.random.Generator) -> Floats:
        """Arrival times in seconds, shape (requests,)."""
        mean = 1 / self.rate_per_second
        if self.cv == 0:
            return mean * np.arange(1, requests + 1, dtype=np.float64)
        return np.cumsum(random.gamma(self.cv**-2, mean * self.cv**2, requests), dtype=np.float64)


LONGEST_MEAN = 1e9


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lognormal lengths of prompts or answers.

    `mean_tokens`   mean number of tokens, from 1 to 1e9; no request has more than a thousand times as many
    `cv`            coefficient of variation: 0 is a constant length

    Raises `InputError` for other values than these.
    """

    mean_tokens: float
    cv: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.mean_tokens <= LONGEST_MEAN:
            raise InputError(f"a mean length of {self.mean_tokens:g} tokens is not possible: give from 1 to {LONGEST_MEAN:g}")
        if not 0 <= self.cv < np.inf:
            raise InputError(f"length cv {self.cv:g} is not possible: give 0 or more (0 is a constant length)")

    def tokens(self, requests: int, random: np.random.Generator) -> Counts:
        """Token counts, at least 1 each, shape (requests,)."""
        variance = np.log1p(self.cv**2)
        drawn = random.lognormal(np.log(self.mean_tokens) - variance / 2, np.sqrt(variance), requests)
        return np.clip(np.rint(drawn), 1, 1000 * LONGEST_MEAN).astype(np.int64)


def streams(seed: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    """Children of a seed. Unlike `SeedSequence.spawn`, this gives the same ones each time that it is called."""
    return [np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, child)) for child in range(count)]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests that are drawn at random.

    `arrivals`        when they arrive; `None`: all are there at the beginning, for a closed loop (`Server.clients`)
    `input_tokens`    how long prompts are
    `output_tokens`   how long answers are
    `requests`        how many are drawn

    Raises `InputError` for a number of requests below 1.
    """

    arrivals: Arrivals | None
    input_tokens: Lengths
    output_tokens: Lengths
    requests: int

    def __post_init__(self) -> None:
        at_least_one(requests=self.requests)

    def workload(self, seed: np.random.SeedSequence) -> Workload:
        """The requests. Times and lengths come from separate streams of `seed`, so changing one of them keeps the others."""
        clock, inputs, outputs = (np.random.default_rng(stream) for stream in streams(seed, 3))
        drawn = self.arrivals
        return Workload(
            np.zeros(self.requests) if drawn is None else drawn.seconds(self.requests, clock),
            self.input_tokens.tokens(self.requests, inputs),
            self.output_tokens.tokens(self.requests, outputs),
            "all at once" if drawn is None else f"gamma arrivals at {drawn.rate_per_second:g}/s, cv {drawn.cv:g}",
        )


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A known trace file: its column names and the seconds in one unit of its clock (`None`: calendar times)."""

    name: str
    time: str
    input: str
    output: str
    seconds: float | None
    marker: str | None = None  # a further column that tells it from others with the same names

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.time, self.input, self.output


FORMATS = (
    TraceFormat("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", None),
    TraceFormat("BurstGPT", "Timestamp", "Request tokens", "Response tokens", 1.0),
    TraceFormat("Mooncake", "timestamp", "input_length", "output_length", 1e-3, marker="hash_ids"),
    TraceFormat("generic", "timestamp", "input_length", "output_length", 1.0),
)


def read_trace(path: Path | str, *, time_scale: float = 1.0, requests: int | None = None) -> Workload:
    """The requests of a trace file; its format is found from its columns (`FORMATS`), csv or JSON lines from its content.

    Arrival times start at 0 and are multiplied by `time_scale` (0.5 doubles the load); only the first `requests` are kept.
    Raises `InputError` naming file, row and remedy for what is missing, empty, unsorted or not a number.
    """
    path = Path(path)
    if not 0 < time_scale < np.inf:
        raise InputError(f"time scale {time_scale:g} is not possible: give a number above 0 (0.5 doubles the load)")
    if requests is not None:
        at_least_one(requests=requests)
    frame, first_line = _read(path)
    found = _format_of(path, frame.columns)
    if frame.is_empty():
        raise InputError(f"{path}: no requests: give a trace with at least one row")
    frame = frame.select(found.columns).head(requests or frame.height)

    def where(row: int) -> str:
        return f"row {row + 1} (line {row + first_line})"

    times = _calendar(path, frame, found, where) if found.seconds is None else _numbers(path, frame, found.time, where)
    columns = {
        found.time: times * (found.seconds or 1.0),
        found.input: _numbers(path, frame, found.input, where),
        found.output: _numbers(path, frame, found.output, where),
    }
    _check(str(path), columns, where)
    times, inputs, outputs = columns.values()
    return Workload((times - times[0]) * time_scale, inputs.astype(np.int64), outputs.astype(np.int64), str(path))


def _read(path: Path) -> tuple[pl.DataFrame, int]:
    """All columns as they are written, and the line of the first row."""
    import polars as pl

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}: give a readable trace file") from error
    if not content.strip():
        raise InputError(f"{path}: empty file: give a trace with at least one row")
    try:
        if content.lstrip().startswith(b"{"):
            return pl.read_ndjson(content, infer_schema_length=None), 1
        return pl.read_csv(content, infer_schema=False), 2
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        culprit = _broken_line(content) or str(error).splitlines()[0]
        raise InputError(f"{path}: {culprit}: give a csv file with a header, or one JSON object a line") from error


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


def _format_of(path: Path, columns: Iterable[str]) -> TraceFormat:
    present = set(columns)
    for known in FORMATS:
        if present.issuperset(known.columns) and (known.marker is None or known.marker in present):
            return known
    nearest = max(reversed(FORMATS), key=lambda known: len(present.intersection(known.columns)))
    missing = [column for column in nearest.columns if column not in present]
    raise InputError(
        f"{path}: no column {', '.join(map(repr, missing))} (the file has {', '.join(sorted(present))[:120]}): "
        f"name the columns {', '.join(nearest.columns)}"
    )


def _numbers(path: Path, frame: pl.DataFrame, column: str, where: Any) -> Floats:
    import polars as pl

    read = frame[column].cast(pl.Float64, strict=False)
    return _complete(path, frame[column], read, where, "a number").astype(np.float64)


def _calendar(path: Path, frame: pl.DataFrame, found: TraceFormat, where: Any) -> Floats:
    """Seconds since the first row; a zone suffix is dropped, since only differences count."""
    import polars as pl

    written = frame[found.time]
    text = written.cast(pl.String).str.replace(r"(Z|[+-]\d\d:?\d\d)$", "").str.replace("T", " ")
    read = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    nanoseconds = _complete(path, written, read.to_physical(), where, "a time such as 2023-11-16 18:15:46.68")
    return (nanoseconds - nanoseconds.min()) * 1e-9


def _complete(path: Path, written: pl.Series, read: pl.Series, where: Any, kind: str) -> NDArray[Any]:
    if read.null_count():
        row = int(read.is_null().arg_max() or 0)
        raise InputError(f"{path}: {where(row)}: {written.name} is {written[row]!r}: give {kind}")
    return read.to_numpy()


def _check(source: str, columns: dict[str, Floats], where: Any) -> None:
    """Times first, then tokens: finite, never falling; whole numbers of at least 1."""
    (time_name, times), *tokens = columns.items()
    if not len(times):
        raise InputError(f"{source}: no requests: give at least one")
    for name, values in columns.items():
        if (bad := ~np.isfinite(values)).any():
            row = int(np.argmax(bad))
            raise InputError(f"{source}: {where(row)}: {name} is {values[row]:g}: give a finite number")
    if (bad := np.append(times[0] < 0, np.diff(times) < 0)).any():
        row = int(np.argmax(bad))
        if row == 0:
            raise InputError(f"{source}: {where(row)}: {time_name} is {times[0]:g}, before the start: give 0 or more")
        raise InputError(f"{source}: {where(row)} arrives before the one above it: sort by {time_name}")
    for name, values in tokens:
        if (bad := (values < 1) | (values != np.floor(values))).any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{source}: {where(row)}: {name} is {values[row]:g}: give a whole number of at least 1, or remove it"
            )
