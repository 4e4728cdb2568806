"""Where a command writes: reports and text for people, JSON for programs, and progress."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from specdec.errors import InputError
from specdec.report import WIDTH, Report

T = TypeVar("T")

SILENT_SECONDS = 60.0
"""How long a log, unlike a terminal, may get no line about the progress."""

LOADING = "loading torch, transformers and the models"


class Terminal:
    """Where one command writes.

    `json` is a path, `"-"` for standard output, or `None`. The path is tested before the work, so that no result is lost. With
    `"-"`, the JSON is all that is written, but for progress, remarks and errors: no report and no text for people.

    `console`   for people: reports and text
    `errors`    for people, on standard error: progress and remarks
    `notes`     for people, on standard error: what belongs to the report and not on standard output
    """

    def __init__(self, json: str | None = None) -> None:
        self._json = json
        alone = json == "-"
        self.console, self.errors, self.notes = console(quiet=alone), console(stderr=True), console(stderr=True, quiet=alone)
        if json is not None and json != "-":
            _try_to_write(Path(json))

    def report(self, result: Report) -> None:
        """Print `result`, and write it as JSON, if JSON was asked for."""
        self.console.print(result)
        self.write(result.to_dict())

    def write(self, value: Any) -> None:
        """Write `value` as JSON, if JSON was asked for."""
        if self._json is None:
            return
        text = json.dumps(value, indent=2) + "\n"
        if self._json == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        try:
            Path(self._json).write_text(text)
        except OSError as error:
            raise _unwritable(self._json, error) from error

    @contextmanager
    def doing(self, what: str) -> Generator[None]:
        """While the block runs, say on a terminal what is being done."""
        if not self.errors.is_terminal:
            yield
            return
        with self.errors.status(what, spinner="line"):
            yield

    def follow(self, steps: Iterable[T], total: int) -> Iterator[T]:
        """Yield `steps`, and show each as text next to a progress bar: a `specdec.report.Progress`.

        Where standard error is no terminal, a line now and then says how far it is.
        """
        if not self.errors.is_terminal:
            yield from self._logged(steps, total)
            return
        columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=self.errors, transient=True) as progress:
            task = progress.add_task("", total=total)
            for step in steps:
                progress.update(task, description=str(step))
                yield step
                progress.advance(task)

    def _logged(self, steps: Iterable[T], total: int) -> Iterator[T]:
        last = start = time.monotonic()
        for done, step in enumerate(steps):
            now = time.monotonic()
            if now - last >= SILENT_SECONDS:
                last = now
                self.errors.print(f"{done} of {total} steps done in {(now - start) / 60:.0f} min; now: {step}", markup=False)
            yield step


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console as wide as the terminal, or as a printed report if there is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, quiet=quiet, width=None if stream.isatty() else WIDTH, highlight=False)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Delay Ctrl-C to the end of the block, so that all text that was written is counted as written."""
    held: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held:
        raise KeyboardInterrupt


def _try_to_write(path: Path) -> None:
    there = path.exists()
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error
    if not there:
        path.unlink(missing_ok=True)  # under torchrun several processes try


def _unwritable(path: str | Path, error: OSError) -> InputError:
    return InputError(f"cannot write JSON to '{path}' ({error.strerror}): give a path in an existing, writable folder, or -")
