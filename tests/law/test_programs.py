"""What strategies ask for, and what the exact law refuses."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from exact_pairs import uniform_pair

import specdec
from specdec import (
    Both,
    Committed,
    DecodingStrategy,
    Draft,
    Effect,
    Guess,
    NotLossless,
    Program,
    Score,
    Scores,
    State,
    StrategyError,
    Verdict,
    Verify,
)
from specdec.effects import Known
from specdec.law import Exact, ExactPair, exact, law
from specdec.law.proof import Table

# --- what a strategy asks for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("abcdXabc", "dXa"),  # what followed the longest suffix that occurred before
        ("abXcdcab", "Xcd"),
        ("cdcXcdc", "Xcd"),  # "cdc", not the later "c"
        ("aXbaYba", "Yba"),  # the latest occurrence
        ("aaaa", "a"),  # it may overlap, and end with the text
        ("abcdef", ""),
        ("a", ""),
    ],
)
def test_prompt_lookup_guesses_what_once_followed(text: str, guess: str) -> None:
    strategy = specdec.create("prompt_lookup", draft_length=3, longest_match=3)
    effect = next(strategy.step(State(Committed(tuple(map(ord, text))))))
    assert isinstance(effect, Score)
    assert "".join(map(chr, effect.guess.tokens)) == guess
    assert all(drafted.q is None for drafted in effect.guess.drafted)


def test_pearl_drafts_behind_the_window_that_is_being_scored() -> None:
    """Pre-verify and post-verify are one round: a window of 0 or `draft_length - 1` tokens, and a draft behind it."""
    pearl = specdec.create("pearl", draft_length=3)
    fresh = Guess.certain([7, 8, 9])
    state, windows = State(Committed((1,))), []
    for complete in (True, True, False, True):
        program = pearl.step(state)
        both = next(program)
        assert isinstance(both, Both)
        scored, drafted = both.left, both.right
        assert isinstance(scored, Score)
        assert isinstance(drafted, Draft)
        assert (scored.guess, drafted.after, drafted.length) == (state.pending, state.pending, 3)
        windows.append(len(scored.guess))
        verify = program.send((Scores(scored.committed, scored.guess), fresh))
        assert isinstance(verify, Verify)
        assert verify.guess == state.pending + fresh[:1]
        assert not verify.bonus
        with pytest.raises(StopIteration) as returned:
            program.send(Verdict(Committed((5,)), len(verify.guess) if complete else 0, complete))
        state = returned.value.value
        assert state.pending == (fresh[1:] if complete else Guess.empty)
    assert windows == [0, 2, 2, 0]


# --- what a strategy must not do -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Faulty(DecodingStrategy):
    """Breaks one rule."""

    name: ClassVar[str] = "faulty"
    fault: str = ""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 2)
        scores = yield from Score(state.committed, guess)
        match self.fault:
            case "commits nothing":
                return state
            case "takes tokens back":
                return State(Committed(state.committed.tokens[:-1]))
            case "commits a guess":
                return State(state.committed + guess)  # type: ignore[operator]
            case "verifies another window":
                yield from Verify(scores, guess[1:], bonus=True)
            case "verifies more than was scored":
                more = yield from Draft(state.committed, guess, 2)
                yield from Verify(scores, guess + more)
            case "wants a bonus without a row":
                more = yield from Draft(state.committed, guess, 1)
                yield from Verify(scores, guess + more, bonus=True)
            case "drafts nothing":
                yield from Draft(state.committed, Guess.empty, 0)
            case "keeps a list":
                verdict = yield from Verify(scores, guess, bonus=True)
                return State(state.committed + verdict.tokens, memory=[])  # type: ignore[arg-type]
            case _:
                pass
        raise AssertionError(self.fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("commits nothing", "at least one token"),
        ("takes tokens back", "change none"),
        ("commits a guess", "not Guess"),
        ("verifies another window", "does not fit"),
        ("verifies more than was scored", "does not fit"),
        ("wants a bonus without a row", "does not fit"),
        ("drafts nothing", "at least 1"),
        ("keeps a list", "cannot be hashed"),
    ],
)
def test_a_strategy_that_breaks_a_rule_is_refused(fault: str, message: str) -> None:
    table = Table(lambda context: (Fraction(1, len(context) + 1), Fraction(len(context), len(context) + 1)))
    with pytest.raises(StrategyError, match=message):
        law(Faulty(fault), ExactPair(2, table, table))


@dataclass(frozen=True)
class NotAProgram(DecodingStrategy):
    """Forgets to yield."""

    name: ClassVar[str] = "not_a_program"

    def step(self, state: State) -> Any:
        return state


def test_a_step_that_yields_nothing_is_refused() -> None:
    with pytest.raises(StrategyError, match="must `yield from`"):
        law(NotAProgram(), uniform_pair(2))


def test_a_draft_token_that_its_row_makes_impossible_is_a_counterexample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from a draft that decodes greedily and reports a row of its own making."""

    claimed = (Fraction(1), Fraction(0))

    class Lying(Exact):
        def answer(self, effect: Effect[Any]) -> Any:
            return Guess((Known(1, claimed),)) if isinstance(effect, Draft) else Exact.answer(self, effect)

    monkeypatch.setattr(exact, "Exact", Lying)
    with pytest.raises(NotLossless, match="report the row it was drawn from"):
        law(specdec.create("speculative", draft_length=1), uniform_pair(2))
