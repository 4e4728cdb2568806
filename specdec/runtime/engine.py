"""The real interpreter: effects become forward passes of two models on their lanes.

`Both` starts its two sides before it waits for either, so that they overlap when their lanes differ. The engine draws the
verification's random numbers; drafts are drawn in their lane from a stream of their own, so that a seed gives the same tokens
in every lane.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from specdec.effects import Both, Committed, Draft, Effect, Guess, Known, Score, Scores, Verdict, Verify
from specdec.errors import LaneError, ModelError, PairError, StrategyError
from specdec.runtime.lane import MOST_DRAFTED, Lane, Wait
from specdec.runtime.worker import ARGMAX, Drafting, Scoring
from specdec.sampling import Dice, Sampling
from specdec.statistics import Statistics
from specdec.verification import Outcome, Row, greedy_rule, rule


class TensorWindow:
    """`verification.Window` over torch rows: `p` of shape (at least n, vocabulary), one row of `q` a token."""

    def __init__(self, guess: Guess, p: Tensor) -> None:
        self._drafted = guess.drafted
        self._tokens = list(guess.tokens)
        self._p = p
        self._p_at: list[float] = p[range(len(self._tokens)), self._tokens].tolist()
        self.n = len(self._tokens)

    def p_at(self, i: int) -> float:
        return self._p_at[i]

    def q_at(self, i: int) -> float:
        q = self._drafted[i].q
        return 1.0 if q is None else float(q[self._tokens[i]])

    def p(self, i: int) -> Row:
        return self._p[i]

    def q(self, i: int) -> Row:
        q = self._drafted[i].q
        if q is None:
            q = self._p.new_zeros(self._p.shape[-1])
            q[self._tokens[i]] = 1
        return q.to(self._p)

    def without(self, i: int) -> Row:
        row = self._p[i].clone()
        row[self._tokens[i]] = 0
        return row


class Engine:
    """Answers the effects of one decode."""

    def __init__(
        self, target: Lane, draft: Lane | None, sampling: Sampling, verification: str, seed: object, context_limit: int
    ) -> None:
        self.statistics = Statistics()
        self._target, self._draft_lane = target, draft
        self._sampling = sampling
        self._rule = rule(verification)
        self._seed = seed
        self._dice = Dice(f"{seed} verification")
        self._context_limit = context_limit

    def begin(self, prompt: Sequence[int]) -> None:
        """Fill both caches with the prompt, side by side."""
        start = time.perf_counter()
        request = "begin", self._sampling, f"{self._seed} draft", prompt
        try:
            wait = None if self._draft_lane is None else self._draft_lane.submit(*request)
            self._target.submit(*request)()
            if wait is not None:
                wait()
        except LaneError as error:
            self._without_draft(error)
        self.statistics.prefill_seconds = time.perf_counter() - start

    def answer(self, effect: Effect[Any]) -> Any:
        """What `specdec.effects.drive` calls."""
        return self._start(effect)()

    def _start(self, effect: Effect[Any]) -> Wait:
        match effect:
            case Both(left, right):
                return self._both(left, right)
            case Draft():
                return self._draft(effect)
            case Score():
                return self._score(effect)
            case Verify():
                return lambda: self._verify(effect)
            case _:
                raise StrategyError(f"the runtime cannot answer {type(effect).__name__}")

    def _both(self, left: Effect[Any], right: Effect[Any]) -> Wait:
        start_left, start_right = self._start(left), self._start(right)

        def wait() -> tuple[Any, Any]:
            if isinstance(left, Draft):  # the target works in this thread: let it work while the draft does
                answer = start_right()
                return start_left(), answer
            return start_left(), start_right()

        return wait

    def _draft(self, effect: Draft) -> Wait:
        if self.statistics.draft_failure:
            return lambda: Guess.empty
        if self._draft_lane is None:
            raise PairError("this strategy drafts, and no draft model was given: give one, or use a strategy without")
        context = effect.committed.tokens + effect.after.tokens
        length = min(effect.length, MOST_DRAFTED, self._context_limit - len(context))
        if length < 1:
            return lambda: Guess.empty
        try:
            wait = self._draft_lane.submit("draft", context, length, effect.stop)
        except LaneError as error:
            lost = self._without_draft(error)
            return lambda: lost

        def answer() -> Guess:
            try:
                drafting: Drafting = wait()
            except (LaneError, ModelError) as error:
                return self._without_draft(error)
            self.statistics.draft_busy_seconds += drafting.busy_seconds
            self.statistics.drafted_tokens += len(drafting.tokens)
            rows = [ARGMAX] * len(drafting.tokens) if drafting.q is None else drafting.q
            return Guess(tuple(Known(token, q) for token, q in zip(drafting.tokens, rows, strict=True)))

        return answer

    def _without_draft(self, error: Exception) -> Guess:
        """Go on autoregressively: nothing is drafted any more, and what is committed stays."""
        self.statistics.draft_failure = str(error)
        warnings.warn(f"decoding goes on without the draft: {error}", RuntimeWarning, stacklevel=2)
        return Guess.empty

    def _score(self, effect: Score) -> Wait:
        guess = effect.guess[: max(0, self._context_limit - len(effect.committed))]
        wait = self._target.submit("score", effect.committed.tokens + guess.tokens, len(guess) + 1)

        def answer() -> Scores:
            scoring: Scoring = wait()
            self.statistics.count_forward(scoring.rows, scoring.busy_seconds)
            return Scores(effect.committed, effect.guess, scoring)

        return answer

    def _verify(self, effect: Verify) -> Verdict:
        scoring: Scoring = effect.scores.rows
        guess = effect.guess[: scoring.rows]  # shorter than asked only where the context is full, which ends the output
        bonus = effect.bonus and len(guess) < scoring.rows
        if scoring.best is not None:
            outcome = greedy_rule(scoring.best, guess.tokens, bonus)
        else:
            assert scoring.p is not None
            outcome = self._rule(TensorWindow(guess, scoring.p), bonus, self._dice)
        return self._verdict(guess, outcome)

    def _verdict(self, guess: Guess, outcome: Outcome) -> Verdict:
        tokens = guess.tokens[: outcome.accepted]
        if outcome.token is not None:
            tokens += (outcome.token,)
        certain = sum(drafted.q is None for drafted in guess.drafted)
        self.statistics.count_round(outcome.accepted, len(guess), certain)
        return Verdict(Committed(tokens), outcome.accepted, outcome.accepted == len(guess))
