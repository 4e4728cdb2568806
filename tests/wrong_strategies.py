"""Strategies with one mistake each, for tests that must see it; and what each should have done instead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from specdec import (
    Both,
    Committed,
    DecodingStrategy,
    Draft,
    Effect,
    Guess,
    Program,
    Race,
    Score,
    Scores,
    State,
    Verify,
)
from specdec.lengths import BelowConfidence


@dataclass(frozen=True)
class Wrong(DecodingStrategy):
    """Base of the wrong ones."""

    name: ClassVar[str] = "wrong"
    draft_length: int = 2


@dataclass(frozen=True)
class WrongPearl(Wrong):
    """Base of wrong PEARLs: `Both` gives them a draft length, `Race` makes them elastic."""

    together: type[Both[Any, Any] | Race[Any]] = Both

    def ask(self, state: State) -> Effect[Any]:
        return self.together(Score(state.committed, state.pending), Draft(state.committed, state.pending, self.draft_length))


class EmittedTail(WrongPearl):
    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        if verdict.complete:
            return State(state.committed + verdict.tokens + Committed(fresh[1:].tokens))
        return state.then(verdict)


class RejectedKept(WrongPearl):
    """Keeps what was not accepted for the next round, the rejected token included."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        window = state.pending + fresh
        verdict = yield from Verify(scores, window[: len(state.pending) + 1])
        return state.then(verdict, pending=window[verdict.accepted :])


class BonusInPostVerify(WrongPearl):
    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1], bonus=True)
        return state.then(verdict, pending=fresh[1:] if verdict.complete else Guess.empty)


class BonusAndFresh(WrongPearl):
    """Takes the bonus, and still keeps the window that was drafted without knowing of it.

    Declared rows stay true, so the tokens behind the bonus are tested fairly; what is lost is where they stand.
    """

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending, bonus=True)
        if verdict.complete:  # the bonus is taken to be the head of what was drafted
            return State(state.committed + Committed(verdict.tokens.tokens[:-1] + fresh[:1].tokens), pending=fresh[1:])
        return state.then(verdict)


class DiscardedToken(Wrong):
    """Drafts while confident, and throws the token away at which confidence ended."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length, stop=BelowConfidence(0.5))
        if len(guess) < self.draft_length:
            guess = guess[:-1]
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class DiscardedInRace(WrongPearl):
    """Throws the last token of a race away if it is 0, as if the target had answered a moment earlier."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        if fresh.tokens[-1] == 0:
            fresh = fresh[:-1]
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, fresh[1:] if verdict.complete else Guess.empty)


class StaleScores(Wrong):
    """Keeps the scores of a rejected window for the next round, since they are paid for."""

    def step(self, state: State) -> Program[State]:
        if isinstance(state.memory, Scores):
            verdict = yield from Verify(state.memory, Guess.empty, bonus=True)
            return state.then(verdict)
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        stale = None if verdict.complete else replace(scores, guess=Guess.empty)
        return state.then(verdict, memory=stale)


class RetriedVerify(Wrong):
    """Verifies twice and takes the longer verdict."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        first = yield from Verify(scores, guess, bonus=True)
        second = yield from Verify(scores, guess, bonus=True)
        return state.then(max(first, second, key=lambda verdict: verdict.accepted))


class FallsBack(Wrong):
    """Stops drafting on what the draft said, but goes back and drops what a rejected verdict makes look bad."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        if verdict.accepted == 0:  # "the draft was useless here: sample the target alone"
            scores = yield from Score(state.committed, Guess.empty)
            verdict = yield from Verify(scores, Guess.empty, bonus=True)
        return state.then(verdict)


# --- what is right ---


class KeptToken(Wrong):
    """Stops at low confidence and keeps the token: what `DiscardedToken` should do."""

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, self.draft_length, stop=BelowConfidence(0.5))
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


class RestKept(WrongPearl):
    """PEARL that keeps what it drafted behind a rejection: of little use, and lossless, since nobody has tested it yet."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from self.ask(state)
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, pending=fresh[1:])


class ElsewhereDrafted(Wrong):
    """PEARL whose draft forgets the pending window: slow, and lossless, since it reports the rows it sampled from."""

    def step(self, state: State) -> Program[State]:
        scores, fresh = yield from Both(
            Score(state.committed, state.pending), Draft(state.committed, Guess.empty, self.draft_length)
        )
        verdict = yield from Verify(scores, state.pending + fresh[:1])
        return state.then(verdict, pending=fresh[1:] if verdict.complete else Guess.empty)
