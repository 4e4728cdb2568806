"""Verification rules with one mistake each, for tests that must see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from specdec.verification import Chance, Decision, Row, Rule, Window, residual, token_rule


@dataclass(frozen=True)
class Through:
    """A window whose methods can be replaced, one by one."""

    window: Window

    @property
    def n(self) -> int:
        return self.window.n

    def p_at(self, i: int) -> Any:
        return self.window.p_at(i)

    def q_at(self, i: int) -> Any:
        return self.window.q_at(i)

    def p(self, i: int) -> Row:
        return self.window.p(i)

    def q(self, i: int) -> Row:
        return self.window.q(i)

    def without(self, i: int) -> Row:
        return self.window.without(i)


def token_at(window: Window, i: int) -> int:
    """Which token was guessed."""
    return int((window.p(i) - window.without(i) != 0).argmax()) if window.p_at(i) else int(window.q(i).argmax())


def plain_p_on_reject(window: Window, bonus: bool, chance: Chance) -> Decision:
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus or accepted < window.n else None)


def without_the_rejected_token(window: Window, bonus: bool, chance: Chance) -> Decision:
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        row = window.without(accepted)
        return Decision(accepted, chance.pick(row if row.sum() > 0 else window.p(accepted)))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def ratio_upside_down(window: Window, bonus: bool, chance: Chance) -> Decision:
    def ratio(i: int) -> Any:
        return window.q_at(i) / window.p_at(i) if window.p_at(i) else 0

    accepted = chance.leading(ratio(i) for i in range(window.n))
    if accepted < window.n:
        return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted))))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def absolute_residual(window: Window, bonus: bool, chance: Chance) -> Decision:
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        return Decision(accepted, chance.pick(abs(window.p(accepted) - window.q(accepted))))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def likely_enough(window: Window, bonus: bool, chance: Chance) -> Decision:
    ratios = (window.p_at(i) / window.q_at(i) for i in range(window.n))
    accepted = chance.leading(1 if ratio > Fraction(1, 2) else ratio for ratio in ratios)
    if accepted < window.n:
        return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted))))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def typical_acceptance(window: Window, bonus: bool, chance: Chance) -> Decision:
    typical = (int(2 * window.p_at(i) > max(window.p(i))) for i in range(window.n))
    accepted = chance.leading(typical)
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus or accepted < window.n else None)


def second_candidate(window: Window, bonus: bool, chance: Chance) -> Decision:
    accepted = chance.leading(window.p_at(i) / window.q_at(i) for i in range(window.n))
    if accepted < window.n:
        p, q = window.p(accepted), window.q(accepted)
        again = chance.pick(q)
        if chance.leading([p[again] / q[again]]):
            return Decision(accepted, again)
        return Decision(accepted, chance.pick(residual(p, q)))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def eager(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Accepts by 11/10 of p, and picks from what is missing of p then, which is negative where 11/10 of p are below q."""
    accepted = chance.leading(11 * window.p_at(i) / (10 * window.q_at(i)) for i in range(window.n))
    if accepted < window.n:
        p, q = window.p(accepted), window.q(accepted)
        return Decision(accepted, chance.pick(p - q + (q - 11 * p / 10).clip(0)))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus else None)


def negative_chance(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The token rule, which asks for an impossible chance besides."""
    chance.leading([Fraction(-1, 2)])
    return token_rule(window, bonus, chance)


def always_a_bonus(window: Window, bonus: bool, chance: Chance) -> Decision:
    return token_rule(window, True, chance)


def unguarded_ratio(window: Window, bonus: bool, chance: Chance) -> Decision:
    """Divides by a p of 0."""
    accepted = chance.leading(window.q_at(i) / window.p_at(i) for i in range(window.n))
    return Decision(accepted, chance.pick(window.p(accepted)) if bonus or accepted < window.n else None)


def inverse_first(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The token rule, but for a division by a p of 0."""
    inverse = [1 / window.p_at(i) for i in range(window.n)]
    return token_rule(window, bonus, chance) if all(inverse) else Decision(0, None)


def bonus_from_the_row_before(window: Window, bonus: bool, chance: Chance) -> Decision:
    outcome = token_rule(window, False, chance)
    if outcome.token is None and bonus:
        return Decision(outcome.accepted, chance.pick(window.p(max(0, window.n - 1))))
    return outcome


def sampled_from_the_draft(window: Window, bonus: bool, chance: Chance) -> Decision:
    """The match rule with y from q: what "compare the two samples" becomes when the rows are swapped."""
    for i in range(window.n):
        y = chance.pick(window.q(i))
        if y != token_at(window, i):
            return Decision(i, y)
    return Decision(window.n, chance.pick(window.p(window.n)) if bonus else None)


def with_q(other: Callable[[Row], Row]) -> Rule:
    """The token rule with another `q` than the one that was sampled from."""

    @dataclass(frozen=True)
    class Reported(Through):
        def q(self, i: int) -> Row:
            return other(self.window.q(i))

        def q_at(self, i: int) -> Any:
            return self.q(i)[token_at(self.window, i)]

    return lambda window, bonus, chance: token_rule(Reported(window), bonus, chance)


def uniform(q: Row) -> Row:
    return np.array([Fraction(1, len(q))] * len(q), dtype=object)


def colder(q: Row) -> Row:
    return q * q / (q * q).sum()


@dataclass(frozen=True)
class NextRows(Through):
    """The target's rows shifted by one, as after forgetting that row 0 belongs to the last committed token."""

    def p(self, i: int) -> Row:
        return self.window.p(min(i + 1, self.n))

    def p_at(self, i: int) -> Any:
        return self.p(i)[token_at(self.window, i)]


def rows_off_by_one(window: Window, bonus: bool, chance: Chance) -> Decision:
    return token_rule(NextRows(window), bonus, chance)


def block(residual_scale: bool = True, keep_scale: bool = True, early: bool = False, mass: bool = True) -> Rule:
    """The block rule with one of its parts left out."""

    def wrong(window: Window, bonus: bool, chance: Chance) -> Decision:
        n = window.n
        pi: list[Any] = [Fraction(1)]
        for i in range(n):
            pi.append(min(1, pi[i] * window.p_at(i) / window.q_at(i)))
        keep: list[Any] = []
        for i in range(1, n):
            z = ((pi[i] if keep_scale else 1) * window.p(i) - window.q(i)).clip(0).sum()
            keep.append((z / (z + 1 - pi[i]) if z + 1 - pi[i] > 0 else 1) if mass else pi[i])
        keep.append(pi[n])
        if not n:
            accepted = 0
        elif early:
            accepted = chance.leading(keep)
        else:
            accepted = chance.last(keep)
        if accepted < n:
            scale = pi[accepted] if residual_scale else 1
            return Decision(accepted, chance.pick(residual(window.p(accepted), window.q(accepted), scale)))
        return Decision(accepted, chance.pick(window.p(n)) if bonus else None)

    return wrong


@dataclass
class OneUniform:
    """A chance that draws one uniform and asks it everything: an exact model of a generator that is reseeded.

    What is known of the uniform is that it lies in [low, high); each answer narrows that down. `pick` inverts the cumulative
    weights at the same uniform, unless `fresh_picks`.
    """

    chance: Chance
    fresh_picks: bool
    low: Any = field(default=Fraction(0))
    high: Any = field(default=Fraction(1))

    def leading(self, probabilities: Iterable[Any]) -> int:
        count = 0
        for probability in probabilities:
            bound = min(max(probability, self.low), self.high)
            if not self.chance.leading([(bound - self.low) / (self.high - self.low)]):
                self.low = bound
                break
            self.high = bound
            count += 1
        return count

    def last(self, probabilities: Sequence[Any]) -> int:
        found = 0
        for i, probability in enumerate(probabilities, start=1):
            found = i if self.leading([probability]) else found
        return found

    def pick(self, weights: Row) -> int:
        if self.fresh_picks:
            return self.chance.pick(weights)
        above = [Fraction(0), *(weights.cumsum() / weights.sum())]
        inside = [max(Fraction(0), min(high, self.high) - max(low, self.low)) for low, high in pairwise(above)]
        return self.chance.pick(np.array(inside, dtype=object))


def reused_uniform(correct: Rule, fresh_picks: bool) -> Rule:
    return lambda window, bonus, chance: correct(window, bonus, OneUniform(chance, fresh_picks))
