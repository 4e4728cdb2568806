"""Draft-length policies: how many tokens to draft next.

A policy is separate from the strategies that use it, as step-size control is separate from solvers in an ODE library. It is a
frozen value. What it learns is its *memory*, which the strategy carries in its state. A policy sees verdicts with the guesses
that were tested, and its stop rule sees the draft's own rows. Neither sees the target's probabilities.

Policies that learn are in `strategies.lengths`, one a file, and are found through the entry-point group `specdec.lengths`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass
from inspect import isabstract
from typing import Any, Protocol, TypeAlias

import numpy as np

from specdec.effects import Draft, StopRule, Verdict
from specdec.errors import InputError
from specdec.importing import found_at, is_place, with_settings
from specdec.inputs import at_least_one, did_you_mean, number_or_text, plain
from specdec.plugins import Plugins
from specdec.state import Facts, State

LONGEST_DRAFT = 1000
"""The longest draft that can be asked for: far beyond what can pay, and small enough for every interpreter."""


class LengthFacts(Facts, Protocol):
    """What a policy may know before it starts: the facts, and what the strategy says of its own speed."""

    def closed_form(self, acceptance: float, length: int) -> float:
        """Tokens of the strategy for each step of the target, with drafts of `length` tokens; see `DraftingStrategy`."""
        ...


class DraftLength(ABC):
    """How many tokens to draft next. A policy is given its memory, and returns the next one; it keeps none itself."""

    def stop(self, memory: Any) -> StopRule | None:
        """The rule that may end the next draft early; none unless a policy brings one."""
        return None

    def resolved(self, facts: Facts) -> DraftLength:
        """The policy with what it asks `facts` for as a number; most ask for nothing, and are as they are."""
        return self

    def init(self, facts: LengthFacts) -> Hashable:
        """The memory to start with."""
        return None

    @abstractmethod
    def length(self, memory: Any) -> int:
        """Tokens to draft in the next round, at least 1."""

    def update(self, memory: Any, verdict: Verdict) -> Hashable:
        """The memory after a round that tested at least one guess."""
        return memory

    def after(self, memory: Any, verdict: Verdict) -> Hashable:
        """The memory after any round: a round without a guess, such as one behind a fork's miss, tells nothing of a length."""
        return self.update(memory, verdict) if len(verdict.guess) else memory

    def next(self, memory: Any) -> tuple[int, StopRule | None]:
        """The length of the next draft, and the rule that may end it early: the last two fields of a `Draft` or `Fork`."""
        return self.length(memory), self.stop(memory)

    def draft(self, state: State) -> Draft:
        """The effect that continues the draft after `state`, pending guesses included."""
        return Draft(state.committed, state.pending, *self.next(state.memory))


@dataclass(frozen=True, slots=True)
class Fixed(DraftLength):
    """Always `tokens`."""

    tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise InputError(f"draft length {self.tokens!r} is not possible: give an integer of at least 1, or 'auto'")
        if self.tokens > LONGEST_DRAFT:
            raise InputError(f"draft length {self.tokens} is not possible: give at most {LONGEST_DRAFT}")

    def length(self, memory: Any) -> int:
        return self.tokens

    def __str__(self) -> str:
        return str(self.tokens)


@dataclass(frozen=True, slots=True)
class SpeedRatio(DraftLength):
    """`"auto"`: the rounded speed ratio `c`. Drafting so many tokens takes as long as one forward of the target.

    From PEARL, section 4.3. A ratio beyond the longest draft gives that one.
    """

    def init(self, facts: Facts) -> int:
        ratio = facts.speed_ratio()
        if not ratio > 0:
            raise InputError(f"speed ratio {ratio} gives no draft length: give the times of both models, or a draft length")
        return max(1, round(min(ratio, LONGEST_DRAFT)))

    def resolved(self, facts: Facts) -> DraftLength:
        return Fixed(self.length(self.init(facts)))

    def length(self, memory: Any) -> int:
        return memory

    def __str__(self) -> str:
        return "auto"


@dataclass(frozen=True, slots=True)
class BelowConfidence:
    """A stop rule: true where the token was sampled with a probability below `threshold`."""

    threshold: float

    def __call__(self, q: Any, token: int) -> bool:
        return bool(q[token] < self.threshold)


@dataclass(frozen=True, slots=True)
class AboveEntropy:
    """A stop rule: true where the row that the token was sampled from has an entropy above `nats`."""

    nats: float

    def __call__(self, q: Any, token: int) -> bool:
        return entropy(q) > self.nats


def entropy(q: Any) -> float:
    """Entropy of a row in nats. The row may be a torch tensor, an array, or a sequence of fractions."""
    row = np.asarray(q.cpu() if hasattr(q, "cpu") else q, dtype=float)
    positive = row[row > 0]
    return float(-(positive * np.log(positive)).sum())


def longest_draft(**numbers: int) -> None:
    """Refuse by name every number of tokens that is not an integer from 1 to `LONGEST_DRAFT`."""
    at_least_one(**numbers)
    for name, value in numbers.items():
        if value > LONGEST_DRAFT:
            raise InputError(f"{name} {value} is not possible: give at most {LONGEST_DRAFT}")


AnyDraftLength: TypeAlias = "int | str | DraftLength"


def _is_policy(name: str, thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, DraftLength) and is_dataclass(thing) and not isabstract(thing)


NEEDED = "dataclass of DraftLength with a length"
POLICIES: Plugins[type[DraftLength]] = Plugins("specdec.lengths", "draft-length policy", NEEDED, _is_policy)


def as_draft_length(value: AnyDraftLength) -> DraftLength:
    """An integer, `"auto"`, a policy or the text of one, as a policy.

    A policy is written as its installed name, or as the place of its class, and its parameters: `confident:most=8`,
    `./file.py:Climb`, `module:Climb:most=4,least=2`.
    """
    if isinstance(value, DraftLength):
        return value
    if value == "auto":
        return SpeedRatio()
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    value = plain(value)
    if isinstance(value, str) and value[:1].isalpha() | value.startswith((".", "/", "_")):
        return _policy(value)
    return Fixed(value)  # type: ignore[arg-type]  # Fixed refuses what is not a positive integer


def _policy(text: str) -> DraftLength:
    """The policy that a text stands for."""
    name, settings = with_settings(text)
    known = POLICIES.names()
    if not is_place(name) and name not in known:
        hint = did_you_mean(name, ("auto", *known)) or f"or a policy: {', '.join(known)}"
        raise InputError(f"draft length {text!r} is not possible: give an integer of at least 1, 'auto', {hint}")
    cls = found_at(name) if is_place(name) else POLICIES.find(name)
    if not _is_policy(name, cls):
        raise InputError(f"draft length {text}: {cls!r} is no {NEEDED}")
    own = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for parameter, _ in settings:
        if parameter not in own:
            raise InputError(f"draft length {text}: {name} has no parameter {parameter!r}: it takes {', '.join(own) or 'none'}")
    try:
        return cls(**{parameter: number_or_text(number) for parameter, number in settings})
    except TypeError as error:
        raise InputError(f"draft length {text}: {error}: write {name}:NAME=VALUE") from error
