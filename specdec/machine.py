"""Where something was measured: the processor, its cores, and the versions that matter for speed. Knows no model."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


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
