"""Measures contention: how much slower two models are in turn (a draft, a window, a verification), and both at once.

These are loops of effects on the lanes that decode, for one sequence or a batch. No strategy is involved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import linear_regression, mean
from typing import Any

from specdec.effects import Both, Committed, Draft, Effect, Guess, Score, Scores, Verify, drive
from specdec.pair import Pair
from specdec.profile import BatchRounds, Slowdown
from specdec.runtime.engine import Engine
from specdec.runtime.lane import InlineLane, Lane
from specdec.runtime.slot import Slot
from specdec.runtime.timing import Timing, interleaved, made_up_context

ALONE = Slowdown()

LENGTHS = (1, 4, 8)
"""Draft lengths that are timed in turn with the windows over them."""


class _Rounds:
    """Answers effects by the lanes of a decode, round after round, from the same made-up context.

    All of `batch` sequences ask for the same at once, in caches of `slots` slots or more.
    """

    def __init__(self, pair: Pair, draft: Lane | None, context: int, slots: int, batch: int = 1) -> None:
        limit = pair.draft_context_limit
        self._engine = Engine(pair.target_lane(), draft, limit, size=max(slots, batch))
        self._slots = [Slot(number) for number in range(batch)]
        self._most = limit - 2 * max(LENGTHS)
        self._base = Committed(tuple(made_up_context(context)))
        for number, slot in enumerate(self._slots):
            slot.index = number
            self._engine.begin(slot, self._base.tokens)

    @property
    def base(self) -> list[Committed]:
        """The context of each sequence."""
        return [self._base] * len(self._slots)

    def answers(self, effects: Sequence[Effect[Any]]) -> list[Any]:
        """What the lanes answer to the effects of the sequences."""
        pairs = zip(self._slots, effects, strict=True)
        waiting = [drive(iter(effect), partial(self._engine.answer, slot)) for slot, effect in pairs]
        self._engine.work([next(one) for one in waiting])
        return [_returned(one) for one in waiting]

    def verified(self, scores: Sequence[Scores], guesses: Sequence[Guess]) -> list[Committed]:
        """What is committed after a verification; the base again where the context is nearly full."""
        found: list[Committed] = []
        for slot, of_slot, guess in zip(self._slots, scores, guesses, strict=True):
            verify = iter(Verify(of_slot, guess, bonus=True))
            longer = of_slot.committed + _returned(drive(verify, partial(self._engine.answer, slot))).tokens
            found.append(longer if len(longer) < self._most else self._base)
        return found

    @property
    def busy_seconds(self) -> tuple[float, float]:
        """Seconds that the target and the draft have worked so far."""
        return self._slots[0].statistics.target_busy_seconds, self._slots[0].statistics.draft_busy_seconds


def _returned(round: Iterator[Any]) -> Any:
    """What a round returns that waits for nothing more."""
    try:
        next(round)
    except StopIteration as finished:
        return finished.value
    raise AssertionError("an effect waits for the lanes twice")


def _busy_since(rounds: _Rounds, before: tuple[float, float]) -> tuple[float, float]:
    target, draft = rounds.busy_seconds
    return target - before[0], draft - before[1]


def _means(repeats: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(Timing.of(column).mean for column in zip(*repeats, strict=True))


def round_overhead_seconds(pair: Pair, repeats: int, context: int, slots: int = 1, batch: int = 1) -> float:
    """Seconds of a round without a draft that are spent in no forward: the choice of tokens, and bookkeeping."""
    rounds = _Rounds(pair, None, context, slots, batch)
    empty = [Guess.empty] * batch

    def alone(_: None) -> Iterator[float]:
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            committed = rounds.verified(rounds.answers([Score(one, Guess.empty) for one in committed]), empty)
            yield time.perf_counter() - start - _busy_since(rounds, before)[0]

    return Timing.of(interleaved([None], repeats, alone)[None]).mean


@dataclass(frozen=True)
class Alone:
    """Seconds of forwards that follow each other at once: of the target by width, and of the draft for each token.

    They are those of `batch` sequences.
    """

    target: Mapping[int, float]
    draft: float
    batch: int = 1


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

    @property
    def draft_start_seconds(self) -> float:
        """Seconds of a draft request in addition to its tokens, as if the models did not slow each other down."""
        return (self.start_seconds + self.transport_seconds) / self.draft_factor


def in_turn(pair: Pair, repeats: int, context: int, alone: Alone, slots: int = 1, lengths: Sequence[int] = LENGTHS) -> InTurn:
    """Time drafts of several lengths in turn with windows over them, after `context` tokens and what is committed since.

    `alone` has the seconds of each window, one position wider than its draft is long.
    """
    rounds = _Rounds(pair, pair.draft_lane(), context, slots, alone.batch)

    def rounds_of(length: int) -> Iterator[tuple[float, float, float, float]]:
        """Seconds of the target, of the draft, of its transport, and of the rest, round by round."""
        committed = rounds.base
        while True:
            start, before = time.perf_counter(), rounds.busy_seconds
            guesses = rounds.answers([Draft(one, Guess.empty, length) for one in committed])
            drafted = time.perf_counter()
            scores = rounds.answers([Score(one, guess) for one, guess in zip(committed, guesses, strict=True)])
            committed = rounds.verified(scores, guesses)
            rest = time.perf_counter() - drafted
            target, draft = _busy_since(rounds, before)
            yield target, draft, drafted - start - draft, rest - target

    found = [_means(seconds) for seconds in interleaved(lengths, repeats, rounds_of).values()]
    targets, drafts, transports, rests = zip(*found, strict=True)
    step, start = linear_regression(lengths, drafts) if len(lengths) > 1 else (drafts[0] / lengths[0], 0.0)
    factor = sum(targets) / sum(alone.target[length + 1] for length in lengths)
    return InTurn(factor, step / alone.draft, max(0.0, start), mean(transports), mean(rests))


def together(pair: Pair, repeats: int, context: int, alone: Alone, start_seconds: float, slots: int = 1) -> Slowdown:
    """The slowdown of each model while the other one works too, with drafts that take about as long as a forward.

    Forwards of width 1 alternate with windows, since tokens that were drafted during one forward are scored in the next: the
    widest window of `alone` that has so many tokens. `start_seconds` is that of `InTurn`.
    """
    rounds = _Rounds(pair, pair.draft_lane(), context, slots, alone.batch)
    tokens = max(1, round(alone.target[1] / alone.draft))
    length = max(width for width in alone.target if width <= tokens + 1) - 1

    def at_once(tokens: int) -> Iterator[tuple[float, float]]:
        """Seconds of the target and of the draft in two rounds, again and again."""
        committed = rounds.base
        while True:
            before = rounds.busy_seconds
            first = rounds.answers([Both(Score(one, Guess.empty), Draft(one, Guess.empty, tokens)) for one in committed])
            guesses = [guess for _, guess in first]
            pairs = zip(committed, guesses, strict=True)
            second = rounds.answers([Both(Score(one, guess[:length]), Draft(one, guess, tokens)) for one, guess in pairs])
            committed = rounds.verified([scores for scores, _ in second], [guess[:length] for guess in guesses])
            yield _busy_since(rounds, before)

    target, draft = _means(interleaved([tokens], repeats, at_once)[tokens])
    factors = target / (alone.target[1] + alone.target[length + 1]), draft / 2 / (start_seconds + tokens * alone.draft)
    return Slowdown(*(max(1.0, factor) for factor in factors))


def batch_rounds(pair: Pair, repeats: int, context: int, alone: Alone, one: InTurn, slots: int = 1) -> BatchRounds:
    """What a round of a batch costs beside its forwards alone; `one` is what was measured of one sequence.

    `alone` has at least one window of several positions.
    """
    lengths = sorted(width - 1 for width in alone.target if width > 1)
    turns = in_turn(pair, repeats, context, alone, slots, lengths)
    drafts = turns.start_seconds + turns.transport_seconds + turns.draft_factor * mean(lengths) * alone.draft
    both = ALONE
    if not isinstance(pair.draft_lane(), InlineLane):
        both = together(pair, repeats, context, alone, one.start_seconds, slots)
    return BatchRounds(
        alone.batch,
        turns.target_factor,
        drafts / (one.draft_start_seconds + mean(lengths) * alone.draft),
        both.target_factor,
        both.draft_factor,
        round_overhead_seconds(pair, repeats, context, slots, alone.batch),
        turns.overhead_seconds,
    )
