"""Strategies measured side by side on one pair: interleaved repeats, paired comparisons.

Speeds are compared within a repeat, and only then summed up: the median over repeats, with a bootstrap interval over prompts
and repeats. Prefill is excluded.

    study       `bench`: strategies and prompts in, a report out
    run         the contenders and the order of decodes
    peers       contenders of other libraries: `generate` of transformers
    compare     speeds and their ratios
    greedy      whether greedy outputs are the target's own
    prediction  the speed that an installed predictor expects
    results     from a benchmark to its report
    values      the parts of a report
    report      the report, as it is read, written and printed
    text        its tables and sentences
    chart       the same as a picture

A name is imported when it is first used, so reading a `BenchReport` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specdec.bench.compare import Speed, compared
    from specdec.bench.peers import hugging_face
    from specdec.bench.report import BenchReport
    from specdec.bench.results import report_of
    from specdec.bench.run import Benchmark, Contender, Decoder, Ours, line_up
    from specdec.bench.study import bench
    from specdec.bench.values import BASELINE

_NAMES = {
    "compare": "Speed compared",
    "peers": "hugging_face",
    "report": "BenchReport",
    "results": "report_of",
    "run": "Benchmark Contender Decoder Ours line_up",
    "study": "bench",
    "values": "BASELINE",
}
_MODULES = {name: f"specdec.bench.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'specdec.bench' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


__all__ = [
    "BASELINE",
    "BenchReport",
    "Benchmark",
    "Contender",
    "Decoder",
    "Ours",
    "Speed",
    "bench",
    "compared",
    "hugging_face",
    "line_up",
    "report_of",
]
