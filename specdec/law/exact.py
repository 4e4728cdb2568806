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
from functools import cache
from itertools import pairwise
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
from specdec.inputs import at_least_one
from specdec.law.oracle import Oracle, branches
from specdec.law.pair import SCATTERED, ExactLaw, ExactPair, ExactRow, Hits, Schedule, Tokens
from specdec.state import SPEED_RATIO, KnownFacts
from specdec.strategy import DecodingStrategy, require_strategy
from specdec.verification import Row, Rule, rule

MOST_EFFECTS = 1000
"""Effects of one round, beyond which it is taken not to end."""


@dataclass(slots=True, eq=False)
class Undrawn:
    """A drafted token that may not be drawn yet. States name equal ones by the same object (`Exact._normalised`).

    `interpreter`   draws it
    `previous`      the token before it, if that one was undrawn when this one was made
    `context`       else the tokens before it
    `drawn_on`      the branch on which `text` holds: the tokens before it, and itself
    """

    interpreter: Exact = field(repr=False)
    context: Tokens
    previous: Undrawn | None = None
    drawn_on: object = field(default=None, repr=False)
    text: Tokens = field(default=(), repr=False)

    @property
    def drawn(self) -> bool:
        """Whether it is drawn on this branch."""
        return self.drawn_on is self.interpreter.branch

    @property
    def token(self) -> int:
        return self.draw()[-1]

    @property
    def q(self) -> ExactRow:
        return self.interpreter.pair.q(self.before)

    @property
    def before(self) -> Tokens:
        """The tokens before it, which are drawn for that."""
        return self.context if self.previous is None else self.previous.draw()

    def draw(self) -> Tokens:
        """The tokens before it and itself. It is drawn when this is first asked for on a branch."""
        if not self.drawn:
            before = self.before
            self.text = (*before, self.interpreter.oracle.choose(self.interpreter.pair.q(before)))
            self.drawn_on = self.interpreter.branch
        return self.text


class ExactWindow:
    """`specdec.verification.Window` over exact rows. A token is drawn when the rule first reads it, or a later one.

    Only rows that the target has scored may be read, and only tokens of the vocabulary be guessed, as on models.
    """

    def __init__(self, pair: ExactPair, effect: Verify) -> None:
        self._pair, self._drafted = pair, effect.guess.drafted
        self._contexts = [effect.scores.committed.tokens]  # that of each guess, as far as they were read
        self._scored = len(effect.scores.guess)
        self.n = len(self._drafted)

    def _token(self, i: int) -> int:
        return self._context(i + 1)[-1]

    def _context(self, i: int) -> Tokens:
        contexts = self._contexts
        for drafted in self._drafted[len(contexts) - 1 : i]:
            token = drafted.token
            if not 0 <= token < self._pair.vocabulary:
                raise StrategyError(f"token {token} is guessed, and the target knows {self._pair.vocabulary}: guess its tokens")
            contexts.append((*contexts[-1], token))
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
        if i > self._scored:
            raise StrategyError(
                f"a rule reads the target's row behind {i} guesses, and {self._scored} were scored: add a token behind a full "
                "acceptance only where there is a bonus"
            )
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
        self.oracle = Oracle()
        self.branch = object()  # what was drawn holds on one branch
        self._named: dict[Any, Undrawn] = {}
        self._likeliest: dict[Tokens, list[int]] = {}
        self._asked = 0

    def next_states(self, strategy: DecodingStrategy, state: Any) -> dict[Any, Fraction]:
        """The law of the state after one round."""
        law: dict[Any, Fraction] = {}
        for after, weight in branches(lambda oracle: self.next_state(strategy, state, oracle)):
            try:
                before = law.get(after)
            except TypeError as error:
                raise StrategyError(
                    f"the state of {strategy.name} cannot be hashed ({error}): use frozen values in it"
                ) from error
            law[after] = weight if before is None else before + weight
        return law

    def next_state(self, strategy: DecodingStrategy, state: Any, oracle: Oracle) -> Any:
        """The state after one round, on the branch that `oracle` takes."""
        self.oracle, self.branch, self._asked = oracle, object(), 0
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
                decision = self._rule(ExactWindow(self.pair, effect), effect.bonus, self.oracle)
                return Verdict.of(effect.guess, decision.accepted, decision.token)
            case Fork() if self.pair.written is None:
                return ExactForks(self, effect)
            case _:
                raise StrategyError(f"the exact law cannot answer {type(effect).__name__}: ask for effects of specdec.effects")

    def likeliest(self, context: Tokens) -> list[int]:
        """The possible tokens of the draft after `context`, likeliest first; of equals, the lowest first."""
        if context not in self._likeliest:
            q = self.pair.q(context)
            self._likeliest[context] = sorted((token for token in range(len(q)) if q[token]), key=lambda token: -q[token])
        return self._likeliest[context]

    def _draft(self, effect: Draft) -> Guess:
        if self.pair.written is not None:
            texts = self.pair.written(effect.committed.tokens + effect.after.tokens)
            chosen = self.oracle.choose(tuple(texts.values()))
            return Guess.certain(list(texts)[chosen][: effect.length])
        made: list[Drafted] = []
        context, previous = self._known(effect.committed.tokens, effect.after.drafted)
        for _ in range(effect.length):
            fresh = Undrawn(self, context, previous)
            made.append(fresh)
            context, previous = (), fresh
            if effect.stop is not None and effect.stop(fresh.q, fresh.token):
                break
        return Guess(tuple(made))

    def _known(self, context: Tokens, drafted: Sequence[Drafted]) -> tuple[Tokens, Undrawn | None]:
        """What follows `context` and `drafted`: all tokens, or the last one where some are undrawn.

        Undrawn ones are drawn here unless they are a chain: each was drafted behind the one before it.
        """
        for i, token in enumerate(drafted):
            if isinstance(token, Undrawn) and not token.drawn:
                rest = drafted[i:]
                chain = [later for later in rest if isinstance(later, Undrawn)]
                linked = len(chain) == len(rest) and all(two.previous is one for one, two in pairwise(chain))
                if linked and token.before == context:
                    return (), chain[-1]
                return context + tuple(later.token for later in rest), None
            context += (token.token,)
        return context, None

    def _normalised(self, value: Any, names: dict[int, Drafted]) -> Any:
        """`value` with drawn tokens as `Known` and undrawn ones numbered as they appear, so that equal states compare equal."""
        kind = type(value)
        if kind is Undrawn:
            if id(value) not in names:
                names[id(value)] = self._normalised_token(value, names)
            return names[id(value)]
        if kind is Known or kind is Committed:
            return value
        if isinstance(value, tuple):
            items = [self._normalised(item, names) for item in value]
            return tuple(items) if kind is tuple else kind(*items)  # a NamedTuple keeps its names
        if kind is ExactForks:
            raise StrategyError("a state keeps Forks, which hold for one round: keep the guess that `after` returned")
        changed: dict[str, Any] = {}
        for name in _field_names(kind):
            before = getattr(value, name)
            after = self._normalised(before, names)
            if after is not before:
                changed[name] = after
        return dataclasses.replace(value, **changed) if changed else value

    def _normalised_token(self, token: Undrawn, names: dict[int, Drafted]) -> Drafted:
        if token.drawn:
            return Known(token.token, token.q)
        before = token.previous
        chained = before is not None and not before.drawn
        previous = self._normalised(before, names) if chained else None
        name = () if chained else token.before, previous, len(names)
        if name not in self._named:
            self._named[name] = Undrawn(self, *name[:2])
        return self._named[name]


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    """Fields of a dataclass; none of any other class."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()


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
        left_out = [drafted.token for drafted in fork.window[accepted : accepted + 1].drafted]
        likeliest = self.interpreter.likeliest(fork.committed.tokens + fork.window[:accepted].tokens)
        return last in [token for token in likeliest if token not in left_out][: fork.fan_outs[accepted]]


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
    at_least_one(max_new_tokens=max_new_tokens)
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
