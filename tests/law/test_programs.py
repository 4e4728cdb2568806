"""What strategies ask for, and what the exact law refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from exact_pairs import uniform_pair

import specdec
from sim import Constant, Rate, System, compile_strategy, run_stream
from specdec import (
    Both,
    Committed,
    DecodingStrategy,
    Draft,
    Effect,
    Guess,
    InputError,
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
from specdec.law import Exact, ExactPair, assert_lossless, branches, exact, law, prove_all
from specdec.law.proof import TabledModel
from specdec.testing import tiny_pair
from specdec.verification import Chance, Decision, Window, token_rule
from strategies import Pearl

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
            case "drafts two and a half":
                yield from Draft(state.committed, Guess.empty, 2.5)  # type: ignore[arg-type]
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
        ("drafts two and a half", "a Draft of 2.5 tokens"),
        ("keeps a list", "cannot be hashed"),
    ],
)
def test_a_strategy_that_breaks_a_rule_is_refused(fault: str, message: str) -> None:
    table = TabledModel(lambda context: (Fraction(1, len(context) + 1), Fraction(len(context), len(context) + 1)))
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


# --- what is not a function of its state -----------------------------------------------------------------------------


class Changing(DecodingStrategy):
    """Drafts as many tokens as it remembers, and is no frozen dataclass."""

    name: ClassVar[str] = "changing"
    parameters: ClassVar[dict[str, Any]] = {}  # type: ignore[assignment]

    def __init__(self, change: Callable[[int, Verdict], int]) -> None:
        self.change, self.length = change, 2

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.length)
        scores = yield from Score(state.committed, guess)
        self.length = self.change(self.length, Verdict(Committed(), 0, False))
        verdict = yield from Verify(scores, guess, bonus=True)
        self.length = self.change(self.length, verdict)
        return state.then(verdict)


CHANGES: dict[str, Callable[[int, Verdict], int]] = {
    "counts rounds": lambda length, verdict: length + (not verdict.complete),  # its branches would never end
    "longer after an acceptance": lambda length, verdict: 3 if verdict.complete else 1,
    "draws its length": lambda length, verdict: random.randint(1, 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_strategy_that_is_no_function_of_its_state_is_refused(change: str) -> None:
    with pytest.raises(StrategyError, match="not a function of its state alone"):
        assert_lossless(Changing(CHANGES[change]), "token", pairs=24)


def test_a_strategy_that_stays_the_same_needs_no_frozen_dataclass() -> None:
    assert_lossless(Changing(lambda length, _: length), "token", pairs=24)


def test_a_rule_that_is_no_function_of_its_window_is_refused() -> None:
    calls = [0]

    def every_other_time(window: Window, bonus: bool, chance: Chance) -> Decision:
        calls[0] += 1
        return token_rule(window, bonus, chance) if calls[0] % 2 else Decision(0, chance.pick(window.p(0)))

    with pytest.raises(StrategyError, match="neither the strategy nor the rule"):
        assert_lossless(specdec.create("speculative", draft_length=2), every_other_time, pairs=24)


HALVES = (Fraction(1, 2), Fraction(1, 2))
QUARTERS = (Fraction(1, 4), Fraction(3, 4))


@pytest.mark.parametrize(
    "runs",
    [[[HALVES, HALVES], [HALVES]], [[HALVES, HALVES], [QUARTERS, HALVES]], [[HALVES], [HALVES * 2]]],
    ids=["less", "other weights", "more options"],
)
def test_a_run_that_asks_otherwise_than_the_run_before_is_refused(runs: list[list[tuple[Fraction, ...]]]) -> None:
    asked = iter(runs)
    with pytest.raises(StrategyError, match="not a function of its state alone"):
        list(branches(lambda oracle: [oracle.choose(weights) for weights in next(asked)]))


# --- what is no strategy ---------------------------------------------------------------------------------------------


@dataclass
class Thawed(DecodingStrategy):
    """Is not frozen, so it may change while it decodes."""

    name: ClassVar[str] = "thawed"

    def step(self, state: State) -> Program[State]:
        scores = yield from Score(state.committed, Guess.empty)
        return state.then((yield from Verify(scores, Guess.empty)))


WHAT: dict[str, tuple[Any, str]] = {
    "a name": ("pearl", r"'pearl' is the name of a strategy, not a strategy: pass specdec.create\('pearl'\)"),
    "a class": (Pearl, r"Pearl is a class, not a strategy: pass Pearl\(\)"),
    "something else": (3, "3 is no strategy: pass an object of a class that extends DecodingStrategy"),
    "not frozen": (Thawed(), r"Thawed can change .*: write @dataclass\(frozen=True\)"),
}

TAKERS: dict[str, Callable[[Any], Any]] = {
    "law": lambda what: law(what, uniform_pair(2)),
    "assert_lossless": assert_lossless,
    "prove_all": lambda what: prove_all([what]),
    "decode": lambda what: decode_tiny(what),
    "compile_strategy": compile_strategy,
    "run_stream": lambda what: run_stream(what, Rate(0.5), System(Constant(1.0, 3.0)), tokens=2),
}


def decode_tiny(what: Any) -> None:
    with tiny_pair() as pair:
        specdec.decode(pair, what, [1])


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("what", WHAT)
def test_what_is_no_strategy_is_refused_in_one_line(what: str, taker: str) -> None:
    value, message = WHAT[what]
    with pytest.raises(InputError, match=message):
        TAKERS[taker](value)
