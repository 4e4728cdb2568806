"""The engine: effects become forward passes of two models on their lanes.

The drafts that all sequences of a batch ask for are one request to the draft's lane. Their scores are one request to the
target's. Both lanes work at the same time. A single decode is a batch of one.

All random numbers are drawn here, from two streams for each sequence: one for its verification, and one that its drafts are
sampled by on their lane. So a seed gives the same tokens on every lane, in every batch, and whoever else decodes. The
exceptions are strategies that ask for a `Race` or for measured costs: the clock decides how long their drafts are, so their
tokens differ from run to run. The law of the tokens does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specdec.effects import Effect, Guess, Verdict, Verify
from specdec.runtime.lane import Lane
from specdec.runtime.messages import Scoring
from specdec.runtime.sides import DraftSide, TargetSide, Waiting, answered_later
from specdec.runtime.slot import Slot
from specdec.synthetic import Synthetic
from specdec.verification import Row, greedy_rule


class TensorWindow:
    """A `verification.Window` over the models' rows: `p` of shape (n or more, vocabulary), and a row of `q` for each token.

    On a CPU it reads them as numpy arrays, where a single element costs far less than in torch.
    """

    def __init__(self, guess: Guess, p: Tensor) -> None:
        self._drafted = guess.drafted
        self._tokens = guess.tokens
        self._p = p.numpy() if p.is_cpu else p
        self.n = len(self._tokens)

    def p_at(self, i: int) -> float:
        return float(self._p[i, self._tokens[i]]) if self._may_come(i) else 0.0

    def q_at(self, i: int) -> float:
        q = self._drafted[i].q
        return 1.0 if q is None else float(q[self._tokens[i]])

    def p(self, i: int) -> Row:
        return self._p[i]

    def q(self, i: int) -> Row:
        q = self._drafted[i].q
        if q is None:
            q = 0 * self._p[i]
            if self._may_come(i):
                q[self._tokens[i]] = 1
        if isinstance(self._p, Tensor):
            return torch.as_tensor(q).to(self._p)
        return (q.cpu().numpy() if isinstance(q, Tensor) else q).astype(self._p.dtype, copy=False)

    def without(self, i: int) -> Row:
        row = 1 * self._p[i]
        if self._may_come(i):
            row[self._tokens[i]] = 0
        return row

    def _may_come(self, i: int) -> bool:
        """Whether the target has a logit for guess `i`. It may read more tokens than that, and a text may hold them."""
        return self._tokens[i] < self._p.shape[-1]


class Engine:
    """Answers the effects of up to `size` sequences.

    `context_limit` tokens are the most that the target is given, and `draft_limit` the most that the draft is.
    """

    def __init__(
        self, target: Lane, draft: Lane | None, context_limit: int, draft_limit: int | None = None, size: int = 1
    ) -> None:
        self._target = TargetSide(target, context_limit)
        self._draft = DraftSide(draft, context_limit if draft_limit is None else draft_limit)
        self._size = size

    def begin(self, slot: Slot, prompt: Sequence[int]) -> None:
        """Read a prompt into the slot's cache of both models, both at the same time."""
        start = time.perf_counter()
        sent = self._draft.begin(slot, prompt, self._size)
        self._target.begin(slot, prompt, self._size)
        self._draft.wait(sent)
        slot.statistics.prefill_seconds = time.perf_counter() - start

    def resume(self, target: Lane, draft: Lane | None, slots: Sequence[Slot]) -> None:
        """Go on with these sequences on lanes that others have used since, or on new ones, which read the texts again."""
        self._target.use(target)
        self._draft.use(draft)
        for slot in slots:
            sent = self._draft.begin(slot, (), self._size)
            self._target.begin(slot, (), self._size)
            self._draft.wait(sent)

    def lose_draft(self, failure: str) -> None:
        """Go on without the draft, and warn of the `failure`."""
        self._draft.give_up(failure)

    def answer(self, slot: Slot, effect: Effect[Any]) -> Any:
        """Answer an effect of the sequence in `slot`, as `effects.drive` asks.

        A `Verify` is answered at once. For every other effect a generator yields what the sequence waits for (`Waiting`), and
        returns the answer when it is resumed, which must be after `work`.
        """
        return self._verdict(slot, effect) if isinstance(effect, Verify) else answered_later(slot, effect)

    def work(self, waiting: Sequence[Waiting]) -> None:
        """Answer all that sequences wait for. Both lanes work once, at the same time; the target works in this thread."""
        drafts, forks = [draft for one in waiting for draft in one.drafts], [fork for one in waiting for fork in one.forks]
        sent = self._draft.send(drafts, forks)
        target_seconds = self._target.score([score for one in waiting for score in one.scores])
        draft_seconds = self._draft.collect(sent, target_seconds)
        seconds = max(target_seconds, draft_seconds) if self._draft.overlaps else target_seconds + draft_seconds
        for one in waiting:
            one.slot.statistics.forward_seconds += seconds
            one.slot.statistics.draft_failure = self._draft.failure

    def _verdict(self, slot: Slot, effect: Verify) -> Verdict:
        """The verdict on a guess, by the slot's rule."""
        scoring: Scoring = effect.scores.rows
        # Shorter than asked only where the context is full, which ends the output, or before a row that fails. That row is the
        # first of the next scores if the output goes on, and its failure is raised then.
        guess = effect.guess[: scoring.positions]
        guess = self._draft.arrived(guess)  # what is lost with the draft's lane may leave it empty
        bonus = (effect.bonus or not guess.drafted) and len(guess) < scoring.positions
        tokens = guess.tokens
        if scoring.best is not None and isinstance(slot.rule, Synthetic):
            decision = slot.rule.greedy(scoring.best, tokens, bonus, slot.dice)
        elif scoring.best is not None:
            decision = greedy_rule(scoring.best, tokens, bonus)
        else:
            assert scoring.p is not None
            decision = slot.rule(TensorWindow(guess, scoring.p), bonus, slot.dice)
        certain = 0 if slot.written else sum([drafted.q is None for drafted in guess.drafted])  # those are counted already
        slot.statistics.count_round(decision.accepted, len(tokens), certain)
        return Verdict.of(guess, decision.accepted, decision.token)
