"""Every effect, in every world: answered; and what is no effect of theirs, refused by a `StrategyError` that names it.

A strategy asks for the effect in the ordinary way, and each world runs that strategy by its public function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest

import specdec
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from specdec import (
    Both,
    DecodingStrategy,
    Draft,
    Effect,
    Fork,
    Guess,
    Program,
    Race,
    Score,
    State,
    StrategyError,
    Verify,
    effects,
)
from specdec.law import ExactPair, law
from specdec.testing import tiny_pair


def draft(state: State) -> Draft:
    return Draft(state.committed, Guess.empty, 2)


def score(state: State) -> Score:
    return Score(state.committed, Guess.empty)


ASKED: dict[str, Callable[[State], Effect[Any]]] = {
    "Draft": draft,
    "Score": score,
    "Both": lambda state: Both(score(state), draft(state)),
    "Race": lambda state: Race(score(state), draft(state)),
    "Fork": lambda state: Fork(state.committed, Guess.empty, 2, 2),
}
"""How each effect is asked for. `Verify` needs scores, and every round asks for one."""


@dataclass(frozen=True)
class Asking(DecodingStrategy):
    """Asks for one effect, looks at no answer, and goes on autoregressively."""

    name: ClassVar[str] = "asking"
    effect: str = "Draft"

    def step(self, state: State) -> Program[State]:
        yield from ASKED[self.effect](state)
        return state.then((yield from Verify((yield from score(state)), Guess.empty)))


@dataclass(frozen=True)
class AskingBeside(Asking):
    """Asks for it while the target works."""

    name: ClassVar[str] = "asking_beside"

    def step(self, state: State) -> Program[State]:
        yield from Both(score(state), ASKED[self.effect](state))
        return state.then((yield from Verify((yield from score(state)), Guess.empty)))


def in_the_exact_law(strategy: DecodingStrategy) -> None:
    half = (Fraction(1, 2), Fraction(1, 2))
    law(strategy, ExactPair(2, lambda _: half, lambda _: half))


def on_real_models(strategy: DecodingStrategy) -> None:
    with tiny_pair() as pair:
        assert len(specdec.decode(pair, strategy, [1, 2], max_new_tokens=3, eos=()).tokens) == 3


def in_the_chain(strategy: DecodingStrategy) -> None:
    compile_strategy(strategy)


def by_events(strategy: DecodingStrategy) -> None:
    run_stream(strategy, Rate(0.5), System(Constant(1.0, 3.0)), tokens=5)


WORLDS = (in_the_exact_law, on_real_models, in_the_chain, by_events)


def test_the_table_holds_every_effect() -> None:
    known = {cls.__name__ for cls in Effect.__subclasses__() if cls.__module__ == effects.__name__}
    assert known == {*ASKED, "Verify"}


@pytest.mark.parametrize("effect", ASKED)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_every_effect_is_answered(world: Callable[[DecodingStrategy], None], effect: str) -> None:
    world(Asking(effect))


@pytest.mark.parametrize("effect", ["Draft", "Fork"])
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_a_draft_or_a_fork_beside_a_score_too(world: Callable[[DecodingStrategy], None], effect: str) -> None:
    world(AskingBeside(effect))


class Unheard(Effect[None]):
    """An effect of a stranger's."""


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_an_effect_that_no_world_knows_is_refused_by_name(
    world: Callable[[DecodingStrategy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ASKED, "Unheard", lambda state: Unheard())
    with pytest.raises(StrategyError, match="Unheard"):
        world(Asking("Unheard"))
