"""Verification rules: from the target's rows `p` and the draft's rows `q` to accepted tokens and one token more.

A rule is a pure function of a `Window` and a `Chance`. It is written once, for numbers and arrays of any kind. The runtime
calls it with torch tensors and floats, the exact law with arrays of `Fraction`: the rule that is proved is the rule that
runs.

Only the `Chance` draws random numbers. It answers three questions, each with a known law and with fresh randomness. Reusing one
uniform for several positions makes the reference PEARL code lossy.

Rules are found through the entry-point group `specdec.rules`. The built-in ones are registered there too.

Sources: token rule, Leviathan et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318); block rule, Sun et al.
2024 (arXiv 2403.10444), algorithm 2; match rule, the "sample and compare" rule of transformers and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

from specdec import plugins
from specdec.errors import InputError

GROUP = "specdec.rules"
FIRST = ("token", "match", "block")
"""The order in which rules are listed and proved; others follow by name."""

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
class Decision:
    """What a rule decides: commit `accepted` guesses, then `token`.

    `token` is `None` when all guesses were accepted and no bonus was asked for.
    """

    accepted: int
    token: int | None


Rule: TypeAlias = Callable[[Window, bool, Chance], Decision]


def residual(p: Row, q: Row, scale: Any = 1) -> Row:
    """`[scale p - q]+`, not normalised; `p` itself where nothing is left (a rejection that only rounding can reach)."""
    left = (scale * p - q).clip(0)
    return left if left.sum() > 0 else p


def token_rule(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Accept `x_i` with probability min(1, p_i/q_i); at the first rejection sample `[p_i - q_i]+` and stop."""
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted))))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def match_rule(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Sample from `p_i` and go on while the sample equals the guess. Needs no `q`; accepts less than the token rule.

    Drawn as: equal with probability `p_i(x_i)`, else one of the other tokens. The law is the same.
    """
    accepted = chance.leading(window.p_at(i) for i in range(window.n))
    if accepted < window.n:
        return Decision(accepted, chance.pick(window.without(accepted)))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def block_rule(window: Window, bonus: bool, chance: Chance) -> Decision:
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
        return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted), pi[accepted])))
    return Decision(accepted, chance.pick(window.p(n)) if bonus else None)


def greedy_rule(best: Sequence[int], guess: Sequence[int], bonus: bool) -> Decision:
    """Temperature 0, where `p_i` is one-hot at `best[i]` and every rule is the same: accept while equal."""
    accepted = next((i for i, token in enumerate(guess) if token != best[i]), len(guess))
    return Decision(accepted, best[accepted] if accepted < len(guess) or bonus else None)


def rules() -> dict[str, Rule]:
    """Every installed rule by name."""
    return _installed()


@cache
def _installed() -> dict[str, Rule]:
    """Read once in a process, since each decode asks."""
    found = plugins.installed(GROUP)
    for name, function in found.items():
        if not callable(function):
            raise InputError(f"{name} of {GROUP} is {function!r}, no function (window, bonus, chance): correct its package")
    return {name: found[name] for name in (*FIRST, *found) if name in found}


def rule(verification: str | Rule) -> Rule:
    """A rule by name; a rule itself is passed through."""
    return plugins.named("verification", verification, rules()) if isinstance(verification, str) else verification


def name_of(verification: str | Rule) -> str:
    """The name of a rule, as it is reported."""
    if isinstance(verification, str):
        return verification
    return getattr(verification, "__name__", type(verification).__name__)
