"""Where something was measured: the processor, its cores, other work on them, and versions. Knows no model."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as its maker calls it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions by name of Python, torch, transformers and this package."""
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "pearl-specdec")}}


class OtherWork:
    """What other processes take of the machine from now on, while `cores` cores are needed here.

    Work on cores that are left over does no harm, and is not counted.
    """

    def __init__(self, cores: int) -> None:
        self._cores, self._spare = cores, max(0, (psutil.cpu_count() or cores) - cores)
        self._all, self._own, self._since = _busy_seconds(), _own_seconds(), time.perf_counter()

    def share(self) -> float:
        """Share of the needed cores that other processes took, on average since this was made."""
        seconds = time.perf_counter() - self._since
        others = (_busy_seconds() - self._all) - (_own_seconds() - self._own)
        return min(1.0, max(0.0, others / seconds - self._spare) / self._cores) if seconds > 0 else 0.0


def _busy_seconds() -> float:
    """Seconds in which cores of the machine have worked, all together."""
    spent = psutil.cpu_times()
    return sum(getattr(spent, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))


def _own_seconds() -> float:
    """Seconds in which cores have worked for this process and those that it started."""
    this, total = psutil.Process(), 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error):  # it ended just now
            spent = process.cpu_times()
            total += spent.user + spent.system
    return total
