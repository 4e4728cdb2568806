"""The edges of a command: extreme numbers, streams that are closed or full, arguments that are no text, an early Ctrl-C."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from command_line import Ran, assert_one_line, with_entry_points

from specdec import InputError, KnownFacts, SpeedRatio
from specdec.cli import edges

SIMULATE = "simulate --acceptance 0.8 --draft-step 1ms --target-step 5ms"
HUGE = "1" + 30 * "0"


@pytest.fixture(autouse=True)
def one_line_for_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(edges.TRACEBACK, raising=False)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (f"{SIMULATE} --draft-length {HUGE}", [f"draft length {HUGE}", "at most 1000"]),
        (f"{SIMULATE} --draft-length 1001", ["draft length 1001", "at most 1000"]),
        (f"{SIMULATE} --strategy elastic --set most_drafted=1001", ["most_drafted 1001", "at most 1000"]),
        (f"{SIMULATE} --strategy prompt_lookup --set draft_length=1001", ["draft_length 1001", "at most 1000"]),
        ("bench --draft-lengths 1-100000000000000", ["draft length '1-100000000000000'", "from 1 to 1000"]),
        (f"bench --draft-lengths {5000 * '9'}", ["from 1 to 1000"]),
        ("prove pearl --set draft_length=13", ["draft length 13", "at most 12"]),
        (f"{SIMULATE} --tokens {HUGE}", ["'--tokens'", "10000000"]),
        (f"generate hello --target {300 * 'x'}", ["xxx...xxx", "check the"]),
        (f"generate --prompt-file {300 * 'x'}", ["File name too long"]),
    ],
)
def test_extreme_values_are_one_line(run: Callable[..., Ran], arguments: str, parts: list[str]) -> None:
    assert_one_line(run(*arguments.split()), *parts)


def test_a_ratio_beyond_the_longest_draft_gives_that_one() -> None:
    assert [SpeedRatio().init(KnownFacts(ratio)) for ratio in (1e-320, 7.4, 1e9, math.inf)] == [1, 7, 1000, 1000]
    with pytest.raises(InputError, match="speed ratio nan gives no draft length"):
        SpeedRatio().init(KnownFacts(math.nan))


def test_a_long_message_is_cut_in_the_middle(run: Callable[..., Ran]) -> None:
    ran = run(50_000 * "x")
    assert_one_line(ran, "unknown command", "x...x")
    assert len(ran.err) < 1000


def boom(what: str) -> None:
    """Fail."""
    match what:
        case "memory":
            raise MemoryError
        case "allocation":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        case "overflow":
            raise OverflowError("int too large to convert to float")
        case "depth":
            raise RecursionError
        case "disk":
            raise OSError(28, "No space left on device", "result.json")
        case "interrupted import":
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt:
                raise ImportError("half a module") from None
        case "dependency":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        case "module":
            raise ModuleNotFoundError("No module named 'mine'", name="mine")
        case _:
            raise ZeroDivisionError("division by zero")


@pytest.fixture
def fail(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    with_entry_points(monkeypatch, "specdec.plugins", EntryPoint("boom", f"{__name__}:boom", "specdec.commands"))
    return lambda *arguments: run("boom", *arguments)


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("memory", ["not enough memory", "lower the sizes"]),
        ("allocation", ["not enough memory", "lower the sizes"]),
        ("overflow", ["out of the range", "nearer to 1"]),
        ("depth", ["nested too deeply", "flatter"]),
        ("disk", ["'result.json'", "No space left", "check the path"]),
        ("dependency", ["this needs torch, which is not installed", "install pearl-specdec with its dependencies"]),
        ("module", ["this is a bug", "No module named 'mine'"]),
        ("bug", ["this is a bug", "ZeroDivisionError: division by zero", "test_edges.py line", "SPECDEC_TRACEBACK=1"]),
    ],
)
def test_what_no_command_foresaw_is_one_line(fail: Callable[..., Ran], what: str, parts: list[str]) -> None:
    assert_one_line(fail(what), *parts)


def test_an_import_that_was_interrupted_is_ctrl_c(fail: Callable[..., Ran]) -> None:
    assert fail("interrupted import") == Ran(130, "", "")


def test_a_bug_shows_its_traceback_where_that_is_asked_for(fail: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(edges.TRACEBACK, "1")
    with pytest.raises(ZeroDivisionError):
        fail("bug")


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        (["--tokens", "20", "--draft-step", "1e-300s"], "--draft-step 1e-300s"),
        ([f"--tokens={HUGE}", "--seed", "1"], f"--tokens={HUGE}"),
        (["--acceptance", "0.8", "-1e308"], "-1e308"),
        (["--seed", 400 * "9"], f"--seed {400 * '9'}"),
        (["hello", "--tokens", "200"], "the sizes that were given"),
    ],
)
def test_the_most_extreme_number_is_named(typed: list[str], named: str) -> None:
    assert edges.most_extreme(typed) == named


def test_standard_input_that_is_no_utf8_is_refused(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("café".encode("latin-1"))))
    assert_one_line(run("generate", "-"), "standard input", "UTF-8")


def test_closed_standard_input_is_refused(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert_one_line(run("generate", "-"), "standard input", "closed")


def test_an_argument_that_is_no_utf8_is_refused(run: Callable[..., Ran]) -> None:
    assert_one_line(run("generate", os.fsdecode(b"caf\xe9")), "argument 2", "not UTF-8")


# --- in an interpreter of its own

SCRIPT = "import sys; from specdec_command import main; sys.exit(main())"


def shell(redirection: str, *arguments: str, **environment: str) -> Any:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-W", "error", "-c", SCRIPT, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=buffered | environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">&-", "specdec: standard output is closed: send it to a file, or to /dev/null\n"),
        (
            ">/dev/full",
            "specdec: standard output cannot be read or written (No space left on device): send it to where there is room\n",
        ),
        ("2>/dev/full", ""),
        ("2>&-", ""),
    ],
)
def test_standard_streams_that_are_closed_or_full(redirection: str, told: str) -> None:
    command = ["strategies"] if redirection.startswith(">") else ["strategie"]
    ran = shell(redirection, *command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", told)


def test_a_terminal_of_another_encoding_shows_what_it_can() -> None:
    ran = shell("", "strategies", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "pearl" in ran.stdout


def test_ctrl_c_while_the_command_is_being_imported() -> None:
    script = (
        "import sys, os, signal\n"
        "class Press:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == os.environ['AT']: signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n" + SCRIPT
    )
    began = time.monotonic()
    for module in ("specdec.effects", "typer", "specdec.cli.console"):
        ran = subprocess.run(
            [sys.executable, "-c", script, "strategies"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "AT": module},
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (128 + signal.SIGINT, "", ""), module
    assert time.monotonic() - began < 60
