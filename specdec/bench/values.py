"""The parts of a benchmark's report, as frozen values. They know no model, no clock and no printing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from specdec.profile import Hardware, Profile
from specdec.report import Parameter, Report, named
from specdec.summary import DecodeSummary, Setting

BASELINE = "autoregressive"
"""The strategy that all others are compared with."""

Interval = tuple[float, float]
"""The ends of a 95 % bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class BenchHardware(Hardware):
    """Where, with what and when it was measured.

    `python`, `torch`, `transformers`   their versions
    `specdec`                           the version of this package, `pearl-specdec` in JSON
    `date`                              when the report was made, in UTC
    """

    python: str = ""
    torch: str
    transformers: str
    specdec: Annotated[str, Field(alias="pearl-specdec")] = ""
    date: str


@dataclass(frozen=True, kw_only=True)
class BenchSettings(Report):
    """What all contenders had in common.

    `temperatures`      0 is greedy
    `max_new_tokens`    of each output
    `repeats`           that were finished; `repeats_planned` were asked for
    `prompts`           how many each repeat decoded
    `verification`      the rule that accepts drafted tokens, or forced acceptance
    `synthetic`         empty, or `"synthetic acceptance 0.8: not text"`: acceptance was forced. The pair's acceptance rate is
                        then the forced one, and no greedy outputs are compared
    `why_eager`         for each model, why it ran as transformers wrote it; null where forwards were fused or replayed as
                        graphs. Empty in files that were written before this was noted
    `seed`              of the first decode; each cell has one of its own
    `dtype`             number format of the target
    `target_threads`    of torch in the target's process
    `draft_lane`        where the draft worked; null without one
    `peer_seconds`      how the seconds of peers were taken; null without peers
    `prompts_file`      what the prompts are called
    `interrupted`       whether a person ended it early
    """

    temperatures: tuple[float, ...]
    max_new_tokens: int
    repeats: int
    repeats_planned: int
    prompts: int
    verification: str
    synthetic: str = ""
    why_eager: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    seed: int
    dtype: str
    target_threads: int
    draft_lane: str | None
    peer_seconds: str | None = None
    prompts_file: str = ""
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class Steps(Report):
    """Seconds of single steps, and acceptance.

    `target_window_seconds`   of a forward of the target by its width in tokens
    `draft_step_seconds`      of a drafted token; null where no draft worked
    `acceptance_rate`         accepted / tested guesses; null without any. Guesses behind a rejected one were not tested
    """

    target_window_seconds: Mapping[int, float]
    draft_step_seconds: float | None
    acceptance_rate: float | None


@dataclass(frozen=True, kw_only=True)
class PairSteps(Steps):
    """The pair before the benchmark, medians of interleaved repeats.

    `acceptance_rate`                  mean over positions of `sum min(p, q)` at temperature 1, on text that the target wrote;
                                       null without a draft
    `target_step_seconds`              of a greedy token of the target
    `speed_ratio`                      target step / draft step, both models at work; null without a draft
    `acceptance_rate_by_temperature`   the same rate at each temperature; at 0, how often both models choose the same token
    `profile`                          the models timed alone, in turn and together; null without a draft
    """

    target_step_seconds: float
    speed_ratio: float | None
    acceptance_rate_by_temperature: Mapping[str, float]
    profile: Profile | None = None

    def rate_at(self, temperature: float) -> float | None:
        """The acceptance rate at one of the benchmark's temperatures; `None` without a draft."""
        return self.acceptance_rate_by_temperature.get(f"{temperature:g}")


@dataclass(frozen=True, kw_only=True)
class BenchResult(DecodeSummary, Setting):
    """One strategy or peer with its parameters at one temperature, over all repeats. The last three are null for peers.

    `temperature`                     0 is greedy
    `lossless_claimed`                whether its output law is claimed to be the target's
    `tokens_per_second`               median over repeats, prefill excluded
    `speedup_over_ar`                 over autoregressive decoding in the same repeat, median over repeats
    `speedup_over_ar_interval`        its 95 % bootstrap interval over prompts and repeats
    `drafted_at_once`                 what the draft length came to on this pair; null for a strategy without one
    `measured`                        what its own decodes say of seconds and acceptance
    `predicted_tokens_per_second`     by the installed predictor, from what was measured before anything was decoded
    `closed_form_tokens_per_second`   by the same predictor, from `measured`: the speed without overhead
    """

    lossless_claimed: bool
    temperature: float
    tokens_per_second: float
    speedup_over_ar: float
    speedup_over_ar_interval: Interval
    drafted_at_once: int | None = None
    measured: Steps | None = None
    predicted_tokens_per_second: float | None = None
    closed_form_tokens_per_second: float | None = None

    @property
    def length(self) -> str:
        """The draft length as tables and charts show it: `auto=7` for a policy and what it came to, `-` without one."""
        chosen = self.parameters.get("draft_length", "-")
        return str(chosen) if self.drafted_at_once in (None, chosen) else f"{chosen}={self.drafted_at_once}"


@dataclass(frozen=True, kw_only=True)
class Slower(Setting):
    """The best setting of a strategy that is not the fastest.

    `times_as_fast`   the fastest over this one, median over repeats
    `interval`        its 95 % bootstrap interval
    """

    times_as_fast: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Ranking(Report):
    """The best setting of each strategy at one temperature.

    `temperature`   0 is greedy
    `fastest`       of all
    `against`       the others, faster ones first
    """

    temperature: float
    fastest: Setting
    against: tuple[Slower, ...]


@dataclass(frozen=True, kw_only=True)
class PeerComparison(Report):
    """A peer beside our strategy that does the same, both at their best setting.

    `temperature`               0 is greedy
    `peer`, `peer_parameters`   the peer
    `ours`, `parameters`        our strategy
    `times_as_fast`             ours over theirs, median over repeats
    `interval`                  its 95 % bootstrap interval
    """

    temperature: float
    peer: str
    peer_parameters: Mapping[str, Parameter]
    ours: str
    parameters: Mapping[str, Parameter]
    times_as_fast: float
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval
        ours, peer = named(self.ours, self.parameters), named(self.peer, self.peer_parameters)
        return f"Our {ours} is {self.times_as_fast:.2f}x (interval {low:.2f}-{high:.2f}) {peer}."


@dataclass(frozen=True, kw_only=True)
class Difference(Setting):
    """A greedy output that is not the autoregressive one.

    `prompt`         its number, from 0
    `position`       of the first new token that differs, from 0
    `tokens`         the two token ids there, ours first
    `logit_margin`   how far apart the target's logits of the two tokens are
    `tie`            whether that is too close for the number format to tell apart
    """

    prompt: int
    position: int
    tokens: tuple[int, int]
    logit_margin: float
    tie: bool


@dataclass(frozen=True, kw_only=True)
class GreedyCheck(Report):
    """Whether greedy outputs equal the autoregressive ones token for token.

    `prompts`       that were compared: those of the first repeat
    `equal`         whether all are
    `differences`   those that are not
    """

    prompts: int
    equal: bool
    differences: tuple[Difference, ...]
