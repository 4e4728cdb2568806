"""The parts of a benchmark's report, as frozen values. They know no model, no clock and no printing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from specdec.acceptance import Foresight
from specdec.profile import Hardware, Profile
from specdec.report import Parameter, Report, named
from specdec.summary import DecodeSummary, StrategySetting

BASELINE = "autoregressive"
"""The strategy that all others are compared with."""

Interval = tuple[float, float]
"""The ends of a 95 % bootstrap interval."""


@dataclass(frozen=True, kw_only=True)
class BenchHardware(Hardware):
    """Where, with which versions and when it was measured.

    `python`         version of Python
    `torch`          version of torch
    `transformers`   version of transformers
    `specdec`        version of this package; its key in JSON is `pearl-specdec`
    `date`           when the report was made, in UTC
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
    `max_new_tokens`    budget of each output
    `repeats`           number of finished repeats
    `repeats_planned`   number of repeats that were asked for
    `prompts`           number of prompts in each repeat
    `verification`      name of the rule that accepts drafted tokens, or forced acceptance
    `synthetic`         empty, or `"synthetic acceptance 0.8: not text"` if acceptance was forced. The pair's acceptance rate is
                        then the forced one, and greedy outputs are not compared
    `why_eager`         for each model, why it ran the forwards of transformers; null if they were fused or replayed as graphs.
                        Empty in files that are older than this key
    `seed`              of the first decode; each prompt of each repeat has its own
    `dtype`             number format of the target
    `target_threads`    threads of torch in the target's process
    `draft_lane`        where the draft worked: `inline`, `thread` or `process`; null without a draft
    `peer_seconds`      how the seconds of peers were taken; null without peers
    `prompts_file`      name of the prompts
    `checkpoint`        settings of the checkpoint that all contenders honoured, by their names in `generation_config.json`; at
                        a temperature above 0 too, where they are for sampling only
    `interrupted`       whether a person ended the benchmark early
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
    checkpoint: Mapping[str, Any] = field(default_factory=dict[str, Any])
    interrupted: bool = False


@dataclass(frozen=True, kw_only=True)
class Noise(Report):
    """What other work on the machine did to the benchmark.

    `busy`     share of the needed cores that other processes took meanwhile
    `slowed`   seconds of a single-row forward of the target in autoregressive decodes, over those timed beforehand
    """

    busy: float = 0.0
    slowed: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Steps(Report):
    """Seconds of single steps, and acceptance.

    `target_window_seconds`   seconds of a forward of the target, by its width in positions
    `draft_step_seconds`      seconds of a drafted token; null if no draft worked
    `acceptance_rate`         accepted / tested guesses; null without any. Guesses after a rejected one were not tested
    `foresight`               how well the draft foresees the target's own tokens; null where nothing says so
    `run_lengths`             runs of accepted guesses between two rejections, by length; empty where none was recorded
    """

    target_window_seconds: Mapping[int, float]
    draft_step_seconds: float | None
    acceptance_rate: float | None
    foresight: Foresight | None = None
    run_lengths: Mapping[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, kw_only=True)
class PairSteps(Steps):
    """The pair before the benchmark, medians of interleaved repeats.

    `acceptance_rate`                  mean over positions of sum_x min(p(x), q(x)) at temperature 1, on text that the target
                                       sampled; null without a draft
    `target_step_seconds`              seconds of a greedy token of the target
    `speed_ratio`                      target step / draft step, both models at work; null without a draft
    `acceptance_rate_by_temperature`   the same rate at each temperature; at 0, how often both models choose the same token
    `foresight_by_temperature`         the foresight at each temperature
    `run_lengths_by_temperature`       the runs at each temperature
    `profile`                          the models timed alone, in turn and together; null without a draft

    The profile times the same steps once more, with another estimator: means of sampled steps without outliers, for the
    predictor. The other times are medians of greedy steps, for the reader. So the two differ.
    """

    target_step_seconds: float
    speed_ratio: float | None
    acceptance_rate_by_temperature: Mapping[str, float]
    profile: Profile | None = None
    foresight_by_temperature: Mapping[str, Foresight] = field(default_factory=dict[str, Foresight])
    run_lengths_by_temperature: Mapping[str, Mapping[int, int]] = field(default_factory=dict[str, Mapping[int, int]])

    def at(self, temperature: float) -> PairSteps:
        """The same with the acceptance at one of the benchmark's temperatures; `None` without a draft."""
        key = f"{temperature:g}"
        return replace(
            self,
            acceptance_rate=self.acceptance_rate_by_temperature.get(key),
            foresight=self.foresight_by_temperature.get(key),
            run_lengths=self.run_lengths_by_temperature.get(key, {}),
        )


@dataclass(frozen=True, kw_only=True)
class BenchResult(DecodeSummary, StrategySetting):
    """One strategy or peer with its parameters at one temperature, over all repeats.

    `temperature`                     0 is greedy
    `lossless_claimed`                whether its output law is claimed to be the target's
    `tokens_per_second`               median over repeats, prefill excluded
    `speedup_over_ar`                 speed over that of autoregressive decoding in the same repeat, median over repeats
    `speedup_over_ar_interval`        its 95 % bootstrap interval over prompts and repeats; null for fewer than three repeats
    `speedup_over_ar_by_prompt`       speed over that of autoregressive decoding on each prompt, median over repeats; none in an
                                      older file
    `automatic`                       whether the draft length in `parameters` is what `"auto"` stood for on this pair
    `drafted_at_once`                 draft length on this pair, as an integer; null for a strategy without one
    `measured`                        seconds and acceptance of its own decodes
    `predicted_tokens_per_second`     prediction from what was measured before anything was decoded
    `closed_form_tokens_per_second`   prediction from `measured`: the speed without overhead

    The last four are null for peers. Both predictions are the installed predictor's.
    """

    lossless_claimed: bool
    temperature: float
    tokens_per_second: float
    speedup_over_ar: float
    speedup_over_ar_interval: Interval | None
    speedup_over_ar_by_prompt: tuple[float, ...] = ()
    automatic: bool = False
    drafted_at_once: int | None = None
    measured: Steps | None = None
    predicted_tokens_per_second: float | None = None
    closed_form_tokens_per_second: float | None = None

    @property
    def label(self) -> str:
        """The strategy, and its draft length where it has one, for axes."""
        return f"{self.strategy} {self.length}".rstrip(" -")

    @property
    def length(self) -> str:
        """The draft length as tables and charts show it: `auto=7` for a policy that chose 7, `-` without a draft length."""
        chosen = "auto" if self.automatic else self.parameters.get("draft_length", "-")
        return str(chosen) if self.drafted_at_once in (None, chosen) else f"{chosen}={self.drafted_at_once}"


@dataclass(frozen=True, kw_only=True)
class Slower(StrategySetting):
    """The best setting of a strategy that is not the fastest.

    `times_as_fast`   speed of the fastest over that of this one, median over repeats
    `interval`        its 95 % bootstrap interval; null for fewer than three repeats
    """

    times_as_fast: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Ranking(Report):
    """The best setting of each strategy at one temperature.

    `temperature`   0 is greedy
    `fastest`       the fastest setting of all
    `against`       the best settings of the other strategies, fastest first
    """

    temperature: float
    fastest: StrategySetting
    against: tuple[Slower, ...]


@dataclass(frozen=True, kw_only=True)
class PeerComparison(Report):
    """A peer compared with our strategy of the same algorithm, both at their best setting.

    `temperature`       0 is greedy
    `peer`              name of the peer
    `peer_parameters`   parameters of the peer
    `ours`              name of our strategy
    `parameters`        parameters of our strategy
    `times_as_fast`     our speed over that of the peer, median over repeats
    `interval`          its 95 % bootstrap interval; null for fewer than three repeats
    """

    temperature: float
    peer: str
    peer_parameters: Mapping[str, Parameter]
    ours: str
    parameters: Mapping[str, Parameter]
    times_as_fast: float
    interval: Interval | None

    def __str__(self) -> str:
        between = "" if self.interval is None else f" (interval {self.interval[0]:.2f}-{self.interval[1]:.2f})"
        ours, peer = named(self.ours, self.parameters), named(self.peer, self.peer_parameters)
        return f"Our {ours} is {self.times_as_fast:.2f}x{between} {peer}."


@dataclass(frozen=True, kw_only=True)
class Difference(StrategySetting):
    """A greedy output that is not the autoregressive one.

    `prompt`         number of the prompt, from 0
    `position`       position of the first new token that differs, from 0
    `tokens`         the two token ids there, ours first
    `logit_margin`   difference of the target's logits of the two tokens
    `tie`            whether the difference is too small for the number format
    """

    prompt: int
    position: int
    tokens: tuple[int, int]
    logit_margin: float
    tie: bool


@dataclass(frozen=True, kw_only=True)
class GreedyCheck(Report):
    """Whether greedy outputs equal the autoregressive ones token for token.

    `prompts`       number of prompts that were compared: those of the first repeat
    `equal`         whether all outputs are equal
    `differences`   the outputs that are not equal
    """

    prompts: int
    equal: bool
    differences: tuple[Difference, ...]
