"""The rules and dice that run on tensors have the laws of the exact ones: by enumeration, not by sampling.

The same rule is run on a `TensorWindow` (float64) and on an `ExactWindow` (fractions), every branch of it, and the laws of the
outcome are compared to 1e-12. The dice are run on every cell of a grid of uniforms, where counts are exact probabilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_models import Scripted, grid

from specdec import Committed, Guess, InputError, Scores, Verify
from specdec.effects import Known
from specdec.law import ExactPair, branches
from specdec.law.exact import ExactWindow
from specdec.runtime.engine import TensorWindow
from specdec.sampling import Dice
from specdec.verification import Decision, Rule, Window, greedy_rule, residual, rule, rules, token_rule

Rows = list[list[int]]
"""Integer weights; a row of probabilities is a row of weights over its sum."""

OutcomeLaw = dict[Decision, float]


def fractions(weights: Sequence[int]) -> tuple[Fraction, ...]:
    return tuple(Fraction(weight, sum(weights)) for weight in weights)


def tensor(rows: Rows) -> torch.Tensor:
    weights = torch.tensor(rows, dtype=torch.float64)
    return weights / weights.sum(-1, keepdim=True)


def exact_window(p: Rows, q: Rows, tokens: Sequence[int], certain: Sequence[bool]) -> ExactWindow:
    """Rows are those of the one history that is asked for."""
    pair = ExactPair(len(p[0]), lambda context: fractions(p[len(context) - 1]), lambda context: fractions(q[len(context) - 1]))
    drafted = tuple(Known(token, None if sure else fractions(row)) for token, row, sure in zip(tokens, q, certain, strict=True))
    guess = Guess(drafted)
    return ExactWindow(pair, Verify(Scores(Committed((0,)), guess), guess))


def tensor_window(p: Rows, q: Rows, tokens: Sequence[int], certain: Sequence[bool]) -> TensorWindow:
    drafted = (Known(token, None if sure else row) for token, row, sure in zip(tokens, tensor(q), certain, strict=True))
    return TensorWindow(Guess(tuple(drafted)), tensor(p))


def outcomes(verification: Rule, window: Window, bonus: bool) -> dict[Decision, Any]:
    """The law of a rule's outcome."""
    law: dict[Decision, Any] = {}
    for outcome, weight in branches(lambda oracle: verification(window, bonus, oracle)):
        law[outcome] = law.get(outcome, 0) + (weight if isinstance(weight, Fraction) else float(weight))
    return law


def same(ours: dict[Decision, Any], exact: dict[Decision, Any], tolerance: float = 1e-12) -> bool:
    return all(abs(ours.get(outcome, 0) - exact.get(outcome, 0)) < tolerance for outcome in {*ours, *exact})


# --- tensors against fractions ---------------------------------------------------------------------------------------


@st.composite
def windows(draw: Callable[..., Any], most: int = 4) -> tuple[Rows, Rows, list[int], list[bool]]:
    """Rows `p` (n + 1), rows `q` (n), tokens that `q` can have produced, and which of them were certain."""
    vocabulary, n = draw(st.integers(2, 4)), draw(st.integers(0, most))
    row = st.lists(st.integers(0, 7), min_size=vocabulary, max_size=vocabulary).filter(any)
    p = draw(st.lists(row, min_size=n + 1, max_size=n + 1))
    q = [p[i] if draw(st.integers(0, 4)) == 0 else draw(row) for i in range(n)]
    tokens = [draw(st.sampled_from([token for token, weight in enumerate(row) if weight])) for row in q]
    certain = [draw(st.integers(0, 4)) == 0 for _ in range(n)]
    return p, q, tokens, certain


many = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.mark.parametrize("bonus", [False, True], ids=["", "bonus"])
@pytest.mark.parametrize("name", rules())
@many
@given(window=windows())
@example(window=([[1, 1], [1, 1]], [[1, 1]], [0], [False]))  # p = q: no residual mass
@example(window=([[1, 0], [1, 0]], [[0, 1]], [1], [False]))  # disjoint
@example(window=([[1, 2], [2, 1]], [[0, 1]], [1], [True]))  # certain
@example(window=([[1, 2, 4], [3, 3, 1], [1, 0, 0]], [[2, 4, 8], [3, 3, 1]], [2, 1], [False, False]))  # ties all along
@example(window=([[3, 1, 0], [1, 1, 1]], [[1, 1, 1]], [2], [False]))  # the guess is impossible
@example(window=([[1, 2]], [], [], []))  # nothing was guessed
def test_rules_on_tensors_have_the_exact_law(name: str, bonus: bool, window: Any) -> None:
    exact = outcomes(rule(name), exact_window(*window), bonus)
    ours = outcomes(rule(name), tensor_window(*window), bonus)
    assert sum(exact.values()) == 1
    assert same(ours, exact)


@pytest.mark.parametrize("name", rules())
def test_the_comparison_sees_a_small_change(name: str) -> None:
    """A row that is off by one part in a million changes the law by more than the tolerance."""
    p, q, tokens, certain = [[3, 1, 2], [2, 2, 1], [1, 1, 1]], [[1, 1, 2], [1, 3, 1]], [2, 1], [False, False]
    exact = outcomes(rule(name), exact_window(p, q, tokens, certain), True)
    assert same(outcomes(rule(name), tensor_window(p, q, tokens, certain), True), exact)
    off = [[3_000_001, 1_000_000, 2_000_000], *p[1:]]
    assert not same(outcomes(rule(name), tensor_window(off, q, tokens, certain), True), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", rules())
def test_rules_on_model_precision_are_as_exact_as_it_is(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        p64, q64 = (torch.randn(rows, 5, generator=generator, dtype=torch.float64).softmax(-1) for rows in (3, 2))
        tokens = [int(row.argmax()) for row in q64]
        exact = outcomes(rule(name), TensorWindow(guess_of(tokens, q64), p64), True)
        ours = outcomes(rule(name), TensorWindow(guess_of(tokens, q64.to(dtype)), p64.to(dtype)), True)
        assert same(ours, exact, 1e-12 if dtype == torch.float64 else 2e-6)


def guess_of(tokens: Sequence[int], q: torch.Tensor) -> Guess:
    return Guess(tuple(Known(token, row) for token, row in zip(tokens, q, strict=True)))


@many
@given(window=windows(most=3))
def test_block_rule_accepts_at_least_as_many_as_the_token_rule_and_that_more_than_match(window: Any) -> None:
    """In expectation over what the draft may have drafted, from rows that do not depend on the tokens before."""
    p, q, _, _ = window
    expected = {name: Fraction(0) for name in rules()}

    def add(tokens: tuple[int, ...], weight: Fraction) -> None:
        if len(tokens) < len(q):
            for token, probability in enumerate(fractions(q[len(tokens)])):
                if probability:
                    add((*tokens, token), weight * probability)
            return
        for name, verification in rules().items():
            law = outcomes(verification, exact_window(p, q, tokens, [False] * len(tokens)), False)
            expected[name] += weight * sum(outcome.accepted * chance for outcome, chance in law.items())

    add((), Fraction(1))
    assert expected["block"] >= expected["token"] >= expected["match"]


def test_residual_falls_back_to_p_where_nothing_is_left() -> None:
    half = torch.tensor([0.5, 0.5])
    assert residual(half, half).tolist() == [0.5, 0.5]
    assert residual(half, torch.tensor([0.25, 0.75])).tolist() == [0.25, 0.0]
    assert residual(half, torch.tensor([0.25, 0.75]), 0.5).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("bonus", [False, True], ids=["", "bonus"])
@pytest.mark.parametrize("name", rules())
@many
@given(
    best=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    agree=st.lists(st.booleans(), min_size=3, max_size=3),
    certain=st.booleans(),
)
def test_greedy_rule_is_every_rule_on_one_hot_rows(
    name: str, bonus: bool, best: list[int], agree: list[bool], certain: bool
) -> None:
    tokens = [token if same else (token + 1) % 3 for token, same in zip(best[:-1], agree, strict=False)]
    p = [[int(token == hot) for token in range(3)] for hot in best]
    q = [[int(token == hot) for token in range(3)] for hot in tokens]
    law = outcomes(rule(name), exact_window(p, q, tokens, [certain] * len(tokens)), bonus)
    assert law == {greedy_rule(best, tokens, bonus): 1}


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="token, match, block"):
        rule("tokens")


# --- dice ------------------------------------------------------------------------------------------------------------


def counted(ask: Callable[[Dice], Any], cells: int, questions: int) -> dict[Any, Fraction]:
    """The law of an answer, over all cells of the cube of `questions` uniforms."""
    counts = Counter(ask(Scripted(uniforms)) for uniforms in grid(cells, questions))
    return {answer: Fraction(count, cells**questions) for answer, count in counts.items()}


def test_leading_counts_independent_successes_before_the_first_failure() -> None:
    law = counted(lambda dice: dice.leading([2 / 3, 1 / 2, 1 / 3]), cells=6, questions=3)
    assert law == {0: Fraction(1, 3), 1: Fraction(1, 3), 2: Fraction(2, 9), 3: Fraction(1, 9)}


def test_last_finds_the_last_of_independent_successes() -> None:
    law = counted(lambda dice: dice.last([2 / 3, 1 / 2, 1 / 3]), cells=6, questions=3)
    assert law == {0: Fraction(1, 9), 1: Fraction(2, 9), 2: Fraction(1, 3), 3: Fraction(1, 3)}


@many
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.sampled_from([torch.float64, torch.float32]))
def test_pick_takes_tokens_in_proportion_to_their_weights(weights: list[int], dtype: torch.dtype) -> None:
    law = counted(lambda dice: dice.pick(torch.tensor(weights, dtype=dtype)), cells=2 * sum(weights), questions=1)
    assert law == {token: probability for token, probability in enumerate(fractions(weights)) if probability}


@pytest.mark.parametrize("probability", [0.0, 1.0, 1.5])
def test_what_is_sure_stays_sure_at_the_edges(probability: float) -> None:
    for uniform in (0.0, 1 - 2**-53):
        assert Scripted([uniform]).leading([probability]) == min(1, probability)
        assert Scripted([uniform]).last([probability]) == min(1, probability)


@many
@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8).filter(lambda row: sum(row) > 1e-30),
    uniform=st.one_of(st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)),
)
@example(weights=[0.0, 1.0, 0.0], uniform=0.0)
@example(weights=[0.0, 1.0, 0.0], uniform=1 - 2**-53)
@example(weights=[0.5, 0.5, 0.0], uniform=1 - 2**-53)
@example(weights=[3.0, 1e-30, 0.0], uniform=1 - 2**-53)
def test_a_token_of_weight_zero_is_never_picked(weights: list[float], uniform: float) -> None:
    for dtype in (torch.float32, torch.float64):
        row = torch.tensor(weights, dtype=dtype)
        assert row[Scripted([uniform]).pick(row)] > 0


def test_small_weights_behind_large_ones_are_added_up_in_float64() -> None:
    """In float32, 1 + 2**-25 is 1, and a token of that weight could never be picked."""
    row = torch.tensor([1.0, 2**-25, 2**-25])
    assert [Scripted([uniform]).pick(row) for uniform in (0.5, 1 - 1.5 * 2**-25, 1 - 0.5 * 2**-25)] == [0, 1, 2]


def test_every_question_gets_a_uniform_of_its_own() -> None:
    uniforms = [0.1, 0.9, 0.3, 0.7, 0.2, 0.6]
    dice = Scripted(uniforms)
    assert (dice.leading([0.5, 0.5, 0.5]), dice.asked) == (1, 2)  # it stops at the first failure
    assert (dice.last([0.5, 0.5]), dice.asked) == (1, 4)  # it makes all trials
    assert (dice.pick(torch.ones(2)), dice.asked) == (0, 5)
    assert (dice.pick(torch.ones(2)), dice.asked) == (1, 6)
    seen = [Dice("a seed").uniform() for _ in range(2)]
    assert seen[0] == seen[1]
    dice = Dice("a seed")
    assert len({dice.uniform() for _ in range(1000)}) == 1000
    assert Dice("a seed").uniform() != Dice("another").uniform()


@pytest.mark.parametrize("name", rules())
@pytest.mark.parametrize(
    ("p", "q", "tokens"),
    [
        ([[1, 2, 1], [1, 1, 0]], [[2, 1, 1]], [0]),
        ([[1, 2, 1], [1, 1, 0]], [[2, 1, 1]], [2]),
        ([[0, 1, 1], [2, 2, 2]], [[1, 1, 0]], [1]),
        ([[1, 1], [1, 3], [1, 1]], [[3, 1], [1, 1]], [0, 1]),
    ],
)
def test_rules_with_dice_have_the_exact_law_on_a_grid_of_uniforms(name: str, p: Rows, q: Rows, tokens: list[int]) -> None:
    """Dice, tensors and rule together, as they run; cells are as fine as the probabilities, so the law is equal, not close."""
    certain = [False] * len(tokens)
    exact = outcomes(rule(name), exact_window(p, q, tokens, certain), True)
    cells = denominators(name, p, q, tokens)
    window = tensor_window(p, q, tokens, certain)
    questions = len(tokens) + 1
    assert counted(lambda dice: rule(name)(window, True, dice), cells, questions) == exact


def denominators(name: str, p: Rows, q: Rows, tokens: list[int]) -> int:
    """The cells a uniform must be cut into, so that no border of any question lies inside one."""
    asked: list[int] = []

    class Noting(Scripted):
        def leading(self, probabilities: Any) -> int:
            return Scripted.leading(self, list(map(self.note, probabilities)))

        def last(self, probabilities: Any) -> int:
            return Scripted.last(self, list(map(self.note, probabilities)))

        def pick(self, weights: Any) -> int:
            total = Fraction(0) + sum(weights)
            for weight in np.cumsum(weights):
                self.note(Fraction(weight) / total)
            return next(i for i, weight in enumerate(weights) if weight)

        def note(self, probability: Any) -> Any:
            asked.append(Fraction(probability).denominator)
            return probability

    window = exact_window(p, q, tokens, [False] * len(tokens))
    for uniforms in grid(7, len(tokens) + 1):
        rule(name)(window, True, Noting(uniforms))
    return lcm(*asked)


def test_token_rule_on_a_tail_of_probabilities_far_below_float_precision() -> None:
    """A guess of probability 1e-30 under both models is accepted, not lost to a cut-off."""
    p = torch.tensor([[1.0, 1e-30], [0.5, 0.5]], dtype=torch.float64)
    window = TensorWindow(guess_of([1], p[:1]), p)
    assert outcomes(token_rule, window, False) == {Decision(1, None): 1}
