"""Compares the simulator's predictions with measurements: with published speed-ups, and with speeds timed on a real pair.

Every comparison holds the prediction, the measurement and the error with its sign. Only the draft length of published tables is
fitted, on two tasks unless others are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TYPE_CHECKING, Any, ClassVar

from sim.study.predict import predict
from sim.study.published import Cell, Predicted, bundled_table, predicted_cells, read_cells
from sim.study.validate_load import mean_of
from specdec.inputs import at_least_one
from specdec.machine import OtherWork
from specdec.profile import Profile, busy_sentence
from specdec.prompts import bundled
from specdec.report import Progress, Report, no_progress, table, three_digits
from specdec.strategy import DecodingStrategy, create

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from specdec.pair import Pair

TIMED_LENGTHS = (1, 2, 4, 6)


@dataclass(frozen=True)
class Timed(Report):
    """A strategy timed on a real pair, with its prediction.

    `strategy`                      name of the strategy
    `parameters`                    its parameters by name
    `measured_tokens_per_second`    median over repeats
    `predicted_tokens_per_second`   by the compiled chain and the profiles of the same run
    `error`                         predicted over measured, minus 1
    """

    strategy: str
    parameters: Mapping[str, Any]
    measured_tokens_per_second: float
    predicted_tokens_per_second: float
    error: float


@dataclass(frozen=True)
class Validation(Report):
    """Predictions and what was measured; what `specdec validate --json` writes.

    `bundled`     strategies timed on a pair; empty where nothing was measured
    `published`   published speed-ups
    `busy`        share of the needed cores that other processes took meanwhile, or by how much forwards took longer on average
                  than in the quietest moment, whichever is more: from 0.15 on, errors of the pair say nothing
    """

    format: ClassVar[str] = "specdec.validate/1"

    bundled: tuple[Timed, ...]
    published: tuple[Predicted, ...]
    busy: float = 0.0

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        parts: list[RenderableType] = []
        if self.bundled:
            largest = max(abs(timed.error) for timed in self.bundled)
            text = f"Mean error {100 * mean_error(self.bundled):.1f} %, largest {100 * largest:.1f} %.\n"
            parts += [self._timed(), f"{busy_sentence(self.busy)}\n" if busy_sentence(self.busy) else text]
        parts.append(self._predicted())
        held_out = [cell for cell in self.published if cell.held_out]
        if held_out:
            off = f"{100 * mean_error(held_out):.1f} %"
            parts.append(f"Mean error of the {len(held_out)} speed-ups that were held out of the fit: {off}.")
        return Group(*parts)

    def _timed(self) -> Table:
        numbers = ("draft length", "measured tok/s", "predicted tok/s", "error")
        made = table("strategy", numbers=numbers, title="Measured here (temperature 1)")
        for timed in self.bundled:
            length = str(timed.parameters.get("draft_length", "-"))
            speeds = map(three_digits, (timed.measured_tokens_per_second, timed.predicted_tokens_per_second))
            error = "busy" if busy_sentence(self.busy) else f"{100 * timed.error:+.1f} %"
            made.add_row(timed.strategy, length, *speeds, error)
        return made

    def _predicted(self) -> Table:
        numbers = ("draft\nlength", "reported", "predicted", "error")
        title = "Published speed-ups of PEARL"
        made = table("draft", "target", "task", numbers=numbers, title=title, collapse_padding=True)
        made.add_column("fit")
        for cell in self.published:
            names = (name.rpartition("/")[2] for name in (cell.draft, cell.target))
            speeds = (f"{three_digits(speed)}x" for speed in (cell.reported_speedup, cell.predicted_speedup))
            fit = "held out" if cell.held_out else "fitted"
            made.add_row(*names, cell.task, str(cell.fitted_draft_length), *speeds, f"{100 * cell.error:+.1f} %", fit)
        return made


def mean_error(compared: Sequence[Timed] | Sequence[Predicted]) -> float:
    """Mean of the errors without their signs."""
    return mean(abs(one.error) for one in compared)


@dataclass
class Comparison:
    """Strategies timed on a real pair, with profiles of the pair taken in between. Iterating runs it.

    `pair`         the models
    `strategies`   what is timed and predicted
    `prompts`      prompts as tokens
    `tokens`       tokens of every answer, at temperature 1
    `repeats`      how often every prompt is decoded with every strategy
    `seed`         of the first answer
    `speeds`       tokens per second of each strategy, by repeat; the prompt's own forward is left out
    `profiles`     of the pair: one before the first repeat, and one after each
    `others`       share of the needed cores that other processes took while prompts were decoded; the largest of all repeats

    Repeats and profiles alternate, so that a machine that slows down does so for measured and predicted speeds alike.
    """

    pair: Pair
    strategies: Sequence[DecodingStrategy]
    prompts: Sequence[Sequence[int]]
    tokens: int = 64
    repeats: int = 3
    seed: int = 0
    speeds: list[list[float]] = field(default_factory=list[list[float]])
    profiles: list[Profile] = field(default_factory=list[Profile])
    others: float = 0.0

    def __len__(self) -> int:
        return 2 * self.repeats + 1

    def __iter__(self) -> Iterator[str]:
        """Run the measurement; each step says what is done next."""
        from specdec.measure.pair import needed_cores  # what needs torch is imported when it is used

        yield "measuring the models"
        self._measure(0)
        for repeat in range(self.repeats):
            yield f"decoding, repeat {repeat + 1} of {self.repeats}"
            others = OtherWork(needed_cores(self.pair))
            self.speeds.append(self._decode(self.seed + repeat * len(self.prompts)))
            self.others = max(self.others, others.share())
            yield "measuring the models again"
            self._measure(repeat + 1)

    def _measure(self, number: int) -> None:
        from specdec.measure import profile

        longest = max(len(prompt) for prompt in self.prompts) + self.tokens
        self.profiles.append(
            profile(
                self.pair,
                {"prompts": [*self.prompts, *self.prompts]},  # as long as the answers, so that nothing later is counted
                widths=range(1, 10),
                batches=(),
                contexts=(longest // 3, longest),
                repeats=8,
                new_tokens=self.tokens,
                seed=1000 + number,
            )
        )

    def _decode(self, seed: int) -> list[float]:
        """Tokens per second of each strategy. Each prompt is decoded first with another strategy than the prompt before."""
        from specdec.decoding import decode

        options: dict[str, Any] = {"max_new_tokens": self.tokens, "temperature": 1, "eos": (), "stop_strings": ()}
        seconds = [0.0] * len(self.strategies)
        for number, prompt in enumerate(self.prompts):
            for i in range(len(self.strategies)):
                at = (number + i) % len(self.strategies)
                answer = decode(self.pair, self.strategies[at], prompt, seed=seed + number, **options)
                seconds[at] += answer.statistics.decode_seconds
        return [self.tokens * len(self.prompts) / total for total in seconds]

    @property
    def busy(self) -> float:
        """How busy the machine was with other work (`Validation.busy`)."""
        return max(self.others, Profile.merged(self.profiles).busy)

    def report(self) -> tuple[Timed, ...]:
        """Measured and predicted speed of each strategy; needs at least one repeat."""
        measured = [median(speeds) for speeds in zip(*self.speeds, strict=True)]
        found = Profile.merged(self.profiles)
        context = mean_of([len(prompt) for prompt in self.prompts], self.tokens)
        predicted = [predict(strategy, found, context, self.tokens) for strategy in self.strategies]
        return tuple(
            Timed(strategy.name, strategy.parameters, speed, expected, expected / speed - 1)
            for strategy, speed, expected in zip(self.strategies, measured, predicted, strict=True)
        )


def validate(
    pair: Pair | None = None,
    strategies: Sequence[DecodingStrategy] | None = None,
    prompts: Sequence[str | Sequence[int]] | None = None,
    *,
    cells: Sequence[Cell] | None = None,
    fitted_tasks: Sequence[str] = (),
    tokens: int = 64,
    repeats: int = 3,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Validation:
    """Predict published speed-ups and, if a `pair` is given, the speed of strategies on that pair.

    `cells` are the published speed-ups, nano-PEARL's unless given; `fitted_tasks` are those that draft lengths are fitted on.

    On the pair, every strategy decodes `tokens` tokens after each prompt, `repeats` times. Without `strategies`, autoregressive
    and speculative decoding and PEARL are timed, at draft lengths 1, 2, 4 and 6. Without `prompts`, the bundled ones are
    decoded.

    Raises `InputError` for numbers below 1 and tasks that are not published, `StrategyError` for a strategy that cannot be
    compiled.
    """
    at_least_one(tokens=tokens, repeats=repeats)
    published = tuple(predicted_cells(read_cells(bundled_table()) if cells is None else cells, fitted_tasks))
    if pair is None:
        return Validation((), published)
    from specdec.text import prompt_tokens

    if strategies is None:
        drafting = [create(name, draft_length=length) for name in ("speculative", "pearl") for length in TIMED_LENGTHS]
        strategies = [create("autoregressive"), *drafting]
    texts = [prompt_tokens(pair, prompt) for prompt in (bundled() if prompts is None else prompts)]
    comparison = Comparison(pair, strategies, texts, tokens, repeats, seed)
    for _ in progress(comparison, len(comparison)):
        pass
    return Validation(comparison.report(), published, comparison.busy)
