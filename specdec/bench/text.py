"""A benchmark as text: the tables, the sentences, and what the columns mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.bench.values import BASELINE, BenchResult, GreedyCheck, Noise, PairSteps, Ranking, Slower
from specdec.profile import busy_sentence
from specdec.report import milliseconds, share, table, three_digits

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

WIDE = 100
"""Terminals of at least this many columns show overhead and prediction too."""

SLOWED = 1.15
"""How many times longer than beforehand forwards may take before it is said."""

MORE_COLUMNS = {
    "over\nhead": "Overhead: share of the time in which neither model works. ",
    "pre-\ndicted": "Predicted: tok/s by what was measured beforehand. ",
}
COLUMNS = ("draft\nlength", "tok/s", "speed\n-up", "interval", "accept\nlength", "accept\nrate", "target\nidle", "draft\nidle")


@dataclass(frozen=True)
class ForWidth:
    """What depends on the width of the terminal: `parts(columns)`, one below the other."""

    parts: Callable[[int], Iterable[RenderableType]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Called by rich, which knows the width."""
        yield from self.parts(options.max_width)


def heading(temperature: float) -> str:
    """The kind of decoding, as a title."""
    return "Greedy (temperature 0)" if temperature == 0 else f"Sampled (temperature {temperature:g})"


def pair_sentence(measured: PairSteps | None, synthetic: str) -> str:
    """One sentence: the time of a step of each model, and how often a drafted token is accepted."""
    if measured is None:
        return "nothing yet"
    text = f"target step {milliseconds(measured.target_step_seconds)}"
    if measured.draft_step_seconds is None or measured.acceptance_rate is None:
        return text
    accepted = synthetic or f"acceptance {share(measured.acceptance_rate)} (temperature 1)"
    return f"{text}, draft step {milliseconds(measured.draft_step_seconds)}, ratio {measured.speed_ratio:.1f}, {accepted}"


def more_columns(results: Sequence[BenchResult], columns: int) -> list[str]:
    """The further headings of a wide table; that of predictions only if there are any."""
    predicted = any(result.predicted_tokens_per_second for result in results)
    return list(MORE_COLUMNS)[: 1 + predicted] if columns >= WIDE else []


def results_table(results: Sequence[BenchResult], ranking: Ranking, more: Sequence[str]) -> Table:
    """The table of the results at one temperature; `more` are headings from `more_columns`."""
    shown = [result for result in results if result.temperature == ranking.temperature]
    title = heading(ranking.temperature) + "".join({f", {result.synthetic}" for result in results if result.synthetic})
    made = table("strategy", numbers=(*COLUMNS, *more), title=title, show_edge=False, padding=(0, 1, 0, 0))
    for column in made.columns:
        column.no_wrap = True
    fastest = ranking.fastest.strategy, ranking.fastest.parameters
    for result in shown:
        marked = _is_best(result, ranking) and result.strategy != BASELINE
        style = "bold green" if (result.strategy, result.parameters) == fastest else "bold" if marked else ""
        made.add_row(*_texts(result, marked)[: len(made.columns)], style=style)
    return made


def _texts(result: BenchResult, marked: bool) -> list[str]:
    low, high = result.speedup_over_ar_interval or (None, None)
    drafts = any(accepted != 0 for accepted in result.acceptance_histogram) or result.draft_acceptance_rate > 0
    predicted = result.predicted_tokens_per_second
    return [
        f"{result.strategy}{'' if result.lossless_claimed else ' (lossy)'}{' *' if marked else ''}",
        result.length,
        three_digits(result.tokens_per_second),
        f"{result.speedup_over_ar:.2f}x",
        "" if result.strategy == BASELINE or low is None else f"{low:.2f}-{high:.2f}",
        f"{result.mean_acceptance_length:.2f}",
        share(result.draft_acceptance_rate) if drafts else "-",
        share(result.target_idle_share),
        share(result.draft_idle_share) if result.draft_idle_share < 1 else "-",
        share(result.overhead_share),
        three_digits(predicted) if predicted else "-",
    ]


def summary_table(results: Sequence[BenchResult], rankings: Sequence[Ranking]) -> Table:
    """A row for each strategy, at its best setting for each temperature: times autoregressive decoding, with the interval."""
    made = table("strategy", numbers=[heading(ranking.temperature) for ranking in rankings], title="Each at its best setting")
    best = [
        [result for result in results if result.temperature == ranking.temperature and _is_best(result, ranking)]
        for ranking in rankings
    ]
    for name in dict.fromkeys(result.strategy for result in results):
        cells = ["".join(_at_best(result) for result in leaders if result.strategy == name) or "-" for leaders in best]
        made.add_row(name, *cells)
    return made


def _is_best(result: BenchResult, ranking: Ranking) -> bool:
    """Whether no other setting of its strategy is faster."""
    return (result.strategy, result.parameters) in [
        (leader.strategy, leader.parameters) for leader in (ranking.fastest, *ranking.against)
    ]


def _at_best(result: BenchResult) -> str:
    if result.strategy == BASELINE:
        return f"{three_digits(result.tokens_per_second)} tok/s"
    low, high = result.speedup_over_ar_interval or (None, None)
    interval = "" if low is None else f" ({low:.2f}-{high:.2f})"
    return f"{result.speedup_over_ar:.2f}x{interval}"


def ranking_sentence(ranking: Ranking) -> str:
    """One sentence: which strategy is the fastest, and by how much."""
    how = "greedily" if ranking.temperature == 0 else f"at temperature {ranking.temperature:g}"
    name = ranking.fastest.named
    if not ranking.against:
        return f"Only {name} was measured {how}."
    if ranking.fastest.strategy == BASELINE:
        return f"Nothing beats autoregressive decoding {how}: it is {_list(ranking.against)}."
    doubt = [other.named for other in ranking.against if other.interval is not None and other.interval[0] <= 1]
    unsure = f" (within the noise: {', '.join(doubt)})" if doubt else ""
    if any(other.interval is None for other in ranking.against):
        unsure = " (fewer than three repeats: no interval says how sure this is)"
    return f"{name} is the fastest {how}: {_list(ranking.against)}{unsure}."


def _list(against: Sequence[Slower]) -> str:
    parts = [f"{other.times_as_fast:.2f}x {other.named}" for other in against]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def noise_sentence(noise: Noise, measured: PairSteps | None) -> str:
    """What people must know of a machine that was busy, or became slower than it was beforehand; else empty."""
    beforehand = 0.0 if measured is None or measured.profile is None else measured.profile.busy
    if busy := busy_sentence(max(noise.busy, beforehand)):
        return busy
    if noise.slowed < SLOWED:
        return ""
    return (
        f"Forwards of the target took {noise.slowed:.2f} times as long as beforehand: predictions are too high. "
        "Measure again when the machine is idle."
    )


def greedy_sentence(check: GreedyCheck) -> str:
    """Whether greedy outputs are the target's own."""
    if check.equal:
        return f"Greedy outputs of all strategies equal autoregressive decoding token for token on {check.prompts} prompts."
    ties = sum(difference.tie for difference in check.differences)
    names = ", ".join(sorted({difference.named for difference in check.differences}))
    return (
        f"Greedy outputs differ from autoregressive decoding in {len(check.differences)} case(s), of which {ties} begin at a "
        f"tie of two logits: {names}."
    )


def lossy_sentence(results: Sequence[BenchResult], verification: str) -> str:
    """Which sampled outputs have not the target's law; empty where all are claimed to have it."""
    names = dict.fromkeys(result.strategy for result in results if not result.lossless_claimed and not result.synthetic)
    if not names:
        return ""
    return f"LOSSY, with verification {verification}: outputs of {', '.join(names)} have not the target's law."


def legend(more: Sequence[str]) -> str:
    """What the columns mean."""
    return (
        "tok/s: output tokens a second, median of the repeats. Speed-up: over autoregressive in the same repeat, with a 95 % "
        "interval. Accept length: mean acceptance length, 1 + accepted tokens a round (a PEARL round has no bonus token, so it "
        "commits fewer). Accept rate: share of all drafted tokens. Idle: share of the time in which a model waits. "
        f"{''.join(MORE_COLUMNS[title] for title in more)}* best setting of its strategy."
    )
