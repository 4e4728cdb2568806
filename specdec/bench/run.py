"""Runs a benchmark: the contenders, and the order in which they decode. Knows no strategy but the baseline.

Temperatures are the benchmark's own. All other settings of the checkpoint hold for all contenders alike, but for `max_time`:
no output ends by the clock.

All contenders decode a prompt, one after the other, before the next prompt. The contender that begins changes each time. So a
machine that is busy elsewhere for a while slows all of them down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from specdec.bench.values import BASELINE, PairSteps
from specdec.decoding import decode
from specdec.effects import Committed
from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.machine import OtherWork
from specdec.measure import SampledAcceptance, measure_acceptance, profile
from specdec.measure.pair import needed_cores
from specdec.output import Result
from specdec.pair import Pair
from specdec.profile import Profile
from specdec.report import spelled
from specdec.runtime.timing import step_seconds, timing_context, window_seconds
from specdec.sampling import Sampling
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create
from specdec.summary import StrategySetting
from specdec.synthetic import rule_of, synthetic
from specdec.text import Prompt, prompt_tokens

WIDTHS = (1, 2, 4, 8)
WARM_UP_TOKENS = 16
PROFILE_REPEATS = 8
DRAFT_LENGTHS = (1, 2, 3, 4, 6)
ALL_DRAFT_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8)


class Decoder(Protocol):
    """What can be measured: a strategy of ours, or a peer. A frozen value."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]: ...

    @property
    def lossless(self) -> bool:
        """Whether its output law is claimed to be the target's."""
        ...

    def decode(self, pair: Pair, prompt: Sequence[int], **options: Any) -> Result:
        """Decode token ids; `options` are `max_new_tokens`, `temperature`, `verification` and `seed` of `specdec.decode`."""
        ...


@dataclass(frozen=True)
class Ours:
    """One of our strategies.

    `automatic`   whether its draft length is what `"auto"` stands for on the pair
    """

    strategy: DecodingStrategy
    automatic: bool = False

    @property
    def name(self) -> str:
        return self.strategy.name

    @property
    def parameters(self) -> dict[str, Any]:
        return self.strategy.parameters

    @property
    def lossless(self) -> bool:
        return self.strategy.lossless

    def decode(self, pair: Pair, prompt: Sequence[int], **options: Any) -> Result:
        return decode(pair, self.strategy, prompt, max_time=math.inf, **options)


@dataclass(frozen=True)
class Contender:
    """A decoder at a temperature."""

    decoder: Decoder
    temperature: float

    @property
    def setting(self) -> StrategySetting:
        """The decoder as reports name it."""
        return StrategySetting(self.decoder.name, self.decoder.parameters)

    def __str__(self) -> str:
        return spelled(self.decoder.name, self.decoder.parameters)


def line_up(
    pair: Pair, names: Sequence[str] = (), draft_lengths: Sequence[int] = (), *, full: bool = False
) -> list[DecodingStrategy]:
    """The baseline and the strategies to compare with it: all installed ones, or `names`, at several draft lengths.

    A strategy whose default length is `"auto"` gets that length, its half and its two neighbours; others get 1, 2, 3, 4 and 6.
    With `draft_lengths`, strategies get these, and with `full` 1 to 8; `"auto"` stays. Without a draft model, strategies that
    draft are left out unless they are named.
    """
    chosen: list[DecodingStrategy] = [create(BASELINE)]
    for name in names or available():
        strategy = create(name)
        if not isinstance(strategy, DraftingStrategy):
            chosen.append(strategy)
        elif pair.draft is not None or names:
            chosen += [create(name, draft_length=length) for length in _lengths(pair, strategy, draft_lengths, full)]
    return list(dict.fromkeys(chosen))


def _lengths(pair: Pair, strategy: DraftingStrategy, draft_lengths: Sequence[int], full: bool) -> list[int | str]:
    automatic = ["auto"] if strategy.draft_length == "auto" else []
    if draft_lengths or full:
        return [*automatic, *(draft_lengths or ALL_DRAFT_LENGTHS)]
    if automatic:
        ratio = drafted_at_once(strategy, pair)
        return ["auto", *sorted({length for length in (ratio // 2, ratio - 1, ratio + 1) if length >= 1})]
    return list(DRAFT_LENGTHS)


def drafted_at_once(strategy: DraftingStrategy, pair: Pair) -> int:
    """The draft length with which a policy, such as `"auto"`, starts on this pair."""
    return strategy.policy.length(strategy.init(Committed(), pair).memory)


def distinct(pair: Pair, strategies: Sequence[DecodingStrategy]) -> list[Ours]:
    """The strategies as they run on this pair, each once: `"auto"` and the length that it stands for are one."""
    found: dict[DecodingStrategy, bool] = {}
    for strategy in strategies:
        resolved = strategy.resolved(pair)
        found[resolved] = found.get(resolved, False) or resolved != strategy
    return [Ours(strategy, automatic) for strategy, automatic in found.items()]


@dataclass
class Benchmark:
    """One measurement. Iterating over it runs it, one decode after another; it keeps what was done so far.

    `pair`             the two models
    `strategies`       to compare; the baseline is added if it is missing
    `texts`            prompts as text, token ids or messages
    `temperatures`     0 is greedy
    `max_new_tokens`   budget of each output
    `repeats`          of all prompts
    `seconds`          limit of the decoding, checked before each prompt; the first repeat is then cut short, not left out
    `verification`     name of the rule, or forced acceptance
    `seed`             of the first decode; each prompt of each repeat has its own
    `peers`            contenders of other libraries
    `prompts`          token ids of `texts`
    `contenders`       each decoder at each temperature
    `measured`         the pair before anything was decoded; `None` until it is measured
    `decodes`          the result of each contender, prompt by prompt and repeat by repeat
    `others`           what other processes take of the machine since the first step; `None` before it
    """

    pair: Pair
    strategies: Sequence[DecodingStrategy]
    texts: Sequence[Prompt]
    temperatures: Sequence[float]
    max_new_tokens: int
    repeats: int
    seconds: float
    verification: str
    seed: int
    peers: Sequence[Decoder]
    measured: PairSteps | None = field(default=None, init=False)
    decodes: list[dict[Contender, Result]] = field(default_factory=list[dict[Contender, Result]], init=False)
    others: OtherWork | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        at_least_one(max_new_tokens=self.max_new_tokens, repeats=self.repeats, prompts=len(self.texts))
        rule_of(self.verification)
        self.temperatures = tuple(dict.fromkeys(self.temperatures))
        for temperature in self.temperatures:
            Sampling(temperature)
        self.prompts = [prompt_tokens(self.pair, text) for text in self.texts]
        limit = self.pair.draft_context_limit if self.peers else self.pair.context_limit  # of assisted generation
        for number, prompt in enumerate(self.prompts, start=1):
            if len(prompt) >= limit:
                raise InputError(
                    f"prompt {number} has {len(prompt)} tokens and the context holds {limit}: shorten it or leave it out"
                )
        decoders = [*distinct(self.pair, [create(BASELINE), *self.strategies]), *self.peers]
        self.contenders = [Contender(decoder, t) for t in self.temperatures for decoder in decoders]

    def __len__(self) -> int:
        """Number of steps: one to measure the models, and one for each decode, warm-up included."""
        return 1 + len(self.contenders) * (1 + self.repeats * len(self.prompts))

    def __iter__(self) -> Iterator[str]:
        """Run it; yields before each step what is done next."""
        yield "measuring the models"
        self.others = OtherWork(needed_cores(self.pair))
        self.measured = measured(self.pair, self.prompts, self.temperatures, self.verification)
        for contender in self.contenders:
            yield f"warming up {contender}"
            self._decode(contender, 0, 0, WARM_UP_TOKENS)
        start = time.perf_counter()
        for number in range(self.repeats * len(self.prompts)):
            if self.decodes and time.perf_counter() - start > self.seconds:
                return
            repeat, prompt = divmod(number, len(self.prompts))
            decoded: dict[Contender, Result] = {}
            for i in range(len(self.contenders)):
                contender = self.contenders[(number + i) % len(self.contenders)]
                yield f"repeat {repeat + 1} of {self.repeats}: {contender}"
                decoded[contender] = self._decode(contender, repeat, prompt, self.max_new_tokens)
            self.decodes.append(decoded)

    def _decode(self, contender: Contender, repeat: int, prompt: int, tokens: int) -> Result:
        return contender.decoder.decode(
            self.pair,
            self.prompts[prompt],
            max_new_tokens=tokens,
            temperature=contender.temperature,
            verification=self.verification,
            seed=self.seed + repeat * len(self.prompts) + prompt,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Repeats and prompts to report: whole repeats, or the finished part of the first one."""
        whole = len(self.decodes) // len(self.prompts)
        return (whole, len(self.prompts)) if whole else (min(1, len(self.decodes)), len(self.decodes))

    @property
    def reported_decodes(self) -> list[dict[Contender, Result]]:
        """The decodes of those repeats and prompts."""
        repeats, prompts = self.shape
        return self.decodes[: repeats * prompts]

    def baseline(self, temperature: float) -> Contender:
        """The autoregressive contender at that temperature."""
        return next(c for c in self.contenders if c.decoder.name == BASELINE and c.temperature == temperature)


def measured(pair: Pair, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], verification: str) -> PairSteps:
    """Seconds of single steps of both models, and how often a drafted token is accepted, at 1 and at each of `temperatures`.

    Forced acceptance is not measured, since its rate is known. A draft that writes text has neither: its steps are not of the
    target's tokens, and it has no rows.
    """
    forced, context = synthetic(verification), timing_context(pair.draft_context_limit)
    with pair.turn(drafts=True) as (target, draft):
        draft = None if pair.matching.way == "text" else draft
        draft_seconds = None if draft is None else step_seconds(draft, context=context)  # first, so that its process runs
        widths = window_seconds(target, WIDTHS, context=context)
        asked = () if draft is None else {1.0, *temperatures}
        found = {t: forced or measure_acceptance(pair, prompts, temperature=t) for t in sorted(asked)}
        counted = {f"{t:g}": one for t, one in found.items() if isinstance(one, SampledAcceptance)}
        foreseen = {key: one.foreseen.foresight for key, one in counted.items()}
        return PairSteps(
            target_step_seconds=step_seconds(target, context=context),
            target_window_seconds=widths,
            draft_step_seconds=draft_seconds,
            speed_ratio=None if draft is None else pair.speed_ratio(),
            acceptance_rate=found[1.0].rate if found else None,
            acceptance_rate_by_temperature={f"{t:g}": one.rate for t, one in found.items()},
            foresight_by_temperature={key: one for key, one in foreseen.items() if one is not None},
            run_lengths_by_temperature={key: one.run_lengths for key, one in counted.items()},
            profile=None if draft is None else _timings(pair, context),
        )


def _timings(pair: Pair, context: int) -> Profile:
    """The models alone, in turn and together, for the predictor; acceptance is measured on the benchmark's own prompts."""
    return profile(pair, {}, widths=ALL_DRAFT_LENGTHS, batches=(), contexts=(context,), repeats=PROFILE_REPEATS)
