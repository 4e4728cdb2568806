"""Answers of the draft's lane as guesses: a draft, and the branches that a `Fork` prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specdec.effects import Forks, Guess, Known, Verdict
from specdec.runtime.messages import ARGMAX, Drafting
from specdec.statistics import Statistics
from specdec.verification import Row


def guess_of(tokens: Sequence[int], q: Row | None) -> Guess:
    """Drafted tokens as a guess. `q` has their rows, `None` when greedy."""
    if isinstance(q, Tensor) and q.is_cpu:
        q = q.numpy()
    return Guess(tuple(map(Known, tokens, [ARGMAX] * len(tokens) if q is None else q)))


@dataclass(frozen=True, eq=False)
class PreparedForks:
    """The answer to a `Fork`.

    `tails`        by outcome (accepted, last token): the number of its branch, and that branch's tokens
    `fetch`        gives a branch with its rows, which are left where they were made until one is chosen; `None` when greedy
    `statistics`   counts hits and misses
    """

    tails: Mapping[tuple[int, int], tuple[int, Sequence[int]]]
    fetch: Callable[[int], Drafting | None] | None
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
        drafting = self.fetch(branch)
        return Guess.empty if drafting is None else guess_of(drafting.tokens, drafting.q)


class NoForks:
    """The answer where the draft could prepare nothing."""

    def after(self, verdict: Verdict) -> Guess:
        """Nothing is ready."""
        return Guess.empty


NO_FORKS: Forks = NoForks()
