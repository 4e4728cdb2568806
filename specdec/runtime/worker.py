"""One model that drafts or scores for a batch of sequences: the `Drafter` of most pairs, and the target's side of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import ModelError, StrategyError
from specdec.runtime.branches import why_not_forked
from specdec.runtime.cache import CachePlan
from specdec.runtime.common import Common
from specdec.runtime.forking import OpenFork, grow, grow_one_by_one
from specdec.runtime.fused import FusedForward, new_forward, why_eager
from specdec.runtime.graph import why_no_graphs
from specdec.runtime.messages import (
    Drafting,
    DraftRequest,
    Forking,
    ForkRequest,
    ScoreRequest,
    Scoring,
)
from specdec.runtime.sequences import NewRunner, new_batch_runner
from specdec.runtime.translation import Vocabularies
from specdec.runtime.vocabulary import Known, Wanted
from specdec.sampling import Sampler, Sampling, inverted
from specdec.tokens import Tokens

T = TypeVar("T")


@dataclass(slots=True)
class OpenDraft:
    """A draft under way.

    `tokens`    that it has made
    `rows`      the row that each token was sampled from; empty when greedy, or when it was drafted at once
    `all_rows`  these rows in one tensor, shape (tokens, vocabulary), when it was drafted at once
    """

    request: DraftRequest
    tokens: list[int] = field(default_factory=list[int])
    rows: list[Tensor] = field(default_factory=list[Tensor])
    all_rows: Tensor | None = None
    ended: bool = False
    failure: str = ""
    seconds: float = 0.0

    @property
    def context(self) -> Tokens:
        """The whole text now."""
        return Tokens.of(self.request.context) + self.tokens

    @property
    def q(self) -> Tensor | None:
        return torch.stack(self.rows) if self.rows else self.all_rows

    def add(self, token: int, row: Tensor | None) -> None:
        """Add a token. A stop rule looks at its `row`, which may be missing without one."""
        self.tokens.append(token)
        full = len(self.tokens) == self.request.length
        self.ended = full or (self.request.stop is not None and self.request.stop(row, token))

    def fail(self, reason: str) -> None:
        """End with the tokens so far. If there are none, `reason` is the failure."""
        self.ended = True
        self.failure = "" if self.tokens else reason


def still_open(drafts: Sequence[OpenDraft], race_is_over: bool, start: float) -> list[OpenDraft]:
    """The drafts that go on after a step. Each is charged the seconds since `start`."""
    for draft in drafts:
        draft.ended = draft.ended or (race_is_over and draft.request.racing)
        draft.seconds = time.perf_counter() - start
    return [draft for draft in drafts if not draft.ended]


class Worker:
    """One model at work for the decodes of one batch at a time. It draws no random numbers: requests bring them.

    Rows have `vocabulary` entries. A model may know fewer tokens than that; see `specdec.runtime.vocabulary`. One with tokens
    of its own needs `vocabularies`; see `specdec.runtime.common`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        *,
        eager: bool = False,
        plan: CachePlan | None = None,
        new_runner: NewRunner = new_batch_runner,
        vocabularies: Vocabularies | None = None,
    ) -> None:
        self._eager, self._plan, self._new_runner = eager, plan, new_runner
        self._known = Known(model, vocabulary) if vocabularies is None else Common(model, vocabulary, vocabularies)
        self._forward = new_forward(model, eager=eager)
        self.asks_mode = not isinstance(self._forward, FusedForward)
        self._runner = new_runner(model, self._known.proposed, 1, self._forward, eager=eager, plan=plan)
        self._samplers = [Sampler(Sampling())]
        self._forks_at_once = why_not_forked(model) is None and (plan is None or plan.batched)
        self._forks: dict[int, tuple[int, OpenFork]] = {}  # by slot, with its number
        self._forked = 0

    def begin(self, sampling: Sampling, prompt: Sequence[int], slot: int = 0, size: int = 1) -> None:
        """Start a sequence in one of `size` slots: fill its cache with all of the prompt but the last token.

        Another `size` than before ends all sequences. Sequences of one request are all greedy, or none is.
        """
        if size != len(self._samplers):
            model, proposed = self._runner.model, self._known.proposed
            options: dict[str, Any] = {"eager": self._eager, "plan": self._plan}
            self._runner = self._new_runner(model, proposed, size, self._forward, **options)
            self._samplers = self._samplers[:1] * size
        same = [sampler for sampler in self._samplers if sampler.context_free and sampler.sampling == sampling]
        self._samplers[slot] = same[0] if same else Sampler(sampling)
        if len(prompt) > 1:
            self.logits([(slot, prompt[:-1], 1)])

    @property
    def why_eager(self) -> str | None:
        """Why forwards are transformers' own, launched operation by operation; `None` when they are not."""
        return self._runner.why_eager

    def forget(self) -> None:
        """Empty the caches."""
        self._forks.clear()
        self._runner.forget()

    def draft(self, requests: Sequence[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        """Continue every context, one token of each at a time.

        A racing draft ends with the token in progress once the target has `answered`. A row that is no distribution ends its
        draft, and the tokens before it are kept: to drop them because of what came after them would bias the output. Only a
        draft without any token is a failure.
        """
        start = time.perf_counter()
        drafts = [OpenDraft(request) for request in requests]
        with torch.inference_mode():
            going_on = [draft for draft in drafts if not self._drafted_at_once(draft, start)]
            while going_on:
                self._step(going_on)
                going_on = still_open(going_on, answered(), start)
        return [Drafting(draft.tokens, draft.q, draft.seconds, draft.failure) for draft in drafts]

    def _drafted_at_once(self, draft: OpenDraft, start: float) -> bool:
        """Draft all tokens at once if nothing must look at one before the next is drawn. Returns whether that was possible."""
        slot, context, length, uniforms, stop, racing = draft.request
        if racing or not isinstance(self._known, Known):
            return False
        sampler, readable = self._samplers[slot], self._known.readable(slot, context)
        try:
            found = self._runner.draft(slot, readable, length, stop, sampler, uniforms)
        except ModelError as error:
            draft.fail(str(error))
            draft.seconds = time.perf_counter() - start
            return True
        if found is None:
            return False
        tokens, rows = found
        draft.tokens += tokens
        draft.all_rows = None if rows is None else self._known.widened(rows, 0)
        draft.seconds = time.perf_counter() - start
        return True

    def _step(self, drafts: Sequence[OpenDraft]) -> None:
        """Add one token to every draft."""
        wanted = [(draft.request.slot, draft.context, 1) for draft in drafts]
        logits = self.logits(wanted)
        greedy = self._samplers[drafts[0].request.slot].greedy
        stops = any(draft.request.stop is not None for draft in drafts)
        nothing = [None] * len(drafts)
        best = self._over(Sampler.best, wanted, logits) if greedy else nothing
        rows = self._over(Sampler.probabilities, wanted, logits) if stops or not greedy else nothing
        for draft, own, token, row in zip(drafts, logits, best, rows, strict=True):
            if isinstance(token, Exception) or isinstance(row, Exception):
                failure = token if isinstance(token, Exception) else row
                ours = isinstance(failure, ModelError) and not self._has_no_such_token(draft, own)
                draft.fail(str(failure) if ours else "")  # a processor may fail behind a last token; else the target says so
            elif token is not None:
                draft.add(int(token), None if row is None else row[0])
                if draft.request.stop is not None and row is not None:
                    draft.rows.append(row[0])  # what the rule looked at, so that a policy can learn from it
            else:
                assert row is not None
                draft.add(inverted(row[0], draft.request.uniforms[len(draft.rows)]), row[0])
                draft.rows.append(row[0])

    def _has_no_such_token(self, draft: OpenDraft, logits: Tensor) -> bool:
        """Whether processors leave only tokens that this model does not know. It then proposes nothing, and is not broken."""
        if self._known.whole or not bool(self._known.own(logits).isfinite().all()):
            return False
        scores = self._samplers[draft.request.slot].processed(logits, draft.context)
        return bool((scores == -torch.inf).all())

    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        """The logits of the last positions of each context, as the model gives them."""
        return self._known.logits(partial(self._failing_by_name, self._runner.logits), wanted)

    def _failing_by_name(self, forward: Callable[[T], list[Tensor]], given: T) -> list[Tensor]:
        """What a forward gives. Raises `ModelError` where it fails."""
        try:
            return forward(given)
        except RuntimeError as error:  # what torch says of memory, devices and shapes
            reason, name = str(error).partition("\n")[0][:160], self._runner.model.name_or_path or "a model"
            raise ModelError(f"{name} failed in a forward ({reason}): check its memory and its device") from error

    def _over(
        self, choose: Callable[[Sampler, Tensor, Sequence[int]], Tensor], wanted: Sequence[Wanted], logits: Sequence[Tensor]
    ) -> list[Tensor | Exception]:
        """`choose(sampler, logits, context)` of every sequence, in one call where the results depend on no context."""
        samplers = [self._samplers[slot] for slot, _, _ in wanted]
        first = samplers[0]
        if len(logits) > 1 and first.context_free and samplers.count(first) == len(samplers):
            try:
                return list(choose(first, torch.cat(list(logits)), ()).split([len(own) for own in logits]))
            except ModelError:
                pass  # one of the sequences failed: the loop finds out which
        return [
            self._chosen(choose, sampler, own, context)
            for sampler, own, (_, context, _) in zip(samplers, logits, wanted, strict=True)
        ]

    def _chosen(
        self,
        choose: Callable[[Sampler, Tensor, Sequence[int]], Tensor],
        sampler: Sampler,
        logits: Tensor,
        context: Sequence[int],
    ) -> Tensor | Exception:
        """`choose(sampler, logits, context)`, or what a model or a logits processor raised."""
        try:
            return choose(sampler, logits, context)
        except ModelError as error:
            self._runner.forget()  # a static cache may hold NaN now, and no mask hides that
            return error
        except Exception as error:  # anything, since processors are other people's code
            return error

    def fork(self, requests: Sequence[ForkRequest]) -> list[Forking]:
        """Prepare branches for every request: one forward over each window, then a forward over all branches for each token.

        Their rows stay here until they are asked for, since most are never read.
        """
        start = time.perf_counter()
        wanted = [(request.slot, request.context, len(request.fan_outs)) for request in requests]
        with torch.inference_mode():
            logits = self.logits(wanted)
            forks = [
                OpenFork(request, self._samplers[request.slot], own) for request, own in zip(requests, logits, strict=True)
            ]
            growing = [fork for fork in forks if fork.outcomes]
            if self._forks_at_once and growing and isinstance(self._known, Known):
                feed = self._runner.branches([fork.branches for fork in growing])
                grow(growing, partial(self._failing_by_name, feed), self._known)
            else:
                grow_one_by_one(growing, self.logits)
        if any(fork.broken for fork in forks):
            self._runner.forget()  # a static cache may hold NaN now, and no mask hides that
        seconds = time.perf_counter() - start
        first, self._forked = self._forked + 1, self._forked + len(forks)
        self._forks.update({fork.request.slot: (first + i, fork) for i, fork in enumerate(forks)})
        return [fork.answer(first + i, seconds) for i, fork in enumerate(forks)]

    def branch(self, slot: int, number: int, branch: int) -> list[Drafting]:
        """A branch of the fork with that number, with its rows."""
        held, fork = self._forks.get(slot, (0, None))
        if held != number or fork is None:
            raise StrategyError("a strategy asks for a branch of an earlier Fork: Forks hold for one round")
        return [Drafting(fork.tails[branch], fork.q(branch), 0.0)]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scoring]:
        """Score the positions of every request, all in one forward.

        Scores end before the first row that fails. A guess may stand behind the last token of an answer, where `generate` never
        asks a logits processor. If the row is needed after all, it is the first of the next scores, which raise its failure.
        """
        start = time.perf_counter()
        for request in requests:
            most = max(request.context[1 - request.positions :], default=0) if request.positions > 1 else 0
            if isinstance(self._known, Known) and self._known.whole and most >= max(self._known.proposed, self._known.read):
                raise StrategyError(
                    f"a strategy guesses token {most}, and the target knows {self._known.proposed} tokens: "
                    "let it guess tokens of the target's own vocabulary"
                )
        with torch.inference_mode():
            logits = self.logits(requests)
            greedy = self._samplers[requests[0].slot].greedy
            choose = Sampler.best if greedy else Sampler.probabilities
            chosen = [
                own if isinstance(own, Tensor) else self._rows_before(own, choose, request, rows)
                for own, request, rows in zip(self._over(choose, requests, logits), requests, logits, strict=True)
            ]
        best_tokens = [own.tolist() if greedy else None for own in chosen]
        seconds = time.perf_counter() - start
        return [
            Scoring(None if greedy else own, best, len(own), seconds) for own, best in zip(chosen, best_tokens, strict=True)
        ]

    def _rows_before(
        self,
        failure: Exception,
        choose: Callable[[Sampler, Tensor, Sequence[int]], Tensor],
        request: ScoreRequest,
        logits: Tensor,
    ) -> Tensor:
        """What is chosen by the rows before the first that fails. Raises the `failure` of the first row."""
        first, found = len(request.context) - len(logits) + 1, list[Tensor]()
        for i in range(len(logits)):
            own = self._chosen(choose, self._samplers[request.slot], logits[i : i + 1], request.context[: first + i])
            if isinstance(own, Exception):
                failure = own
                break
            found.append(own)
        if not found:
            raise failure
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class NewWorker:
    """What a lane makes a `Worker` from, as a `NewDrafter`; the fields are its arguments."""

    model: PreTrainedModel
    vocabulary: int
    eager: bool = False
    plan: CachePlan | None = None
    new_runner: NewRunner = new_batch_runner
    vocabularies: Vocabularies | None = None

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The one model."""
        return (self.model,)

    @property
    def why_eager(self) -> str | None:
        """What the worker will answer."""
        if self.model.device.type == "cuda" and not self.eager:
            return why_no_graphs(self.model, self.plan)
        return why_eager(self.model, eager=self.eager)

    def __call__(self) -> Worker:
        options: dict[str, Any] = {"eager": self.eager, "plan": self.plan, "new_runner": self.new_runner}
        return Worker(self.model, self.vocabulary, **options, vocabularies=self.vocabularies)
