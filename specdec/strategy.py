"""What a strategy is: `init(prompt) -> State`, `step(state) -> Program[State]`, and a few facts.

A strategy says what happens in one round. It does not know the loop around it, caches, random numbers or clocks. How far to
draft is a separate object (`DraftLength`), as step-size control is in an ODE library.

Strategies are found through the entry-point group `specdec.strategies`. The built-in ones are registered there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

from specdec import plugins
from specdec.effects import Committed, Program
from specdec.errors import InputError, StrategyError
from specdec.lengths import AnyDraftLength, DraftLength, Fixed, as_draft_length
from specdec.state import Facts, State
from specdec.verification import Rule


class DecodingStrategy(ABC):
    """Base class of all strategies: frozen dataclasses whose fields are their parameters.

    `name`      how it is registered and reported
    `drafts`    whether it asks a draft model at all; without, no draft is loaded or started for it
    `lossless`  whether its output law is claimed to be the target's; `specdec prove` checks the claim
    """

    name: ClassVar[str]
    drafts: ClassVar[bool] = True
    lossless: ClassVar[bool] = True

    def init(self, prompt: Committed, facts: Facts) -> Any:
        """The state before the first round."""
        return State(prompt)

    @abstractmethod
    def step(self, state: Any) -> Program[Any]:
        """One round. Must commit at least one token."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as they are reported: numbers as they are, all else as text."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value if isinstance(value, (int, float)) else str(value) for name, value in values.items()}

    def __call__(
        self, model: Any, input_ids: Any, *, draft: Any = None, verification: str | Rule = "token", **prepared: Any
    ) -> Any:
        """Be a `custom_generate`: `model.generate(**inputs, custom_generate=self, draft=draft_model)`.

        `draft` is a model or a `specdec.Pair`; see `specdec.huggingface`.
        """
        from specdec.huggingface import generate  # what needs torch is imported when it is used

        return generate(self, model, input_ids, draft, verification, prepared)

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.parameters.items())])


@dataclass(frozen=True)
class DraftingStrategy(DecodingStrategy):
    """A strategy with a draft length: an integer, `"auto"` (the speed ratio) or a `DraftLength` policy."""

    draft_length: AnyDraftLength = "auto"

    def __post_init__(self) -> None:
        policy = as_draft_length(self.draft_length)
        object.__setattr__(self, "draft_length", policy.tokens if isinstance(policy, Fixed) else self.draft_length)

    @cached_property
    def policy(self) -> DraftLength:
        """The draft length as a policy."""
        return as_draft_length(self.draft_length)

    def init(self, prompt: Committed, facts: Facts) -> State:
        return State(prompt, memory=self.policy.init(facts))


GROUP = "specdec.strategies"


def available() -> dict[str, type[DecodingStrategy]]:
    """Every installed strategy by name, from the entry-point group `specdec.strategies`."""
    found = plugins.installed(GROUP)
    for name, cls in found.items():
        if not (isinstance(cls, type) and issubclass(cls, DecodingStrategy) and cls.name == name):
            raise StrategyError(f"{name} of {GROUP} is {cls!r}, no DecodingStrategy of that name: correct its package")
    return found


def create(name: str, **parameters: Any) -> DecodingStrategy:
    """A strategy by name and parameters; unknown names and parameters are refused by an `InputError`."""
    cls = plugins.named("strategy", name, available())
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            raise InputError(f"strategy {name} has no parameter {parameter!r}: it takes {', '.join(known) or 'none'}")
    return cls(**parameters)
