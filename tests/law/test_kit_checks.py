"""The checks of `specdec.testing` find what they are for, by name, and pass what is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from saguaro import DraftsHead, Leaking
from wrong_strategies import (
    BonusAndFresh,
    BonusInPostVerify,
    DiscardedInRace,
    DiscardedToken,
    ElsewhereDrafted,
    EmittedTail,
    FallsBack,
    KeptToken,
    RejectedKept,
    RestKept,
    RetriedVerify,
    StaleScores,
    Wrong,
)

from specdec import CheckFailed, DecodingStrategy, Draft, Guess, NotLossless, Program, Race, Score, State, StrategyError, Verify
from specdec.effects import Known
from specdec.runtime.messages import ScoreRequest
from specdec.runtime.worker import Worker
from specdec.testing import checks, run_checks
from specdec.testing.checks import CHECKS, decodes, lanes
from strategies import Adaptive, Autoregressive, Elastic, Hedged, Pearl, PromptLookup, Saguaro, Speculative

CHECK = checks()


def test_every_check_of_the_kit_is_installed() -> None:
    assert {"lossless", "decodes", "rows", "lanes", "simulates"} <= {*CHECK}


# --- lossless: every wrong strategy, and no control ---

WRONG = [
    EmittedTail(3),
    EmittedTail(3, Race),
    RejectedKept(2),
    BonusInPostVerify(2),
    BonusAndFresh(2),
    DiscardedToken(2),
    DiscardedInRace(3, Race),
    StaleScores(2),
    RetriedVerify(2),
    FallsBack(2),
    Leaking(2, 2),
    DraftsHead(2, 2),
]


@pytest.mark.parametrize("strategy", WRONG, ids=lambda strategy: type(strategy).__name__)
def test_a_wrong_strategy_is_refuted_with_its_name(strategy: DecodingStrategy) -> None:
    with pytest.raises((NotLossless, StrategyError)) as refuted:
        CHECK["lossless"](strategy)
    if isinstance(refuted.value, NotLossless):
        assert str(refuted.value).startswith(f"{strategy} with the token rule is not lossless: after prompt")


# --- rows ---


class RowOfTheFirst(Wrong):
    """Reports the row of the first token for all."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        guess = Guess(tuple(Known(drafted.token, guess.drafted[0].q) for drafted in guess.drafted))
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class Copied(Wrong):
    """Passes sampled tokens as certain: slower, and exact, since each is then tested as in the match rule."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        guess = Guess.certain(guess.tokens)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class Repacked(Wrong):
    """Makes new values of drafted tokens, each with its own row."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        guess = Guess(tuple(Known(drafted.token, drafted.q) for drafted in guess.drafted))
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


def test_a_guess_with_another_row_than_its_own_is_named() -> None:
    with pytest.raises(AssertionError, match=r"guess 1 of a Verify, token \d+, comes with a row that it was not sampled from"):
        CHECK["rows"](RowOfTheFirst(2))


RIGHT = [
    Pearl(2),
    Elastic(3),
    Saguaro(2, 2),
    Hedged(2, 2),
    PromptLookup(2),
    Autoregressive(),
    Copied(2),
    Repacked(2),
    KeptToken(2),
    RestKept(2),
    ElsewhereDrafted(2),
]


@pytest.mark.parametrize("strategy", RIGHT, ids=lambda strategy: type(strategy).__name__)
def test_rows_of_what_is_right_are_not_found_wrong(strategy: DecodingStrategy) -> None:
    CHECK["rows"](strategy)


def altered(real: Callable[..., Any], late: int) -> Callable[..., Any]:
    """Forwards over a long text in which one token, `late` places before the end, is still that of an older text."""

    def work(worker: Worker, requests: Sequence[Any], *more: Any) -> Any:
        def stale(request: Any) -> Any:
            context = [*request.context]
            if len(context) > 12:
                context[-late] = (context[-late] + 1) % 12
            return request._replace(context=context)

        return real(worker, [stale(request) for request in requests], *more)

    return work


def test_a_cache_that_was_not_rolled_back_in_the_target_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "score", altered(Worker.score, 5))
    with pytest.raises(AssertionError, match=r"row \d of a Score behind .* is not the target's without a cache"):
        CHECK["rows"](Speculative(2))


def test_a_cache_that_was_not_rolled_back_in_the_draft_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "draft", altered(Worker.draft, 2))
    with pytest.raises(AssertionError, match="the draft reports another row behind"):
        CHECK["rows"](Speculative(2))


def test_requests_have_the_context_that_is_altered() -> None:
    """The control of the two above."""
    assert ScoreRequest(0, [1], 1)._replace(context=[2]).context == [2]


# --- lanes, simulates, decodes ---


def test_a_strategy_whose_tokens_depend_on_the_lane_is_named() -> None:
    made: list[int] = []

    @dataclass(frozen=True)
    class Counting(Wrong):
        name: ClassVar[str] = "counting"
        drafts: ClassVar[bool] = True

        def step(self, state: State) -> Program[State]:
            made.append(1)
            guess = yield from Draft(state.committed, Guess.empty, 1 + len(made) // 20 % 2)
            scores = yield from Score(state.committed, guess)
            verdict = yield from Verify(scores, guess, bonus=True)
            return state.then(verdict)

    with pytest.raises(AssertionError, match=r"counting draft_length=2 made .* with the draft in a (thread|process), and"):
        CHECK["lanes"](Counting())


class TooFast(Wrong):
    """Verifies its guesses twice, and commits what either verdict brings."""

    def step(self, state: State) -> Program[State]:
        guess = Guess.certain([0] * self.draft_length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        again = yield from Verify(scores, guess, bonus=True)
        return State(state.committed + verdict.tokens + again.tokens)


def test_a_strategy_that_beats_the_bound_is_named() -> None:
    with pytest.raises(AssertionError, match="are more than the bound"):
        CHECK["simulates"](TooFast(8))


def test_an_error_of_a_strategys_own_is_a_line_and_the_other_checks_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Wrong):
        def step(self, state: State) -> Program[State]:
            raise ZeroDivisionError("of my own")
            yield

    few = {"simulates": CHECK["simulates"], "rows": CHECK["rows"]}
    monkeypatch.setattr(type(CHECKS), "sorted_out", lambda _: (few, {}))
    with pytest.raises(CheckFailed) as failed:
        run_checks(Broken(2))
    lines = str(failed.value).splitlines()
    assert lines[1:] == ["simulates: ZeroDivisionError: of my own", "rows: ZeroDivisionError: of my own"]
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("strategy", [Pearl(), Pearl("bandit:most=2"), Adaptive(most=2)], ids=str)
def test_checks_that_compare_two_decodes_measure_no_time(strategy: DecodingStrategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed ratios and costs differ from one measurement to the next, and the seed's tokens with them."""
    for name in ("speed_ratio", "measured_costs", "corrected"):
        monkeypatch.setattr(f"specdec.pair.{name}", lambda *_, **__: pytest.fail("a time was measured"))
    decodes(strategy)
    lanes(strategy)
