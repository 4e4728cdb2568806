"""Forks: continuations for every outcome, drawn only for the one that came."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from random import Random

import pytest
from exact_pairs import uniform_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec import Committed, DecodingStrategy, Fork, Guess, StrategyError, Verdict
from specdec.law import Exact, ExactPair, ExactRow, cases, law
from specdec.verification import rules
from strategies import Hedged, Saguaro


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("strategy", [Saguaro, partial(Saguaro, on_a_miss="none"), Hedged], ids=["drafted", "none", "hedged"])
@pytest.mark.parametrize("fan_out", [1, 2, 3])
@pytest.mark.parametrize("draft_length", [1, 2, 3])
def test_forks_are_exact(strategy: Callable[..., DecodingStrategy], draft_length: int, fan_out: int, verification: str) -> None:
    for case in cases(24, seed=4):
        assert case.law(strategy(draft_length=draft_length, fan_out=fan_out), verification) == case.target_law, case


def test_a_fork_is_drawn_only_on_the_branch_that_uses_it(count_branches: Callable[..., int]) -> None:
    """Drawn eagerly, leaves would multiply by all continuations."""
    assert count_branches(Saguaro(3, 3, "none"), uniform_pair(3), 1) == 3
    assert count_branches(Saguaro(3, 3, "none"), uniform_pair(3), 3) < 600


def forked(q: dict[tuple[int, ...], ExactRow], window: Guess, fan_out: int | tuple[int, ...]) -> Callable[..., Guess]:
    """What is ready behind (accepted, last token), of a fork of 2 tokens behind token 0."""
    vocabulary = len(q[0,])
    rest = tuple(Fraction(1, vocabulary) for _ in range(vocabulary))
    world = Exact(ExactPair(vocabulary, lambda _: rest, lambda context: q.get(context, rest)), rules()["token"])
    forks = world.answer(Fork(Committed((0,)), window, fan_out, 2))

    def after(accepted: int, last: int) -> Guess:
        return forks.after(Verdict(Committed((*window.tokens[:accepted], last)), accepted, accepted == len(window)))

    return after


def test_the_likeliest_tokens_are_foreseen_behind_each_prefix_but_the_windows_own() -> None:
    eighth = [Fraction(weight, 8) for weight in range(9)]
    q = {(0,): (eighth[1], eighth[4], eighth[1], eighth[2]), (0, 1): (eighth[2], eighth[2], eighth[2], eighth[2])}
    after = forked(q, Guess.certain([1]), 2)
    assert [last for last in range(4) if after(0, last)] == [0, 3]  # 1 is the window's own; of 0 and 2, the lower
    assert [last for last in range(4) if after(1, last)] == [0, 1]  # behind the whole window, nothing is left out
    assert {len(after(0, 3)), len(after(1, 0))} == {2}


def test_fan_outs_may_differ_and_no_impossible_token_is_foreseen() -> None:
    half = Fraction(1, 2)
    q = {(0,): (half, Fraction(0), half, Fraction(0)), (0, 1): (Fraction(0), half, Fraction(0), half)}
    after = forked(q, Guess.certain([1]), (1, 3))
    assert [last for last in range(4) if after(0, last)] == [0]
    assert [last for last in range(4) if after(1, last)] == [1, 3]
    after = forked(q, Guess.certain([1]), (0, 1))
    assert [last for last in range(4) if after(0, last)] == []


@pytest.mark.parametrize(
    ("fan_out", "said"), [(0, "at least 1"), ((0, 0), "at least 1"), ((1, -1), "at least 1"), ((1,), "give")]
)
def test_a_fork_refuses_what_is_no_fan_out(fan_out: int | tuple[int, ...], said: str) -> None:
    with pytest.raises(StrategyError, match=said):
        Fork(Committed((0,)), Guess.certain([1]), fan_out, 2)


def test_a_fork_answers_outcomes_and_nothing_else() -> None:
    row = {(0,): (Fraction(1, 2), Fraction(1, 2))}
    after = forked(row, Guess.empty, 2)
    first = after(0, 1)
    assert after(0, 1).drafted[0] is first.drafted[0]  # one continuation, however often it is asked for
    world = Exact(uniform_pair(2), rules()["token"])
    forks = world.answer(Fork(Committed((0,)), Guess.certain([1]), 2, 2))
    assert not forks.after(Verdict(Committed((1,)), 1, True))  # no bonus: it ends with a guess
    assert not forks.after(Verdict(Committed((1, 0, 1)), 2, True))  # more than the window


STRATEGIES = [Saguaro(2, 1), Saguaro(2, 1, "none"), Saguaro(1, 2), Hedged(2, 1), Hedged(3, 2)]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(STRATEGIES), st.sampled_from(sorted(rules())), st.integers(0, 99), st.randoms(use_true_random=False))
def test_forks_are_exact_whichever_outcomes_are_foreseen(
    strategy: DecodingStrategy, verification: str, number: int, random: Random
) -> None:
    """Drawn for each outcome, so that they may depend on the target's own token in any way, as those of a race do."""
    drawn: dict[tuple[tuple[int, ...], int, int], bool] = {}

    def hits(committed: Committed, accepted: int, last: int) -> bool:
        return drawn.setdefault((committed.tokens, accepted, last), random.random() < 0.5)

    case = cases(100, seed=4)[number]
    found = law(strategy, case.pair, (0,), case.new_tokens, verification, hits=hits)
    assert found == case.target_law, case


def test_hits_say_what_is_foreseen() -> None:
    pair = uniform_pair(3)
    world = Exact(pair, rules()["token"], hits=lambda _, accepted, last: (accepted, last) == (0, 2))
    forks = world.answer(Fork(Committed((0,)), Guess.certain([1]), 1, 2))
    ready = [len(forks.after(Verdict(Committed((last,)), 0, complete=False))) for last in (0, 2)]
    assert ready == [0, 2]
