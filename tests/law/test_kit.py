"""`specdec.testing` and the entry points as a stranger uses them: a strategy, a policy and a rule of one's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from command_line import with_entry_points

import specdec
from specdec import (
    Chance,
    CheckFailed,
    Decision,
    DecodingStrategy,
    Draft,
    DraftLength,
    Effect,
    Facts,
    Guess,
    InputError,
    NotLossless,
    Program,
    Score,
    State,
    StopRule,
    StrategyError,
    Verdict,
    Verify,
    Window,
    verification,
)
from specdec.testing import assert_lossless, checks, run_checks
from strategies import Pearl, Speculative
from strategies.lengths import Confident

# --- a strategy ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoDrafts(DecodingStrategy):
    """Drafts in two parts, the second behind the first."""

    name: ClassVar[str] = "two_drafts"

    def step(self, state: State) -> Program[State]:
        first = yield from Draft(state.committed, Guess.empty, 1)
        second = yield from Draft(state.committed, first, 1)
        scores = yield from Score(state.committed, first + second)
        verdict = yield from Verify(scores, first + second, bonus=True)
        return state.then(verdict)


@dataclass(frozen=True)
class Greedy(TwoDrafts):
    """Commits its first guess unverified."""

    name: ClassVar[str] = "greedy"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 1)
        return state.then(Verdict(specdec.Committed(guess.tokens), 1, True))


def test_a_strategy_passes_every_check() -> None:
    assert {"decodes", "lossless", "simulates"} <= {*run_checks(TwoDrafts())} == {*checks()}


def test_a_wrong_strategy_fails_with_a_line_for_each_fault() -> None:
    with pytest.raises(CheckFailed) as failed:
        run_checks(Greedy())
    text = str(failed.value)
    assert text.startswith("greedy fails ")
    assert "\ndecodes: greedy after prompt (5,) at temperature 0 made" in text
    assert "\nlossless: greedy with the token rule is not lossless" in text


class Unheard(Effect[None]):
    """An effect that no interpreter knows."""


@dataclass(frozen=True)
class Asking(DecodingStrategy):
    """Asks for it."""

    name: ClassVar[str] = "asking"

    def step(self, state: State) -> Program[State]:
        yield from Unheard()
        return state


def test_what_the_runtime_cannot_answer_fails_to_decode_by_name() -> None:
    with pytest.raises(StrategyError, match="Unheard"):
        checks()["decodes"](Asking())


@dataclass(frozen=True)
class Lossy(Greedy):
    """The same, without the claim."""

    name: ClassVar[str] = "lossy"
    lossless: ClassVar[bool] = False


def test_a_strategy_that_claims_nothing_need_not_be_lossless() -> None:
    checks()["lossless"](Lossy())
    checks()["decodes"](Lossy())


@dataclass(frozen=True)
class ThirdToken(TwoDrafts):
    """Looks at how long the text is, and never guesses right there: its greedy text is the target's all the same."""

    def step(self, state: State) -> Program[State]:
        if len(state.committed) % 3 == 0:
            scores = yield from Score(state.committed, Guess.empty)
            return state.then((yield from Verify(scores, Guess.empty)))
        return (yield from TwoDrafts.step(self, state))


def test_a_strategy_may_change_its_mind_from_round_to_round() -> None:
    checks()["decodes"](ThirdToken())
    assert_lossless(ThirdToken(), "token", pairs=24)


# --- a draft-length policy -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MyPolicy(DraftLength):
    """Two tokens after a full acceptance, else one; ends behind a token of probability above 0.9."""

    def stop(self, memory: int) -> StopRule:
        return above

    def init(self, facts: Facts) -> Hashable:
        return 1

    def length(self, memory: int) -> int:
        return memory

    def update(self, memory: int, verdict: Verdict) -> Hashable:
        return 2 if verdict.complete else 1


def above(q: Any, token: int) -> bool:
    return bool(q[token] > 0.9)


def test_a_policy_passes_every_check_in_pearl() -> None:
    run_checks(Pearl(draft_length=MyPolicy()))


def test_a_policy_ends_drafts_only_if_it_says_so() -> None:
    state = State(specdec.Committed((1,)), memory=2)
    assert MyPolicy().draft(state).stop is above
    assert specdec.Fixed(2).draft(state).stop is None
    stop = Confident(threshold=0.5).draft(State(state.committed, memory=())).stop
    assert stop is not None
    assert [stop([0.4, 0.6], token) for token in (0, 1)] == [True, False]


# --- a verification rule ---------------------------------------------------------------------------------------------


def first_alone(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The match rule on the first guess; the others are dropped."""
    if window.n == 0:
        return Decision(0, chance.pick(window.p(0)))
    if chance.leading([window.p_at(0)]) == 0:
        return Decision(0, chance.pick(window.without(0)))
    return Decision(1, chance.pick(window.p(1)) if window.n > 1 or bonus else None)


def accepts_all(window: Window, bonus: bool, chance: Chance) -> Decision:
    return Decision(window.n, chance.pick(window.p(window.n)) if bonus else None)


@pytest.fixture
def installed_rule(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(verification, "first_alone", first_alone, raising=False)
    with_entry_points(monkeypatch, "specdec.plugins", EntryPoint("first", "specdec.verification:first_alone", "specdec.rules"))
    specdec.rules.cache_clear()
    yield
    specdec.rules.cache_clear()
    verification._named.cache_clear()


def test_a_rule_is_proved_as_it_is() -> None:
    [proof] = assert_lossless(Speculative(2), verification=first_alone, pairs=24)
    assert proof.verification == "first_alone"
    with pytest.raises(NotLossless, match="with the accepts_all rule"):
        assert_lossless(Speculative(2), verification=accepts_all, pairs=24)


@pytest.mark.usefixtures("installed_rule")
def test_an_installed_rule_has_a_name_and_is_proved_with_the_others() -> None:
    assert list(specdec.rules()) == ["token", "match", "block", "first"]
    assert verification.rule("first") is first_alone
    assert [proof.verification for proof in assert_lossless(Pearl(2), pairs=6)] == ["token", "match", "block", "first"]


def test_an_unknown_rule_is_refused_with_the_closest() -> None:
    with pytest.raises(
        InputError, match=r"unknown verification 'blok': did you mean block\? Installed are token, match, block"
    ):
        verification.rule("blok")


def test_the_kit_is_found_without_torch() -> None:
    code = "import sys, specdec.testing as kit; print(sorted(kit.__all__) == kit.__all__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
