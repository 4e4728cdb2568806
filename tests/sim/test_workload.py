"""Requests: the drawn ones have the law that was asked for, the read ones are those of the file, and bad input is refused."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload, read_trace
from specdec import InputError

TRACES = Path(__file__).parent.parent / "data"
GENERIC = "timestamp,input_length,output_length\n"


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.5])
def test_gaps_have_the_rate_and_the_cv_that_were_asked_for(cv: float) -> None:
    times = Arrivals(5.0, cv).seconds(200_000, np.random.default_rng(0))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 5, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.02, abs=1e-9)


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.5])
def test_lengths_have_the_mean_and_the_cv_that_were_asked_for(cv: float) -> None:
    tokens = Lengths(200, cv).tokens(200_000, np.random.default_rng(0))
    assert tokens.min() >= 1
    assert tokens.mean() == pytest.approx(200, rel=0.02)
    assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.03, abs=1e-9)


def test_a_seed_fixes_the_workload_and_lengths_do_not_move_arrivals() -> None:
    def drawn(seed: int, output: Lengths) -> Workload:
        return Traffic(Arrivals(3.0), Lengths(100, 1.0), output, 50).workload(np.random.SeedSequence(seed))

    once, again, other = drawn(1, Lengths(20, 1.0)), drawn(1, Lengths(20, 1.0)), drawn(2, Lengths(20, 1.0))
    assert np.array_equal(once.arrival_seconds, again.arrival_seconds)
    assert np.array_equal(once.output_tokens, again.output_tokens)
    assert not np.array_equal(once.arrival_seconds, other.arrival_seconds)
    longer = drawn(1, Lengths(40, 0.5))
    assert np.array_equal(once.arrival_seconds, longer.arrival_seconds)
    assert np.array_equal(once.input_tokens, longer.input_tokens)


FILES = {
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.1805900,396,109\n"
    ),
    "azure, 2024": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 23:59:59+00:00,374,44\n2024-05-11 00:00:02.500000+00:00,396,109\n"
    ),
    "mooncake": (
        '{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [0]}\n'
        '{"timestamp": 4500, "input_length": 396, "output_length": 109, "hash_ids": [0, 1]}\n'
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


def test_the_mooncake_trace_is_in_milliseconds() -> None:
    path = TRACES / "mooncake_conversation_first_20.jsonl"
    read = read_trace(path)
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
    "a failed request": (GENERIC + "1,2,0\n", "row 1 (line 2): output_length is 0"),
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


def test_missing_files_and_impossible_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    with pytest.raises(InputError, match="No such file"):
        read_trace(path)
    path.write_text(GENERIC + "1,2,3\n")
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="time scale"):
            read_trace(path, time_scale=bad)
        with pytest.raises(InputError, match="arrival rate"):
            Arrivals(bad)
    with pytest.raises(InputError, match="requests 0"):
        read_trace(path, requests=0)
    with pytest.raises(InputError, match="requests 0"):
        Traffic(Arrivals(1.0), Lengths(10), Lengths(10), 0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(InputError, match="cv"):
            Arrivals(1.0, bad)
        with pytest.raises(InputError, match="cv"):
            Lengths(10, bad)
    with pytest.raises(InputError, match="mean length"):
        Lengths(0)
    with pytest.raises(InputError, match="request 1 arrives before"):
        Workload(np.array([1.0, 0.5]), np.array([1, 1]), np.array([1, 1]))
    with pytest.raises(InputError, match="differ in shape"):
        Workload(np.array([1.0]), np.array([1, 1]), np.array([1, 1]))
