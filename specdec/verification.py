"""Verification rules: how many guesses are accepted, and which token the target adds, by the rows `p` and `q`.

A rule is written once, for numbers and arrays of any kind. The runtime calls it with torch tensors and floats, the exact law
with arrays of `Fraction`: the rule that is proved is the rule that runs.

A rule draws no random numbers; its `Chance` does. Each question to it has a known law, and is answered with fresh randomness.
(The reference code of PEARL uses one uniform number for several positions. Its output is biased.)

Rules are found through the entry-point group `specdec.rules`. The built-in ones are registered there too. A rule claims that
the output keeps the target's law, unless it has an attribute `lossless = False`. Such a rule is used only where it is asked
for, and every report says so.

Sources: token rule, Leviathan et al. 2023 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318); block rule, Sun et al.
2024 (arXiv 2403.10444), algorithm 2; match rule, the "sample and compare" rule of transformers and llama.cpp.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from inspect import getdoc
from typing import Any, Protocol, TypeAlias

from specdec.errors import InputError
from specdec.importing import found_at, is_place, with_settings
from specdec.inputs import number_or_text
from specdec.plugins import Plugins

Row: TypeAlias = Any
"""Probabilities over the vocabulary: an array with `-`, `*`, `clip`, `sum` and indexing (torch, or numpy of `Fraction`)."""


class Window(Protocol):
    """What a rule decides on: `n` guesses `x_0 .. x_(n-1)`, and rows of shape (vocabulary,)."""

    @property
    def n(self) -> int:
        """How many guesses there are."""
        ...

    def p_at(self, i: int) -> Any:
        """`p_i(x_i)`, a number."""
        ...

    def q_at(self, i: int) -> Any:
        """`q_i(x_i)`, a number above 0; 1 where the token was certain."""
        ...

    def p(self, i: int) -> Row:
        """`p_i`, the target's row for guess `i`; the row for the bonus token if `i = n`."""
        ...

    def q(self, i: int) -> Row:
        """`q_i`, the row that guess `i` was sampled from; one-hot where it was certain."""
        ...

    def without(self, i: int) -> Row:
        """`p_i` with 0 in place of `p_i(x_i)`, not normalised."""
        ...


class Chance(Protocol):
    """Draws the random numbers of a rule. No draw uses the randomness of another."""

    def leading(self, probabilities: Iterable[Any]) -> int:
        """How many trials succeed before the first that fails. Trial `i` succeeds with probability `min(1, probabilities[i])`.

        Trials are made in order, and none after a failure, so an iterator is read no further than is needed.
        """
        ...

    def last(self, probabilities: Sequence[Any]) -> int:
        """1 + the index of the last trial that succeeds; 0 if none does. Trial `i` succeeds with `min(1, probabilities[i])`."""
        ...

    def pick(self, weights: Row) -> int:
        """A token, with a probability proportional to its weight."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decides.

    `accepted`   how many guesses are committed, from the first on
    `token`      the token that the target adds after them; `None` if all are accepted and no bonus is wanted
    """

    accepted: int
    token: int | None


Rule: TypeAlias = Callable[[Window, bool, Chance], Decision]
"""A verification rule, `rule(window, bonus, chance) -> Decision`; `bonus` says whether to add a token if all are accepted.

It must be pure: equal windows and equal answers of `chance` give equal decisions. All randomness is asked of `chance`.
"""


def residual(p: Row, q: Row, scale: Any = 1) -> Row:
    """`[scale p - q]+`, not normalised; `p` where nothing is left (only after a rejection that rounding made possible)."""
    left = (scale * p - q).clip(0)
    return left if left.sum() > 0 else p


def token_rule(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Accept `x_i` with probability min(1, p_i/q_i); at the first rejection sample `[p_i - q_i]+` and stop."""
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted))))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def match_rule(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Sample a token from `p_i`, and go on while it equals the guess. Needs no `q`; accepts less than the token rule.

    The sample is drawn in two steps with the same law: it is `x_i` with probability `p_i(x_i)`, else one of the other tokens.
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


RULES: Plugins[Any] = Plugins(
    "specdec.rules",
    "verification",
    "function (window, bonus, chance), or dataclass of one",
    lambda _, it: callable(it),
    first=("token", "match", "block"),
)


@cache
def rules(*, lossy: bool = False) -> dict[str, Rule]:
    """Every installed rule that claims to be lossless, by name; with `lossy`, those too that do not. Read once in a process.

    A `RuntimeWarning` names those that cannot be used.
    """
    found: dict[str, Rule] = {}
    for name, it in RULES.usable().items():
        try:
            found[name] = _made(name, it, [])
        except InputError as error:  # it has a parameter that must be given
            warnings.warn(f"left out: {error}", RuntimeWarning, stacklevel=2)
    return {name: it for name, it in found.items() if lossy or is_lossless(it)}


@cache
def _named(text: str) -> Rule:
    """Looked up once in a process, since each decode asks."""
    name, settings = with_settings(text)
    placed = is_place(name) and not name.startswith("synthetic:")  # forced acceptance, which is no rule
    return _made(name, found_at(name) if placed else RULES.find(name), settings)


def _made(name: str, found: Any, settings: Sequence[tuple[str, str]]) -> Rule:
    """The rule that a registered object stands for: itself, or an object of the class with these parameters."""
    of_class = isinstance(found, type) and is_dataclass(found)
    parameters = [field.name for field in fields(found)] if of_class else []
    for parameter, _ in settings:
        if parameter not in parameters:
            takes = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
            raise InputError(f"verification {name} has no parameter {parameter!r}: {takes}")
    made: Any
    try:
        made = found(**{parameter: number_or_text(value) for parameter, value in settings}) if of_class else found
    except TypeError as error:
        raise InputError(f"verification {name}: {error}: write {name}:NAME=VALUE") from error
    if not _is_rule(made):
        raise InputError(f"verification {name} is {made!r}, no function (window, bonus, chance): correct it")
    verification: Any = made
    return verification


def _is_rule(it: Any) -> bool:
    """Whether it can be called as a rule: a class cannot, its objects may."""
    return callable(it) and not isinstance(it, type)


def rule(verification: str | Rule) -> Rule:
    """A rule by its name, its place or its name and parameters (`typical:epsilon=0.2`); a rule itself is passed through.

    An `InputError` refuses a name or a parameter that is not known, and what is no rule.
    """
    if isinstance(verification, str):
        return _named(verification)
    if not _is_rule(verification):
        raise InputError(f"verification {verification!r} is no function (window, bonus, chance): give one, or a rule's name")
    return verification


def is_lossless(verification: str | Rule) -> bool:
    """Whether the rule claims to keep the target's law."""
    return bool(getattr(rule(verification), "lossless", True))


def name_of(verification: str | Rule) -> str:
    """The name of a rule, as it is reported."""
    if isinstance(verification, str):
        return verification
    return getattr(verification, "__name__", type(verification).__name__)


def description_of(verification: Rule) -> tuple[dict[str, Any], str]:
    """The parameters of a rule by name, and the first line of its docstring."""
    own = fields(verification) if is_dataclass(verification) else ()
    return {field.name: getattr(verification, field.name) for field in own}, (getdoc(verification) or "").partition("\n")[0]
