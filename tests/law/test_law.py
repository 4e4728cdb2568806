"""Every strategy, rule, draft length and policy has exactly the target's law; and what the exact interpreter costs.

The laws are dictionaries of fractions, so equal means equal. Pairs come from `specdec.law.cases` and, with rows drawn while the
law asks for them, from Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import product
from typing import Any, ClassVar, NamedTuple

import pytest
from exact_pairs import DRAFTING, STRATEGIES, any_pair, few, uniform_pair
from hypothesis import given
from hypothesis import strategies as st

import specdec
from sim import Constant, Rate, System, run_stream
from specdec import (
    Both,
    Committed,
    DecodingStrategy,
    Draft,
    DraftLength,
    Guess,
    InputError,
    Program,
    Race,
    Score,
    State,
    StrategyError,
    Verdict,
    Verify,
)
from specdec.law import Exact, ExactLaw, ExactPair, assert_lossless, cases, how_lossy, law, target_law, total_variation
from specdec.law.proof import PROMPT
from specdec.verification import rule, rules
from strategies import Speculative
from strategies.lengths import Confident


def every_strategy(lengths: range) -> list[Any]:
    """The installed strategies, each with every draft length where it has one."""
    chosen = []
    for name, cls in STRATEGIES.items():
        if "draft_length" in {field.name for field in fields(cls)}:  # type: ignore[arg-type]
            chosen += [pytest.param(cls(draft_length=length), id=f"{name}-{length}") for length in lengths]  # type: ignore[call-arg]
        else:
            chosen.append(pytest.param(cls(), id=name))
    return chosen


# --- generated pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("strategy", every_strategy(range(1, 5)))
def test_every_strategy_rule_and_draft_length_has_the_target_law(strategy: DecodingStrategy, verification: str) -> None:
    for case in cases(24, seed=2):
        assert case.law(strategy, verification) == case.target_law, case


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("policy", ["auto", *(Confident(3, threshold) for threshold in (0.0, 0.34, 0.67, 1.1))], ids=str)
@pytest.mark.parametrize("name", DRAFTING)
def test_draft_length_policies_are_exact(name: str, policy: Any, verification: str) -> None:
    strategy = STRATEGIES[name](draft_length=policy)  # type: ignore[call-arg]
    for case in cases(24, seed=3):
        assert case.law(strategy, verification) == case.target_law, case


def test_generated_pairs_hold_every_kind_with_and_without_an_end_of_sequence() -> None:
    seen = {(case.kind, case.eos is not None) for case in cases(24, seed=2)}
    assert seen == {
        (kind, ends) for kind in ("zeros", "ties", "equal", "disjoint", "one-hot", "mixed") for ends in (True, False)
    }
    for case in cases(24, seed=2):
        rows = [case.p(PROMPT), case.q(PROMPT), case.p((0, 1)), case.q((0, 1))]
        assert all(sum(row) == 1 and min(row) >= 0 and len(row) == case.vocabulary for row in rows)


def test_rows_after_the_end_of_an_output_are_certain_with_more_than_two_tokens() -> None:
    for case in cases(48):
        ended = product(range(case.vocabulary), repeat=case.new_tokens + 1)
        certain = all(max(model(context)) == 1 for context in ended for model in (case.p, case.q))
        assert certain or case.vocabulary == 2
        before = [(0,) * tokens for tokens in range(1, case.new_tokens + 1)]
        assert case.kind != "ties" or all(max(model(context)) < 1 for context in before for model in (case.p, case.q))


def test_each_pair_is_decoded_under_a_schedule_of_its_own() -> None:
    made = set[int]()

    class Watched(DecodingStrategy):
        name: ClassVar[str] = "watched"

        def step(self, state: State) -> Program[State]:
            scores, fresh = yield from Race(Score(state.committed, Guess.empty), Draft(state.committed, Guess.empty, 9))
            made.add(len(fresh))
            return state.then((yield from Verify(scores, fresh[:1])))

    replace(cases(24, seed=2)[-1], schedule=lambda committed, after: 3).law(Watched(), "token")
    assert made == {3}
    found = [case.schedule for case in cases(24, seed=2)]
    assert {schedule(Committed(PROMPT), Guess.empty) for schedule in found} == {1, 2, 3, 4}
    lengths = {schedule(Committed((0, 0)), Guess.empty) == schedule(Committed((0, 1)), Guess.empty) for schedule in found}
    assert lengths == {True, False}  # some look at the tokens


class Counted(NamedTuple):
    rate: float
    rounds: int


@dataclass(frozen=True)
class Counting(DraftLength):
    """Its memory is a named tuple."""

    def init(self, facts: Any) -> Counted:
        return Counted(0.5, 0)

    def length(self, memory: Counted) -> int:
        return 1 + memory.rounds % 2

    def update(self, memory: Counted, verdict: Verdict) -> Counted:
        return memory._replace(rounds=memory.rounds + 1)


def test_a_memory_may_be_a_named_tuple() -> None:
    assert_lossless(Speculative(Counting()), "token", pairs=40)
    assert run_stream(Speculative(Counting()), Rate(0.8), System(Constant(0.1, 1.0)), tokens=50).rounds > 10


@dataclass(frozen=True)
class Elsewhere(DecodingStrategy):
    """Guesses a token that the models do not know."""

    name: ClassVar[str] = "elsewhere"

    def step(self, state: State) -> Program[State]:
        guess = Guess.certain([50])
        scores = yield from Score(state.committed, guess)
        return state.then((yield from Verify(scores, guess, bonus=True)))


def test_a_guess_outside_the_vocabulary_is_refused_by_name() -> None:
    with pytest.raises(StrategyError, match="token 50 is guessed, and the target knows 2"):
        cases(1)[0].law(Elsewhere(), "token")


def test_no_output_is_refused() -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        law(Speculative(1), cases(1)[0].pair, max_new_tokens=0)
    with pytest.raises(InputError, match="pairs"):
        how_lossy(Speculative(1), "typical", pairs=0)


def test_assert_lossless_returns_one_proof_a_rule() -> None:
    proofs = assert_lossless(specdec.create("pearl", draft_length=2), pairs=6)
    assert [proof.verification for proof in proofs] == list(rules())
    assert all(proof.exact and proof.pairs == 6 and proof.counterexample is None for proof in proofs)


# --- pairs drawn by Hypothesis ---------------------------------------------------------------------------------------


drafting = st.builds(
    lambda name, length: STRATEGIES[name](draft_length=length),  # type: ignore[call-arg]
    st.sampled_from(DRAFTING),
    st.one_of(
        st.integers(1, 3),
        st.just("auto"),
        st.builds(Confident, st.integers(1, 3), st.fractions(0, 1, max_denominator=6).map(float)),
    ),
)
looking_up = st.builds(STRATEGIES["prompt_lookup"], draft_length=st.integers(1, 3), longest_match=st.integers(1, 3))
strategies = st.one_of(drafting, looking_up, st.builds(STRATEGIES["autoregressive"]))


@few
@given(data=st.data(), strategy=strategies, verification=st.sampled_from(sorted(rules())), ratio=st.floats(0.1, 3.4))
def test_law_equals_target_law_on_any_history_dependent_pair(
    data: st.DataObject, strategy: DecodingStrategy, verification: str, ratio: float
) -> None:
    pair = any_pair(data)
    prompt = tuple(data.draw(st.lists(st.integers(0, pair.vocabulary - 1), min_size=1, max_size=4)))
    new_tokens = data.draw(st.integers(1, 3))
    ours = law(strategy, pair, prompt, new_tokens, verification, ratio)
    assert all(isinstance(weight, Fraction) for weight in ours.values())
    assert sum(ours.values()) == 1
    assert ours == target_law(pair, prompt, new_tokens)


@few
@given(data=st.data(), new_tokens=st.integers(1, 4))
def test_target_law_is_the_chain_rule(data: st.DataObject, new_tokens: int) -> None:
    pair = any_pair(data)
    for output, weight in target_law(pair, (0,), new_tokens).items():
        expected = Fraction(1)
        for i, token in enumerate(output):
            expected *= pair.p((0, *output[:i]))[token]
        assert weight == expected > 0
        assert pair.eos not in output[:-1]
        assert len(output) == new_tokens or output[-1] == pair.eos


@given(st.integers(1, 3), st.integers(1, 3))
def test_total_variation_is_a_distance_between_laws(left: int, right: int) -> None:
    ours: ExactLaw = {(0,): Fraction(left, 3), (1,): 1 - Fraction(left, 3)}
    others: ExactLaw = {(0,): Fraction(right, 3), (1,): 1 - Fraction(right, 3)}
    assert total_variation(ours, others) == total_variation(others, ours) == Fraction(abs(left - right), 3)


def behind_another_text(committed: Committed) -> Program[Guess]:
    return (yield from Draft(committed + Committed((1,)), Guess.empty, 2))


def two_drafts_behind_one_text(committed: Committed) -> Program[Guess]:
    one = yield from Draft(committed, Guess.empty, 1)
    return one + (yield from Draft(committed, Guess.empty, 1))


def without_its_first_token(committed: Committed) -> Program[Guess]:
    return (yield from Draft(committed, Guess.empty, 3))[1:]


def before_a_certain_token(committed: Committed) -> Program[Guess]:
    return (yield from Draft(committed, Guess.empty, 2)) + Guess.certain([0])


@pytest.mark.parametrize(
    "guess", [behind_another_text, two_drafts_behind_one_text, without_its_first_token, before_a_certain_token]
)
def test_a_draft_reads_the_text_that_it_is_given_whatever_its_guesses_followed(
    guess: Callable[[Committed], Program[Guess]],
) -> None:
    """A wrong strategy must not be proved for what it does not do."""

    class Gluing(DecodingStrategy):
        name: ClassVar[str] = "gluing"

        def step(self, state: State) -> Program[State]:
            glued = yield from guess(state.committed)
            fresh = yield from Draft(state.committed, glued, 1)
            assert fresh.drafted[0].q == pair.q(state.committed.tokens + glued.tokens)
            return state.then((yield from Verify((yield from Score(state.committed, Guess.empty)), Guess.empty)))

    for case in cases(24, seed=2):
        pair = case.pair
        assert case.law(Gluing(), "token") == case.target_law


def test_drafts_behind_one_text_stay_independent_from_round_to_round() -> None:
    class Keeping(DecodingStrategy):
        name: ClassVar[str] = "keeping"

        def step(self, state: State) -> Program[State]:
            if state.pending.drafted:
                return State(state.committed, memory=state.pending.tokens)
            return State(state.committed, (yield from two_drafts_behind_one_text(state.committed)))

    exact = Exact(uniform_pair(2), rule("token"))
    [kept] = exact.next_states(Keeping(), State(Committed(PROMPT)))
    found = {after.memory: weight for after, weight in exact.next_states(Keeping(), kept).items()}
    assert found == dict.fromkeys(product(range(2), repeat=2), Fraction(1, 4))


# --- what the enumeration costs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unlooked(DecodingStrategy):
    """Drafts, and never looks at what was drafted."""

    name: ClassVar[str] = "unlooked"

    def step(self, state: State) -> Program[State]:
        scores, _ = yield from Both(Score(state.committed, Guess.empty), Draft(state.committed, Guess.empty, 12))
        verdict = yield from Verify(scores, Guess.empty, bonus=True)
        return state.then(verdict)


def test_a_draft_that_nobody_looks_at_costs_nothing(count_branches: Callable[..., int]) -> None:
    assert count_branches(Unlooked(), uniform_pair(3), 1) == 3


def test_tokens_behind_a_rejection_are_never_drawn(count_branches: Callable[..., int]) -> None:
    p, q = (Fraction(1), Fraction(0)), (Fraction(0), Fraction(1))
    disjoint = ExactPair(2, lambda _: p, lambda _: q)
    assert count_branches(specdec.create("speculative", draft_length=4), disjoint, 1) == 1
    even = (Fraction(1, 2), Fraction(1, 2))
    unpredictable = ExactPair(2, lambda _: p, lambda context: q if len(context) == 1 else even)
    assert count_branches(specdec.create("speculative", draft_length=10), unpredictable, 1) == 1


def test_a_pending_window_is_drawn_only_when_it_is_verified(count_branches: Callable[..., int]) -> None:
    assert count_branches(specdec.create("pearl", draft_length=12), uniform_pair(2), 1) == 2


def test_equal_states_merge(count_branches: Callable[..., int]) -> None:
    """Without merging, leaves multiply from round to round."""
    assert count_branches(specdec.create("pearl", draft_length=2), uniform_pair(3), 3) < 600
