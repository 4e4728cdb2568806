"""Draft-length policies: how many tokens to draft next.

A policy is separate from the strategies that use it, as step-size control is separate from solvers in an ODE library. It is a
frozen value. What it learns is its *memory*, which the strategy carries in its state. A policy sees verdicts, and its stop rule
sees the draft's own rows. Neither sees the target's probabilities.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

from specdec.effects import Draft, StopRule, Verdict
from specdec.errors import InputError
from specdec.state import Facts, State

LONGEST_DRAFT = 1000
"""The longest draft that can be asked for: far beyond what can pay, and small enough for every interpreter."""


class DraftLength(ABC):
    """How many tokens to draft next. A policy is given its memory, and returns the next one; it keeps none itself."""

    @property
    def stop(self) -> StopRule | None:
        """The rule that may end a draft early; none unless a policy brings one."""
        return None

    def resolved(self, facts: Facts) -> DraftLength:
        """The policy with what it asks `facts` for as a number; most ask for nothing, and are as they are."""
        return self

    def init(self, facts: Facts) -> Hashable:
        """The memory to start with."""
        return None

    @abstractmethod
    def length(self, memory: Any) -> int:
        """Tokens to draft in the next round, at least 1."""

    def update(self, memory: Any, verdict: Verdict) -> Hashable:
        """The memory after a round."""
        return memory

    def draft(self, state: State) -> Draft:
        """The effect that continues the draft after `state`, pending guesses included."""
        return Draft(state.committed, state.pending, self.length(state.memory), self.stop)


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

    def init(self, facts: Facts) -> Hashable:
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
class Confident(DraftLength):
    """Draft up to `most` tokens; end after a token whose `q` is below `threshold` (transformers' dynamic speculation)."""

    most: int = 8
    threshold: float = 0.4

    @property
    def stop(self) -> StopRule:
        return BelowConfidence(self.threshold)

    def length(self, memory: Any) -> int:
        return self.most


AnyDraftLength: TypeAlias = "int | str | DraftLength"


def as_draft_length(value: AnyDraftLength) -> DraftLength:
    """An integer, `"auto"` or a policy, as a policy."""
    if isinstance(value, DraftLength):
        return value
    if value == "auto":
        return SpeedRatio()
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    return Fixed(value)  # type: ignore[arg-type]  # Fixed refuses what is not a positive integer
