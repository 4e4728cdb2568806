"""A staged drafter: a small model drafts for the draft, which is the middle model of three.

Cascade speculative drafting (Chen et al. 2023, arXiv 2312.11462) drafts for a draft too. The small model guesses up to `ahead`
tokens, and the middle model scores them in one forward. Each token is then sampled from the middle model's row, by the
request's own uniform for that token. While it equals the guess, the next row of the forward holds too. At the first difference,
the small model guesses again.

So tokens and rows are those that the middle model alone would draft from the same uniforms, up to rounding. Guesses decide how
many forwards that takes, and nothing else. The small model draws its guesses by the same uniforms: this does not change what
is sampled, and a guess is right more often than one drawn apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from transformers import PreTrainedModel

from specdec.runtime.cache import context_limit
from specdec.runtime.messages import Drafting, DraftRequest, Forking, ForkRequest, ScoreRequest, Scoring
from specdec.runtime.vocabulary import head_size
from specdec.runtime.worker import NewWorker, OpenDraft, Worker, still_open
from specdec.sampling import Sampling, inverted

AHEAD = 3
"""Tokens that the small model guesses for each forward of the middle model, unless said otherwise."""


class Staged:
    """A `Drafter` of two workers.

    `known`   tokens of the vocabulary that the middle model has logits for; it is given no others to score
    `limit`   tokens that the small model holds; beyond, the middle model works alone
    """

    def __init__(self, middle: Worker, small: Worker, ahead: int, *, known: int, limit: int) -> None:
        self._middle, self._small, self._ahead = middle, small, ahead
        self._known, self._limit = known, limit
        self.asks_mode = middle.asks_mode or small.asks_mode

    @property
    def why_eager(self) -> str | None:
        """Why forwards of one of them are transformers' own; `None` where no forwards are."""
        return self._middle.why_eager or self._small.why_eager

    def begin(self, sampling: Sampling, prompt: Sequence[int], slot: int = 0, size: int = 1) -> None:
        """Start a sequence in one of `size` slots of both."""
        self._middle.begin(sampling, prompt, slot, size)
        self._small.begin(sampling, prompt if len(prompt) < self._limit else (), slot, size)

    def forget(self) -> None:
        """Empty the caches of both."""
        self._middle.forget()
        self._small.forget()

    def fork(self, requests: Sequence[ForkRequest]) -> list[Forking]:
        """The branches of the middle model alone: it drafts a token of each in one forward."""
        return self._middle.fork(requests)

    def branch(self, slot: int, number: int, branch: int) -> list[Drafting]:
        """A branch of the middle model's fork."""
        return self._middle.branch(slot, number, branch)

    def draft(self, requests: Sequence[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        """Continue every context. A racing draft keeps all tokens of the forward in progress when the target answers."""
        start = time.perf_counter()
        drafts = [OpenDraft(request) for request in requests]
        if any(request.stop is not None and not request.uniforms for request in requests):
            return self._go_on_alone(drafts, start, answered)  # the rule asks for rows, and greedy scores have none
        going_on = drafts
        while going_on:
            try:
                self._step(going_on)
            except Exception:  # of a row that may lie behind the last token: step by step it need not come up
                return self._go_on_alone(drafts, start, answered)
            going_on = still_open(going_on, answered(), start)
        return [Drafting(draft.tokens, draft.q, draft.seconds) for draft in drafts]

    def _step(self, drafts: Sequence[OpenDraft]) -> None:
        """Add to every draft the tokens of one forward of the middle model."""
        guesses = self._guesses(drafts)
        wanted = [
            ScoreRequest(draft.request.slot, draft.context + guess, len(guess) + 1)
            for draft, guess in zip(drafts, guesses, strict=True)
        ]
        for draft, guess, scoring in zip(drafts, guesses, self._middle.score(wanted), strict=True):
            add(draft, guess, scoring)

    def _guesses(self, drafts: Sequence[OpenDraft]) -> list[list[int]]:
        """What the small model guesses for each draft: one token less than may be added, since the last row has one too."""
        requests: dict[int, DraftRequest] = {}
        for number, draft in enumerate(drafts):
            done, request = len(draft.tokens), draft.request
            length = min(self._ahead, request.length - done - 1, self._limit - len(draft.context))
            if length > 0:
                uniforms = request.uniforms[done : done + length]
                requests[number] = DraftRequest(request.slot, draft.context, length, uniforms)
        found: list[list[int]] = [[] for _ in drafts]
        for number, drafting in zip(requests, self._small.draft(list(requests.values())) if requests else (), strict=True):
            found[number] = list(takewhile(lambda token: token < self._known, drafting.tokens))
        return found

    def _go_on_alone(self, drafts: Sequence[OpenDraft], start: float, answered: Callable[[], bool]) -> list[Drafting]:
        """Let the middle model end all drafts."""
        for draft in drafts:
            slot, _, length, uniforms, stop, racing = draft.request
            done = len(draft.tokens)
            if not draft.ended:
                rest = DraftRequest(slot, draft.context, length - done, uniforms[done:], stop, racing)
                (drafting,) = self._middle.draft([rest], answered)
                draft.tokens += drafting.tokens
                draft.rows += [] if drafting.q is None else list(torch.as_tensor(drafting.q))
                draft.fail(drafting.failure)
                draft.seconds = time.perf_counter() - start
        return [Drafting(draft.tokens, draft.q, draft.seconds, draft.failure) for draft in drafts]


def add(draft: OpenDraft, guess: Sequence[int], scoring: Scoring) -> None:
    """Sample tokens from the rows behind each prefix of `guess`, as long as they equal it."""
    for number in range(scoring.positions):
        if scoring.best is not None:
            token, row = scoring.best[number], None
        else:
            assert scoring.p is not None
            row = scoring.p[number]
            token = inverted(row, draft.request.uniforms[len(draft.rows)])
            draft.rows.append(row)
        draft.add(token, row)
        if draft.ended or number == len(guess) or token != guess[number]:
            return


@dataclass(frozen=True, eq=False)
class NewStaged:
    """What a lane makes a `Staged` from, as a `NewDrafter`. Both workers have rows over the same vocabulary."""

    middle: NewWorker
    small: NewWorker
    ahead: int = AHEAD

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The middle model and the small one."""
        return *self.middle.models, *self.small.models

    @property
    def vocabulary(self) -> int:
        """Entries of a row."""
        return self.middle.vocabulary

    @property
    def why_eager(self) -> str | None:
        """Why forwards of one of them are transformers' own; `None` where no forwards are."""
        return self.middle.why_eager or self.small.why_eager

    def __call__(self) -> Staged:
        known = min(self.vocabulary, head_size(self.middle.model))
        return Staged(self.middle(), self.small(), self.ahead, known=known, limit=context_limit(self.small.model))
