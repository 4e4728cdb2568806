"""A profile: what a pair costs and how well it agrees, as one frozen value. Read, written, checked and merged here only.

`specdec.measure` measures one; the simulator, the benchmark and forced acceptance read it. Times are in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from statistics import mean, median
from typing import Any, ClassVar

from specdec.errors import InputError
from specdec.report import Report


@dataclass(frozen=True)
class PairNames(Report):
    """The two models by name."""

    target: str = "target"
    draft: str = "draft"


@dataclass(frozen=True)
class Hardware(Report):
    """`devices` are those of the target and of the draft, `cores` those that the process could use."""

    cpu: str
    cores: int
    devices: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True)
class TargetTiming(Report):
    """A forward of the target over `width` positions in each of `batch` sequences, behind `context` tokens.

    `mean`   seconds
    `cv`     coefficient of variation of single forwards
    """

    width: int
    batch: int
    context: int
    mean: float
    cv: float = 0.0


@dataclass(frozen=True)
class DraftTiming(Report):
    """A drafted token, sampling included, in each of `batch` sequences, behind `context` tokens; `mean` and `cv` as above."""

    batch: int
    context: int
    mean: float
    cv: float = 0.0


@dataclass(frozen=True)
class Slowdown(Report):
    """Seconds of each model in some company, over its seconds alone."""

    target_factor: float = 1.0
    draft_factor: float = 1.0


@dataclass(frozen=True)
class FileAcceptance(Report):
    """Acceptance on the prompts of one file."""

    rate: float
    positions: int


@dataclass(frozen=True)
class MeasuredAcceptance(Report):
    """How often a drafted token is accepted (token rule, temperature 1).

    `rate`         mean over positions of sum_x min(p(x), q(x))
    `run_lengths`  accepted tokens between two rejections -> how often
    `by_file`      the rate on the prompts of each file
    """

    rate: float | None = None
    run_lengths: Mapping[int, int] = field(default_factory=dict[int, int])
    by_file: Mapping[str, FileAcceptance] = field(default_factory=dict[str, FileAcceptance])

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise InputError(f"acceptance rate {self.rate} is no probability: measure the pair again")
        if any(length < 0 or count < 0 for length, count in self.run_lengths.items()):
            raise InputError("run_lengths hold a negative number: measure the pair again")

    @property
    def runs(self) -> int:
        """How many runs were recorded."""
        return sum(self.run_lengths.values())

    def chances(self) -> list[float]:
        """`chances()[r]`: how often the token behind a run of `r` accepted ones was accepted, up to the longest run and 0."""
        if not self.runs:
            raise InputError("the profile holds no run of accepted tokens: measure acceptance on more prompts")
        longest = max(length for length, count in self.run_lengths.items() if count)
        at_least = [sum(n for length, n in self.run_lengths.items() if length >= run) for run in range(longest + 2)]
        return [more / these for these, more in pairwise(at_least)]


@dataclass(frozen=True)
class Profile(Report):
    """A measured pair; what `specdec profile --json` writes.

    `pair`                       names of the models
    `hardware`, `versions`, `date`   where, with what and when it was measured; empty where a profile was made by hand
    `target_seconds`             forwards of the target alone, by width, batch and context
    `draft_seconds`              drafted tokens of the draft alone, by batch and context
    `draft_start_seconds`        of a draft beside its tokens, when its model waited for the target: transport, a slow start
    `in_turn`                    the slowdown of models that work in turn
    `together`                   the slowdown while both work at once; `None` (null) where they cannot
    `round_overhead_seconds`     of a round beside its forward, of a strategy that does not draft
    `drafting_overhead_seconds`  the same of a strategy that drafts, and verifies guesses; `None`: the same seconds
    `acceptance`                 how well the pair agrees; empty for random weights
    """

    format: ClassVar[str] = "specdec.profile/1"

    target_seconds: tuple[TargetTiming, ...]
    draft_seconds: tuple[DraftTiming, ...]
    pair: PairNames = PairNames()
    hardware: Hardware | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    date: str = ""
    draft_start_seconds: float = 0.0
    in_turn: Slowdown = Slowdown()
    together: Slowdown | None = Slowdown()
    round_overhead_seconds: float = 0.0
    drafting_overhead_seconds: float | None = None
    acceptance: MeasuredAcceptance = MeasuredAcceptance()

    @property
    def label(self) -> str:
        """The pair in a few words."""
        return f"{self.pair.draft} for {self.pair.target}"

    @classmethod
    def merged(cls, profiles: Sequence[Profile]) -> Profile:
        """One profile from several of the same settings: medians of times and factors, and all that was seen of acceptance."""
        first, *_ = profiles

        def middle(name: str) -> Any:
            values = [getattr(one, name) for one in profiles]
            return None if values[0] is None else median(values)

        runs: Counter[int] = Counter()
        for one in profiles:
            runs.update(one.acceptance.run_lengths)
        rates = [one.acceptance.rate for one in profiles if one.acceptance.rate is not None]
        return replace(
            first,
            target_seconds=_middles([one.target_seconds for one in profiles]),
            draft_seconds=_middles([one.draft_seconds for one in profiles]),
            in_turn=_middles([(one.in_turn,) for one in profiles])[0],
            together=None if first.together is None else _middles([(one.together,) for one in profiles])[0],
            draft_start_seconds=middle("draft_start_seconds"),
            round_overhead_seconds=middle("round_overhead_seconds"),
            drafting_overhead_seconds=middle("drafting_overhead_seconds"),
            acceptance=MeasuredAcceptance(mean(rates) if rates else None, dict(runs)),
        )


def _middles(columns: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Row by row the first one with the median of every float of its fields."""
    return tuple(
        replace(
            rows[0],
            **{
                part.name: median(getattr(row, part.name) for row in rows)
                for part in fields(rows[0])
                if isinstance(getattr(rows[0], part.name), float)
            },
        )
        for rows in zip(*columns, strict=True)
    )
