"""The command line in processes of its own: a reader that leaves, and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran

SPECDEC = [sys.executable, "-W", "error", "-c", "import sys; from specdec.cli import main; sys.exit(main())"]


def test_a_reader_that_leaves_is_no_error() -> None:
    process = subprocess.Popen([*SPECDEC, "strategies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def interrupted(arguments: list[str], ready: Callable[[str, str], bool]) -> Ran:
    """Run a command with the error stream on a terminal, send it Ctrl-C once it is `ready`, and see its workers gone."""
    terminal, ours = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([*SPECDEC, *arguments], stdout=subprocess.PIPE, stderr=ours, env=environment)
    os.close(ours)
    assert process.stdout is not None
    streams = {process.stdout.fileno(): b"", terminal: b""}
    workers: list[int] = []
    out = err = ""
    deadline = time.monotonic() + 90
    try:
        unfinished = [*streams]
        while unfinished:
            assert time.monotonic() < deadline, streams
            for stream in select.select(unfinished, [], [], 0.1)[0]:
                new = read(stream)
                streams[stream] += new
                if not new:
                    unfinished.remove(stream)
            out, err = (streams[stream].decode(errors="replace") for stream in streams)
            if not workers and ready(out, err):
                workers = children(process.pid)
                process.send_signal(signal.SIGINT)
        code = process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(terminal)
    assert workers
    while not all(gone(worker) for worker in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)
    assert "Traceback" not in err
    return Ran(code, out, err)


def read(stream: int) -> bytes:
    try:
        return os.read(stream, 4096)
    except OSError:  # what a terminal says at its end
        return b""


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for workers in /proc")


@needs_proc
def test_interrupted_generate_keeps_the_text(pair: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    options = ["--draft-length", "2", "--max-new-tokens", "39000", "--lane", "process", "--json", str(target)]
    ran = interrupted(["generate", "hello", *pair, *options], lambda out, err: len(out) >= 40)
    report = json.loads(target.read_text())
    assert ran.code == 130
    assert report["finished_by"] is None
    assert 40 <= len(report["tokens"]) < 39000
    assert ran.out == report["text"] + "\n"
    assert f"{len(report['tokens'])} tokens (interrupted)" in ran.err


@needs_proc
def test_interrupted_bench_shows_what_was_measured(pair: list[str], tmp_path: Path) -> None:
    target, prompts = tmp_path / "out.json", tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    options = [
        "--strategy",
        "speculative",
        "--draft-lengths",
        "1",
        "--temperature",
        "0",
        "--repeats",
        "9999",
        "--lane",
        "process",
    ]
    arguments = ["bench", *pair, *options, "--seconds", "999", "--max-new-tokens", "4", "--prompts", str(prompts)]
    ran = interrupted([*arguments, "--json", str(target)], lambda out, err: bool(re.search(r"repeat ([3-9]|\d\d+) of", err)))
    report = json.loads(target.read_text())
    assert ran.code == 130
    assert report["settings"]["interrupted"] is True
    assert 2 <= report["settings"]["repeats"] < 9999
    assert [row["strategy"] for row in report["results"]] == ["autoregressive", "speculative"]
    assert "Greedy" in ran.out


@needs_proc
def test_interrupted_prove_shows_what_was_proved() -> None:
    ran = interrupted(
        ["prove", "pearl", "speculative", "--set", "draft_length=1", "--pairs", "3000"], lambda out, err: "1/6" in err
    )
    assert ran.code == 130
    assert re.search(r"(\d+) of \1 laws equal", ran.out)
