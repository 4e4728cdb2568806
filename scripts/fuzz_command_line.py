"""Run thousands of bad command lines and files, and see each refused in one line.

    python scripts/fuzz_command_line.py --cases 10000 --seed 1
    python scripts/fuzz_command_line.py --seed 1 --only 1234      # one case again, with its output

Every option of every installed command gets bad values, every file that a command reads is broken in some way, and so are
checkpoints. Most cases run in this process's workers, a few in interpreters of their own, where standard streams are closed or
full, and Ctrl-C comes early. A command that takes long is interrupted, as a person would.

Right is exit code 0, 2 with exactly one line of complaint, 130, or 1 for a claim that `prove` refuted. All else is wrong: a
traceback, a bug that the last net caught, a hang, a process that died, and anything that is left in /dev/shm. Exits with 1 if
anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_inputs import Case, cases_of, make_files, run_apart
from fuzz_values import BASES

SECONDS, GRACE = 4.0, 20.0
"""A command gets so long before Ctrl-C, and so long to end after it."""
PATIENCE = 60.0
"""So long an interpreter of its own may take, before Ctrl-C and after it: it has torch to import."""
MEMORY = 8 << 30
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Ended:
    """How a case ended; `fault` is empty if that was right."""

    number: int
    code: int | str | None
    fault: str
    output: str


def main() -> int:
    """Run the fuzzer; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="run this case alone, and show what it prints")
    options = parser.parse_args()
    began, before = time.monotonic(), left_in_shm()
    numbers = range(options.cases) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        make_files(Path(folder))
        ended = list(run_all(Path(folder), options.seed, list(numbers), options.workers))
    faults = [one for one in ended if one.fault]
    for one in faults if options.only is None else ended:
        print(f"case {one.number}: {one.fault or 'right'} (exit {one.code})\n{one.output}")
    codes = ", ".join(f"{count} x {code}" for code, count in Counter(one.code for one in ended).most_common())
    time.sleep(2)
    left = left_in_shm() - before
    print(f"seed {options.seed}: {len(ended)} cases in {time.monotonic() - began:.0f} s; exit codes: {codes}")
    print(f"{len(faults)} wrong; left in {SHM}: {', '.join(sorted(left)) or 'nothing'}")
    return 1 if faults or left else 0


def left_in_shm() -> set[str]:
    """Names that this project, torch or Python could have made there."""
    mine = (path.name for path in SHM.iterdir()) if SHM.is_dir() else ()
    return {name for name in mine if name.startswith(("specdec", "torch", "psm_", "sem.mp"))}


def run_all(folder: Path, seed: int, numbers: list[int], workers: int) -> Iterator[Ended]:
    """Deal the cases to workers in small hands. A worker that dies or hangs is a fault of its case, and is replaced."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(numbers))
    hands: dict[Connection, Worker] = {}
    done = 0
    while waiting or hands:
        while waiting and len(hands) < workers:
            worker = Worker(context, folder, seed)
            hands[worker.link] = worker
            worker.deal(waiting)
        for link in multiprocessing.connection.wait(list(hands), timeout=1):  # type: ignore[attr-defined]
            worker = hands[link]
            ended = worker.answer()
            yield ended
            done += 1
            if done % 500 == 0:
                print(f"{done} done", file=sys.stderr, flush=True)
            if worker.dead or not waiting:
                worker.end(kindly=True)
                del hands[link]
            else:
                worker.deal(waiting)
        for link, worker in list(hands.items()):
            if worker.overdue:
                worker.end()
                del hands[link]
                yield Ended(worker.number, None, "hangs, even after Ctrl-C", shlex.join(worker.arguments))


class Worker:
    """A process that runs one case after the other, and what it is at."""

    def __init__(self, context: Any, folder: Path, seed: int) -> None:
        self.link, theirs = context.Pipe()
        self._folder, self._seed = folder, seed
        self._process = context.Process(target=work, args=(theirs, folder, seed), daemon=False)
        self._process.start()
        theirs.close()
        self.number, self.dead, self._since, self._first = -1, False, time.monotonic(), True

    def deal(self, waiting: list[int]) -> None:
        self.number, self._since = waiting.pop(), time.monotonic()
        self.link.send(self.number)

    def answer(self) -> Ended:
        self._first = False
        try:
            return self.link.recv()
        except EOFError:
            self.dead = True
            self._process.join()
            return Ended(self.number, None, f"the process died ({self._process.exitcode})", shlex.join(self.arguments))

    @property
    def arguments(self) -> list[str]:
        return [str(argument) for argument in cases_of(self._folder, self._seed, self.number).arguments]

    @property
    def overdue(self) -> bool:
        return time.monotonic() - self._since > SECONDS + GRACE + (200 if self._first else 3 * PATIENCE)

    def end(self, *, kindly: bool = False) -> None:
        if kindly and not self.dead:
            self.link.send(None)
            self._process.join(20)
        self._process.kill()
        self._process.join()


def work(link: Connection, folder: Path, seed: int) -> None:
    """Run cases until the caller goes away."""
    os.chdir(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    os.environ.pop("SPECDEC_TRACEBACK", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    streams = Streams(folder)
    warm_up(streams)
    with contextlib.suppress(EOFError):
        while (number := link.recv()) is not None:
            link.send(run_one(cases_of(folder, seed, number), number, streams))


def warm_up(streams: Streams) -> None:
    """Import what commands import, since Ctrl-C in the middle of an import would spoil all later cases of this process."""
    from specdec.cli import main as command

    for name, lines in BASES.items():
        if name not in ("prove", "profile"):
            streams.begin(b"hello")
            command([name, *lines[-1]])
    import_module("altair")
    import_module("transformers.modeling_utils")


class Streams:
    """Standard streams of this process, as files that are read back."""

    def __init__(self, folder: Path) -> None:
        self._files = [open(folder / f"{os.getpid()}.{stream}", "w+b") for stream in ("in", "out", "err")]  # noqa: SIM115
        for number, file in enumerate(self._files):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115

    def begin(self, typed: bytes) -> None:
        for number in range(3):
            os.ftruncate(number, 0)
            os.lseek(number, 0, os.SEEK_SET)
        os.write(0, typed)
        os.lseek(0, 0, os.SEEK_SET)
        sys.stdin = io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")  # noqa: SIM115

    def end(self) -> tuple[str, str]:
        sys.stdout.flush()
        sys.stderr.flush()
        return tuple(os.pread(number, 1 << 20, 0).decode(errors="replace") for number in (1, 2))  # type: ignore[return-value]


def run_one(case: Case, number: int, streams: Streams) -> Ended:
    """Run a case and judge it."""
    if case.apart:
        code, out, err = run_apart(case, PATIENCE)
    else:
        code, out, err = run_here(case, streams)
    shown = f"  specdec {shlex.join(map(ascii_of, case.arguments))}\n  " + "\n  ".join(err.splitlines()[-12:])
    return Ended(number, code, fault_of(code, out, err), shown)


def run_here(case: Case, streams: Streams) -> tuple[int | str, str, str]:
    from specdec.cli import main as command

    streams.begin(case.typed)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 0.5)
    try:
        code: int | str = command(case.arguments)
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return code, *streams.end()


def fault_of(code: int | str, out: str, err: str) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    if code not in (0, 1, 2, 130):
        return f"ended with {code}"
    if "Traceback" in err or "Traceback" in out:
        return "a traceback"
    if "this is a bug" in err:
        return "a bug that the last net caught"
    lines = [line for line in err.splitlines() if line.startswith("specdec: ")]
    if code == 2 and len(lines) != 1:
        return f"{len(lines)} lines of complaint"
    if code == 1 and "refuted" not in out:
        return "exit code 1"
    return ""


def ascii_of(argument: str) -> str:
    short = argument if len(argument) < 300 else f"{argument[:100]}...({len(argument)} characters)"
    return short.encode("ascii", "backslashreplace").decode()


if __name__ == "__main__":
    sys.exit(main())
