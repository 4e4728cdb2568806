"""Strategies measured side by side on one pair: interleaved repeats, paired comparisons.

Speeds are compared within a repeat, and only then summed up: the median over repeats, with a bootstrap interval over prompts
and repeats. The forward over the prompt counts for nobody.

    study       `bench`: strategies and prompts in, a report out
    run         the contenders and the order of decodes
    peers       contenders that are not ours
    compare     speeds and their ratios
    greedy      whether greedy outputs are the target's own
    prediction  what ours ought to reach
    results     from what was decoded to what is reported
    values      the parts of a report
    report      the report, as it is read, written and printed
    text        its tables and sentences
    chart       the same as a picture
"""

from specdec.bench.compare import Speed, compared
from specdec.bench.peers import hugging_face
from specdec.bench.report import BenchReport
from specdec.bench.results import report
from specdec.bench.run import BASELINE, Benchmark, Contender, Decoder, Ours, line_up
from specdec.bench.study import bench

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
    "report",
]
