"""Pictures of the page *Benchmarks*: drawn from a file in benchmarks/results."""

from functools import cache
from pathlib import Path
from typing import Any

from specdec.bench import BenchReport
from specdec.bench.details import DETAILS
from specdec.pictures import Theme

FILE = Path(__file__).resolve().parents[2] / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-26_bench_bfloat16.json"
NAMES = ("length", "prompts", "idle", "position", "predicted")
SAMPLED = 1.0


@cache
def report() -> BenchReport:
    return BenchReport.read(FILE)


def detail(name: str, theme: Theme) -> Any:
    """One of the charts, sampled at temperature 1."""
    return DETAILS[name].draw(report(), SAMPLED, theme)
