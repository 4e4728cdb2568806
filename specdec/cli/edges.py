"""The edges of a command: streams that are closed, full or of another encoding, arguments that are no text, and its last net.

The net is for what no command foresees: numbers too large to compute with, memory that ends, and bugs. Each becomes one line.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import requires
from pathlib import Path
from traceback import format_exception
from typing import TextIO

from specdec.errors import InputError
from specdec.importing import OWN_FILES
from specdec.inputs import is_text

TRACEBACK = "SPECDEC_TRACEBACK"
"""Set this environment variable to see the traceback of a bug instead of its line."""
LONGEST_WORD, LONGEST_LINE = 200, 2000
FRAME = re.compile(r'^ *File "(.+)", line (\d+), in ', re.MULTILINE)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)


def check_streams() -> None:
    """Refuse a closed standard output; let standard error be closed, and let no character be unprintable."""
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the caller: 2>&-
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # lives as long as the process
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  # closed by the caller: >&-
        raise InputError("standard output is closed: send it to a file, or to /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def quiet_libraries() -> None:
    """No warnings of libraries about themselves: torch and torchao log some when they are imported."""
    for name in ("torch.utils._pytree", "torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no UTF-8, which Python hands on as lone surrogates."""
    for number, argument in enumerate(arguments, start=1):
        if not is_text(argument):
            raise InputError(f"argument {number}, {argument!r}, is not UTF-8: write it in UTF-8")


def abandon(stream: TextIO) -> None:
    """Send the rest of a standard stream nowhere, so that the last flush of the interpreter succeeds."""
    with suppress(AttributeError, ValueError, OSError):  # no stream, or one without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def remark(message: object) -> None:
    """Write one line to standard error, if it can be written; very long words are cut in the middle."""
    words = [word if len(word) <= LONGEST_WORD else f"{word[:80]}...{word[-80:]}" for word in str(message).split()]
    line = " ".join(words)
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    try:
        print(f"specdec: {line}", file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is Ctrl-C, or was made of one: a module that is interrupted while it loads may raise another."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def unforeseen(error: Exception, arguments: Sequence[str]) -> str:
    """The line for an error that no command foresaw: what to lower, which file it was, or whose bug it is."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return f"there is not enough memory for this: lower {most_extreme(arguments)}"
    if own := [frame for frame in frames_of(error) if frame[0] in OWN_FILES]:
        return f"{placed(own[-1])}: {type(error).__name__}: {error}: correct it, or see its traceback with {TRACEBACK}=1"
    if isinstance(error, RecursionError):
        return "a file or an argument is nested too deeply: make it flatter"
    if isinstance(error, (OverflowError, FloatingPointError)):
        return f"a number is out of the range that can be computed with: bring {most_extreme(arguments)} nearer to 1"
    if isinstance(error, OSError):
        names = " and ".join(f"'{name}'" for name in (error.filename, error.filename2) if name is not None)
        where, remedy = (names, "check the path") if names else ("standard output", "send it to where there is room")
        return f"{where} cannot be read or written ({reason_of(error)}): {remedy}"
    if isinstance(error, ModuleNotFoundError) and error.name in dependencies():
        return f"this needs {error.name}, which is not installed: install pearl-specdec with its dependencies"
    return (
        f"this is a bug ({type(error).__name__}: {error}, {placed(frames_of(error)[-1])}): "
        f"report the command, and what it prints with {TRACEBACK}=1"
    )


def frames_of(error: Exception) -> list[tuple[str, str]]:
    """File and line of each frame, the innermost last. A worker process that failed sends its frames as text."""
    there = type(error.__cause__).__name__ == "_RemoteTraceback"
    lines = [str(error.__cause__)] if there else format_exception(error, chain=False)
    return FRAME.findall("".join(lines))


def placed(frame: tuple[str, str]) -> str:
    file, line = frame
    return f"{Path(file).name} line {line}"


def dependencies() -> set[str]:
    """Names of the distributions that this one requires, without those of its extras."""
    required = (one for one in requires("pearl-specdec") or () if "extra ==" not in one)
    return {re.split(r"[^\w-]", one, maxsplit=1)[0] for one in required}


def reason_of(error: OSError) -> str:
    """Why a file could not be read or written, in a few words."""
    return error.strerror or str(error) or errno.errorcode.get(error.errno or 0, "unknown")


def most_extreme(arguments: Sequence[str]) -> str:
    """The argument that holds the number farthest from 1, with its option; what to look for if there is none."""
    farthest, found = 3.0, "the sizes that were given"
    for before, argument in zip(("", *arguments), arguments, strict=False):
        for text in NUMBER.findall(argument):
            size = abs(math.log10(abs(number))) if 0 < abs(number := as_float(text)) < math.inf else len(text)
            if size > farthest:
                option = f"{before} " if before.startswith("--") and not argument.startswith("-") else ""
                farthest, found = size, f"{option}{argument}"
    return found


def as_float(text: str) -> float:
    try:
        return float(text)
    except (ValueError, OverflowError):
        return math.inf
