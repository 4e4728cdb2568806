"""A profile: what a pair costs and how well it agrees, as one frozen value that checks itself and prints itself.

`specdec.measure` makes profiles, and `specdec.report` reads and writes them like every report. The simulator, the benchmark and
forced acceptance use them. Times are in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from statistics import mean, median
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.acceptance import MeasuredAcceptance, Tag
from specdec.errors import InputError
from specdec.report import Report, milliseconds, share, table, three_digits

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


@dataclass(frozen=True)
class PairNames(Report):
    """The two models by name.

    `target`   where the target was loaded from
    `draft`    where the draft was loaded from; empty where it has no name, as for ngram
    """

    target: str = "target"
    draft: str = "draft"


@dataclass(frozen=True)
class Hardware(Report):
    """Where something was measured.

    `cpu`       the processor as its maker calls it
    `cores`     number of cores that the process could use
    `devices`   device of the target, then that of the draft; empty where it is unknown
    `system`    the operating system
    """

    cpu: str
    cores: int
    devices: tuple[str, ...] = ()
    system: str = ""


@dataclass(frozen=True)
class TargetTiming(Report):
    """A forward of the target, timed alone.

    `width`     positions that are scored in each sequence
    `batch`     number of sequences
    `context`   tokens before the positions
    `mean`      mean seconds of a forward; of several passes, the median of their means
    `cv`        coefficient of variation of single forwards
    `tag`       how the number came about
    """

    width: int
    batch: int
    context: int
    mean: float
    cv: float = 0.0
    tag: Tag = "measured"

    def __post_init__(self) -> None:
        name = f"a target forward of width {self.width}, batch {self.batch}, context {self.context}"
        if self.width < 1:
            raise InputError(f"{name} is not possible: measure the pair again")
        _check(self, name)


@dataclass(frozen=True)
class DraftTiming(Report):
    """A drafted token, timed alone, sampling included.

    `batch`      number of sequences; each gets one token
    `context`    tokens before the drafted one
    `mean`       mean seconds of a token; of several passes, the median of their means
    `cv`         coefficient of variation of single tokens
    `tag`        how the number came about
    `branches`   branches of a `Fork` that get one token each, in one forward
    """

    batch: int
    context: int
    mean: float
    cv: float = 0.0
    tag: Tag = "measured"
    branches: int = 1

    def __post_init__(self) -> None:
        name = f"a drafted token of batch {self.batch}, context {self.context}"
        if self.branches < 1:
            raise InputError(f"{name} for {self.branches} branches is not possible: measure the pair again")
        _check(self, name)


def _check(timing: TargetTiming | DraftTiming, name: str) -> None:
    """Refuse sizes and times that cannot be, by the name of the timing."""
    if timing.batch < 1 or timing.context < 0:
        raise InputError(f"{name} is not possible: measure the pair again")
    if not (isfinite(timing.mean) and timing.mean > 0):
        raise InputError(f"{name} takes {timing.mean} seconds, and must take a positive time: measure the pair again")
    if not (isfinite(timing.cv) and timing.cv >= 0):
        raise InputError(f"{name} varies by {timing.cv}, which is no coefficient of variation: measure the pair again")


@dataclass(frozen=True)
class Slowdown(Report):
    """How many times longer each model takes in the presence of the other one than alone.

    `target_factor`   seconds of a forward of the target, over its seconds alone
    `draft_factor`    seconds of a drafted token, over its seconds alone
    """

    target_factor: float = 1.0
    draft_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, factor in vars(self).items():
            if not (isfinite(factor) and factor > 0):
                raise InputError(f"{name} {factor} is no slowdown: give a positive number, 1 for none")

    def __str__(self) -> str:
        return f"target {self.target_factor:.2f}x and draft {self.draft_factor:.2f}x their seconds alone"


@dataclass(frozen=True)
class BatchRounds(Report):
    """What a round of a batch costs beside its forwards alone, as a `Profile` has it for one sequence.

    `batch`                       sequences in the round
    `target_in_turn`              slowdown of models that work in turn
    `draft_in_turn`
    `target_together`             slowdown while both models work at once; 1 where they cannot
    `draft_together`
    `round_overhead_seconds`      seconds of the whole round that are spent in no forward, for a strategy that does not draft
    `drafting_overhead_seconds`   the same for a strategy that drafts and verifies guesses
    """

    batch: int
    target_in_turn: float = 1.0
    draft_in_turn: float = 1.0
    target_together: float = 1.0
    draft_together: float = 1.0
    round_overhead_seconds: float = 0.0
    drafting_overhead_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise InputError(f"batch is {self.batch} in batches, and one sequence is measured by itself: give 2 or more")
        for name, value in vars(self).items():
            if not isfinite(value) or value < 0 or (value == 0 and not name.endswith("seconds")):
                raise InputError(f"{name} {value} of batches is not possible: measure the pair again")


_FIXED_SECONDS = ("draft_start_seconds", "fork_start_seconds", "wake_seconds", "round_overhead_seconds")
"""Times of a `Profile` that are single numbers and never missing."""


@dataclass(frozen=True)
class Profile(Report):
    """A measured pair; what `specdec profile --json` writes.

    `pair`                        names of the models
    `hardware`                    where it was measured; null where a profile was made by hand
    `versions`                    versions of Python and of the packages that matter, by name
    `date`                        when it was measured, in UTC
    `target_seconds`              forwards of the target alone, by width, batch and context
    `draft_seconds`               drafted tokens of the draft alone, by batch, context and branches
    `draft_start_seconds`         fixed cost of one draft request: transport there and back, and a slow first step
    `fork_start_seconds`          fixed cost of a fork in addition to its forwards: tokens are foreseen, and masks made
    `wake_seconds`                by how much longer a prompt takes after a pause, as one that reaches an idle pair does
    `in_turn`                     slowdown of models that work in turn
    `together`                    slowdown while both models work at once; null where both work in one thread and so cannot
    `round_overhead_seconds`      seconds of a round that are spent in no forward, for a strategy that does not draft
    `drafting_overhead_seconds`   the same for a strategy that drafts and verifies guesses; null where it is equal
    `batches`                     slowdowns and overheads of rounds of several sequences; without them, those of one are taken
    `acceptance`                  how often a drafted token is accepted; empty for random weights
    `kv_tokens`                   tokens that the KV cache holds beside both models; null where it is unknown
    `busy`                        share of the needed cores that other processes took, or by how much forwards took longer on
                                  average than in the quietest pass, whichever is more; below 0.15 on an idle machine
    `tags`                        how each of the single numbers above came about, by its key, where it was not measured

    Only `target_seconds` and `draft_seconds` are required in a file. All other keys have defaults.
    """

    format: ClassVar[str] = "specdec.profile/1"

    target_seconds: tuple[TargetTiming, ...]
    draft_seconds: tuple[DraftTiming, ...]
    pair: PairNames = PairNames()
    hardware: Hardware | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    date: str = ""
    draft_start_seconds: float = 0.0
    fork_start_seconds: float = 0.0
    wake_seconds: float = 0.0
    in_turn: Slowdown = Slowdown()
    together: Slowdown | None = Slowdown()
    round_overhead_seconds: float = 0.0
    drafting_overhead_seconds: float | None = None
    batches: tuple[BatchRounds, ...] = ()
    acceptance: MeasuredAcceptance = field(default_factory=MeasuredAcceptance)
    kv_tokens: int | None = None
    busy: float = 0.0
    tags: Mapping[str, Tag] = field(default_factory=dict[str, Tag])

    def __post_init__(self) -> None:
        for name in (*_FIXED_SECONDS, "drafting_overhead_seconds"):
            seconds = getattr(self, name)
            if seconds is not None and not (isfinite(seconds) and seconds >= 0):
                raise InputError(f"{name} is {seconds}, and must be a time of at least 0: measure the pair again")

    @classmethod
    def merged(cls, profiles: Sequence[Profile]) -> Profile:
        """One profile from several of one pair, timed at the same sizes: medians of times and factors, all runs of acceptance.

        Raises `InputError` if there is none, and if pairs or sizes differ.
        """
        if len({profile._grid for profile in profiles}) != 1:
            raise InputError(
                "profiles of other pairs, lanes or sizes cannot be merged: measure all of them with the same settings"
            )
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
            **{name: middle(name) for name in _FIXED_SECONDS},
            drafting_overhead_seconds=middle("drafting_overhead_seconds"),
            batches=_middles([one.batches for one in profiles]),
            acceptance=MeasuredAcceptance(mean(rates) if rates else None, dict(runs), foresight=first.acceptance.foresight),
            busy=max(busy_share(profiles), middle("busy")),
        )

    @property
    def _grid(self) -> tuple[Any, ...]:
        """What was timed: the same for all profiles that can be merged."""
        targets = tuple((timing.width, timing.batch, timing.context) for timing in self.target_seconds)
        drafts = tuple((timing.batch, timing.context, timing.branches) for timing in self.draft_seconds)
        batches = tuple(rounds.batch for rounds in self.batches)
        return self.pair, targets, drafts, batches, self.together is None, self.drafting_overhead_seconds is None

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        alone, drafting = self.round_overhead_seconds, self.drafting_overhead_seconds
        lines = {
            "Pair": " + ".join(filter(None, (self.pair.target, self.pair.draft))),
            "Machine": "unknown" if self.hardware is None else f"{self.hardware.cpu}, {self.hardware.cores} cores",
            "Acceptance": self.acceptance.sentence,
            "In turn": f"{self.in_turn}; a draft takes {milliseconds(self.draft_start_seconds)} in addition to its tokens",
            "Together": "only one works at a time" if self.together is None else str(self.together),
            "Busy": busy_sentence(self.busy),
            "Rounds": f"{milliseconds(alone)} outside the forwards without a draft, "
            f"{milliseconds(alone if drafting is None else drafting)} with one",
        }
        return Group(
            *(Text.assemble((name.ljust(12), "bold"), text) for name, text in lines.items() if text),
            "",
            _table("Target forwards", ("width", "batch", "context"), self.target_seconds),
            _table("Draft steps", ("batch", "branches", "context"), self.draft_seconds),
            *([_rounds_table(self.batches)] if self.batches else []),
        )


BUSY = 0.15
"""A share of `Profile.busy` from which times are not to be trusted."""


def busy_share(profiles: Sequence[Profile]) -> float:
    """How much longer the target's forwards took, on average over these profiles, than in the quietest: the median of sizes."""
    means = zip(*([timing.mean for timing in one.target_seconds] for one in profiles), strict=True)
    return median(mean(of_size) / min(of_size) - 1 for of_size in means)


def busy_sentence(busy: float) -> str:
    """What people must know of a machine that was busy (`Profile.busy`); empty for one that was not."""
    if busy < BUSY:
        return ""
    return (
        f"The machine was busy with other work: {share(busy)} of it, or forwards took {share(busy)} longer. Measure again "
        "when it is idle."
    )


def _table(title: str, columns: Sequence[str], timings: Sequence[TargetTiming | DraftTiming]) -> Table:
    made = table(numbers=(*columns, "ms", "varies by"), title=title)
    for timing in timings:
        sizes = (str(getattr(timing, column)) for column in columns)
        made.add_row(*sizes, three_digits(1000 * timing.mean), share(timing.cv))
    return made


def _rounds_table(batches: Sequence[BatchRounds]) -> Table:
    """Slowdowns of the target and of the draft, and milliseconds outside the forwards."""
    headings = ("batch", "in turn", "together", "ms without a draft", "ms with one")
    made = table(numbers=headings, title="Rounds of batches: how much slower the target / the draft is, and what lies between")
    for one in batches:
        in_turn, together = (
            f"{target:.2f}x / {draft:.2f}x"
            for target, draft in ((one.target_in_turn, one.draft_in_turn), (one.target_together, one.draft_together))
        )
        between = (three_digits(1000 * one.round_overhead_seconds), three_digits(1000 * one.drafting_overhead_seconds))
        made.add_row(str(one.batch), in_turn, together, *between)
    return made


def _middles(columns: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """For each position in the columns, the value of the first column, its floats replaced by medians over all columns."""
    return tuple(
        replace(
            values[0],
            **{
                part.name: median(getattr(value, part.name) for value in values)
                for part in fields(values[0])
                if isinstance(getattr(values[0], part.name), float)
            },
        )
        for values in zip(*columns, strict=True)
    )
