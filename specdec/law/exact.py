"""The exact law of a strategy: every branch of every random choice, with `Fraction` weights.

    law(strategy, pair, prompt, max_new_tokens)    the output law, as {tokens: probability}
    assert_lossless(strategy)                      raises `NotLossless` with a smallest counterexample

A `Race` has no clock here: a `Schedule` says how far the draft came. The law must be right under every one.

A round is replayed once per branch: an `Oracle` answers each random choice from a script and extends it. Equal states merge
between rounds, and drafted tokens are drawn only when somebody looks at them, so a pending window, or a branch that is never
used, costs nothing. It knows no strategy; models are tables (`ExactPair`) whose rows may depend on the whole history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random
from typing import Any, TypeAlias, TypeVar

import numpy as np

from specdec.effects import (
    Both,
    Committed,
    Draft,
    Drafted,
    Effect,
    Guess,
    Known,
    Race,
    Score,
    Scores,
    Verdict,
    Verify,
    drive_at_once,
)
from specdec.ending import Ending, committed
from specdec.errors import NotLossless, StrategyError
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy
from specdec.verification import Row, Rule, rule

T = TypeVar("T")
Tokens: TypeAlias = tuple[int, ...]
ExactRow: TypeAlias = tuple[Fraction, ...]
ExactLaw: TypeAlias = dict[Tokens, Fraction]


@dataclass(frozen=True, eq=False)
class ExactPair:
    """A target and a draft as functions from the whole context to a row of `vocabulary` fractions that sum to 1."""

    vocabulary: int
    p: Callable[[Tokens], ExactRow]
    q: Callable[[Tokens], ExactRow]
    eos: int | None = None
    label: str = ""


Schedule: TypeAlias = Callable[[Committed, Guess], int]
"""How many tokens the draft of a `Race` makes behind `(committed, after)`; 1 and the draft's length are its limits."""


@dataclass(frozen=True, slots=True)
class Scattered:
    """A schedule of lengths from 1 to 4 that look random and are a function of the context, so that equal states stay equal.

    `by_tokens` lets them depend on the tokens, pending ones too, which are drawn for it; else they depend on counts alone.
    """

    name: str = ""
    by_tokens: bool = False

    def __call__(self, committed: Committed, after: Guess) -> int:
        seen = (committed.tokens, after.tokens) if self.by_tokens else (len(committed), len(after))
        return Random(f"{self.name} {seen}").randint(1, 4)


class Oracle:
    """Answers choices from a script, takes the first open option beyond it, and keeps the weight of the branch.

    A script is a list of (option taken, number of options, weight of the branch up to and with it).
    """

    def __init__(self, script: Sequence[tuple[int, int, Any]] = ()) -> None:
        self._script = script
        self.trail: list[tuple[int, int, Any]] = []
        self.weight: Any = script[-1][2] if script else 1

    def choose(self, weights: Sequence[Any]) -> int:
        """An index, with probability equal to its weight (they sum to 1). Impossible options are never taken."""
        options = [index for index, weight in enumerate(weights) if weight]
        if len(options) == 1:
            return options[0]
        step = len(self.trail)
        if step < len(self._script):
            taken, _, weight = self._script[step]
        else:
            taken, weight = 0, self.weight * weights[options[0]]
            self.weight = weight
        if weight is None:  # the last step of the script is new: its weight is not known before its options are
            before = self.trail[-1][2] if self.trail else 1
            weight = self.weight = before * weights[options[taken]]
        self.trail.append((taken, len(options), weight))
        return options[taken]

    def leading(self, probabilities: Iterable[Any]) -> int:
        count = 0
        for probability in probabilities:
            if probability < 1 and self.choose((probability, 1 - probability)) == 1:
                break
            count += 1
        return count

    def last(self, probabilities: Sequence[Any]) -> int:
        for index in range(len(probabilities), 0, -1):
            probability = probabilities[index - 1]
            if probability >= 1 or self.choose((probability, 1 - probability)) == 0:
                return index
        return 0

    def pick(self, weights: Row) -> int:
        total = weights.sum()
        return self.choose([weight / total for weight in weights])


def branches(run: Callable[[Oracle], T]) -> Iterator[tuple[T, Any]]:
    """Every result of `run` with its weight, by replaying it once per branch. Weights sum to 1."""
    script: list[tuple[int, int, Any]] = []
    while True:
        oracle = Oracle(script)
        yield run(oracle), oracle.weight
        script = oracle.trail
        while script and script[-1][0] + 1 == script[-1][1]:
            script.pop()
        if not script:
            return
        taken, options, _ = script[-1]
        script[-1] = taken + 1, options, None


@dataclass(frozen=True, slots=True)
class Undrawn:
    """A drafted token that nobody has looked at. Value equality makes equal pending windows equal states.

    `context` are the known tokens before it, `before` the undrawn ones after those, `serial` tells independent draws apart.
    """

    world: Exact = field(compare=False, repr=False)
    context: Tokens
    before: tuple[Undrawn, ...]
    serial: int

    @property
    def token(self) -> int:
        return self.world.draw(self)

    @property
    def q(self) -> ExactRow:
        return self.world.pair.q(self.context + tuple(cell.token for cell in self.before))


class ExactWindow:
    """`Window` over exact rows; nothing is drawn before it is asked for."""

    def __init__(self, pair: ExactPair, effect: Verify) -> None:
        self._pair, self._committed, self._drafted = pair, effect.scores.committed.tokens, effect.guess.drafted
        self.n = len(self._drafted)

    def _token(self, i: int) -> int:
        return self._drafted[i].token

    def p_at(self, i: int) -> Fraction:
        return self._p(i)[self._token(i)]

    def q_at(self, i: int) -> Fraction:
        token, q = self._token(i), self._drafted[i].q
        if q is not None and q[token] == 0:
            raise NotLossless(
                f"token {token} was drafted although its row q gives it probability 0: report the row it was drawn from"
            )
        return Fraction(1) if q is None else q[token]

    def _p(self, i: int) -> ExactRow:
        return self._pair.p(self._committed + tuple(drafted.token for drafted in self._drafted[:i]))

    def p(self, i: int) -> Row:
        return np.array(self._p(i), dtype=object)

    def q(self, i: int) -> Row:
        q = self._drafted[i].q
        if q is None:
            q = [Fraction(int(token == self._token(i))) for token in range(self._pair.vocabulary)]
        return np.array(q, dtype=object)

    def without(self, i: int) -> Row:
        row = self.p(i)
        row[self._token(i)] = Fraction(0)
        return row


class Exact:
    """The exact interpreter: answers the effects of one round on one branch."""

    def __init__(self, pair: ExactPair, verification: Rule, schedule: Schedule = Scattered()) -> None:
        self.pair = pair
        self._rule = verification
        self._schedule = schedule
        self._oracle = Oracle()
        self._drawn: dict[int, tuple[Undrawn, int]] = {}
        self._serial = 0

    def rounds(self, strategy: DecodingStrategy, state: Any) -> dict[Any, Fraction]:
        """The law of the next state."""
        law: dict[Any, Fraction] = {}
        for after, weight in branches(lambda oracle: self._round(strategy, state, oracle)):
            try:
                law[after] = law.get(after, Fraction(0)) + weight
            except TypeError as error:
                raise StrategyError(
                    f"the state of {strategy.name} cannot be hashed ({error}): use frozen values in it"
                ) from error
        return law

    def _round(self, strategy: DecodingStrategy, state: Any, oracle: Oracle) -> Any:
        self._oracle, self._drawn, self._serial = oracle, {}, 1_000
        after = drive_at_once(strategy.step(state), self.answer)
        return self._settled(after, {})

    def answer(self, effect: Effect[Any]) -> Any:
        match effect:
            case Both(left, right):
                return self.answer(left), self.answer(right)
            case Race(right=draft):
                return self.answer(effect.ended(self._schedule(draft.committed, draft.after)))
            case Draft():
                return self._draft(effect)
            case Score(committed, guess):
                return Scores(committed, guess)
            case Verify():
                outcome = self._rule(ExactWindow(self.pair, effect), effect.bonus, self._oracle)
                tokens = effect.guess[: outcome.accepted].tokens
                if outcome.token is not None:
                    tokens += (outcome.token,)
                return Verdict(Committed(tokens), outcome.accepted, outcome.accepted == len(effect.guess))
            case _:
                raise StrategyError(f"the exact law cannot answer {type(effect).__name__}")

    def draw(self, cell: Undrawn) -> int:
        """The cell's token on this branch."""
        if id(cell) not in self._drawn:
            self._drawn[id(cell)] = cell, self._oracle.choose(cell.q)
        return self._drawn[id(cell)][1]

    def _draft(self, effect: Draft) -> Guess:
        cells: list[Drafted] = []
        context, before = self._known(effect.committed.tokens, effect.after.drafted)
        for _ in range(effect.length):
            self._serial += 1
            cell = Undrawn(self, context, before, self._serial)
            cells.append(cell)
            before += (cell,)
            if effect.stop is not None and effect.stop(cell.q, cell.token):
                break
        return Guess(tuple(cells))

    def _known(self, context: Tokens, drafted: Sequence[Drafted]) -> tuple[Tokens, tuple[Undrawn, ...]]:
        """The drawn tokens at the head of `drafted`, and the undrawn rest."""
        for i, cell in enumerate(drafted):
            if isinstance(cell, Undrawn) and id(cell) not in self._drawn:
                rest = drafted[i:]
                if not all(isinstance(later, Undrawn) for later in rest):  # mixed by hand: draw, so that order stays simple
                    return context + tuple(later.token for later in rest), ()
                return context, tuple(later for later in rest if isinstance(later, Undrawn))
            context += (cell.token,)
        return context, ()

    def _settled(self, value: Any, names: dict[int, Drafted]) -> Any:
        """`value` with drawn cells as plain tokens and undrawn ones numbered by appearance, so that equal states are equal."""
        match value:
            case Undrawn():
                if id(value) not in names:
                    names[id(value)] = self._settled_cell(value, names)
                return names[id(value)]
            case Guess(drafted):
                return Guess(tuple(self._settled(cell, names) for cell in drafted))
            case Known() | Committed():
                return value
            case tuple():
                return tuple(self._settled(item, names) for item in value)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                inside = {f.name: self._settled(getattr(value, f.name), names) for f in dataclasses.fields(value)}
                return dataclasses.replace(value, **inside)
            case _:
                return value

    def _settled_cell(self, cell: Undrawn, names: dict[int, Drafted]) -> Drafted:
        if id(cell) in self._drawn:
            return Known(self.draw(cell), cell.q)
        context, before = self._known(cell.context, cell.before)
        settled = tuple(self._settled(earlier, names) for earlier in before)
        return Undrawn(self, context, settled, len(names))


def law(
    strategy: DecodingStrategy,
    pair: ExactPair,
    prompt: Tokens = (0,),
    max_new_tokens: int = 3,
    verification: str | Rule = "token",
    speed_ratio: float = 3.0,
    schedule: Schedule = Scattered(),
) -> ExactLaw:
    """The exact output law of `strategy` on `pair`: probabilities of every output of at most `max_new_tokens` tokens.

    Outputs end at `pair.eos` or at the budget. `verification` is a rule or its name; `schedule` ends the draft of a `Race`.
    """
    start = Committed(prompt)
    world = Exact(pair, rule(verification) if isinstance(verification, str) else verification, schedule)
    ending = Ending(max_new_tokens, () if pair.eos is None else (pair.eos,))
    done: ExactLaw = {}
    open_states: dict[int, dict[Any, Fraction]] = {0: {strategy.init(start, KnownFacts(speed_ratio)): Fraction(1)}}
    while open_states:  # shortest first, so that a state is left only when all that leads to it was added up
        new_tokens = min(open_states)
        for state, weight in open_states.pop(new_tokens).items():
            before = committed(state)
            for after, chance in world.rounds(strategy, state).items():
                leaves, reason = ending.cut(before, committed(after), new_tokens)
                if reason:
                    output = before.tokens[len(start) :] + leaves
                    done[output] = done.get(output, Fraction(0)) + weight * chance
                else:
                    states = open_states.setdefault(new_tokens + len(leaves), {})
                    states[after] = states.get(after, Fraction(0)) + weight * chance
    return done


def target_law(pair: ExactPair, prompt: Tokens = (0,), max_new_tokens: int = 3) -> ExactLaw:
    """The target's own law of outputs: products of its rows, written without any strategy."""
    laws: ExactLaw = {(): Fraction(1)}
    done: ExactLaw = {}
    for _ in range(max_new_tokens):
        longer: ExactLaw = {}
        for output, weight in laws.items():
            for token, probability in enumerate(pair.p(prompt + output)):
                if probability:
                    (done if token == pair.eos else longer)[(*output, token)] = weight * probability
        laws = longer
    return done | laws


def total_variation(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> Any:
    """Half the sum of absolute differences."""
    return sum(abs(left.get(key, 0) - right.get(key, 0)) for key in {*left, *right}) / 2
