"""Requests from a trace file as it comes: csv or JSON lines, with the column names of well-known traces or others.

None of the public traces holds text. The unit of the clock is the one that is given, or is told from the column of arrivals
itself: calendar times, a unit in its name, or seconds, milliseconds and so on since 1970. Else it is that of the known trace;
where two known traces differ, the file is refused.

Sources: Azure LLM inference traces (Splitwise, ISCA 2024), Mooncake (FAST 2025), BurstGPT (2024), and the column names of
GuideLLM for everybody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sim.setup.arrays import Floats
from sim.traffic.content import read_table
from sim.traffic.workload import Workload, check_requests
from specdec import InputError
from specdec.inputs import at_least_one, did_you_mean

if TYPE_CHECKING:
    import polars as pl

TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns"]
Where: TypeAlias = Callable[[int], str]
"""A row as a person finds it in the file."""

UNITS: dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
ROLES = ("arrival", "input", "output")

_WORDS = {"s": "s|secs?|seconds?", "ms": "ms|milli(second)?s?", "us": "[uµ]s|micro(second)?s?", "ns": "ns|nano(second)?s?"}
_UNIT_IN_NAME = re.compile(rf"[\W_](?:{'|'.join(f'(?P<{unit}>{words})' for unit, words in _WORDS.items())})\W?$", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_ZONE = r"(?:\s*(?:Z|UTC|GMT)|([+-]\d\d):?(\d\d)?)$"
_SINCE_1970 = (1262304000.0, 2208988800.0)
"""Seconds of the years 2010 and 2040."""


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A known trace: its column names and the seconds in one unit of its clock (`None`: files of these names differ)."""

    name: str
    arrival: str
    input: str
    output: str
    seconds: float | None
    marker: str | None = None  # a further column that tells it from others with the same names

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.arrival, self.input, self.output


FORMATS = (
    TraceFormat("Azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", None),
    TraceFormat("BurstGPT", "Timestamp", "Request tokens", "Response tokens", 1.0),
    TraceFormat("Mooncake (ms) or GuideLLM (s)", "timestamp", "input_length", "output_length", None, marker="hash_ids"),
    TraceFormat("generic", "timestamp", "input_length", "output_length", 1.0),
)


def read_trace(
    path: Path | str,
    *,
    time_scale: float = 1.0,
    requests: int | None = None,
    time_unit: TimeUnit | None = None,
    columns: Mapping[str, str] | None = None,
    drop_failed: bool = False,
) -> Workload:
    """The requests of a trace file; its format is found from its columns (`FORMATS`), csv or JSON lines from its content.

    Arrival times start at 0 and are multiplied by `time_scale` (0.5 doubles the load); only the first `requests` are kept, and
    a shorter trace is refused.
    `time_unit` is the unit of a clock that counts. `columns` names those of other traces: `{"arrival": ..., "input": ...,
    "output": ...}`, as many as differ. `drop_failed` leaves requests with 0 output tokens out. Raises `InputError` naming file,
    row and remedy for what is missing, empty, unsorted or not a number, and for a clock whose unit nobody says.
    """
    path = Path(path)
    if not 0 < time_scale < np.inf:
        raise InputError(f"time scale {time_scale:g} is not possible: give a number above 0 (0.5 doubles the load)")
    if requests is not None:
        at_least_one(requests=requests)
    if time_unit is not None and time_unit not in UNITS:
        raise InputError(f"time unit {time_unit!r} is not known: give {', '.join(UNITS)}")
    frame, first_line = read_table(path)
    found = _format_of(path, frame.columns, columns or {})
    if frame.is_empty():
        raise InputError(f"{path}: no requests: give a trace with at least one row")
    frame = frame.select(found.columns)
    if not drop_failed:
        frame = frame.head(requests or frame.height)
    kept = np.arange(frame.height)

    def where(row: int) -> str:
        return f"row {kept[row] + 1} (line {kept[row] + first_line})"

    outputs = _numbers(path, frame[found.output], where)
    answered = _answered(path, outputs, found.output, where, drop_failed)
    failures = len(outputs) - len(answered)
    if requests is not None and len(answered) < requests:
        raise InputError(
            f"{path}: holds {len(answered):,} requests with an answer, and {requests:,} are asked for: "
            f"give --requests {len(answered)} (requests={len(answered)}), or leave it out to take them all"
        )
    kept = answered[:requests]
    frame = frame[kept]
    read = {
        found.arrival: _arrivals(path, frame[found.arrival], found, time_unit, where),
        found.input: _numbers(path, frame[found.input], where),
        found.output: outputs[kept],
    }
    check_requests(str(path), read, where)
    times, inputs, outputs = read.values()
    source = f"{path} without {failures:,} failed requests" if failures else str(path)
    return Workload((times - times[0]) * time_scale, inputs.astype(np.int64), outputs.astype(np.int64), source)


def _answered(path: Path, outputs: Floats, name: str, where: Where, drop_failed: bool) -> NDArray[np.int64]:
    """The rows with output tokens."""
    failed = outputs == 0
    if failed.any() and not drop_failed:
        raise InputError(
            f"{path}: {where(int(np.argmax(failed)))}: {name} is 0, a failed request: "
            f"leave such requests ({failed.sum():,}) out with --drop-failed (drop_failed=True), or remove them"
        )
    if failed.all():
        raise InputError(f"{path}: no requests are left, since all of them failed: give a trace with answers")
    return np.flatnonzero(~failed)


def _format_of(path: Path, present: Iterable[str], given: Mapping[str, str]) -> TraceFormat:
    present = list(present)
    for role, name in given.items():
        if role not in ROLES:
            raise InputError(
                f"column {role!r} is not one of {', '.join(ROLES)}: {did_you_mean(role, ROLES) or 'see --columns'}"
            )
        if name not in present:
            hint = did_you_mean(name, present) or f"the file has {', '.join(sorted(present))[:120]}"
            raise InputError(f"{path}: no column {name!r} for {role}: {hint}")
    for known in FORMATS:
        if not given and set(present).issuperset(known.columns) and (known.marker is None or known.marker in present):
            return known
    if given:
        usual = {role: [getattr(known, role) for known in FORMATS] for role in ROLES}
        found = {role: given.get(role) or next((name for name in usual[role] if name in present), None) for role in ROLES}
        missing = [role for role, name in found.items() if name is None]
        if not missing:
            return TraceFormat("given", *(str(found[role]) for role in ROLES), seconds=None)
        raise InputError(
            f"{path}: no column is given for {', '.join(missing)} (the file has {', '.join(sorted(present))[:120]}): "
            "write --columns arrival=NAME,input=NAME,output=NAME"
        )
    nearest = max(reversed(FORMATS), key=lambda known: len(set(present).intersection(known.columns)))
    lacking = [column for column in nearest.columns if column not in present]
    raise InputError(
        f"{path}: no column {', '.join(map(repr, lacking))} (the file has {', '.join(sorted(present))[:120]}): "
        f"name the columns {', '.join(nearest.columns)}, or give --columns arrival=NAME,input=NAME,output=NAME"
    )


def _arrivals(path: Path, written: pl.Series, found: TraceFormat, unit: TimeUnit | None, where: Where) -> Floats:
    """Seconds of arrivals since an unknown beginning."""
    if _DATE.match(str(written[0])):
        if unit is not None:
            raise InputError(f"{path}: {written.name} holds calendar times, which have no unit: leave --time-unit {unit} out")
        return _calendar(path, written, where)
    count = _numbers(path, written, where, "a number, or a time such as 2023-11-16 18:15:46.68")
    if found_unit := _UNIT_IN_NAME.search(written.name):
        named: TimeUnit = next(name for name in UNITS if found_unit[name])  # type: ignore[assignment]
        if unit not in (None, named):
            raise InputError(
                f"{path}: {written.name!r} says {named}, and --time-unit {unit} was given (time_unit={unit!r}): leave "
                "that out, or rename the column"
            )
        unit = named
    if unit is None:
        early, late = _SINCE_1970
        unit = next((one for one in UNITS if early < count[0] * UNITS[one] < late), None)  # type: ignore[assignment]
    if unit is None and found.seconds is None:
        known = f": {found.name}" if found.marker else ""
        raise InputError(
            f"{path}: the unit of {written.name!r} is not known{known}: give --time-unit s, ms, us or ns (time_unit='ms')"
        )
    return count * (UNITS[unit] if unit else found.seconds or 1.0)


def _numbers(path: Path, written: pl.Series, where: Where, kind: str = "a number") -> Floats:
    import polars as pl

    return _complete(path, written, written.cast(pl.Float64, strict=False), where, kind).astype(np.float64)


def _calendar(path: Path, written: pl.Series, where: Where) -> Floats:
    """Seconds since the first row. Times with a zone are compared in UTC, so clocks may change."""
    import polars as pl

    text = written.cast(pl.String).str.replace(r"^(\S{10})T", "$1 ")
    zoned = text.str.contains(_ZONE)
    if zoned.any() and not zoned.all():
        row = int(np.argmax(zoned.to_numpy() != bool(zoned[0])))
        raise InputError(f"{path}: {where(row)}: {written.name} is {written[row]!r}: give a zone in all rows, or in none")
    local = text.str.replace(_ZONE, "").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
    nanoseconds = _complete(path, written, local.to_physical(), where, "a time such as 2023-11-16 18:15:46.68")
    hours, minutes = (text.str.extract(_ZONE, group).cast(pl.Float64).fill_null(0.0).to_numpy() for group in (1, 2))
    behind = text.str.contains(r"-\d\d:?\d*$").to_numpy() & zoned.to_numpy()
    offset = 3600 * hours + 60 * np.where(behind, -minutes, minutes)
    return (nanoseconds - nanoseconds[0]) * 1e-9 - (offset - offset[0])


def _complete(path: Path, written: pl.Series, read: pl.Series, where: Where, kind: str) -> NDArray[Any]:
    if read.null_count():
        row = int(read.is_null().arg_max() or 0)
        raise InputError(f"{path}: {where(row)}: {written.name} is {written[row]!r}: give {kind}")
    return read.to_numpy()
