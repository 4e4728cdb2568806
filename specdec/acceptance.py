"""How often a draft is right: its guesses, and its foresight of the tokens that the target adds after them.

`specdec.measure` measures both, and a `specdec.profile.Profile` keeps them. The simulator reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias

from specdec.errors import InputError
from specdec.report import Report, share

Tag: TypeAlias = Literal["measured", "fitted", "extrapolated", "table", "assumed"]
"""How a number came about: measured; on a curve that was fitted to measurements; on that curve beyond the measurements;
computed from a table or data sheet of the hardware; or assumed, since nobody measured it."""

RANK_AFTER_REJECTION = 0.6
"""Chance of each further foreseen token after a rejection where no `Foresight` is given: the bundled pair's, greedy."""

MOST_FORESEEN = 8
"""How many tokens are counted at most."""


@dataclass(frozen=True)
class Foresight(Report):
    """How often the target's own token is among the first 1, 2, ... that the draft foresees; the last chance holds for more.

    `after_rejection`    the token in place of a rejected guess; that guess is not among them
    `after_acceptance`   the token after a window of which all guesses were accepted
    """

    after_rejection: tuple[float, ...]
    after_acceptance: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, chances in vars(self).items():
            if not all(0 <= chance <= 1 for chance in chances):
                raise InputError(f"{name} {chances} is no list of chances: give numbers from 0 to 1")
            if not chances or any(more < fewer for fewer, more in pairwise(chances)):
                raise InputError(f"{name} {chances} is not possible: give the chances for 1, 2, ... tokens, which never fall")

    def __call__(self, fan_out: int, complete: bool) -> float:
        chances = self.after_acceptance if complete else self.after_rejection
        return chances[min(fan_out, len(chances)) - 1]


@dataclass(frozen=True)
class ForesightSums:
    """Sums over positions of a text, from which a `Foresight` is taken; `+` adds those of several texts.

    `rejected`, `accepted`     weights of the positions at which a guess was rejected, and before which all were accepted
    `foreseen_rejected`, `foreseen_accepted`   of these, the weights of those that are foreseen by 1, 2, ... tokens
    """

    rejected: float = 0.0
    accepted: float = 0.0
    foreseen_rejected: tuple[float, ...] = (0.0,) * MOST_FORESEEN
    foreseen_accepted: tuple[float, ...] = (0.0,) * MOST_FORESEEN

    def __add__(self, other: ForesightSums) -> ForesightSums:
        return ForesightSums(
            self.rejected + other.rejected,
            self.accepted + other.accepted,
            tuple(map(sum, zip(self.foreseen_rejected, other.foreseen_rejected, strict=True))),
            tuple(map(sum, zip(self.foreseen_accepted, other.foreseen_accepted, strict=True))),
        )

    @property
    def foresight(self) -> Foresight | None:
        """The chances; `None` where no guess was rejected, or none accepted."""
        if not (self.rejected and self.accepted):
            return None
        rejected, accepted = self.foreseen_rejected, self.foreseen_accepted
        return Foresight(
            tuple(accumulate((min(1.0, part / self.rejected) for part in rejected), max)),  # rounding may let one fall
            tuple(accumulate((min(1.0, part / self.accepted) for part in accepted), max)),
        )


@dataclass(frozen=True)
class FileAcceptance(Report):
    """Acceptance on the prompts of one file.

    `rate`        mean over positions of sum_x min(p(x), q(x))
    `positions`   number of positions in the mean
    """

    rate: float
    positions: int


@dataclass(frozen=True)
class MeasuredAcceptance(Report):
    """How often a drafted token is accepted. `specdec profile` measures it with the token rule at temperature 1.

    `rate`          mean over positions of sum_x min(p(x), q(x)); null where it was not measured
    `run_lengths`   number of runs by their length, in several tosses of the chances of each text; a run is the accepted tokens
                    between two rejections
    `by_file`       the rate on the prompts of each file
    `by_position`   chance that each guess of a round is accepted, given that those before it were; empty where it was not
                    counted. Engines report shares of all rounds: each of these is one share over the one before it
    `foresight`     how well the draft foresees the target's own tokens, for strategies that fork; null without one
    `tag`           how these numbers came about
    """

    rate: float | None = None
    run_lengths: Mapping[int, int] = field(default_factory=dict[int, int])
    by_file: Mapping[str, FileAcceptance] = field(default_factory=dict[str, FileAcceptance])
    by_position: tuple[float, ...] = ()
    foresight: Foresight | None = None
    tag: Tag = "measured"

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise InputError(f"acceptance rate {self.rate} is no probability: measure the pair again")
        if any(length < 0 or count < 0 for length, count in self.run_lengths.items()):
            raise InputError("run_lengths hold a negative number: measure the pair again")
        if any(not 0 <= chance <= 1 for chance in self.by_position):
            raise InputError(f"by_position {list(self.by_position)} holds a number that is no probability: give 0 to 1")

    @property
    def sentence(self) -> str:
        """The rate and that of each file, for people; empty where nothing was measured."""
        if self.rate is None:
            return ""
        by_file = ", ".join(f"{name} {share(found.rate)}" for name, found in self.by_file.items())
        return f"{share(self.rate)} of drafted tokens (temperature 1)" + (f": {by_file}" if by_file else "")

    @property
    def runs(self) -> int:
        """How many runs were recorded."""
        return sum(self.run_lengths.values())

    def chances(self) -> list[float]:
        """`chances()[r]`: how often the guess after `r` accepted ones in sequence was accepted, up to the longest run.

        Raises `InputError` if no run was recorded.
        """
        if not self.runs:
            raise InputError("the profile holds no run of accepted tokens: measure acceptance on more prompts")
        longest = max(length for length, count in self.run_lengths.items() if count)
        at_least = [sum(n for length, n in self.run_lengths.items() if length >= run) for run in range(longest + 2)]
        return [more / these for these, more in pairwise(at_least)]


def divided(branches: int, window: int, acceptance: float, power: float) -> tuple[int, ...]:
    """So many branches of a fork, divided among 0, 1, ... `window` accepted guesses as SSD does (arXiv 2603.03251).

    The shares are `a^(j / (1 + power))` for `j` accepted guesses, and `(a^window / (1 - a))^(1 / (1 + power))` behind the whole
    window, at the acceptance rate `a`. `power` says how fast misses become rare: n foreseen tokens miss n^-power times as often
    as one. Shares are rounded to whole branches, the largest remainders up.
    """
    chances = [*(acceptance**j for j in range(window)), acceptance**window / (1 - acceptance)]
    weights = [chance ** (1 / (1 + power)) for chance in chances]
    shares = [branches * weight / sum(weights) for weight in weights]
    found = [int(share) for share in shares]
    largest_first = sorted(range(window + 1), key=lambda j: found[j] - shares[j])
    for j in largest_first[: branches - sum(found)]:
        found[j] += 1
    return tuple(found)
