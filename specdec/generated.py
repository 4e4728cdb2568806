"""`Generated`, a text with the counts of its decode as a frozen report: what `specdec generate --json` writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specdec.report import Report, share, spelled, three_digits
from specdec.summary import DecodeSummary, DescribedPair, StrategySetting

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Report):
    """How the text was decoded. A sampling option is null if it was not used.

    `temperature`          0 is greedy
    `top_k`                number of likeliest tokens that were kept
    `top_p`                probability mass of the likeliest tokens that were kept
    `min_p`                least probability of kept tokens, as a share of the largest
    `repetition_penalty`   above 1, tokens that are in the context were made less likely
    `max_new_tokens`       budget of tokens
    `verification`         name of the rule that accepts drafted tokens
    `seed`                 gives the same tokens again, except for strategies that race (`elastic`)
    """

    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int
    verification: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class GenerateStatistics(DecodeSummary):
    """The counts of the decode.

    `tokens_per_second`   prefill excluded
    `drafted_tokens`      number of drafted tokens, wasted ones included
    """

    tokens_per_second: float
    drafted_tokens: int


@dataclass(frozen=True, kw_only=True)
class Generated(StrategySetting):
    """A text, and how it was decoded.

    `prompt`        the text that was continued; of a conversation, what the chat template made of it
    `text`          what was generated
    `tokens`        its token ids
    `finished_by`   `"eos"`, `"length"`, `"stop"`, or null when a person interrupted it
    `settings`      sampling, budget, rule and seed
    `pair`          the two models
    `statistics`    counts, speed and idle times
    """

    format: ClassVar[str] = "specdec.generate/1"

    prompt: str
    text: str
    tokens: tuple[int, ...]
    finished_by: str | None
    settings: GenerateSettings
    pair: DescribedPair
    statistics: GenerateStatistics

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        counts = self.statistics
        return Text.assemble(
            (spelled(self.strategy, self.parameters), "bold"),
            f": {len(self.tokens)} tokens ({self.finished_by or 'interrupted'}), "
            f"{three_digits(counts.tokens_per_second)} tokens/s\n"
            f"{counts.rounds} rounds, mean acceptance length {counts.mean_acceptance_length:.2f}, "
            f"{share(counts.draft_acceptance_rate)} of {counts.drafted_tokens} drafted tokens accepted; "
            f"idle: target {share(counts.target_idle_share)}, draft {share(counts.draft_idle_share)}",
        )
