"""Benchmarks of a minuscule pair, for all tests of the benchmark; the pair itself is a fixture of `tests/bench/conftest.py`."""

from __future__ import annotations

from typing import Any

from specdec import DecodingStrategy, Pair, Statistics, create
from specdec.bench import BASELINE, Benchmark, BenchReport, Contender, report_of
from specdec.bench.values import PairSteps
from specdec.output import Result

TEXTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
"""Prompts as token ids."""

MEASURED = PairSteps(
    target_step_seconds=0.5,
    target_window_seconds={1: 0.5, 4: 0.75},
    draft_step_seconds=0.125,
    speed_ratio=4.0,
    acceptance_rate=0.5,
    acceptance_rate_by_temperature={"0": 0.25, "1": 0.5},
)


def strategies() -> list[DecodingStrategy]:
    """The baseline and two that draft."""
    return [create(BASELINE), create("speculative", draft_length=2), create("pearl", draft_length=3)]


def small(pair: Pair, **options: Any) -> Benchmark:
    """A benchmark of two repeats, not run yet; `options` are those of `bench`."""
    settings: dict[str, Any] = {
        "strategies": strategies(),
        "texts": TEXTS,
        "temperatures": (0.0, 1.0),
        "max_new_tokens": 6,
        "repeats": 2,
        "seconds": float("inf"),
        "verification": "token",
        "seed": 0,
        "peers": (),
    }
    return Benchmark(pair, **{**settings, **options})


def finished(benchmark: Benchmark) -> Benchmark:
    """The same, run to its end."""
    for _ in benchmark:
        pass
    return benchmark


def reported(pair: Pair, **options: Any) -> BenchReport:
    """The report of a small benchmark."""
    return report_of(finished(small(pair, **options)))


def made_up(pair: Pair, lined_up: list[DecodingStrategy], seconds: tuple[float, ...], **options: Any) -> Benchmark:
    """A benchmark of three repeats in which each contender took the given seconds for two tokens."""
    benchmark = small(pair, strategies=lined_up, temperatures=(1.0,), texts=[[1]], repeats=3, **options)
    benchmark.measured = MEASURED
    for _ in range(3):
        decoded: dict[Contender, Result] = {}
        for contender, taken in zip(benchmark.contenders, seconds, strict=True):
            statistics = Statistics(new_tokens=2, decode_seconds=taken)
            statistics.count_forward(2, taken)
            decoded[contender] = Result((1, 2), "", "length", statistics)
        benchmark.decodes.append(decoded)
    return benchmark
