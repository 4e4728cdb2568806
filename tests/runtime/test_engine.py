"""The runtime as an interpreter: it answers every effect, or refuses it by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from decodes import one_round

from specdec import (
    Both,
    Committed,
    Draft,
    Effect,
    Guess,
    Pair,
    Race,
    Score,
    Scores,
    StrategyError,
    Verdict,
    Verify,
    effects,
)
from specdec.effects import Fork
from specdec.runtime.engine import Engine
from specdec.runtime.slot import Slot
from specdec.testing.models import model, resembling

PROMPT = Committed((1, 2, 3))
DRAFT, SCORE, FORK = Draft(PROMPT, Guess.empty, 2), Score(PROMPT, Guess.certain([4])), Fork(PROMPT, Guess.empty, 2, 2)


@pytest.fixture(scope="module")
def pair() -> Pair:
    target = model("llama", seed=1)
    return Pair(target, resembling(target), lane="inline")


@pytest.fixture
def run(pair: Pair) -> Callable[[Effect[Any]], Any]:
    """Ask one effect of an engine, as the only effect of a round."""
    engine, slot = Engine(pair.target_lane(), pair.draft_lane(), pair.context_limit), Slot(0)
    engine.begin(slot, PROMPT.tokens)
    return lambda effect: one_round(engine, slot, iter(effect))


def drafted(answer: Any) -> bool:
    return isinstance(answer, Guess) and 1 <= len(answer) <= 2


def scored(answer: Any) -> bool:
    return isinstance(answer, Scores) and answer.committed == PROMPT and answer.rows.positions == 2


def forked(answer: Any) -> bool:
    """Behind an empty window, two of all tokens are foreseen."""
    found = [answer.after(Verdict(Committed((token,)), 0, True)) for token in range(12)]
    return sum(map(bool, found)) == 2 and all(drafted(guess) for guess in found if guess)


ANSWERED: dict[type[Effect[Any]], tuple[Effect[Any], Callable[[Any], bool]]] = {
    Draft: (DRAFT, drafted),
    Score: (SCORE, scored),
    Both: (Both(SCORE, DRAFT), lambda answer: scored(answer[0]) and drafted(answer[1])),
    Race: (Race(SCORE, DRAFT), lambda answer: scored(answer[0]) and drafted(answer[1])),
    Fork: (FORK, forked),
}


def every_effect() -> set[type[Effect[Any]]]:
    values = [value for value in vars(effects).values() if isinstance(value, type)]
    return {value for value in values if issubclass(value, Effect)} - {Effect}


def test_every_effect_is_listed_here() -> None:
    assert every_effect() == {*ANSWERED, Verify}


@pytest.mark.parametrize(("effect", "is_answer"), ANSWERED.values(), ids=[kind.__name__ for kind in ANSWERED])
def test_an_effect_of_the_lanes_is_answered(
    run: Callable[[Effect[Any]], Any], effect: Effect[Any], is_answer: Callable[[Any], bool]
) -> None:
    assert is_answer(run(effect))


def test_a_verify_is_answered_without_the_lanes(pair: Pair, run: Callable[[Effect[Any]], Any]) -> None:
    scores = run(SCORE)
    lanes_are_not_asked: Any = None
    engine = Engine(lanes_are_not_asked, None, pair.context_limit)
    verdict = engine.answer(Slot(0), Verify(scores, scores.guess, bonus=True))
    assert isinstance(verdict, Verdict)
    assert len(verdict.tokens) == verdict.accepted + 1


def beside(effect: Effect[Any]) -> list[Effect[Any]]:
    return [Both(effect, DRAFT), Both(SCORE, effect), Both(SCORE, Both(DRAFT, effect)), Race(effect, DRAFT)]


def test_a_fork_is_answered_beside_other_effects(run: Callable[[Effect[Any]], Any]) -> None:
    forks, draft = run(Both(FORK, DRAFT))
    assert forked(forks)
    assert drafted(draft)
    scores, (draft, forks) = run(Both(SCORE, Both(DRAFT, FORK)))
    assert forked(forks)
    assert drafted(draft)
    assert scored(scores)
    raced, tokens = run(Race(FORK, DRAFT))
    assert forked(raced)
    assert drafted(tokens)


def test_forks_hold_for_one_round(run: Callable[[Effect[Any]], Any]) -> None:
    """A key of the round before may be one of this round, too."""
    old, new = run(FORK), run(FORK)
    assert forked(new)
    with pytest.raises(StrategyError, match="hold for one round"):
        forked(old)


def test_a_verify_beside_another_effect_is_refused(run: Callable[[Effect[Any]], Any]) -> None:
    scores = run(SCORE)
    for effect in beside(Verify(scores, scores.guess)):
        with pytest.raises(StrategyError, match=r"cannot answer Verify here: .* Verify alone"):
            run(effect)
