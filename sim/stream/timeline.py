"""The timeline of a decode: the work of both models in the first rounds, and bars of it for a terminal.

A drafted token has one of three fates: accepted, rejected (it was tested and failed) or wasted (never tested, since an earlier
guess was rejected). Pictures of a timeline are in `sim.pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from sim.setup.acceptance import Acceptance, beyond_measured
from sim.setup.system import System
from sim.stream.events import run_stream
from sim.stream.run import Fate, Model, Span
from specdec.inputs import at_least_one
from specdec.report import Report, milliseconds, share, spelled
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

MORE_ROUNDS = 8
"""Rounds that are simulated after the ones that are shown, so that the fates of the last drafted tokens are known."""
MOST_TOKENS = 100_000
MODELS: tuple[Model, ...] = ("target", "draft")

Kind: TypeAlias = Literal["target forward", "draft accepted", "draft rejected", "draft wasted", "waiting"]

DRAFTED: dict[Fate, Kind] = {"accepted": "draft accepted", "rejected": "draft rejected", "wasted": "draft wasted"}

MARKS: dict[str, str] = {
    "target forward": "[white on blue]T[/]",
    "draft accepted": "[black on green]a[/]",
    "draft rejected": "[white on red]r[/]",
    "draft wasted": "[black on yellow]w[/]",
    "waiting": "[dim].[/]",
    "end of round": "[bold]|[/]",
}
LEGEND: tuple[dict[str, str], ...] = (
    {"target forward": "target forward", "waiting": "waiting", "end of round": "end of a round"},
    {"draft accepted": "drafted, accepted", "draft rejected": "rejected", "draft wasted": "wasted (behind a rejected one)"},
)
"""What the marks mean, in two lines of less than 80 columns."""


@dataclass(frozen=True)
class Piece(Report):
    """A piece of time in which one model works, or waits.

    `lane`            the model, `target` or `draft`
    `kind`            `target forward`; or `draft accepted`, `draft rejected`, `draft wasted` for a single drafted token
    `round`           number of the round, from 1; `None` (null) for waiting
    `start_seconds`   since the start of the decode
    `end_seconds`     since the start of the decode
    `rows`            positions that a target forward scores; `None` (null) for everything else
    """

    lane: Model
    kind: Kind
    round: int | None
    start_seconds: float
    end_seconds: float
    rows: int | None = None


@dataclass(frozen=True)
class Timeline(Report):
    """The first rounds of a decode; what `specdec timeline --json` writes.

    `strategy`            name of the strategy
    `parameters`          its parameters by name
    `seconds`             of all the rounds that are shown
    `round_end_seconds`   when each round ends
    `round_tokens`        tokens committed in each round
    `target_idle_share`   share of the time in which the target does nothing
    `draft_idle_share`    the same of the draft
    `remarks`             what is extrapolated, in sentences
    `work`                forwards of the target and drafted tokens, in order of their start
    """

    format: ClassVar[str] = "specdec.timeline/1"

    strategy: str
    parameters: Mapping[str, Any]
    seconds: float
    round_end_seconds: tuple[float, ...]
    round_tokens: tuple[int, ...]
    target_idle_share: float
    draft_idle_share: float
    work: tuple[Piece, ...]
    remarks: tuple[str, ...] = ()

    def waits(self) -> Iterator[Piece]:
        """The times in which a model does nothing, as pieces of kind `waiting`; none for a model that never works."""
        for model in MODELS:
            ours = [piece for piece in self.work if piece.lane == model]
            ends = [0.0, *(piece.end_seconds for piece in ours)]
            starts = [*(piece.start_seconds for piece in ours), self.seconds]
            for start, end in zip(ends, starts, strict=True):
                if ours and end - start > 1e-12:
                    yield Piece(model, "waiting", None, start, end)

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        tokens, title = sum(self.round_tokens), spelled(self.strategy, self.parameters)
        rounds = f"{len(self.round_tokens)} rounds, {tokens} tokens in {milliseconds(self.seconds)}"
        idle = f"idle: target {share(self.target_idle_share)}, draft {share(self.draft_idle_share)} of the time"
        return Group(f"[bold]{title}[/]: {rounds}", _Bars(self), idle, *self.remarks)


@dataclass(frozen=True)
class _Bars:
    """One bar a model, as wide as the terminal, and a legend."""

    shown: Timeline

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        shown, columns = self.shown, max(20, options.max_width - 10)
        letter = min(piece.end_seconds - piece.start_seconds for piece in shown.work)
        rounds = len(shown.round_end_seconds)
        while rounds > 1 and shown.round_end_seconds[rounds - 1] / letter + rounds > columns:
            rounds -= 1
        seconds = max(letter, shown.round_end_seconds[rounds - 1] / max(1, columns - rounds))
        for model in MODELS:
            marks = "".join(self._marks([piece for piece in shown.work if piece.lane == model], rounds, seconds))
            yield Text.from_markup(f"{model:<7}{marks}", overflow="crop")
        for legend in LEGEND:
            yield "       " + "  ".join(f"{MARKS[kind]} {meaning}" for kind, meaning in legend.items())
        tokens = "every drafted token has one or more" if seconds == letter else "drafted tokens may have none"
        yield f"       A letter is {milliseconds(seconds)}: {tokens}."
        if rounds < len(shown.round_end_seconds):
            yield f"       The first {rounds} of {len(shown.round_end_seconds)} rounds are shown: widen the terminal for more."

    def _marks(self, pieces: Sequence[Piece], rounds: int, seconds: float) -> Iterator[str]:
        """The letters of one model in the first rounds, `seconds` each."""
        start = 0
        for end in (round(at / seconds) for at in self.shown.round_end_seconds[:rounds]):
            for column in range(start, end):
                middle = (column + 0.5) * seconds
                kind = next((piece.kind for piece in pieces if piece.start_seconds <= middle < piece.end_seconds), "waiting")
                yield MARKS[kind]
            yield MARKS["end of round"]
            start = end


def timeline(
    strategy: DecodingStrategy, acceptance: Acceptance, system: System, *, rounds: int = 10, seed: int = 0
) -> Timeline:
    """Simulate the first `rounds` rounds in detail. Equal seeds give all strategies equal acceptance draws.

    Raises `InputError` for a number of rounds below 1, `StrategyError` for a strategy that cannot be timed.
    """
    at_least_one(rounds=rounds)
    strategy = strategy.resolved(KnownFacts(system.speed_ratio_for(strategy)))
    run = run_stream(strategy, acceptance, system, tokens=MOST_TOKENS, rounds=rounds + MORE_ROUNDS, seed=seed, detailed=True)
    spans = [span for span in run.spans if span.round < rounds]
    ends = tuple(run.round_end_seconds[:rounds].tolist())
    return Timeline(
        strategy=strategy.name,
        parameters=strategy.parameters,
        seconds=ends[-1],
        round_end_seconds=ends,
        round_tokens=tuple(run.round_tokens[:rounds].tolist()),
        target_idle_share=_idle_share(spans, "target", ends[-1]),
        draft_idle_share=_idle_share(spans, "draft", ends[-1]),
        work=tuple(piece for span in spans for piece in _pieces(span)),
        remarks=beyond_measured(acceptance, run.most_tested),
    )


def _idle_share(spans: Sequence[Span], model: Model, seconds: float) -> float:
    return 1 - sum(span.end_seconds - span.start_seconds for span in spans if span.model == model) / seconds


def _pieces(span: Span) -> Iterator[Piece]:
    """A target forward, or each token of a draft by itself."""
    start, end = span.start_seconds, span.end_seconds
    if span.model == "target":
        yield Piece("target", "target forward", span.round + 1, start, end, span.positions)
        return
    step = (end - start) / max(1, len(span.fates))
    for number, fate in enumerate(span.fates):
        yield Piece("draft", DRAFTED[fate], span.round + 1, start + number * step, start + (number + 1) * step)
