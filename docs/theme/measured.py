"""Pictures of the page *Benchmarks*: drawn from a file in benchmarks/results."""

from functools import cache
from pathlib import Path
from typing import Any

from specdec.bench import BenchReport
from specdec.bench.details import idle_chart, length_chart, position_chart, predicted_chart
from specdec.pictures import Theme

FILE = Path(__file__).resolve().parents[2] / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-24_bench_bfloat16.json"
DETAILS = {"length": length_chart, "idle": idle_chart, "position": position_chart, "predicted": predicted_chart}
SAMPLED = 1.0


@cache
def report() -> BenchReport:
    return BenchReport.read(FILE)


def detail(name: str, theme: Theme) -> Any:
    """One of the charts, sampled at temperature 1."""
    return DETAILS[name](report(), SAMPLED, theme)
