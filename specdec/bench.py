"""Measure strategies side by side on one pair: interleaved repeats, paired comparisons.

A *cell* is one prompt in one repeat. All contenders decode it one after the other, in an order that turns from cell to cell, so
that a machine that is busy elsewhere for a while is busy for all of them. Speeds are compared within a repeat, and only then
summed up: the median over repeats, with a bootstrap interval over prompts and repeats. Speeds leave the prompt's own forward
out, for all alike. Knows no strategy but the baseline, and prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch

from specdec.decoding import Result, decode, prompt_tokens
from specdec.errors import InputError
from specdec.pair import Pair
from specdec.profile import acceptance, draft_step_seconds, hardware, versions, window_seconds
from specdec.runtime.runner import Runner
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create

BASELINE = "autoregressive"
WIDTHS = (1, 2, 4, 8)
WARM_UP_TOKENS = 16
DRAFT_LENGTHS = (1, 2, 3, 4, 6)
ALL_DRAFT_LENGTHS = tuple(range(1, 9))
DRAWS = 2000

TIE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Two logits closer than this share of the largest one are a tie: windows of two widths may round them either way."""


@dataclass(frozen=True)
class Contender:
    """A strategy at a temperature."""

    strategy: DecodingStrategy
    temperature: float


@dataclass(frozen=True)
class Speed:
    """Tokens and seconds of one contender, arrays of shape (repeats, prompts)."""

    tokens: Any
    seconds: Any

    @property
    def tokens_per_second(self) -> float:
        """The median over repeats."""
        return float(np.median(self.tokens.sum(1) / self.seconds.sum(1)))


def compared(ours: Speed, theirs: Speed) -> tuple[float, tuple[float, float]]:
    """How many times as fast `ours` is: median over repeats, and a 95 % bootstrap interval over prompts and repeats."""
    repeats, prompts = ours.tokens.shape
    random = np.random.default_rng(0)
    rows = random.integers(repeats, size=(DRAWS, repeats))[:, :, None]
    columns = random.integers(prompts, size=(DRAWS, prompts))[:, None, :]

    def rates(speed: Speed) -> Any:
        return speed.tokens[rows, columns].sum(-1) / speed.seconds[rows, columns].sum(-1)

    low, high = np.quantile(np.median(rates(ours) / rates(theirs), axis=1), [0.025, 0.975])
    ratios = (ours.tokens.sum(1) / ours.seconds.sum(1)) / (theirs.tokens.sum(1) / theirs.seconds.sum(1))
    return float(np.median(ratios)), (float(low), float(high))


def line_up(
    pair: Pair, names: Sequence[str] = (), draft_lengths: Sequence[int] = (), *, full: bool = False
) -> list[DecodingStrategy]:
    """The baseline and the strategies to compare it with: all installed ones, or `names`, at several draft lengths.

    A strategy whose default length is `"auto"` gets that and its neighbours, others 1, 2, 3, 4, 6; all of 1 to 8 when `full`.
    """
    classes = available()
    chosen: list[DecodingStrategy] = [create(BASELINE)]
    for name in names or classes:
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
        return ["auto", *(length for length in (ratio - 1, ratio + 1) if length >= 1)]
    return list(DRAFT_LENGTHS)


def drafted_at_once(strategy: DraftingStrategy, pair: Pair) -> int:
    """The draft length that `"auto"` or another policy starts with on this pair."""
    return strategy.policy.length(strategy.policy.init(pair))


def summary(statistics: Statistics) -> dict[str, Any]:
    """What is reported of a decode, by name."""
    names = [
        "mean_acceptance_length",
        "draft_acceptance_rate",
        "acceptance_histogram",
        "target_idle_share",
        "draft_idle_share",
        "rounds",
        "new_tokens",
    ]
    return {name: getattr(statistics, name) for name in names}


def described(pair: Pair) -> dict[str, Any]:
    """The pair by names, sizes and number format."""
    models = {"target": pair.target} if pair.draft is None else {"target": pair.target, "draft": pair.draft}
    return {
        **{name: model.name_or_path for name, model in models.items()},
        **{f"{name}_parameters": model.num_parameters() for name, model in models.items()},
        "vocabulary": pair.vocabulary,
        "dtype": str(pair.target.dtype).removeprefix("torch."),
    }


@dataclass
class Benchmark:
    """One measurement. Iterate over it to run it, a decode at a time; `report()` tells what was measured so far.

    `seconds` bounds the decoding, checked between cells; the first repeat is then cut short rather than left out.
    """

    pair: Pair
    strategies: Sequence[DecodingStrategy]
    texts: Sequence[str]
    temperatures: Sequence[float] = (0.0, 1.0)
    max_new_tokens: int = 64
    repeats: int = 3
    seconds: float = float("inf")
    verification: str = "token"
    seed: int = 0
    measured: dict[str, Any] = field(default_factory=dict[str, Any])
    cells: list[dict[Contender, Result]] = field(default_factory=list[dict[Contender, Result]])

    def __post_init__(self) -> None:
        self.prompts = [prompt_tokens(self.pair, text) for text in self.texts]
        for number, prompt in enumerate(self.prompts, start=1):
            if len(prompt) >= self.pair.context_limit:
                raise InputError(
                    f"prompt {number} has {len(prompt)} tokens and the context holds {self.pair.context_limit}: "
                    "shorten it or leave it out"
                )
        self.contenders = [
            Contender(strategy, temperature) for temperature in dict.fromkeys(self.temperatures) for strategy in self.strategies
        ]

    def __len__(self) -> int:
        """Decodes to run, warm-up included."""
        return len(self.contenders) * (1 + self.repeats * len(self.prompts))

    def __iter__(self) -> Iterator[str]:
        """Run it; yields what is done before each decode."""
        yield "measuring the models"
        self.measured = measured(self.pair, self.prompts)
        for contender in self.contenders:
            yield f"warming up {contender.strategy}"
            self._decode(contender, 0, 0, WARM_UP_TOKENS)
        start = time.perf_counter()
        for turn in range(self.repeats * len(self.prompts)):
            if self.cells and time.perf_counter() - start > self.seconds:
                return
            repeat, prompt = divmod(turn, len(self.prompts))
            cell: dict[Contender, Result] = {}
            for i in range(len(self.contenders)):
                contender = self.contenders[(turn + i) % len(self.contenders)]
                yield f"repeat {repeat + 1} of {self.repeats}: {contender.strategy}"
                cell[contender] = self._decode(contender, repeat, prompt, self.max_new_tokens)
            self.cells.append(cell)

    def _decode(self, contender: Contender, repeat: int, prompt: int, tokens: int) -> Result:
        return decode(
            self.pair,
            contender.strategy,
            self.prompts[prompt],
            max_new_tokens=tokens,
            temperature=contender.temperature,
            verification=self.verification,
            seed=self.seed + repeat * len(self.prompts) + prompt,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Repeats and prompts to report: whole repeats, or what there is of the first."""
        whole = len(self.cells) // len(self.prompts)
        return (whole, len(self.prompts)) if whole else (min(1, len(self.cells)), len(self.cells))

    def speed(self, contender: Contender) -> Speed:
        repeats, prompts = self.shape
        statistics = [cell[contender].statistics for cell in self.cells[: repeats * prompts]]
        tokens, seconds = ([getattr(s, name) for s in statistics] for name in ("new_tokens", "decode_seconds"))
        return Speed(np.array(tokens, float).reshape(repeats, prompts), np.array(seconds).reshape(repeats, prompts))

    def report(self) -> dict[str, Any]:
        """Everything, as it is written to JSON. Times in seconds, speeds in tokens per second."""
        repeats, prompts = self.shape
        settings: dict[str, Any] = {
            "temperatures": list(dict.fromkeys(self.temperatures)),
            "max_new_tokens": self.max_new_tokens,
            "repeats": repeats,
            "repeats_planned": self.repeats,
            "prompts": prompts,
            "verification": self.verification,
            "seed": self.seed,
            "dtype": described(self.pair)["dtype"],
            "lane": type(self.pair.draft_lane).__name__,
            "target_threads": torch.get_num_threads(),
            "draft_threads": 1,
        }
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return {
            "pair": described(self.pair),
            "hardware": {**hardware(self.pair), **versions(), "date": date},
            "settings": settings,
            "measured": self.measured,
            "results": [self._result(contender) for contender in self.contenders] if self.cells else [],
            "ranking": [self._ranking(temperature) for temperature in settings["temperatures"]] if self.cells else [],
            "greedy_check": self.greedy_check(),
        }

    def _result(self, contender: Contender) -> dict[str, Any]:
        repeats, prompts = self.shape
        total = reduce(add, (cell[contender].statistics for cell in self.cells[: repeats * prompts]))
        speed = self.speed(contender)
        ratio, interval = compared(speed, self.speed(self._baseline(contender.temperature)))
        strategy = contender.strategy
        lengths = {"drafted_at_once": drafted_at_once(strategy, self.pair)} if isinstance(strategy, DraftingStrategy) else {}
        return {
            **_named(strategy),
            **lengths,
            "lossless_claimed": strategy.lossless,
            "temperature": contender.temperature,
            "tokens_per_second": speed.tokens_per_second,
            "speedup_over_ar": ratio,
            "speedup_over_ar_interval": list(interval),
            **summary(total),
        }

    def _baseline(self, temperature: float) -> Contender:
        return next(c for c in self.contenders if c.strategy.name == BASELINE and c.temperature == temperature)

    def _ranking(self, temperature: float) -> dict[str, Any]:
        """The best setting of each strategy, fastest first, and how many times as fast the first is as the others."""
        best: dict[str, tuple[Contender, Speed]] = {}
        for contender in self.contenders:
            name, speed = contender.strategy.name, self.speed(contender)
            if contender.temperature == temperature and (
                name not in best or speed.tokens_per_second > best[name][1].tokens_per_second
            ):
                best[name] = contender, speed
        first, *others = sorted(best.values(), key=lambda entry: -entry[1].tokens_per_second)
        against: list[dict[str, Any]] = []
        for contender, speed in others:
            ratio, interval = compared(first[1], speed)
            against.append({**_named(contender.strategy), "times_as_fast": ratio, "interval": list(interval)})
        return {"temperature": temperature, "fastest": _named(first[0].strategy), "against": against}

    def greedy_check(self) -> dict[str, Any] | None:
        """Whether greedy outputs equal the baseline's token for token; `None` when nothing was greedy.

        Where one differs, `tie` says that the two tokens' logits are too close for the number format to tell apart.
        """
        if 0 not in self.temperatures or not self.cells:
            return None
        baseline = self._baseline(0)
        differences: list[dict[str, Any]] = []
        for i, cell in enumerate(self.cells[: len(self.prompts)]):
            for contender in (c for c in self.contenders if c.temperature == 0):
                ours, theirs = cell[contender].tokens, cell[baseline].tokens
                if ours != theirs:
                    differences.append({**_named(contender.strategy), "prompt": i, **self._difference(i, ours, theirs)})
        return {"prompts": min(len(self.cells), len(self.prompts)), "equal": not differences, "differences": differences}

    def _difference(self, prompt: int, ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
        at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        row = Runner(self.pair.target, self.pair.vocabulary).logits([*self.prompts[prompt], *theirs[:at]], 1)[0].double()
        margin = abs(float(row[ours[at]] - row[theirs[at]]))
        tie = margin <= TIE[self.pair.target.dtype] * float(row.abs().max())
        return {"position": at, "tokens": [ours[at], theirs[at]], "logit_margin": margin, "tie": tie}


def _named(strategy: DecodingStrategy) -> dict[str, Any]:
    return {"strategy": strategy.name, "parameters": strategy.parameters}


def measured(pair: Pair, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What each model's step costs, alone and in seconds, and how often a drafted token is accepted at temperature 1."""
    draft = pair.draft_lane
    draft_seconds = (
        None if draft is None else draft_step_seconds(draft)
    )  # first, so that its process is up when the target is timed
    widths = window_seconds(pair.target_lane, WIDTHS)
    return {
        "target_step_seconds": widths[1],
        "target_window_seconds": {str(width): seconds for width, seconds in widths.items()},
        "draft_step_seconds": draft_seconds,
        "speed_ratio": None if draft is None else pair.speed_ratio,
        "acceptance_rate": None if draft is None else acceptance(pair, prompts).rate,
    }
