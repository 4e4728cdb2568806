"""Every strategy, rule, draft length and policy has exactly the target's law; and what the exact interpreter costs.

The laws are dictionaries of fractions, so equal means equal. Pairs come from `specdec.law.cases` and, with rows drawn while the
law asks for them, from Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saguaro import DraftsOnAMiss, Saguaro

import specdec
from specdec import (
    Both,
    Committed,
    Confident,
    DecodingStrategy,
    Draft,
    DraftLength,
    Effect,
    Facts,
    Fork,
    Guess,
    NotLossless,
    Program,
    Race,
    Score,
    Scores,
    State,
    StrategyError,
    Verdict,
    Verify,
)
from specdec.effects import Known
from specdec.law import Exact, ExactLaw, ExactPair, ExactRow, assert_lossless, cases, exact, law, target_law, total_variation
from specdec.law.proof import PROMPT, Table
from specdec.verification import rules

STRATEGIES = specdec.available()
DRAFTING = sorted(name for name, cls in STRATEGIES.items() if issubclass(cls, specdec.DraftingStrategy))


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


def test_assert_lossless_returns_one_proof_a_rule() -> None:
    proofs = assert_lossless(specdec.create("pearl", draft_length=2), pairs=6)
    assert [proof.verification for proof in proofs] == list(rules())
    assert all(proof.exact and proof.pairs == 6 and proof.counterexample is None for proof in proofs)


# --- pairs drawn by Hypothesis ---------------------------------------------------------------------------------------


def rows(vocabulary: int) -> st.SearchStrategy[tuple[Fraction, ...]]:
    """Rows with zeros and ties among them."""
    weights = st.lists(st.integers(0, 4), min_size=vocabulary, max_size=vocabulary).filter(any)
    return weights.map(lambda row: tuple(Fraction(weight, sum(row)) for weight in row))


def any_pair(data: st.DataObject) -> ExactPair:
    """Tables whose row is drawn when a history is first asked for, so every history has a row of its own."""
    vocabulary = data.draw(st.integers(2, 3))
    p, q = (Table(lambda _: data.draw(rows(vocabulary))) for _ in "pq")
    return ExactPair(vocabulary, p, q, eos=data.draw(st.sampled_from([None, vocabulary - 1])))


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

few = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


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


# --- what the enumeration costs --------------------------------------------------------------------------------------


@pytest.fixture
def count_branches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """How many branches the law of a strategy took."""
    enumerate_branches = exact.branches

    def count(strategy: DecodingStrategy, pair: ExactPair, new_tokens: int) -> int:
        leaves = 0

        def counting(run: Any) -> Iterator[Any]:
            nonlocal leaves
            for leaf in enumerate_branches(run):
                leaves += 1
                yield leaf

        with monkeypatch.context() as patch:
            patch.setattr(exact, "branches", counting)
            ours = law(strategy, pair, PROMPT, new_tokens)
        assert ours == target_law(pair, PROMPT, new_tokens)
        return leaves

    return count


def uniform_pair(vocabulary: int) -> ExactPair:
    row = tuple(Fraction(1, vocabulary) for _ in range(vocabulary))
    return ExactPair(vocabulary, lambda _: row, lambda _: row)


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


# --- forks: continuations for every outcome, drawn only for the one that came ------------------------------------------


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("strategy", [Saguaro, DraftsOnAMiss], ids=["none on a miss", "drafted on a miss"])
@pytest.mark.parametrize("fan_out", [1, 2, 3])
@pytest.mark.parametrize("draft_length", [1, 2, 3])
def test_forks_are_exact(strategy: type[Saguaro], draft_length: int, fan_out: int, verification: str) -> None:
    for case in cases(24, seed=4):
        assert case.law(strategy(draft_length, fan_out), verification) == case.target_law, case


def test_a_fork_is_drawn_only_on_the_branch_that_uses_it(count_branches: Callable[..., int]) -> None:
    """Drawn eagerly, leaves would multiply by all continuations."""
    assert count_branches(Saguaro(3, 3), uniform_pair(3), 1) == 3
    assert count_branches(Saguaro(3, 3), uniform_pair(3), 3) < 600


def forked(q: dict[tuple[int, ...], ExactRow], window: Guess, fan_out: int) -> Callable[..., Guess]:
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


def test_a_fork_answers_outcomes_and_nothing_else() -> None:
    row = {(0,): (Fraction(1, 2), Fraction(1, 2))}
    after = forked(row, Guess.empty, 2)
    first = after(0, 1)
    assert after(0, 1).drafted[0] is first.drafted[0]  # one continuation, however often it is asked for
    world = Exact(uniform_pair(2), rules()["token"])
    forks = world.answer(Fork(Committed((0,)), Guess.certain([1]), 2, 2))
    assert not forks.after(Verdict(Committed((1,)), 1, True))  # no bonus: it ends with a guess
    assert not forks.after(Verdict(Committed((1, 0, 1)), 2, True))  # more than the window


# --- draft lengths that change from round to round --------------------------------------------------------------------


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


@pytest.mark.parametrize("most_drafted", [0, -1, 2.5, "many"])
def test_an_elastic_draft_needs_a_bound(most_drafted: Any) -> None:
    with pytest.raises(specdec.InputError, match="most_drafted"):
        specdec.create("elastic", most_drafted=most_drafted)


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
    """Breaks the rule it is told to."""

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
