"""The real interpreter: effects become forward passes of two models on their lanes.

All decodes of a batch put their questions together: what waits for the draft is one request to its lane, what waits for the
target another, and both lanes work at the same time. A single decode is a batch of one. The engine draws the verification's
random numbers; drafts are drawn in their lane, from a stream for each sequence, so that a seed gives the same tokens in every
lane and in every batch.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from specdec.effects import Both, Committed, Draft, Effect, Guess, Known, Race, Score, Scores, Verdict, Verify
from specdec.errors import LaneError, ModelError, PairError, StrategyError
from specdec.runtime.lane import MOST_DRAFTED, Lane
from specdec.runtime.messages import ARGMAX, Drafting, DraftRequest, ScoreRequest, Scoring
from specdec.sampling import Dice, Sampling
from specdec.statistics import Statistics
from specdec.synthetic import Synthetic, rule_of
from specdec.verification import Decision, Row, greedy_rule

Answer: TypeAlias = Callable[[], Any]
T = TypeVar("T")
R = TypeVar("R", DraftRequest, ScoreRequest)


class TensorWindow:
    """`verification.Window` over rows of models: `p` of shape (at least n, vocabulary), one row of `q` a token.

    On a CPU they are looked at as numpy arrays, whose single elements cost far less than torch's.
    """

    def __init__(self, guess: Guess, p: Tensor) -> None:
        self._drafted = guess.drafted
        self._tokens = guess.tokens
        self._p = p.numpy() if p.is_cpu else p
        self.n = len(self._tokens)

    def p_at(self, i: int) -> float:
        return float(self._p[i, self._tokens[i]])

    def q_at(self, i: int) -> float:
        q = self._drafted[i].q
        return 1.0 if q is None else float(q[self._tokens[i]])

    def p(self, i: int) -> Row:
        return self._p[i]

    def q(self, i: int) -> Row:
        q = self._drafted[i].q
        if q is None:
            q = 0 * self._p[i]
            q[self._tokens[i]] = 1
        if isinstance(self._p, Tensor):
            return torch.as_tensor(q).to(self._p)
        return (q.cpu().numpy() if isinstance(q, Tensor) else q).astype(self._p.dtype, copy=False)

    def without(self, i: int) -> Row:
        row = 1 * self._p[i]
        row[self._tokens[i]] = 0
        return row


class Seat:
    """One decode at work: its row in both caches, its verification rule, its random numbers and its counts."""

    row = 0

    def __init__(self, seed: object, verification: str = "token") -> None:
        self.seed = seed
        self.rule = rule_of(verification)
        self.dice = Dice(f"{seed} verification")
        self.statistics = Statistics(synthetic=self.rule.mark if isinstance(self.rule, Synthetic) else "")


class _Turn:
    """What all seats ask of the two lanes at once, and what comes back: a guess for each draft, scores for each score."""

    def __init__(self) -> None:
        self.drafts: list[tuple[Seat, Draft, bool]] = []
        self.scores: list[tuple[Seat, Score]] = []
        self.guesses: list[Guess] = []
        self.scored: list[Scores | None] = []

    def ask(self, seat: Seat, effect: Effect[Any]) -> Answer:
        """Note down what an effect asks; the function that is returned gives its answer once the lanes have worked."""
        match effect:
            case Both(left, right):
                answers = self.ask(seat, left), self.ask(seat, right)
                return lambda: (answers[0](), answers[1]())
            case Race(left, right):
                answers = self.ask(seat, left), self._draft(seat, right, racing=True)
                return lambda: (answers[0](), answers[1]())
            case Draft():
                return self._draft(seat, effect, racing=False)
            case Score():
                place = len(self.scores)
                self.scores.append((seat, effect))
                return lambda: self.scored[place]
            case _:
                raise StrategyError(f"the runtime cannot answer {type(effect).__name__} beside other effects")

    def _draft(self, seat: Seat, effect: Draft, *, racing: bool) -> Answer:
        place = len(self.drafts)
        self.drafts.append((seat, effect, racing))
        return lambda: self.guesses[place]


class Engine:
    """Answers the effects of up to `size` decodes with the same sampling."""

    def __init__(self, target: Lane, draft: Lane | None, sampling: Sampling, context_limit: int, size: int = 1) -> None:
        self._target, self._draft = target, draft
        self._sampling, self._size = sampling, size
        self._context_limit = context_limit
        self._draft_failure = ""

    def begin(self, seat: Seat, prompt: Sequence[int]) -> None:
        """Fill the seat's row of both caches with its prompt, side by side."""
        start = time.perf_counter()
        request = "begin", self._sampling, f"{seat.seed} draft", prompt, seat.row, self._size
        wait = None if self._draft is None else self._with_draft(self._draft.submit, *request)
        self._target.submit(*request)()
        if wait is not None:
            self._with_draft(wait)
        seat.statistics.prefill_seconds = time.perf_counter() - start

    def answer(self, waiting: Sequence[tuple[Seat, Effect[Any]]]) -> list[Any]:
        """The answers to an effect of each seat, none of them a `Verify`, in order."""
        turn = _Turn()
        answers = [turn.ask(seat, effect) for seat, effect in waiting]
        seconds = self._work(turn)
        for seat, _ in waiting:
            seat.statistics.forward_seconds += seconds
            seat.statistics.draft_failure = self._draft_failure
        return [answer() for answer in answers]

    def _work(self, turn: _Turn) -> float:
        """Let both lanes work: the draft is sent off, the target works in this thread, then the draft is waited for.

        Answers the seconds in which at least one of them worked.
        """
        turn.guesses = [Guess.empty] * len(turn.drafts)
        beside = len(turn.drafts)
        wanted = [
            (place, request)
            for place, asked in enumerate(turn.drafts)
            if (request := self._draft_request(*asked, beside)) is not None
        ]
        waves = _waves(wanted)
        waits = [self._submit_draft([request for _, request in wave]) for wave in waves]
        target_seconds = self._score(turn)
        if self._draft is not None and any(racing for _, _, racing in turn.drafts):
            self._draft.hurry(target_seconds)
        draft_seconds = 0.0
        for wave, wait in zip(waves, waits, strict=True):
            draftings: list[Drafting] | None = wait and self._with_draft(wait)
            for (place, _), drafted in zip(wave, draftings or (), strict=bool(draftings)):
                turn.guesses[place] = self._guess(turn.drafts[place][0], drafted)
            draft_seconds += max([drafted.busy_seconds for drafted in draftings or ()], default=0.0)
        overlap = self._draft is not None and self._draft.overlaps
        return max(target_seconds, draft_seconds) if overlap else target_seconds + draft_seconds

    def _draft_request(self, seat: Seat, effect: Draft, racing: bool, beside: int) -> DraftRequest | None:
        """What is asked of the draft's lane, which shares its room among `beside` drafts; nothing if it could not answer."""
        if self._draft is None:
            raise PairError("this strategy drafts, and no draft model was given: give one, or use a strategy without")
        context = effect.committed.tokens + effect.after.tokens
        length = min(effect.length, max(1, MOST_DRAFTED // beside), self._context_limit - len(context))
        if length < 1 or self._draft_failure:
            return None
        return DraftRequest(seat.row, context, length, effect.stop, racing)

    def _submit_draft(self, requests: Sequence[DraftRequest]) -> Answer | None:
        assert self._draft is not None
        return self._with_draft(self._draft.submit, "draft", requests)

    def _guess(self, seat: Seat, drafted: Drafting) -> Guess:
        if drafted.failure:
            self._without_draft(drafted.failure)
            return Guess.empty
        seat.statistics.draft_busy_seconds += drafted.busy_seconds
        seat.statistics.drafted_tokens += len(drafted.tokens)
        q = drafted.q
        if isinstance(q, Tensor) and q.is_cpu:
            q = q.numpy()
        rows = [ARGMAX] * len(drafted.tokens) if q is None else q
        return Guess(tuple(map(Known, drafted.tokens, rows)))

    def _score(self, turn: _Turn) -> float:
        """Answer all scores; the seconds that the target worked."""
        turn.scored = [None] * len(turn.scores)
        total = 0.0
        for wave in _waves([(place, self._score_request(*asked)) for place, asked in enumerate(turn.scores)]):
            scorings: list[Scoring] = self._target.submit("score", [request for _, request in wave])()
            for (place, _), scoring in zip(wave, scorings, strict=True):
                seat, effect = turn.scores[place]
                seat.statistics.count_forward(scoring.rows, scoring.busy_seconds)
                turn.scored[place] = Scores(effect.committed, effect.guess, scoring)
            total += scorings[0].busy_seconds
        return total

    def _score_request(self, seat: Seat, effect: Score) -> ScoreRequest:
        committed = effect.committed.tokens
        guessed = effect.guess.tokens[: max(0, self._context_limit - len(committed))]
        return ScoreRequest(seat.row, committed + guessed, len(guessed) + 1)

    def _with_draft(self, ask: Callable[..., T], *arguments: Any) -> T | None:
        """What `ask` answers; where the draft's lane is lost, decoding goes on without it."""
        if self._draft_failure:
            return None
        try:
            return ask(*arguments)
        except (LaneError, ModelError) as error:
            self._without_draft(str(error))
            return None

    def _without_draft(self, failure: str) -> None:
        """Go on autoregressively: nothing is drafted any more, and what is committed stays."""
        if not self._draft_failure:
            self._draft_failure = failure
            warnings.warn(f"decoding goes on without the draft: {failure}", RuntimeWarning, stacklevel=2)

    def verify(self, seat: Seat, effect: Verify) -> Verdict:
        """The verdict on a guess, by the seat's rule."""
        scoring: Scoring = effect.scores.rows
        guess = effect.guess[: scoring.rows]  # shorter than asked only where the context is full, which ends the output
        bonus = effect.bonus and len(guess) < scoring.rows
        if scoring.best is not None and isinstance(seat.rule, Synthetic):
            decision = seat.rule.greedy(scoring.best, guess.tokens, bonus, seat.dice)
        elif scoring.best is not None:
            decision = greedy_rule(scoring.best, guess.tokens, bonus)
        else:
            assert scoring.p is not None
            decision = seat.rule(TensorWindow(guess, scoring.p), bonus, seat.dice)
        return self._verdict(seat, guess, decision)

    def _verdict(self, seat: Seat, guess: Guess, decision: Decision) -> Verdict:
        tokens = guess.tokens[: decision.accepted]
        if decision.token is not None:
            tokens += (decision.token,)
        certain = sum([drafted.q is None for drafted in guess.drafted])
        seat.statistics.count_round(decision.accepted, len(guess), certain)
        return Verdict(Committed(tokens), decision.accepted, decision.accepted == len(guess))


def _waves(requests: Sequence[tuple[int, R]]) -> list[list[tuple[int, R]]]:
    """Requests by number, split so that no row is asked twice at once."""
    if len({request.row for _, request in requests}) == len(requests):
        return [list(requests)] if requests else []
    waves: list[list[tuple[int, R]]] = []
    asked: Counter[int] = Counter()
    for number, request in requests:
        turn = asked[request.row]
        if turn == len(waves):
            waves.append([])
        waves[turn].append((number, request))
        asked[request.row] += 1
    return waves
