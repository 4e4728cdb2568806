"""Drafts whose length changes from round to round: by a policy, or by the schedule of a race. Each is exact."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import pytest
from exact_pairs import DRAFTING, STRATEGIES, any_pair, few, uniform_pair
from hypothesis import given
from hypothesis import strategies as st

import specdec
from specdec import (
    Committed,
    Draft,
    DraftLength,
    Facts,
    Guess,
    Race,
    Score,
    Scores,
    Verdict,
)
from specdec.law import Exact, cases, law, target_law
from specdec.law.proof import PROMPT
from specdec.verification import rules

# --- policies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence(DraftLength):
    """Lengths given from outside, round after round."""

    lengths: tuple[int, ...]

    def init(self, facts: Facts) -> Hashable:
        return 0

    def length(self, memory: int) -> int:
        return self.lengths[memory % len(self.lengths)]

    def update(self, memory: int, verdict: Verdict) -> Hashable:
        return memory + 1


@few
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    name=st.sampled_from(DRAFTING),
    verification=st.sampled_from(sorted(rules())),
)
def test_drafting_is_lossless_for_every_sequence_of_lengths(
    data: st.DataObject, lengths: list[int], name: str, verification: str
) -> None:
    pair = any_pair(data)
    strategy = STRATEGIES[name](draft_length=Sequence(tuple(lengths)))  # type: ignore[call-arg]
    assert law(strategy, pair, PROMPT, 3, verification) == target_law(pair, PROMPT, 3)


@dataclass(frozen=True)
class AfterAcceptance(DraftLength):
    """transformers' heuristic: two more when all were accepted, one less after a rejection."""

    def init(self, facts: Facts) -> Hashable:
        return 1

    def length(self, memory: int) -> int:
        return memory

    def update(self, memory: int, verdict: Verdict) -> Hashable:
        return min(4, memory + 2) if verdict.complete else max(1, memory - 1)


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("name", DRAFTING)
def test_a_policy_may_learn_from_verdicts(name: str, verification: str) -> None:
    strategy = STRATEGIES[name](draft_length=AfterAcceptance())  # type: ignore[call-arg]
    for case in cases(24, seed=5):
        assert case.law(strategy, verification) == case.target_law, case


# --- races: the schedule decides when a draft ends -------------------------------------------------------------------


def test_only_the_length_of_a_race_is_the_schedules(count_branches: Callable[..., int]) -> None:
    """What the schedule lets the draft make is drawn as lazily as anything, and states still merge."""
    elastic = specdec.create("elastic")
    assert count_branches(elastic, uniform_pair(2), 1) == 2
    assert count_branches(elastic, uniform_pair(3), 3) < 600


@pytest.mark.parametrize(("wanted", "made"), [(-3, 1), (0, 1), (2, 2), (5, 5), (9, 5)])
def test_a_race_makes_one_token_at_least_and_what_was_asked_for_at_most(wanted: int, made: int) -> None:
    world = Exact(uniform_pair(2), rules()["token"], lambda committed, after: wanted)
    start = Committed((0,))
    scores, fresh = world.answer(Race(Score(start, Guess.empty), Draft(start, Guess.empty, 5)))
    assert (scores, len(fresh)) == (Scores(start, Guess.empty), made)


@few
@given(
    data=st.data(),
    by_tokens=st.booleans(),
    most=st.integers(1, 4),
    verification=st.sampled_from(sorted(rules())),
)
def test_a_race_is_lossless_under_every_schedule(data: st.DataObject, by_tokens: bool, most: int, verification: str) -> None:
    """The schedule, too, is drawn while the law asks: a length for each context, or for each pair of counts."""
    pair, lengths = any_pair(data), dict[Any, int]()

    def schedule(committed: Committed, after: Guess) -> int:
        seen = (committed, after.tokens) if by_tokens else (len(committed), len(after))
        if seen not in lengths:
            lengths[seen] = data.draw(st.integers(1, 4))
        return lengths[seen]

    ours = law(specdec.create("elastic", most_drafted=most), pair, PROMPT, 3, verification, schedule=schedule)
    assert ours == target_law(pair, PROMPT, 3)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many"])
@pytest.mark.parametrize(("strategy", "parameter"), [("elastic", "most_drafted"), ("prompt_lookup", "draft_length")])
def test_a_length_is_an_integer_of_at_least_1(strategy: str, parameter: str, value: Any) -> None:
    with pytest.raises(specdec.InputError, match=parameter):
        specdec.create(strategy, **{parameter: value})
