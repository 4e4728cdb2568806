"""Strategies measured side by side on one pair: interleaved repeats, paired comparisons.

A *cell* is one prompt in one repeat. All contenders decode it one after the other, in an order that turns from cell to cell, so
that a machine that is busy elsewhere for a while is busy for all of them. Speeds are compared within a repeat, and only then
summed up: the median over repeats, with a bootstrap interval over prompts and repeats. Speeds leave the prompt's own forward
out, for all alike. Nothing here prints.

    run         the contenders and the order of decodes
    peers       contenders that are not ours
    prediction  what ours ought to reach
    report      what comes out of it, as plain values for JSON
    chart       the same as a picture
"""

from specdec.bench.peers import hugging_face
from specdec.bench.report import Speed, compared, described, report, summary
from specdec.bench.run import BASELINE, Benchmark, Contender, Decoder, Ours, line_up

__all__ = [
    "BASELINE",
    "Benchmark",
    "Contender",
    "Decoder",
    "Ours",
    "Speed",
    "compared",
    "described",
    "hugging_face",
    "line_up",
    "report",
    "summary",
]
