"""Draft-length policies: exact from every history, in every strategy that drafts; and each follows its published rule."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from exact_pairs import DRAFTING, STRATEGIES, any_pair, few, rows
from hypothesis import given
from hypothesis import strategies as st

import specdec
from specdec import Committed, Costs, DraftLength, Guess, InputError, LengthFacts, State, Verdict
from specdec.effects import Draft, Fork, Known
from specdec.law import cases, exact, law, target_law
from specdec.law.proof import PROMPT
from specdec.lengths import POLICIES, AboveEntropy, BelowConfidence, as_draft_length, entropy
from specdec.verification import rules
from strategies import Pearl, Speculative
from strategies.lengths import AdaEdl, Bandit, ClosedForm, Confident, Heuristic, Svip

SHORT: dict[str, DraftLength] = {name: POLICIES.find(name)(most=2) for name in POLICIES.names()}  # type: ignore[call-arg]


@dataclass(frozen=True)
class Facts:
    """Facts of a strategy that works in turn, at a speed ratio of 4."""

    ratio: float = 4.0

    def speed_ratio(self) -> float:
        return self.ratio

    def costs(self) -> Costs:
        return Costs(self.ratio)

    def closed_form(self, acceptance: float, length: int) -> float:
        return Speculative().closed_form(acceptance, self.costs(), length)


# --- the law ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class After(DraftLength):
    """A policy with the memory that a history left behind."""

    policy: DraftLength
    history: tuple[Verdict, ...]

    def init(self, facts: LengthFacts) -> Hashable:
        memory = self.policy.init(facts)
        for verdict in self.history:
            memory = self.policy.after(memory, verdict)
        return memory

    def stop(self, memory: Any) -> Any:
        return self.policy.stop(memory)

    def length(self, memory: Any) -> int:
        return self.policy.length(memory)

    def update(self, memory: Any, verdict: Verdict) -> Hashable:
        return self.policy.update(memory, verdict)


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    """What a round of up to three guesses may have told."""
    drawn = draw(st.lists(st.tuples(st.integers(0, 1), rows(2)), max_size=3))
    guess = Guess(tuple(Known(token, row) for token, row in drawn))
    return Verdict.of(guess, draw(st.integers(0, len(guess))), 0)


@st.composite
def policies(draw: st.DrawFn) -> DraftLength:
    most, between_0_and_1 = draw(st.integers(1, 3)), st.sampled_from((0.0, 0.1, 0.34, 0.5, 0.67, 1.0))
    one = draw(between_0_and_1)
    return draw(
        st.sampled_from(
            [
                Heuristic(draw(st.integers(1, 3)), most),
                Confident(most, one, draw(st.sampled_from((0, 4, 64)))),
                AdaEdl(most, one, draw(between_0_and_1), draw(between_0_and_1)),
                Svip(most, one),
                Bandit(most, one),
                ClosedForm(most, one, draw(st.sampled_from((0.5, 0.95)))),
            ]
        )
    )


@few
@given(
    data=st.data(),
    policy=policies(),
    history=st.lists(verdicts(), max_size=8),
    name=st.sampled_from(DRAFTING),
    verification=st.sampled_from(sorted(rules())),
)
def test_every_policy_is_exact_from_every_history(
    data: st.DataObject, policy: DraftLength, history: list[Verdict], name: str, verification: str
) -> None:
    pair = any_pair(data)
    strategy = STRATEGIES[name](draft_length=After(policy, tuple(history)))  # type: ignore[call-arg]
    assert law(strategy, pair, PROMPT, 3, verification) == target_law(pair, PROMPT, 3)


@pytest.mark.parametrize("policy", SHORT)
@pytest.mark.parametrize("name", DRAFTING)
def test_every_installed_policy_is_exact_in_every_strategy_that_drafts(name: str, policy: str) -> None:
    strategy = STRATEGIES[name](draft_length=SHORT[policy])  # type: ignore[call-arg]
    for number, case in enumerate(cases(24, seed=11)):
        verification = sorted(rules())[number % len(rules())]
        assert case.law(strategy, verification) == case.target_law, (verification, case)


def discarded(made: Guess, length: int) -> Guess:
    """The draft without the token at which a rule ended it, and the mistake that this is."""
    return made if len(made) == length or len(made) == 1 else made[:-1]


@pytest.mark.parametrize("policy", [Confident(3, 0.5, 0), Confident(3, 0.5), Svip(2)], ids=str)
@pytest.mark.parametrize("name", DRAFTING)
def test_discarding_the_doubtful_token_is_caught(name: str, policy: DraftLength, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: what ends behind a doubtful token is exact, and what drops it for its own value is biased."""
    made = exact.Exact._draft
    monkeypatch.setattr(exact.Exact, "_draft", lambda self, effect: discarded(made(self, effect), effect.length))
    strategy = STRATEGIES[name](draft_length=policy)  # type: ignore[call-arg]
    bias_is_by_value = isinstance(policy, Confident)
    found = any(case.law(strategy, "token") != case.target_law for case in cases(60))
    assert found == bias_is_by_value  # a rule that reads the row alone decides before the token is drawn: that is exact


def test_a_stop_rule_ends_the_branches_of_a_fork() -> None:
    state = State(Committed((0,)), memory=())
    for name in ("hedged", "saguaro"):
        strategy = specdec.create(name, draft_length=Confident(3, 0.5))
        both = next(strategy.step(state))
        assert isinstance(both.right, Fork)  # type: ignore[attr-defined]
        assert both.right.stop == BelowConfidence(0.5)  # type: ignore[attr-defined]


# --- the rules, as published ------------------------------------------------------------------------------------------


def verdict(accepted: int, drafted: int, q: Any = None) -> Verdict:
    known = tuple(Known(0, (Fraction(1, 2), Fraction(1, 2)) if q is None else (q[i], 1 - q[i])) for i in range(drafted))
    return Verdict.of(Guess(known), accepted, 1)


def test_heuristic_adds_two_after_a_full_acceptance_and_takes_one_off_else() -> None:
    policy = Heuristic(first=5, most=9)
    lengths = [policy.init(Facts())]
    for accepted in (5, 7, 9, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0):
        lengths.append(policy.update(lengths[-1], verdict(accepted, lengths[-1])))
    assert lengths == [5, 7, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1, 1]
    assert policy.update(8, verdict(8, 8)) == 9
    assert policy.update(8, verdict(7, 8)) == 7
    assert policy.update(1, verdict(0, 1)) == 1
    assert replace(policy, first=30).init(Facts()) == 9


@pytest.mark.parametrize("of", [tuple, np.array, torch.tensor])
def test_entropy_is_in_nats_for_rows_of_every_kind(of: Any) -> None:
    assert entropy(of([0.5, 0.25, 0.25, 0.0])) == pytest.approx(1.5 * log(2))
    assert entropy(tuple(Fraction(1, 4) for _ in range(4))) == pytest.approx(log(4))
    assert entropy((Fraction(1), Fraction(0))) == 0


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_svip_ends_where_its_root_is_above_the_threshold(tokens: int) -> None:
    """Rows that are uniform over so many tokens, at thresholds just below and just above the root."""
    row = tuple(Fraction(1, tokens) for _ in range(tokens))
    root = sqrt(0.15 * log(tokens))
    assert [Svip(4, root + shift).stop(None)(row, 0) for shift in (-0.001, 0.001) if root + shift >= 0] == (
        [False] if tokens == 1 else [True, False]
    )
    assert Svip().stop(None) == AboveEntropy(0.3**2 / 0.15)


@pytest.mark.parametrize("tokens", [2, 3, 4])
def test_adaedl_ends_where_its_bound_is_below_the_limit(tokens: int) -> None:
    row = tuple(Fraction(1, tokens) for _ in range(tokens))
    bound = 1 - sqrt(0.2 * log(tokens))
    assert [AdaEdl().stop((bound + shift, 0.0))(row, 0) for shift in (-0.001, 0.001)] == [False, True]
    assert AdaEdl().stop((1.2, 0.0)) == AboveEntropy(0.0)


def test_adaedl_moves_its_limit_as_draft_and_verify_does() -> None:
    policy, memory = AdaEdl(most=4, limit=0.5, target=0.6, step=0.1), (0.5, 0.0)
    found = []
    for accepted, drafted in ((2, 2), (3, 3), (4, 4), (0, 2)):
        memory = policy.update(memory, verdict(accepted, drafted))
        found.append((round(memory[0], 6), round(memory[1], 6)))
    # below the target: up; above it: down; above it with a full draft: as it is; below: up
    assert found == [(0.51, 0.5), (0.5, 0.75), (0.5, 0.875), (0.51, 0.4375)]


def test_confident_takes_the_point_of_the_roc_curve_with_the_least_cost() -> None:
    """The cost of transformers: the share of rejected tokens above it, and three times that of accepted ones below."""
    policy = Confident(most=8, threshold=0.4, samples=64)
    memory: Any = policy.init(Facts())
    for accepted, q in ((2, (0.9, 0.8, 0.5)), (1, (0.7, 0.2)), (1, (0.6, 0.55))):
        assert policy.stop(memory) == BelowConfidence(0.4)  # too few, so far
        memory = policy.update(memory, verdict(accepted, len(q), q))
    assert memory == ((0.9, True), (0.8, True), (0.5, False), (0.7, True), (0.2, False), (0.6, True), (0.55, False))
    assert policy.stop(memory) == BelowConfidence(0.6)
    memory = policy.update(
        memory, verdict(1, 3, (0.3, 0.95, 0.99))
    )  # the last was not tested; 0.6 costs 1/4 + 3/5 now, and 0.3 costs 3/4
    assert policy.stop(memory) == BelowConfidence(0.3)


def test_confident_takes_the_highest_of_equal_thresholds() -> None:
    accepted, rejected = (0.9, 0.8, 0.7, 0.65, 0.6, 0.5), (0.55, 0.1)  # 0.6 costs 3/6, and 0.5 costs 1/2
    memory = (*((q, True) for q in accepted), *((q, False) for q in rejected))
    assert Confident().stop(memory) == BelowConfidence(0.6)


def test_confident_forgets_and_ignores_tokens_without_a_row() -> None:
    policy = Confident(samples=2)
    memory = policy.update((), verdict(2, 3, (0.9, 0.8, 0.5)))
    assert memory == ((0.8, True), (0.5, False))
    assert policy.update(memory, Verdict.of(Guess((Known(1), Known(2, "argmax"))), 1, 0)) == memory
    assert Confident().update((), verdict(0, 3, (0.9, 0.8, 0.5))) == ((0.9, False),)  # the others were not tested
    assert Confident(samples=0).update((), verdict(1, 1)) == ()


def played(policy: Bandit, rounds: int, tokens: Any) -> list[int]:
    """Lengths of a bandit whose rounds of length `g` commit `tokens(g)` tokens."""
    memory, lengths = policy.init(Facts()), []
    for _ in range(rounds):
        lengths.append(policy.length(memory))
        tested = Guess.certain([0] * lengths[-1])
        memory = policy.update(memory, Verdict(Committed((0,) * tokens(lengths[-1])), 0, False, tested))
    return lengths


def test_bandit_tries_every_length_and_comes_back_to_the_best_for_its_time() -> None:
    """With tokens g for g up to 3, and 3 beyond, at c 4: 3 / (1 + 3/4) is the best, 1.71 a step of the target."""
    lengths = played(Bandit(6), 400, lambda g: min(g, 3))
    assert lengths[:6] == [1, 2, 3, 4, 5, 6]
    counts = [lengths.count(g) for g in range(1, 7)]
    assert max(counts) == counts[2] > 200
    assert min(counts) > 1  # its own count, so that none is given up for good: upstream's total count never tries again


def test_bandit_counts_the_plays_of_each_length_by_itself() -> None:
    policy = Bandit(2, exploration=1.0)
    worth = [one[0] for one in policy.init(Facts())]
    memory = ((worth[0], 100, 200), (worth[1], 1, 2))
    scores = [w * tokens / plays + sqrt(log(101) / plays) for w, plays, tokens in memory]
    assert policy.length(memory) == 1 + max(range(2), key=lambda i: scores[i]) == 2
    assert policy.update(memory, verdict(1, 2)) == (memory[0], (worth[1], 2, 4))


def test_closed_form_takes_the_best_length_at_the_counted_rate() -> None:
    policy, form = ClosedForm(most=12, first=0.5, fading=1.0), Facts().closed_form
    memory = policy.init(Facts())
    assert policy.length(memory) == max(range(1, 13), key=partial(form, 0.5))
    for _ in range(50):
        memory = policy.update(memory, verdict(9, 10))  # 9 of 10
    assert memory[1:] == (0.5 + 450, 1.0 + 500)
    assert policy.length(memory) == max(range(1, 13), key=partial(form, 0.9))
    faded = policy.update((*memory[:1], 10.0, 20.0), verdict(4, 4))  # a full acceptance tells of no rejection
    assert faded[1:] == (14.0, 24.0)
    assert replace(policy, fading=0.5).update((*memory[:1], 10.0, 20.0), verdict(0, 2))[1:] == (5.0, 11.0)


@pytest.mark.parametrize(
    "policy", [Heuristic(), AdaEdl(), Bandit(), ClosedForm(), Confident()], ids=lambda one: type(one).__name__
)
def test_a_round_without_a_guess_tells_a_policy_nothing(policy: DraftLength) -> None:
    memory = policy.init(Facts())
    assert policy.after(memory, verdict(0, 0)) == memory
    assert policy.after(memory, verdict(1, 1)) == policy.update(memory, verdict(1, 1))


def test_a_bandit_in_pearl_credits_the_length_whose_guess_was_tested() -> None:
    """What is tested was drafted a round before, and its length is another one than that of the round under way."""
    memory = Bandit(3).init(Facts())
    assert Bandit(3).length(memory) == 1
    after = Bandit(3).update(memory, verdict(2, 3))
    assert [plays for _, plays, _ in after] == [0, 0, 1]


# --- by name ----------------------------------------------------------------------------------------------------------


def test_policies_are_known_by_name_with_their_parameters() -> None:
    assert POLICIES.names() == ["adaedl", "bandit", "closed_form", "confident", "heuristic", "svip"]
    assert as_draft_length("bandit:most=4,exploration=0.1") == Bandit(4, 0.1)
    assert str(specdec.create("pearl", draft_length="svip")) == "pearl draft_length=svip"


@pytest.mark.parametrize("name", POLICIES.names())
@pytest.mark.parametrize("most", [0, -1, 2.5, True, 1001, "many"])
def test_a_longest_draft_is_an_integer_of_at_least_1(name: str, most: Any) -> None:
    with pytest.raises(InputError, match="most"):
        POLICIES.find(name)(most=most)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("svip:threshold=high", "threshold 'high' is not possible: give a number from 0 to 100"),
        ("svip:weight=0", "weight 0 "),
        ("adaedl:limit=2", "limit 2 .* from 0 to 1"),
        ("adaedl:target=nan", "target nan"),
        ("confident:threshold=-1", "threshold -1"),
        ("confident:samples=-1", "samples -1"),
        ("heuristic:first=0", "first 0"),
        ("bandit:exploration=-0.1", "exploration -0.1"),
        ("closed_form:fading=0", "fading 0"),
        ("closed_form:first=2", "first 2"),
    ],
)
def test_what_a_policy_cannot_use_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_draft_length(text)


def test_a_strategy_without_a_closed_form_refuses_policies_that_compute() -> None:
    class Formless(Pearl):
        closed_form = specdec.DraftingStrategy.closed_form

    for policy in ("closed_form", "bandit"):
        with pytest.raises(InputError, match=f"pearl has no closed form, which {policy} computes with"):
            Formless(draft_length=policy).init(Committed(PROMPT), specdec.KnownFacts())


def test_a_draft_says_how_it_may_end() -> None:
    draft = Svip(5).draft(State(Committed((1,))))
    assert draft == Draft(Committed((1,)), Guess.empty, 5, AboveEntropy(0.3**2 / 0.15))
