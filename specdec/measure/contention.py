"""Measures contention: how much slower two models are in turn (a draft, a window, a verification), and both at once.

These are loops of effects on the lanes that decode. No strategy is involved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean
from typing import TypeVar

from specdec.effects import Both, Committed, Draft, Effect, Guess, Score, Scores, Verify
from specdec.pair import Pair
from specdec.profile import Slowdown
from specdec.runtime.engine import Engine
from specdec.runtime.lane import Lane
from specdec.runtime.slot import Slot
from specdec.runtime.timing import Timing, interleaved, made_up_context

LENGTHS = (1, 4, 8)
"""Draft lengths that are timed in turn with the windows over them."""

T = TypeVar("T")


class _Rounds:
    """Answers effects by the lanes of a decode, round after round, from the same made-up context."""

    def __init__(self, pair: Pair, draft: Lane | None, context: int, slots: int) -> None:
        limit = pair.draft_context_limit
        self._engine, self._slot = Engine(pair.target_lane(), draft, limit, size=slots), Slot(0)
        self._most = limit - 2 * max(LENGTHS)
        self.base = Committed(tuple(made_up_context(context)))
        self._engine.begin(self._slot, self.base.tokens)

    def answer(self, effect: Effect[T]) -> T:
        return self._engine.run(self._slot, iter(effect))

    def verified(self, scores: Scores, guess: Guess) -> Committed:
        """What is committed after a verification; `base` again where the context is nearly full."""
        longer = scores.committed + self.answer(Verify(scores, guess, bonus=True)).tokens
        return longer if len(longer) < self._most else self.base

    @property
    def busy_seconds(self) -> tuple[float, float]:
        """Seconds that the target and the draft have worked so far."""
        return self._slot.statistics.target_busy_seconds, self._slot.statistics.draft_busy_seconds


def _busy_since(rounds: _Rounds, before: tuple[float, float]) -> tuple[float, float]:
    target, draft = rounds.busy_seconds
    return target - before[0], draft - before[1]


def _means(repeats: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(Timing.of(column).mean for column in zip(*repeats, strict=True))


def round_overhead_seconds(pair: Pair, repeats: int, context: int, slots: int = 1) -> float:
    """Seconds of a round without a draft that are spent in no forward: the choice of a token, and bookkeeping."""
    rounds = _Rounds(pair, None, context, slots)

    def alone(_: None) -> Iterator[float]:
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            committed = rounds.verified(rounds.answer(Score(committed, Guess.empty)), Guess.empty)
            yield time.perf_counter() - start - _busy_since(rounds, before)[0]

    return Timing.of(interleaved([None], repeats, alone)[None]).mean


@dataclass(frozen=True)
class Alone:
    """Seconds of forwards that follow each other at once: of the target by width, and of the draft for each token."""

    target: Mapping[int, float]
    draft: float


@dataclass(frozen=True)
class InTurn:
    """What is measured of models that work in turn: a draft, a window over it, a verification, and again.

    `target_factor`       seconds of a forward, over its seconds alone
    `draft_factor`        seconds of a drafted token, over its seconds alone
    `start_seconds`       seconds of a draft in addition to its tokens, since a model that has waited begins slowly
    `transport_seconds`   seconds of a draft request in which the draft does not work: to its lane and back
    `overhead_seconds`    seconds of a round that are spent in no draft and in no forward
    """

    target_factor: float
    draft_factor: float
    start_seconds: float
    transport_seconds: float
    overhead_seconds: float


def in_turn(pair: Pair, repeats: int, context: int, alone: Alone, slots: int = 1) -> InTurn:
    """Time drafts of several lengths in turn with windows over them, after `context` tokens and what is committed since."""
    rounds = _Rounds(pair, pair.draft_lane(), context, slots)

    def rounds_of(length: int) -> Iterator[tuple[float, float, float, float]]:
        """Seconds of the target, of the draft, of its transport, and of the rest, round by round."""
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            guess = rounds.answer(Draft(committed, Guess.empty, length))
            drafted = time.perf_counter()
            committed = rounds.verified(rounds.answer(Score(committed, guess)), guess)
            rest = time.perf_counter() - drafted
            target, draft = _busy_since(rounds, before)
            yield target, draft, drafted - start - draft, rest - target

    found = [_means(seconds) for seconds in interleaved(LENGTHS, repeats, rounds_of).values()]
    targets, drafts, transports, rests = zip(*found, strict=True)
    step, start = linear_regression(LENGTHS, drafts)
    factor = sum(targets) / sum(alone.target[length + 1] for length in LENGTHS)
    return InTurn(factor, step / alone.draft, max(0.0, start), mean(transports), mean(rests))


def together(pair: Pair, repeats: int, context: int, alone: Alone, start_seconds: float, slots: int = 1) -> Slowdown:
    """The slowdown of each model while the other one works too, with drafts that take about as long as a forward.

    Forwards of width 1 alternate with windows, since tokens that were drafted during one forward are scored in the next.
    `start_seconds` is that of `InTurn`.
    """
    rounds = _Rounds(pair, pair.draft_lane(), context, slots)
    tokens = max(1, round(alone.target[1] / alone.draft))
    length = max(length for length in LENGTHS if length <= tokens)

    def at_once(tokens: int) -> Iterator[tuple[float, float]]:
        """Seconds of the target and of the draft in two rounds, again and again."""
        committed = rounds.base
        while True:
            before = rounds.busy_seconds
            _, guess = rounds.answer(Both(Score(committed, Guess.empty), Draft(committed, Guess.empty, tokens)))
            scores, _ = rounds.answer(Both(Score(committed, guess[:length]), Draft(committed, guess, tokens)))
            committed = rounds.verified(scores, scores.guess)
            yield _busy_since(rounds, before)

    target, draft = _means(interleaved([tokens], repeats, at_once)[tokens])
    factors = target / (alone.target[1] + alone.target[length + 1]), draft / 2 / (start_seconds + tokens * alone.draft)
    return Slowdown(*(max(1.0, factor) for factor in factors))
