"""The benchmark as a study: a function of values that returns a frozen report.

with Pair.bundled() as pair:
    report = bench(pair, [create("pearl"), create("speculative", draft_length=4)], ["def add(a, b):"], repeats=3)
print(report)
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.bench.report import BenchReport
from specdec.bench.results import report
from specdec.bench.run import Benchmark, Decoder
from specdec.pair import Pair
from specdec.report import Progress, no_progress
from specdec.strategy import DecodingStrategy


def bench(
    pair: Pair,
    strategies: Sequence[DecodingStrategy],
    prompts: Sequence[str | Sequence[int]],
    *,
    temperatures: Sequence[float] = (0.0, 1.0),
    max_new_tokens: int = 64,
    repeats: int = 3,
    seconds: float = float("inf"),
    verification: str = "token",
    seed: int = 0,
    peers: Sequence[Decoder] = (),
    prompts_file: str = "",
    progress: Progress = no_progress,
) -> BenchReport:
    """Measure strategies side by side; autoregressive decoding is always measured too.

    `strategies`       to compare, such as those of `line_up`
    `prompts`          texts, or token ids
    `temperatures`     0 is greedy
    `max_new_tokens`   of each output
    `repeats`          of all prompts
    `seconds`          bounds the decoding; the first repeat is then cut short rather than left out
    `verification`     a rule, or forced acceptance, as for `specdec.decode`
    `seed`             of the first decode
    `peers`            contenders that are not ours, such as those of `hugging_face`
    `prompts_file`     what the report calls the prompts
    `progress`         is passed the steps, one for each decode

    Ctrl-C ends the benchmark early. The report then holds what was measured by then, and its `settings.interrupted` is true.
    """
    benchmark = Benchmark(pair, strategies, prompts, temperatures, max_new_tokens, repeats, seconds, verification, seed, peers)
    interrupted = False
    try:
        for _ in progress(benchmark, len(benchmark)):
            pass
    except KeyboardInterrupt:
        interrupted = True
    return report(benchmark, prompts_file=prompts_file, interrupted=interrupted)
