"""`Generated`, a text with the counts of its decode as a frozen report: what `specdec generate --json` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.report import Report, share, spelled, three_digits
from specdec.summary import DecodeSummary, DescribedPair, StrategySetting

if TYPE_CHECKING:
    from rich.console import RenderableType

    from specdec.settings import Settings


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Report):
    """How the text was decoded: what the options said, and else what the checkpoint says. A setting is null if it was not used.

    `temperature`          0 is greedy
    `top_k`                number of likeliest tokens that were kept
    `top_p`                probability mass of the likeliest tokens that were kept
    `min_p`                least probability of kept tokens, as a share of the largest
    `repetition_penalty`   above 1, tokens that are in the context were made less likely
    `others`               further settings that were used, by their names in `generation_config.json`
    `max_new_tokens`       budget of tokens
    `eos`                  token ids that end the text
    `stop_strings`         texts that end the text
    `checkpoint`           names of those settings that the checkpoint decided
    `verification`         name of the rule that accepts drafted tokens
    `seed`                 gives the same tokens again, except for strategies that the clock guides (`elastic`, `adaptive`)
    """

    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    others: Mapping[str, Any] = field(default_factory=dict[str, Any])
    max_new_tokens: int
    eos: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    checkpoint: tuple[str, ...] = ()
    verification: str
    seed: int

    @classmethod
    def of(cls, settings: Settings, given: Mapping[str, Any], *, verification: str, seed: int) -> GenerateSettings:
        """The settings that were used, where `given` are the caller's own options."""
        columns = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        own = [name for name in settings.named if name not in given and (name != "temperature" or settings.named[name])]
        own += ["eos"] if "eos" not in given and settings.eos else []
        sampling: dict[str, Any] = {name: settings.named.get(name) for name in columns}
        return cls(
            **sampling,
            others={name: value for name, value in settings.named.items() if name not in (*columns, "stop_strings")},
            max_new_tokens=settings.max_new_tokens,
            eos=tuple(sorted(settings.eos)),
            stop_strings=settings.stop_strings,
            checkpoint=tuple(own),
            verification=verification,
            seed=seed,
        )

    @property
    def spoken(self) -> str:
        """The sampling settings of the checkpoint as a phrase: `top_k 20, top_p 0.8`; empty where there are none."""
        known = {**self.others, **{name: getattr(self, name) for name in self.checkpoint if hasattr(self, name)}}
        return ", ".join(f"{name} {known[name]}" for name in self.checkpoint if name != "eos")


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

    `automatic`     whether the draft length was `"auto"`; `parameters` hold the length that this stood for
    `prompt`        the text that was continued; of a conversation, what the chat template made of it
    `text`          what was generated
    `tokens`        its token ids
    `finished_by`   `"eos"`, `"length"`, `"stop"`, `"time"`, or null when a person interrupted it
    `settings`      sampling, budget, rule and seed
    `pair`          the two models
    `statistics`    counts, speed and idle times
    `lossless_claimed`   whether the law of the text is claimed to be the target's
    """

    format: ClassVar[str] = "specdec.generate/1"

    automatic: bool = False
    prompt: str
    text: str
    tokens: tuple[int, ...]
    finished_by: str | None
    settings: GenerateSettings
    pair: DescribedPair
    statistics: GenerateStatistics
    lossless_claimed: bool = True

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        counts, own = self.statistics, self.settings.spoken
        return Text.assemble(
            (spelled(self.strategy, self.parameters), "bold"),
            " (auto)" if self.automatic else "",
            f": {len(self.tokens)} tokens ({self.finished_by or 'interrupted'}), "
            f"{three_digits(counts.tokens_per_second)} tokens/s\n"
            f"{counts.rounds} rounds, mean acceptance length {counts.mean_acceptance_length:.2f}, "
            f"{share(counts.draft_acceptance_rate)} of {counts.drafted_tokens} drafted tokens accepted; "
            f"idle: target {share(counts.target_idle_share)}, draft {share(counts.draft_idle_share)}",
            f"\nsettings of the checkpoint: {own}" if own else "",
            "" if self.lossless_claimed else ("\nLOSSY: this text has not the target's law", "bold red"),
        )
