"""Verification rules: from the target's rows `p` and the draft's rows `q` to accepted tokens and one token more.

A rule is a pure function of a `Window` and a `Chance`. It is written once, for numbers and arrays of any kind: the runtime
calls it with torch tensors and floats, the exact law with arrays of `Fraction`, so the rule that is proved is the rule that
runs. What draws random numbers is only the `Chance`, whose three questions have known laws; every question is answered with
fresh randomness (reusing one uniform across positions is what makes the reference PEARL code lossy).

Sources: token rule, Leviathan et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318); block rule, Sun et al.
2024 (arXiv 2403.10444), algorithm 2; match rule, the "sample and compare" rule of transformers and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from specdec.errors import InputError

Row: TypeAlias = Any
"""Probabilities over the vocabulary: an array with `-`, `*`, `clip`, `sum` and indexing (torch, or numpy of `Fraction`)."""


class Window(Protocol):
    """`n` guessed tokens `x_0 .. x_{n-1}` before the rule, in rows of shape (vocabulary,)."""

    @property
    def n(self) -> int: ...

    def p_at(self, i: int) -> Any:
        """`p_i(x_i)`, a number."""
        ...

    def q_at(self, i: int) -> Any:
        """`q_i(x_i)`, a number above 0; 1 where the token was certain."""
        ...

    def p(self, i: int) -> Row:
        """The target's row before token `i`; `i = n` is the bonus row."""
        ...

    def q(self, i: int) -> Row:
        """The row token `i` was sampled from; one-hot where it was certain."""
        ...

    def without(self, i: int) -> Row:
        """`p_i` with token `x_i` removed (not normalised)."""
        ...


class Chance(Protocol):
    """Where randomness comes from."""

    def leading(self, probabilities: Iterable[Any]) -> int:
        """Independent trials in order: how many succeed before the first failure. Values above 1 count as 1."""
        ...

    def last(self, probabilities: Sequence[Any]) -> int:
        """Independent trials, all of them made: 1 + the index of the last success, 0 without any."""
        ...

    def pick(self, weights: Row) -> int:
        """A token with probability proportional to its weight."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`accepted` guesses, then `token` (`None` when all were accepted and no bonus was asked for)."""

    accepted: int
    token: int | None


Rule: TypeAlias = Callable[[Window, bool, Chance], Outcome]


def residual(p: Row, q: Row, scale: Any = 1) -> Row:
    """`[scale p - q]+`, not normalised; `p` itself where nothing is left (a rejection that only rounding can reach)."""
    left = (scale * p - q).clip(0)
    return left if left.sum() > 0 else p


def token_rule(window: Window, bonus: bool, chance: Chance) -> Outcome:
    """Accept `x_i` with probability min(1, p_i/q_i); at the first rejection sample `[p_i - q_i]+` and stop."""
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        return Outcome(accepted, chance.pick(residual(window.p(accepted), window.q(accepted))))
    return Outcome(accepted, chance.pick(window.p(accepted)) if bonus else None)


def match_rule(window: Window, bonus: bool, chance: Chance) -> Outcome:
    """Sample from `p_i` and go on while the sample equals the guess. Needs no `q`; accepts less than the token rule.

    Drawn as: equal with probability `p_i(x_i)`, else one of the other tokens. The law is the same.
    """
    accepted = chance.leading(window.p_at(i) for i in range(window.n))
    if accepted < window.n:
        return Outcome(accepted, chance.pick(window.without(accepted)))
    return Outcome(accepted, chance.pick(window.p(accepted)) if bonus else None)


def block_rule(window: Window, bonus: bool, chance: Chance) -> Outcome:
    """Verify the window as a whole: at least as many accepted tokens as under the token rule, in expectation."""
    n = window.n
    pi: list[Any] = [1]
    for i in range(n):
        pi.append(min(1, pi[i] * window.p_at(i) / window.q_at(i)))
    keep = []
    for i in range(1, n):
        z = (pi[i] * window.p(i) - window.q(i)).clip(0).sum()
        keep.append(z / (z + 1 - pi[i]) if z + 1 - pi[i] > 0 else 1)
    accepted = chance.last([*keep, pi[n]]) if n else 0
    if accepted < n:
        return Outcome(accepted, chance.pick(residual(window.p(accepted), window.q(accepted), pi[accepted])))
    return Outcome(accepted, chance.pick(window.p(n)) if bonus else None)


def greedy_rule(best: Sequence[int], guess: Sequence[int], bonus: bool) -> Outcome:
    """Temperature 0, where `p_i` is one-hot at `best[i]` and every rule is the same: accept while equal."""
    accepted = next((i for i, token in enumerate(guess) if token != best[i]), len(guess))
    return Outcome(accepted, best[accepted] if accepted < len(guess) or bonus else None)


RULES: dict[str, Rule] = {"token": token_rule, "match": match_rule, "block": block_rule}


def rule(name: str) -> Rule:
    """A rule by name."""
    if name not in RULES:
        raise InputError(f"unknown verification {name!r}: choose one of {', '.join(RULES)}")
    return RULES[name]
