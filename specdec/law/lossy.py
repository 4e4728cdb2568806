"""Says how lossy a strategy or a rule is that does not claim to keep the target's law.

how_lossy(Speculative(2), "typical")      exactly, on the generated pairs of the proofs
one_step(rule, p, q)                      of one guess, for real rows: the law of the token that is committed first
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from specdec.errors import InputError
from specdec.inputs import at_least_one
from specdec.law.oracle import Oracle, branches
from specdec.law.pair import total_variation
from specdec.law.proof import Proof, cases, counterexample
from specdec.report import Report, share
from specdec.strategy import DecodingStrategy
from specdec.verification import Row, Rule, name_of, rule


def how_lossy(strategy: DecodingStrategy, verification: str | Rule = "token", pairs: int = 200, seed: int = 0) -> Proof:
    """The distance between the exact law of outputs of 1 to 4 tokens and the target's: the largest, and the mean over pairs."""
    at_least_one(pairs=pairs)
    start = time.perf_counter()
    tried = cases(pairs, seed)
    distances = [total_variation(case.law(strategy, verification), case.target_law) for case in tried]
    unequal = next((case for case, distance in zip(tried, distances, strict=True) if distance), None)
    return Proof(
        strategy.name,
        strategy.parameters,
        name_of(verification),
        lossless_claimed=False,
        pairs=len(tried),
        max_total_variation=float(max(distances)),
        exact=unequal is None,
        seconds=time.perf_counter() - start,
        counterexample=None if unequal is None else counterexample(strategy, verification, unequal),
        new_tokens=max(case.new_tokens for case in tried),
        mean_total_variation=float(sum(distances) / len(distances)),
    )


@dataclass(frozen=True)
class OneGuess:
    """A `Window` of the guess `token`, over float rows `p` (the row of the bonus too, which is not looked at) and `q`."""

    token: int
    rows: tuple[NDArray[np.float64], NDArray[np.float64]]
    n: int = 1

    def p_at(self, i: int) -> float:
        return float(self.rows[0][self.token])

    def q_at(self, i: int) -> float:
        return float(self.rows[1][self.token])

    def p(self, i: int) -> Row:
        return self.rows[0]

    def q(self, i: int) -> Row:
        return self.rows[1]

    def without(self, i: int) -> Row:
        row = self.rows[0].copy()
        row[self.token] = 0
        return row


class _Picked:
    """Stands for a token whose law is known and whose value is not."""

    def __init__(self, law: NDArray[np.float64]) -> None:
        self.law = law

    def _looked_at(self, *_: object) -> NoReturn:
        raise InputError(
            "a rule looks at the token that it picked, so its law on real rows takes too long: measure one that asks `leading`"
        )

    __eq__ = __lt__ = __gt__ = __index__ = __hash__ = _looked_at  # type: ignore[assignment]


@dataclass(frozen=True)
class _Spread:
    """A `Chance` that follows trials by an oracle, and keeps the whole law of a picked token."""

    oracle: Oracle

    def leading(self, probabilities: Iterable[Any]) -> int:
        return self.oracle.leading(probabilities)

    def last(self, probabilities: Sequence[Any]) -> int:
        return self.oracle.last(probabilities)

    def pick(self, weights: Row) -> Any:
        return _Picked(weights / weights.sum())


@dataclass(frozen=True)
class OneStep:
    """What a rule makes of one guess.

    `law`        the law of the token that is committed first, exact but for rounding
    `accepted`   the probability that the guess is accepted
    """

    law: NDArray[np.float64]
    accepted: float


def one_step(verification: str | Rule, p: Sequence[float], q: Sequence[float]) -> OneStep:
    """The law of the first token that is committed where one guess is drawn from `q` and verified against `p`."""
    verify, rows = rule(verification), (np.asarray(p, dtype=float), np.asarray(q, dtype=float))
    law, accepted = np.zeros_like(rows[0]), 0.0
    for token in np.flatnonzero(rows[1]):
        window = OneGuess(int(token), rows)
        for decision, weight in branches(lambda oracle, window=window: verify(window, False, _Spread(oracle))):
            chance = float(rows[1][token] * weight)
            if decision.accepted:
                law[token] += chance
                accepted += chance
            else:
                picked: Any = decision.token
                law += chance * picked.law
    return OneStep(law, accepted)


@dataclass(frozen=True)
class MeasuredLoss(Report):
    """How far the law of the next token is from the target's on rows of a real pair, for one guess of the draft.

    `verification`          name of the rule
    `pair`                  the two models
    `contexts`              on how many contexts: text that the target sampled
    `mean_total_variation`  mean distance between the law of the next token under the rule and the target's row
    `max_total_variation`   the largest
    `acceptance_rate`       mean probability that the guess is accepted
    `token_rule_rate`       the same under the token rule, which is lossless
    """

    verification: str
    pair: str
    contexts: int
    mean_total_variation: float
    max_total_variation: float
    acceptance_rate: float
    token_rule_rate: float

    def __str__(self) -> str:
        return (
            f"{self.verification} on {self.pair}, {self.contexts} contexts: the law of the next token is "
            f"{self.mean_total_variation:.3g} from the target's on average (total variation), {self.max_total_variation:.3g} "
            f"at most. It accepts {share(self.acceptance_rate)} of guesses, the token rule {share(self.token_rule_rate)}."
        )


def measured_loss(verification: str | Rule, rows: Iterable[tuple[Any, Any]], pair: str) -> MeasuredLoss:
    """The loss of a rule on rows `(p, q)` of the pair that is called so."""
    distances: list[float] = []
    rates: list[tuple[float, float]] = []
    for p, q in rows:
        step = one_step(verification, p, q)
        distances.append(float(abs(step.law - p).sum()) / 2)
        rates.append((step.accepted, float(np.minimum(p, q).sum())))
    if not distances:
        raise InputError("no context was left to measure on: give a shorter prompt, or models with longer contexts")
    ours, token = np.mean(rates, axis=0)
    return MeasuredLoss(
        name_of(verification), pair, len(distances), float(np.mean(distances)), max(distances), float(ours), float(token)
    )
