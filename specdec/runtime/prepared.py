"""Answers of the draft's lane as guesses: a draft, and the branches that a `Fork` prepared.

The tokens of a branch are known at once. Its rows are asked for, and read when the branch is verified: until then the target
has scored it, so nobody waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specdec.effects import Forks, Guess, Known, Verdict
from specdec.runtime.messages import ARGMAX
from specdec.statistics import Statistics
from specdec.verification import Row


def guess_of(tokens: Sequence[int], q: Row | None) -> Guess:
    """Drafted tokens as a guess. `q` has their rows, `None` when greedy."""
    return Guess(tuple(map(Known, tokens, [ARGMAX] * len(tokens) if q is None else as_read(q))))


def as_read(q: Row) -> Row:
    """Rows as a rule reads them: on a CPU as numpy arrays, where a single element costs far less than in torch."""
    return q.numpy() if isinstance(q, Tensor) and q.is_cpu else q


@dataclass(frozen=True, slots=True, eq=False)
class Late:
    """A token of a branch. `rows` waits for the rows of the whole branch; this token's is the one with that `number`.

    There are no rows when they are lost with their lane.
    """

    token: int
    rows: Callable[[], Sequence[Row]]
    number: int

    @property
    def q(self) -> Row:
        """The row that the token was sampled from."""
        return self.rows()[self.number]


@dataclass(frozen=True, eq=False)
class PreparedForks:
    """The answer to a `Fork`.

    `tails`        by outcome (accepted, last token): the number of its branch, and that branch's tokens
    `fetch`        asks for the rows of a branch, which are left where they were made until one is chosen, and returns what
                   waits for them; `None` when greedy. It returns `None` when the lane is lost, or was replaced
    `statistics`   counts hits and misses
    """

    tails: Mapping[tuple[int, int], tuple[int, Sequence[int]]]
    fetch: Callable[[int], Callable[[], Sequence[Row]] | None] | None
    statistics: Statistics
    _found: dict[tuple[int, int], Guess] = field(default_factory=dict[tuple[int, int], Guess])

    def after(self, verdict: Verdict) -> Guess:
        """The continuation after `verdict.tokens`; empty on a miss."""
        if len(verdict.tokens) == verdict.accepted:  # no token of the target's own, which every outcome has
            return Guess.empty
        outcome = verdict.accepted, verdict.tokens.tokens[-1]
        if outcome not in self._found:
            self._found[outcome] = self._continuation(outcome)
            self.statistics.count_outcome(verdict.complete, outcome in self.tails)
        return self._found[outcome]

    def _continuation(self, outcome: tuple[int, int]) -> Guess:
        if outcome not in self.tails:
            return Guess.empty
        branch, tokens = self.tails[outcome]
        if self.fetch is None:
            return guess_of(tokens, None)
        rows = self.fetch(branch) if tokens else None
        return Guess.empty if rows is None else Guess(tuple([Late(token, rows, i) for i, token in enumerate(tokens)]))


class NoForks:
    """The answer where the draft could prepare nothing."""

    def after(self, verdict: Verdict) -> Guess:
        """Nothing is ready."""
        return Guess.empty


NO_FORKS: Forks = NoForks()
