"""Forks with one mistake each: wrong strategies like Saguaro and Hedged, and wrong answers to a `Fork`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specdec import Both, Committed, Draft, Effect, Fork, Forks, Guess, Program, Score, State, Verdict, Verify
from specdec.effects import Drafted, Known
from specdec.law import Exact
from strategies import Hedged, Saguaro

# --- wrong strategies ---


@dataclass(frozen=True)
class Leaking(Saguaro):
    """Commits the head of the prepared continuation along with the outcome."""

    def step(self, state: State) -> Program[State]:
        after = yield from Saguaro.step(self, state)
        return State(after.committed + Committed(after.pending.tokens[:1]))


@dataclass(frozen=True)
class DraftsHead(Hedged):
    """Commits the draft's own likeliest head when the target's was not foreseen, so that a window is ready."""

    def step(self, state: State) -> Program[State]:
        after = yield from Hedged.step(self, state)
        if after.pending:
            return after
        before = Committed(after.committed.tokens[:-1])
        return State(before + Committed((yield from Draft(before, Guess.empty, 1)).tokens))


@dataclass(frozen=True)
class KeptForks(Saguaro):
    """Keeps the forks of the round before, and looks there on a miss."""

    def step(self, state: State) -> Program[State]:
        fork = Fork(state.committed, state.pending, self.fan_out, self.policy.length(None))
        scores, forks = yield from Both(Score(state.committed, state.pending), fork)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        older: Any = state.memory
        pending = forks.after(verdict) or (older.after(verdict) if older else Guess.empty)
        return state.then(verdict, pending, memory=forks)  # type: ignore[arg-type]


# --- wrong answers to a `Fork` ---


@dataclass(frozen=True, eq=False)
class Changed:
    """Forks that answer what `change` makes of the outcome."""

    world: Exact
    fork: Fork
    change: Callable[[Exact, Fork, Forks, Verdict], Guess]

    def after(self, verdict: Verdict) -> Guess:
        return self.change(self.world, self.fork, Exact.answer(self.world, self.fork), verdict)


def forks(change: Callable[[Exact, Fork, Forks, Verdict], Guess]) -> Callable[[Exact, Effect[Any]], Any]:
    """An interpreter's answer with other forks."""
    return lambda world, effect: Changed(world, effect, change) if isinstance(effect, Fork) else NotImplemented


def with_rows(guess: Guess, row: Callable[[int, Drafted], Any]) -> Guess:
    """The same tokens, reported with other rows."""
    return Guess(tuple(Known(drafted.token, row(depth, drafted)) for depth, drafted in enumerate(guess.drafted)))


def unchanged(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    return answer.after(verdict)


def continuation_chosen_by_p(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """Two continuations are drafted for the outcome, and the one that the target likes better is verified."""
    again: Forks = Exact.answer(world, fork)
    branches = [answer.after(verdict), again.after(verdict)]
    p = world.pair.p(fork.committed.tokens + verdict.tokens.tokens)
    return max(branches, key=lambda branch: p[branch.tokens[0]] if branch else 0)


def last_token_alone(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """The continuation of the first prefix behind which the last token was foreseen, however many guesses were accepted."""
    window, last = fork.window.tokens, verdict.tokens.tokens[-1]
    for accepted in range(len(window) + 1):
        found = answer.after(Verdict(Committed((*window[:accepted], last)), accepted, accepted == len(window)))
        if found:
            return found
    return Guess.empty


def last_token_with_the_rows_of_its_place(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """The same, with the rows that the draft has behind what was committed."""
    found = last_token_alone(world, fork, answer, verdict)
    behind = fork.committed.tokens + verdict.tokens.tokens
    return with_rows(found, lambda depth, drafted: world.pair.q(behind + found.tokens[:depth]))


def other_rows(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """The rows of the draft at another temperature than it sampled at: their squares."""

    def colder(depth: int, drafted: Drafted) -> Any:
        squares = [weight**2 for weight in drafted.q]
        return tuple(weight / sum(squares) for weight in squares)

    return with_rows(answer.after(verdict), colder)


def rows_of_a_miss(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """The tokens of a hit with the rows that the draft has behind the window, where the next draft would begin on a miss."""
    found = answer.after(verdict)
    behind = fork.committed.tokens + fork.window.tokens
    return with_rows(found, lambda depth, drafted: world.pair.q(behind + found.tokens[:depth]))


def certain_on_a_miss(world: Exact, fork: Fork, answer: Forks, verdict: Verdict) -> Guess:
    """Zeros on a miss. They were not sampled, so they are certain."""
    return answer.after(verdict) or Guess.certain([0] * fork.length)


def argmax_on_a_miss(world: Exact, effect: Effect[Any]) -> Any:
    """Compares what was not sampled with the target's likeliest token, "as if at temperature 0"."""
    if isinstance(effect, Verify) and effect.guess and all(drafted.q is None for drafted in effect.guess.drafted):
        return _compared_with_argmax(world, effect)
    return forks(certain_on_a_miss)(world, effect)


def _compared_with_argmax(world: Exact, effect: Verify) -> Verdict:
    context, accepted = effect.scores.committed.tokens, 0
    for token in effect.guess.tokens:
        p = world.pair.p(context)
        if p.index(max(p)) != token:
            break
        context, accepted = (*context, token), accepted + 1
    own: Verdict = Exact.answer(world, Verify(world.answer(Score(Committed(context), Guess.empty)), Guess.empty))
    tokens = Committed(effect.guess.tokens[:accepted]) + own.tokens
    return Verdict(tokens, accepted, accepted == len(effect.guess))


def head_chosen_by_p(world: Exact, effect: Effect[Any]) -> Any:
    """Commits that of the draft's two likeliest tokens which the target likes better, since a branch is ready behind it."""
    if not isinstance(effect, Verify):
        return NotImplemented
    verdict: Verdict = Exact.answer(world, effect)
    context = effect.scores.committed.tokens + verdict.tokens.tokens[:-1]
    p, q = world.pair.p(context), world.pair.q(context)
    heads = sorted(range(len(q)), key=lambda token: -q[token])[:2]
    best = max(heads, key=lambda token: p[token])
    return Verdict(Committed((*verdict.tokens.tokens[:-1], best)), verdict.accepted, verdict.complete)
