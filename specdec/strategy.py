"""What a strategy is: `init(prompt) -> State`, `step(state) -> Program[State]`, and a few facts.

A strategy says what happens in one round. It knows no loop, cache, random number or clock. How many tokens it drafts may be a
separate object (`DraftLength`), as step-size control is in an ODE library.

Strategies are found through the entry-point group `specdec.strategies`. The built-in ones are registered there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from inspect import isabstract
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.effects import Committed, Program
from specdec.errors import InputError
from specdec.handover import hand_over_to
from specdec.importing import found_at, is_place
from specdec.inputs import plain
from specdec.lengths import AnyDraftLength, DraftLength, Fixed, as_draft_length
from specdec.plugins import Plugins
from specdec.report import spelled
from specdec.state import Costs, Facts, State
from specdec.verification import Rule

if TYPE_CHECKING:
    from typing import Self


class DecodingStrategy(ABC):
    """Base class of all strategies: frozen dataclasses whose fields are their parameters.

    `name`      how it is registered and reported
    `drafts`    whether it uses a draft model; where it does not, none is started for it
    `lossless`  whether it claims that its output law is the target's; `specdec prove` checks the claim
    """

    name: ClassVar[str]
    drafts: ClassVar[bool] = True
    lossless: ClassVar[bool] = True

    def init(self, prompt: Committed, facts: Facts) -> Any:
        """The state before the first round."""
        return State(prompt)

    def resolved(self, facts: Facts) -> Self:
        """The strategy with what it asks `facts` for as numbers, such as the draft length that `"auto"` stands for.

        It decodes as this one does.
        """
        return self

    @abstractmethod
    def step(self, state: Any) -> Program[Any]:
        """One round, which must commit at least one token. Returns a generator of effects that returns the next state.

        It must be a function of the strategy's parameters, of `state` and of the answers: the exact law runs it many times.
        """

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as they are reported: numbers as they are, all else as text."""
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value if isinstance(value, (int, float)) else str(value) for name, value in values.items()}

    def __call__(
        self, model: Any, input_ids: Any, *, draft: Any = None, verification: str | Rule = "token", **prepared: Any
    ) -> Any:
        """Be a `custom_generate`: `model.generate(**inputs, custom_generate=self, draft=draft_model)`.

        `draft` is a model or a `specdec.Pair`. `prepared` is all else that `generate` prepared; see `specdec.huggingface`.
        """
        from specdec.huggingface import generate  # what needs torch is imported when it is used

        return generate(self, model, input_ids, draft, verification, prepared)

    def __str__(self) -> str:
        return spelled(self.name, self.parameters)


hand_over_to(DecodingStrategy)


@dataclass(frozen=True)
class DraftingStrategy(DecodingStrategy):
    """A strategy with a draft length: an integer, `"auto"` (the speed ratio) or a `DraftLength` policy."""

    draft_length: AnyDraftLength = "auto"

    def __post_init__(self) -> None:
        policy = as_draft_length(self.draft_length)
        object.__setattr__(self, "draft_length", policy.tokens if isinstance(policy, Fixed) else self.draft_length)

    def closed_form(self, acceptance: float, costs: Costs, length: int, hit: float | None = None) -> float:
        """Tokens for each step of the target in the long run, with drafts of `length` tokens.

        Each guess is accepted with probability `acceptance`, independently of all others. Nothing takes time but what `costs`
        knows. `hit` is how often a fork foresees the outcome, where that was counted; only strategies that
        fork use it. Policies and strategies that compute what to do next need this form; a strategy without one refuses.
        """
        raise InputError(
            f"{self.name} has no closed form, which {self.draft_length} computes with: take another draft length, or give "
            f"{type(self).__name__} a method closed_form"
        )

    @cached_property
    def policy(self) -> DraftLength:
        """The draft length as a policy."""
        return as_draft_length(self.draft_length)

    def resolved(self, facts: Facts) -> Self:
        policy = self.policy.resolved(facts)
        return self if policy == self.policy else replace(self, draft_length=policy)

    def init(self, prompt: Committed, facts: Facts) -> State:
        return State(prompt, memory=self.policy.init(_OwnFacts(facts, self)))


@dataclass(frozen=True)
class _OwnFacts:
    """The facts that a policy may ask for when this strategy uses it (`LengthFacts`)."""

    facts: Facts
    strategy: DraftingStrategy

    def speed_ratio(self) -> float:
        return self.facts.speed_ratio()

    def costs(self) -> Costs:
        return self.facts.costs()

    def closed_form(self, acceptance: float, length: int) -> float:
        return self.strategy.closed_form(acceptance, self.costs(), length)


def _is_strategy(name: str, thing: Any) -> bool:
    is_class = isinstance(thing, type) and issubclass(thing, DecodingStrategy) and is_dataclass(thing)
    return is_class and not isabstract(thing) and getattr(thing, "name", None) == name


STRATEGIES: Plugins[type[DecodingStrategy]] = Plugins(
    "specdec.strategies", "strategy", "dataclass of DecodingStrategy with that name and a step", _is_strategy
)


def available() -> dict[str, type[DecodingStrategy]]:
    """Every installed strategy by name, from the entry-point group `specdec.strategies`.

    A `RuntimeWarning` names those that cannot be used: `create` says why, and so does `installed`.
    """
    return STRATEGIES.usable()


def create(name: str, /, **parameters: Any) -> DecodingStrategy:
    """A strategy by name and parameters. An `InputError` refuses unknown names and parameters.

    A class that is not installed is named by its place: `module:Class`, or `./file.py:Class`.
    """
    if "," in name:
        raise InputError(f"one strategy is needed here, and {name!r} is a list: give one")
    cls = _at(name) if is_place(name) else STRATEGIES.find(name)
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in known:
            raise InputError(f"strategy {name} has no parameter {parameter!r}: it takes {', '.join(known) or 'none'}")
    try:
        return cls(**parameters)
    except TypeError as error:
        raise InputError(f"strategy {name}: {error}: give each parameter a value of its kind") from error


def _at(place: str) -> type[DecodingStrategy]:
    cls = found_at(place)
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _is_strategy(name, cls):
        raise InputError(f"{place} is {cls!r}, no frozen dataclass of DecodingStrategy with a name and a step: correct it")
    return cls


def require_strategy(value: Any) -> DecodingStrategy:
    """`value`, if it is a strategy that can be used; else an `InputError` that says what to pass."""
    if isinstance(value, str):
        raise InputError(f"{value!r} is the name of a strategy, not a strategy: pass specdec.create({value!r})")
    if isinstance(value, type):
        raise InputError(f"{value.__name__} is a class, not a strategy: pass {value.__name__}(), with its parameters")
    if not isinstance(value, DecodingStrategy):
        raise InputError(f"{value!r} is no strategy: pass an object of a class that extends DecodingStrategy")
    try:
        hash(value)
    except TypeError as error:
        raise InputError(
            f"{type(value).__name__} can change or hold what changes ({error}): write @dataclass(frozen=True) above the class, "
            "and use frozen values as parameters"
        ) from error
    return value
