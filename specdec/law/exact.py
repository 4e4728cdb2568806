"""Computes the exact output law of a strategy: follows every branch of every random choice, with `Fraction` weights.

    law(strategy, pair, prompt, max_new_tokens)    the output law, as {tokens: probability}

A round is run once for each branch (`specdec.law.oracle`). Between rounds, equal states merge. A drafted token is drawn when
its value is first read, so a pending window, or a continuation of a `Fork` that is not used, costs nothing. A `Race` has no
clock here: a `Schedule` says how many tokens the draft makes, and the law must be right under every schedule. Nor is there the
noise by which a `Fork` foresees what the target samples: `Hits` say which outcomes it foresees; the law must be right for all.

Models are functions (`ExactPair`) whose rows may depend on the whole history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from specdec.effects import (
    Both,
    Committed,
    Draft,
    Drafted,
    Effect,
    Fork,
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
from specdec.law.oracle import Oracle, branches
from specdec.law.pair import SCATTERED, ExactLaw, ExactPair, ExactRow, Hits, Schedule, Tokens
from specdec.state import SPEED_RATIO, KnownFacts
from specdec.strategy import DecodingStrategy, require_strategy
from specdec.verification import Row, Rule, rule

MOST_EFFECTS = 1000
"""Effects of one round, beyond which it is taken not to end."""


@dataclass(frozen=True, slots=True)
class Undrawn:
    """A drafted token that may not be drawn yet. Equal ones compare equal, so that states with equal pending windows do.

    `interpreter`   draws it
    `context`       the known tokens before it
    `before`        the undrawn tokens between `context` and this one
    `serial`        tells independent draws apart
    """

    interpreter: Exact = field(compare=False, repr=False)
    context: Tokens
    before: tuple[Undrawn, ...]
    serial: int

    @property
    def token(self) -> int:
        return self.interpreter.draw(self)

    @property
    def q(self) -> ExactRow:
        return self.interpreter.pair.q(self.context + tuple(earlier.token for earlier in self.before))


class ExactWindow:
    """`specdec.verification.Window` over exact rows. A token is drawn when the rule first reads it, or a later one."""

    def __init__(self, pair: ExactPair, effect: Verify) -> None:
        self._pair, self._drafted = pair, effect.guess.drafted
        self._contexts = [effect.scores.committed.tokens]  # that of each guess, as far as they were read
        self.n = len(self._drafted)

    def _token(self, i: int) -> int:
        return self._context(i + 1)[-1]

    def _context(self, i: int) -> Tokens:
        contexts = self._contexts
        while len(contexts) <= i:
            contexts.append((*contexts[-1], self._drafted[len(contexts) - 1].token))
        return contexts[i]

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
        return self._pair.p(self._context(i))

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

    def __init__(self, pair: ExactPair, verification: Rule, schedule: Schedule = SCATTERED, hits: Hits | None = None) -> None:
        self.pair = pair
        self._rule = verification
        self._schedule, self.hits = schedule, hits
        self._oracle = Oracle()
        self._drawn: dict[int, tuple[Undrawn, int]] = {}
        self._serial = self._asked = 0

    def next_states(self, strategy: DecodingStrategy, state: Any) -> dict[Any, Fraction]:
        """The law of the state after one round."""
        law: dict[Any, Fraction] = {}
        for after, weight in branches(lambda oracle: self.next_state(strategy, state, oracle)):
            try:
                before = law.get(after, Fraction(0))
            except TypeError as error:
                raise StrategyError(
                    f"the state of {strategy.name} cannot be hashed ({error}): use frozen values in it"
                ) from error
            law[after] = before + weight
        return law

    def next_state(self, strategy: DecodingStrategy, state: Any, oracle: Oracle) -> Any:
        """The state after one round, on the branch that `oracle` takes."""
        self._oracle, self._drawn, self._serial = oracle, {}, 1_000  # tokens of the state before have serials below 1,000
        self._asked = 0
        after = drive_at_once(strategy.step(state), self.answer)
        return self._normalised(after, {})

    def answer(self, effect: Effect[Any]) -> Any:
        """The answer to an effect, on this branch."""
        self._asked += 1
        if self._asked > MOST_EFFECTS:
            raise StrategyError(
                f"a round asked for more than {MOST_EFFECTS} effects, and did not end: let step() return the next state"
            )
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
                decision = self._rule(ExactWindow(self.pair, effect), effect.bonus, self._oracle)
                return Verdict.of(effect.guess, decision.accepted, decision.token)
            case Fork() if self.pair.written is None:
                return ExactForks(self, effect)
            case _:
                raise StrategyError(f"the exact law cannot answer {type(effect).__name__}: ask for effects of specdec.effects")

    def draw(self, undrawn: Undrawn) -> int:
        """The value of a token on this branch, drawn when it is first read."""
        if id(undrawn) not in self._drawn:
            self._drawn[id(undrawn)] = undrawn, self._oracle.choose(undrawn.q)
        return self._drawn[id(undrawn)][1]

    def _draft(self, effect: Draft) -> Guess:
        if self.pair.written is not None:
            texts = self.pair.written(effect.committed.tokens + effect.after.tokens)
            chosen = self._oracle.choose(tuple(texts.values()))
            return Guess.certain(list(texts)[chosen][: effect.length])
        made: list[Drafted] = []
        context, before = self._known(effect.committed.tokens, effect.after.drafted)
        for _ in range(effect.length):
            self._serial += 1
            fresh = Undrawn(self, context, before, self._serial)
            made.append(fresh)
            before += (fresh,)
            if effect.stop is not None and effect.stop(fresh.q, fresh.token):
                break
        return Guess(tuple(made))

    def _known(self, context: Tokens, drafted: Sequence[Drafted]) -> tuple[Tokens, tuple[Undrawn, ...]]:
        """`context` with the drawn tokens at the head of `drafted`, and the undrawn rest."""
        for i, token in enumerate(drafted):
            if isinstance(token, Undrawn) and id(token) not in self._drawn:
                rest = drafted[i:]
                if not all(isinstance(later, Undrawn) for later in rest):  # mixed by hand: draw, so that order stays simple
                    return context + tuple(later.token for later in rest), ()
                return context, tuple(later for later in rest if isinstance(later, Undrawn))
            context += (token.token,)
        return context, ()

    def _normalised(self, value: Any, names: dict[int, Drafted]) -> Any:
        """`value` with drawn tokens as `Known` and undrawn ones numbered as they appear, so that equal states compare equal."""
        match value:
            case Undrawn():
                if id(value) not in names:
                    names[id(value)] = self._normalised_token(value, names)
                return names[id(value)]
            case Guess(drafted):
                return Guess(tuple(self._normalised(token, names) for token in drafted))
            case Known() | Committed():
                return value
            case ExactForks():
                raise StrategyError("a state keeps Forks, which hold for one round: keep the guess that `after` returned")
            case tuple():
                return tuple(self._normalised(item, names) for item in value)
            case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
                inside = {f.name: self._normalised(getattr(value, f.name), names) for f in dataclasses.fields(value)}
                return dataclasses.replace(value, **inside)
            case _:
                return value

    def _normalised_token(self, token: Undrawn, names: dict[int, Drafted]) -> Drafted:
        if id(token) in self._drawn:
            return Known(self.draw(token), token.q)
        context, before = self._known(token.context, token.before)
        normalised = tuple(self._normalised(earlier, names) for earlier in before)
        return Undrawn(self, context, normalised, len(names))


@dataclass(frozen=True, eq=False)
class ExactForks:
    """The answer to a `Fork`. A continuation is drafted when it is asked for, so all others cost nothing."""

    interpreter: Exact
    fork: Fork
    made: dict[tuple[int, int], Guess] = field(default_factory=dict[tuple[int, int], Guess])

    def after(self, verdict: Verdict) -> Guess:
        """The continuation after `verdict.tokens`; empty on a miss."""
        if len(verdict.tokens) == verdict.accepted:  # no token of the target's own, which every outcome has
            return Guess.empty
        outcome = verdict.accepted, verdict.tokens.tokens[-1]
        if outcome not in self.made:
            self.made[outcome] = self._drafted(*outcome)
        return self.made[outcome]

    def _drafted(self, accepted: int, last: int) -> Guess:
        fork = self.fork
        if accepted > len(fork.window) or not self._foresees(accepted, last):
            return Guess.empty
        text = Committed((*fork.committed.tokens, *fork.window[:accepted].tokens, last))
        return self.interpreter.answer(Draft(text, Guess.empty, fork.length, fork.stop))

    def _foresees(self, accepted: int, last: int) -> bool:
        """Whether the target's own token is foreseen after so many accepted ones: by `hits`, or one of the likeliest."""
        fork = self.fork
        if self.interpreter.hits is not None:
            return bool(fork.fan_outs[accepted]) and self.interpreter.hits(fork.committed, accepted, last)
        q = self.interpreter.pair.q(fork.committed.tokens + fork.window[:accepted].tokens)
        left_out = [drafted.token for drafted in fork.window[accepted : accepted + 1].drafted]
        likeliest = sorted(range(len(q)), key=lambda token: -q[token])  # a stable sort: of equals, the lowest comes first
        return last in [token for token in likeliest if q[token] and token not in left_out][: fork.fan_outs[accepted]]


def law(
    strategy: DecodingStrategy,
    pair: ExactPair,
    prompt: Tokens = (0,),
    max_new_tokens: int = 3,
    verification: str | Rule = "token",
    speed_ratio: float = SPEED_RATIO,
    schedule: Schedule = SCATTERED,
    hits: Hits | None = None,
) -> ExactLaw:
    """The exact output law of `strategy` on `pair`: the probability of every output.

    `prompt`           tokens to start from
    `max_new_tokens`   where an output ends, unless at `pair.eos`
    `verification`     a rule or its name
    `speed_ratio`      target step / draft step, which `draft_length="auto"` asks for
    `schedule`         how many tokens the draft of a `Race` makes
    `hits`             which outcomes a `Fork` foresees; the likeliest by `q`, as many as it asks for, unless given
    """
    require_strategy(strategy)
    start = Committed(prompt)
    interpreter = Exact(pair, rule(verification), schedule, hits)
    ending = Ending(max_new_tokens, () if pair.eos is None else (pair.eos,))
    done: ExactLaw = {}
    open_states: dict[int, dict[Any, Fraction]] = {0: {strategy.init(start, KnownFacts(speed_ratio)): Fraction(1)}}
    while open_states:  # shortest first, so that all that leads to a state is added up before it is followed
        new_tokens = min(open_states)
        for state, weight in open_states.pop(new_tokens).items():
            before = committed(state)
            for after, chance in interpreter.next_states(strategy, state).items():
                leaves, reason = ending.cut(before, committed(after), new_tokens)
                if reason:
                    output = before.tokens[len(start) :] + leaves
                    done[output] = done.get(output, Fraction(0)) + weight * chance
                else:
                    states = open_states.setdefault(new_tokens + len(leaves), {})
                    states[after] = states.get(after, Fraction(0)) + weight * chance
    return done
