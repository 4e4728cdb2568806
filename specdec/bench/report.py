"""`BenchReport`, the result of a benchmark: what `specdec bench` prints, and `specdec bench --json` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from specdec.bench.text import (
    ForWidth,
    greedy_sentence,
    legend,
    lossy_sentence,
    more_columns,
    noise_sentence,
    pair_sentence,
    ranking_sentence,
    results_table,
    summary_table,
)
from specdec.bench.values import (
    BenchHardware,
    BenchResult,
    BenchSettings,
    GreedyCheck,
    Noise,
    PairSteps,
    PeerComparison,
    Ranking,
)
from specdec.report import Report, spelled
from specdec.summary import DescribedPair

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class BenchReport(Report):
    """Strategies measured side by side. Times are in seconds, speeds in tokens per second.

    `pair`           the two models
    `hardware`       where, with which versions and when it was measured
    `settings`       what all contenders had in common
    `measured`       the pair before the benchmark; null if it was interrupted earlier
    `noise`          what other work on the machine did to it
    `results`        one for each strategy or peer, setting and temperature; none if no prompt was decoded by all of them
    `ranking`        the best setting of each strategy, for each temperature
    `against`        each peer compared with our strategy of the same algorithm
    `greedy_check`   whether greedy outputs equal the autoregressive ones; null if nothing was decoded greedily, and if
                     acceptance was forced
    """

    format: ClassVar[str] = "specdec.bench/1"

    pair: DescribedPair
    hardware: BenchHardware
    settings: BenchSettings
    measured: PairSteps | None
    results: tuple[BenchResult, ...]
    ranking: tuple[Ranking, ...]
    against: tuple[PeerComparison, ...] = ()
    noise: Noise = field(default_factory=Noise)
    greedy_check: GreedyCheck | None = None

    def __rich__(self) -> RenderableType:
        return ForWidth(self._parts)

    def _parts(self, columns: int) -> Iterator[RenderableType]:
        from rich.text import Text

        hardware, settings = self.hardware, self.settings
        head = {
            "Pair": str(self.pair),
            "Machine": f"{hardware.cpu}, {hardware.cores} cores, torch {hardware.torch}",
            "Measured": pair_sentence(self.measured, settings.synthetic),
        }
        if self.results:
            head["Settings"] = (
                f"{settings.prompts} prompts, up to {settings.max_new_tokens} tokens each, "
                f"{settings.repeats} of {settings.repeats_planned} repeats; {settings.target_threads} target thread(s), "
                f"draft lane: {settings.draft_lane or 'none'}{'; eager forwards' if any(settings.why_eager.values()) else ''}"
            )
            if settings.checkpoint:
                head["Kept"] = spelled("settings of the checkpoint:", settings.checkpoint)
        for name, text in head.items():
            yield Text.assemble((name.ljust(10), "bold"), text)
        if not self.results:
            yield "Nothing was measured to the end: no table."
            return
        more = more_columns(self.results, columns)
        for ranking in self.ranking:
            peers = [str(entry) for entry in self.against if entry.temperature == ranking.temperature]
            yield from ("", results_table(self.results, ranking, more), "")
            yield Text("\n".join([ranking_sentence(ranking), *peers]), "bold")
        yield ""
        if noise := noise_sentence(self.noise, self.measured):
            yield Text(noise, "bold")
        if lossy := lossy_sentence(self.results, self.settings.verification):
            yield Text(lossy, "bold red")
        if self.greedy_check is not None:
            yield greedy_sentence(self.greedy_check)
        yield Text(legend(more), "dim")
        if any(ranking.against for ranking in self.ranking):
            yield from ("", summary_table(self.results, self.ranking))
