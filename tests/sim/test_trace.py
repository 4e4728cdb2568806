"""Trace files as they come: their requests are those of the file, or they are refused with file, row and remedy."""

from __future__ import annotations

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sim.traffic.trace import read_trace
from specdec import InputError

TRACES = Path(__file__).parent.parent / "data"
GENERIC = "timestamp,input_length,output_length\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LINES = '{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": 2, "input_length": 3, "output_length": 4}\n'
FAILED = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n0,GPT-4,3,0,3,Conversation log\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n118,GPT-4,417,276,693,Conversation log\n"
)


def wrote(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def last_arrival(path: Path, **options: Any) -> float:
    return float(read_trace(path, **options).arrival_seconds[-1])


FILES = {
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.1805900,396,109\n"
    ),
    "azure, 2024": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 23:59:59+00:00,374,44\n2024-05-11 00:00:02.500000+00:00,396,109\n"
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,374,44,418,Conversation log\n8.5,GPT-4,396,109,505,Conversation log\n"
    ),
    "generic csv": "timestamp,user,input_length,output_length\n7,x,374,44\n10.5,y,396,109\n",
    "generic jsonl": (
        '{"timestamp": 7, "input_length": 374, "output_length": 44}\n'
        '{"timestamp": 10.5, "input_length": 396, "output_length": 109}\n'
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_found_from_its_columns(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(FILES[name])
    read = read_trace(path, time_scale=2.0)
    assert read.arrival_seconds.tolist() == pytest.approx([0.0, 7.0], abs=1e-6)
    assert read.input_tokens.tolist() == [374, 396]
    assert read.output_tokens.tolist() == [44, 109]
    assert len(read_trace(path, requests=1)) == 1


def test_the_azure_trace_is_read_as_it_is_written() -> None:
    path = TRACES / "azure_conv_2023_first_20.csv"
    read = read_trace(path)
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    times = [datetime.fromisoformat(row[0][:26]) for row in rows]  # the seventh digit is 0.1 microseconds
    assert len(read) == 20
    assert read.arrival_seconds.tolist() == pytest.approx([(time - times[0]).total_seconds() for time in times], abs=2e-6)
    assert read.input_tokens.tolist() == [int(row[1]) for row in rows]
    assert read.output_tokens.tolist() == [int(row[2]) for row in rows]


def test_the_mooncake_trace_is_in_milliseconds_and_does_not_say_so() -> None:
    """GuideLLM writes the same columns in seconds."""
    path = TRACES / "mooncake_conversation_first_20.jsonl"
    with pytest.raises(
        InputError, match=r"unit of 'timestamp' is not known: Mooncake \(ms\) or GuideLLM \(s\): give --time-unit"
    ):
        read_trace(path)
    read = read_trace(path, time_unit="ms")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert read.arrival_seconds.tolist() == pytest.approx([row["timestamp"] / 1000 for row in rows])
    assert read.arrival_seconds[-1] > 1
    assert read.output_tokens.tolist() == [row["output_length"] for row in rows]


BAD = {
    "empty file": ("", "empty file"),
    "header only": (GENERIC, "no requests"),
    "unknown columns": ("when,what\n1,2\n", "no column 'timestamp', 'input_length', 'output_length'"),
    "a missing column": ("TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,3\n", "no column 'GeneratedTokens'"),
    "unsorted": (GENERIC + "1,2,3\n3,2,3\n2,2,3\n", "row 3 (line 4) arrives before"),
    "text for a number": (GENERIC + "1,2,3\n2,many,3\n", "row 2 (line 3): input_length is 'many'"),
    "nothing for a number": (GENERIC + "1,2,3\n2,2,\n", "row 2 (line 3): output_length is None"),
    "nan": (GENERIC + "1,2,3\nNaN,2,3\n", "row 2 (line 3): timestamp is nan"),
    "infinite": (GENERIC + "1,2,3\n2,inf,3\n", "row 2 (line 3): input_length is inf"),
    "negative time": (GENERIC + "-1,2,3\n", "row 1 (line 2): timestamp is -1"),
    "negative tokens": (GENERIC + "1,2,3\n2,-5,3\n", "row 2 (line 3): input_length is -5"),
    "half a token": (GENERIC + "1,2,3.5\n", "row 1 (line 2): output_length is 3.5"),
    "a failed request": (GENERIC + "1,2,3\n1,2,0\n", "row 2 (line 3): output_length is 0, a failed request"),
    "an empty line between": (GENERIC + "1,2,3\n\n2,2,3\n", "row 2 (line 3): output_length is None"),
    "more than can be counted": (GENERIC + "1,2,3\n2,99999999999999999999,3\n", "row 2 (line 3): input_length is 1e+20"),
    "more than can be counted in json": (
        LINES + '{"timestamp": 3, "input_length": 99999999999999999999, "output_length": 4}\n',
        "row 3 (line 3): input_length is 1e+20",
    ),
    "a zone in some rows": (AZURE + "2024-05-10 00:00:00Z,3,4\n2024-05-10 00:00:02,5,6\n", "row 2 (line 3): TIMESTAMP"),
    "two columns of one name": ("timestamp,input_length, input_length,output_length\n1,2,3,4\n", "two columns have one name"),
    "an Azure clock that counts": (AZURE + "1,2,3\n", "the unit of 'TIMESTAMP' is not known"),
    "too many cells": (GENERIC + "1,2,3\n1,2,3,4\n", "row 2 (line 3) has more cells"),
    "no calendar time": ("TIMESTAMP,ContextTokens,GeneratedTokens\nsoon,1,2\n", "row 1 (line 2): TIMESTAMP is 'soon'"),
    "broken json": ('{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": NaN}\n', "row 2 (line 2)"),
    "json without a column": ('{"timestamp": 0, "input_length": 3}\n', "no column 'output_length'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_with_file_row_and_remedy(name: str, tmp_path: Path) -> None:
    content, culprit = BAD[name]
    path = tmp_path / "trace.csv"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        read_trace(path)
    message = str(refused.value)
    assert culprit in message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.count(": ") >= 2  # file: culprit: remedy


@pytest.mark.parametrize(
    ("content", "span"),
    [
        (GENERIC + "0,3,4\n2,5,6\n\n\n", 2.0),
        (GENERIC + "0,3,4\r\n2,5,6\r\n \r\n", 2.0),
        ((GENERIC + "0,3,4\n2,5,6\n").replace(",", ", "), 2.0),
        (b"\xef\xbb\xbf" + LINES.encode(), 2.0),
        (b"\xef\xbb\xbf" + GENERIC.encode() + b"0,3,4\n2,5,6", 2.0),
        (gzip.compress(LINES.encode(), mtime=0), 2.0),
        (gzip.compress(GENERIC.encode() + b"0,3,4\n2,5,6\n\n", mtime=0), 2.0),
        ("\n" + LINES, 2.0),
    ],
)
def test_marks_blanks_and_gzip_change_nothing(tmp_path: Path, content: str | bytes, span: float) -> None:
    read = read_trace(wrote(tmp_path, content))
    assert len(read) == 2
    assert read.arrival_seconds.tolist() == [0.0, span]


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        ("2024-03-31 01:59:59+01:00", "2024-03-31 03:00:01+02:00", 2.0),  # to summer time
        ("2024-10-27 02:59:59+02:00", "2024-10-27 02:00:01+01:00", 2.0),  # and back
        ("2024-05-10 00:00:00+00", "2024-05-10 00:00:02+00", 2.0),
        ("2024-05-10T00:00:00Z", "2024-05-10T00:00:02.25Z", 2.25),
        ("2024-05-10 00:00:00 UTC", "2024-05-10 00:00:02 UTC", 2.0),
        ("2024-05-10 00:00:00-0330", "2024-05-10 00:00:02-03:30", 2.0),
        ("2024-05-10 00:00:00-03:30", "2024-05-10 09:15:00+05:45", 0.0),
        ("2024-05-10 00:00:00-00:30", "2024-05-10 00:30:01Z", 1.0),
        ("2024-05-10 23:59:59", "2024-05-11 00:00:01", 2.0),
    ],
)
@pytest.mark.parametrize("shape", ["csv", "json"])
def test_calendar_times_are_compared_in_one_zone(tmp_path: Path, first: str, second: str, seconds: float, shape: str) -> None:
    rows = [{"timestamp": time, "input_length": 3, "output_length": 4} for time in (first, second)]
    content = GENERIC + f"{first},3,4\n{second},3,4\n" if shape == "csv" else "\n".join(map(json.dumps, rows))
    path = wrote(tmp_path, content)
    assert last_arrival(path) == pytest.approx(seconds)
    with pytest.raises(InputError, match="calendar times, which have no unit: leave --time-unit ms out"):
        read_trace(path, time_unit="ms")


@pytest.mark.parametrize(
    ("name", "first", "second", "seconds"),
    [
        ("time_ms", "1000", "3500", 2.5),
        ("time (s)", "1000", "1002.5", 2.5),
        ("arrival.ns", "0", "2500000000", 2.5),
        ("Arrival time in Microseconds", "0", "2500000", 2.5),
        ("when", "1700000000", "1700000002.5", 2.5),
        ("when", "1700000000000", "1700000002500", 2.5),
        ("when", "1700000000000000000", "1700000002500000000", 2.5),
    ],
)
def test_a_unit_is_told_from_the_column_itself(tmp_path: Path, name: str, first: str, second: str, seconds: float) -> None:
    path = wrote(tmp_path, f"{name},p,a\n{first},3,4\n{second},3,4\n")
    assert last_arrival(path, columns={"arrival": name, "input": "p", "output": "a"}) == pytest.approx(seconds, abs=1e-6)


def test_a_unit_that_is_given_counts_and_none_is_guessed(tmp_path: Path) -> None:
    path = wrote(tmp_path, "when,p,output_length,milliseconds\n0,3,4,9\n2,3,4,9\n")
    given = {"arrival": "when", "input": "p"}
    for unit, seconds in {"s": 2.0, "ms": 2e-3, "us": 2e-6, "ns": 2e-9}.items():
        assert last_arrival(path, columns=given, time_unit=unit) == pytest.approx(seconds)
    with pytest.raises(InputError, match="the unit of 'when' is not known: give --time-unit"):
        read_trace(path, columns=given)
    with pytest.raises(InputError, match="time unit 'min' is not known"):
        read_trace(path, columns=given, time_unit="min")  # type: ignore[arg-type]
    hashed = wrote(tmp_path, LINES.replace("}", ', "hash_ids": [1]}'))
    assert last_arrival(hashed, time_unit="s") == 2.0
    assert last_arrival(hashed, time_unit="ms") == pytest.approx(2e-3)


def test_a_unit_that_the_name_of_the_column_denies_is_refused(tmp_path: Path) -> None:
    path = wrote(tmp_path, "sent_ms,p,a\n0,3,4\n2000,3,4\n")
    given = {"arrival": "sent_ms", "input": "p", "output": "a"}
    assert last_arrival(path, columns=given, time_unit="ms") == 2.0
    with pytest.raises(InputError, match="'sent_ms' says ms, and --time-unit s was given"):
        read_trace(path, columns=given, time_unit="s")


@pytest.mark.parametrize(
    ("columns", "culprit"),
    [
        ({"arival": "when"}, "did you mean arrival"),
        ({"arrival": "whe"}, "no column 'whe' for arrival: did you mean when"),
        ({"arrival": "when", "input": "p"}, "no column is given for output"),
    ],
)
def test_columns_that_are_not_there_are_refused(tmp_path: Path, columns: dict[str, str], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        read_trace(wrote(tmp_path, "when,p,a\n0,3,4\n"), columns=columns)


def test_a_trace_with_fewer_requests_than_are_asked_for_is_refused(tmp_path: Path) -> None:
    path = wrote(tmp_path, GENERIC + "0,3,4\n2,3,4\n")
    assert len(read_trace(path, requests=2)) == 2
    with pytest.raises(InputError, match=r"holds 2 requests .* and 3 are asked for: give --requests 2"):
        read_trace(path, requests=3)
    with pytest.raises(InputError, match="holds 2 requests with an answer, and 3 are asked for"):
        read_trace(wrote(tmp_path, FAILED), requests=3, drop_failed=True)


def test_failed_requests_are_left_out_on_request(tmp_path: Path) -> None:
    path = wrote(tmp_path, FAILED)
    with pytest.raises(InputError, match=r"row 1 \(line 2\): Response tokens is 0.* \(2\) out with --drop-failed"):
        read_trace(path)
    read = read_trace(path, drop_failed=True)
    assert read.arrival_seconds.tolist() == [0.0, 113.0]
    assert read.output_tokens.tolist() == [18, 276]
    assert read.source == f"{path} without 2 failed requests"
    assert read_trace(path, drop_failed=True, requests=1).output_tokens.tolist() == [18]
    none = wrote(tmp_path, GENERIC + "0,3,4\n2,3,4\n")
    assert len(read_trace(none, drop_failed=True, requests=1)) == 1
    assert read_trace(none, drop_failed=True).source == str(none)
    late = wrote(tmp_path, GENERIC + "0,3,0\n2,3,4\n1,3,4\n")
    with pytest.raises(InputError, match=r"row 3 \(line 4\) arrives before"):
        read_trace(late, drop_failed=True)
    with pytest.raises(InputError, match="no requests are left"):
        read_trace(wrote(tmp_path, GENERIC + "0,3,0\n"), drop_failed=True)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4b\nsize 52283111\n",
            "is a Git LFS pointer and not the trace",
        ),
        (b"PAR1\x15\x04", "is a parquet file"),
        (b"PK\x03\x04...", "is a zip archive"),
        (b"<!DOCTYPE html><html>", "is a page of the web"),
        (b"[" + LINES.encode() + b"]", "is one JSON array"),
        (GENERIC.encode("utf-16"), "is in UTF-16"),
        (gzip.compress(LINES.encode(), mtime=0)[:-12], "broken gzip"),
    ],
)
def test_what_is_no_trace_is_refused_by_its_true_name(tmp_path: Path, content: bytes, name: str) -> None:
    path = wrote(tmp_path, content)
    with pytest.raises(InputError, match=name) as refused:
        read_trace(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_missing_files_and_impossible_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    with pytest.raises(InputError, match="No such file"):
        read_trace(path)
    path.write_text(GENERIC + "1,2,3\n")
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="time scale"):
            read_trace(path, time_scale=bad)
    with pytest.raises(InputError, match="requests 0"):
        read_trace(path, requests=0)
