"""How Saguaro divides its branches: the published formula, exact under every rule, and what a round asks for."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sim import Constant, Rate, System, compile_strategy, long_run_speed
from specdec import Committed, Costs, Guess, InputError, State, create
from specdec.acceptance import divided
from specdec.effects import Fork, Known
from specdec.law import cases
from specdec.verification import rules
from strategies import Saguaro


@pytest.mark.parametrize(("window", "acceptance", "power"), [(1, 0.5, 1.0), (4, 0.8, 0.8), (5, 0.95, 0.5), (3, 0.2, 2.0)])
def test_shares_are_those_of_the_paper_up_to_whole_branches(window: int, acceptance: float, power: float) -> None:
    """F_j = F_0 a^(j / (1 + r)), and F_n = F_0 a^(n / (1 + r)) (1 - a)^(-1 / (1 + r))."""
    many = divided(10_000_000, window, acceptance, power)
    for j in range(window):
        assert many[j] / many[0] == pytest.approx(acceptance ** (j / (1 + power)), rel=1e-4)
    last = acceptance ** (window / (1 + power)) * (1 - acceptance) ** (-1 / (1 + power))
    assert many[window] / many[0] == pytest.approx(last, rel=1e-4)
    for branches in (1, window + 1, 3 * (window + 1)):
        few = divided(branches, window, acceptance, power)
        assert sum(few) == branches
        assert all(abs(number - branches * share / sum(many)) < 1 for number, share in zip(few, many, strict=True))


def test_branches_are_as_many_as_without_it_in_other_places() -> None:
    assert Saguaro(4, 3).fan_outs(4) == (3, 3, 3, 3, 3)
    assert Saguaro(4, 3, expected=0.8).fan_outs(4) == (3, 3, 2, 2, 5)
    assert Saguaro(4, 3, expected=0.8).fan_outs(0) == (3,)
    window = Guess((Known(0, (Fraction(1),)), Known(0, (Fraction(1),))))
    both = next(Saguaro(2, 2, expected=0.2).step(State(Committed((0,)), window)))
    assert isinstance(both.right, Fork)  # type: ignore[attr-defined]
    assert both.right.fan_out == (4, 1, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verification", list(rules()))
@pytest.mark.parametrize("strategy", [Saguaro(2, 2, expected=0.6), Saguaro(3, 1, "none", expected=0.9)], ids=str)
def test_divided_branches_are_exact(strategy: Saguaro, verification: str) -> None:
    for case in cases(48, seed=7):
        assert case.law(strategy, verification) == case.target_law


@pytest.mark.parametrize("acceptance", [0.4, 0.8, 0.9])
@pytest.mark.parametrize("strategy", [Saguaro(4, 2), Saguaro(4, 2, expected=0.8), Saguaro(3, 1, "none", 0.9)], ids=str)
def test_the_closed_form_is_that_of_the_chain(strategy: Saguaro, acceptance: float) -> None:
    length = int(str(strategy.draft_length))
    system = System(Constant(0.25, 1.0))
    speed = float(long_run_speed(compile_strategy(strategy, system), Rate(acceptance), system).tokens_per_second)
    assert strategy.closed_form(acceptance, Costs(4.0), length) == pytest.approx(speed, rel=1e-9)


@pytest.mark.parametrize("bad", [1.0, -0.1, 2, float("nan")])
def test_an_expected_acceptance_is_a_rate_below_1(bad: float) -> None:
    with pytest.raises(InputError, match="give an acceptance rate below 1"):
        create("saguaro", expected=bad)
