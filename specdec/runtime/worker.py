"""What a lane runs: one model that drafts or scores for a batch of sequences, and the process that hosts it.

`python -m specdec.runtime.worker SOCKET MODEL` answers requests on an inherited socket until the other side closes it. A plain
subprocess needs no `if __name__ == "__main__"` in the user's script, and dies with its parent.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import ModelError, PairError
from specdec.runtime.channel import Channel
from specdec.runtime.fused import new_forward
from specdec.runtime.messages import Drafting, DraftRequest, Hosted, ScoreRequest, Scoring, packed
from specdec.runtime.sequences import Asked, new_rows
from specdec.sampling import Dice, Sampler, Sampling


@dataclass(slots=True)
class _Run:
    """A draft under way: `context` grows by its tokens, `rows` are those they were sampled from (`whole`: all in one)."""

    request: DraftRequest
    context: list[int]
    rows: list[Tensor] = field(default_factory=list[Tensor])
    whole: Tensor | None = None
    ended: bool = False
    failure: str = ""
    seconds: float = 0.0

    @property
    def tokens(self) -> list[int]:
        return self.context[len(self.request.context) :]

    @property
    def q(self) -> Tensor | None:
        return torch.stack(self.rows) if self.rows else self.whole

    def add(self, token: int, row: Tensor) -> None:
        """One token more; `row` is what a stop rule looks at."""
        self.context.append(token)
        full = len(self.context) - len(self.request.context) == self.request.length
        self.ended = full or (self.request.stop is not None and self.request.stop(row, token))

    def fail(self, reason: str) -> None:
        """End with the tokens so far; without any, say why."""
        self.ended = True
        self.failure = "" if self.tokens else reason


class Worker:
    """One model at work for the decodes of one batch at a time."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, *, eager: bool = False) -> None:
        self._eager = eager
        self._forward = new_forward(model, eager=eager)
        self._rows = new_rows(model, vocabulary, 1, self._forward, eager=eager)
        self._sampler = Sampler(Sampling())
        self._dice = [Dice(0)]

    def begin(self, sampling: Sampling, seed: object, prompt: Sequence[int], row: int = 0, size: int = 1) -> None:
        """Start a sequence in `row` of `size`: reseed it, and fill its cache with all of the prompt but its last token.

        The sampling is that of all sequences at work.
        """
        self._sampler = Sampler(sampling)
        if size != len(self._dice):
            self._rows = new_rows(self._rows.model, self._rows.vocabulary, size, self._forward, eager=self._eager)
            self._dice = [Dice(0)] * size
        self._dice[row] = Dice(seed)
        if len(prompt) > 1:
            self._logits([(row, prompt[:-1], 1)])

    @property
    def why_eager(self) -> str | None:
        """Why forwards are transformers' own, launched operation by operation, if so."""
        return self._rows.why_eager

    def forget(self) -> None:
        """Empty the caches."""
        self._rows.forget()

    def draft(self, requests: Sequence[DraftRequest], hurried: Callable[[], bool] = lambda: False) -> list[Drafting]:
        """Continue every context, a token of each at a time; racing ones end with the token during which they are `hurried`.

        A row that is no distribution ends its draft with the tokens before it, and is a failure only where there are none: to
        drop drafted tokens because of what came of them would bias the output.
        """
        start = time.perf_counter()
        runs = [_Run(request, list(request.context)) for request in requests]
        with torch.inference_mode():
            live = [run for run in runs if not self._whole(run, start)]
            while live:
                self._step(live)
                late = hurried()
                for run in live:
                    run.ended = run.ended or (late and run.request.racing)
                    run.seconds = time.perf_counter() - start
                live = [run for run in live if not run.ended]
        return [Drafting(run.tokens, run.q, run.seconds, run.failure) for run in runs]

    def _whole(self, run: _Run, start: float) -> bool:
        """Draft at once where nobody needs to look at the tokens one by one; whether it could be done."""
        request = run.request
        dice = self._dice[request.row]
        try:
            found = (
                None
                if request.racing
                else self._rows.draft(request.row, request.context, request.length, request.stop, self._sampler, dice)
            )
        except ModelError as error:
            run.fail(str(error))
            return True
        if found is None:
            return False
        tokens, run.whole = found
        run.context += tokens
        run.seconds = time.perf_counter() - start
        return True

    def _step(self, runs: Sequence[_Run]) -> None:
        """One token more for every run."""
        contexts = [run.context for run in runs]
        logits = self._logits([(run.request.row, run.context, 1) for run in runs])
        greedy, stops = self._sampler.greedy, any(run.request.stop is not None for run in runs)
        chosen = self._over(self._sampler.best if greedy else self._sampler.probabilities, logits, contexts)
        rows = self._over(self._sampler.probabilities, logits, contexts) if greedy and stops else chosen
        for run, found, row in zip(runs, chosen, rows, strict=True):
            if isinstance(found, ModelError) or isinstance(row, ModelError):
                run.fail(str(found))
            elif greedy:
                run.add(int(found), row[0])
            else:
                run.add(self._dice[run.request.row].pick(found[0]), found[0])
                run.rows.append(found[0])

    def _logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        try:
            return self._rows.logits(asked)
        except RuntimeError as error:  # what torch says of memory, devices and shapes
            reason, name = str(error).partition("\n")[0][:160], self._rows.model.name_or_path or "a model"
            raise ModelError(f"{name} failed in a forward ({reason}): check its memory and its device") from error

    def _over(
        self, choose: Callable[[Tensor, Sequence[int]], Tensor], logits: Sequence[Tensor], contexts: Sequence[Sequence[int]]
    ) -> list[Tensor | ModelError]:
        """`choose(logits, context)` of every sequence, in one call where the contexts do not matter to it."""
        if len(logits) > 1 and self._sampler.context_free:
            try:
                return list(choose(torch.cat(list(logits)), ()).split([len(rows) for rows in logits]))
            except ModelError:
                pass  # of one of them: find out whose
        found: list[Tensor | ModelError] = []
        for rows, context in zip(logits, contexts, strict=True):
            try:
                found.append(choose(rows, context))
            except ModelError as error:
                self._rows.forget()  # no mask hides a NaN that a static cache may hold now
                found.append(error)
        return found

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scoring]:
        """The rows that every request asks for, from one forward."""
        start = time.perf_counter()
        with torch.inference_mode():
            logits = self._logits([(request.row, request.context, request.rows) for request in requests])
            choose = self._sampler.best if self._sampler.greedy else self._sampler.probabilities
            chosen = self._over(choose, logits, [request.context for request in requests])
        lists = [rows.tolist() if self._sampler.greedy and isinstance(rows, Tensor) else None for rows in chosen]
        seconds = time.perf_counter() - start
        found: list[Scoring] = []
        for request, rows, best in zip(requests, chosen, lists, strict=True):
            if isinstance(rows, ModelError):
                raise rows
            found.append(Scoring(None if best is not None else rows, best, request.rows, seconds))
        return found


def unpickled(request: bytes) -> tuple[str, tuple[Any, ...]]:
    """A request; what it names must be importable here."""
    try:
        return pickle.loads(request)
    except (AttributeError, ImportError) as error:  # a class of the user's own script
        raise PairError(f"the draft process cannot load what it was sent ({error}): use lane='thread' or 'inline'") from error


def serve(channel: Channel, worker: Worker, shared: NDArray[Any], hurried: NDArray[np.int64]) -> None:
    """Answer `(method, arguments)` with `(number of the request, result or error)` until the other side is gone.

    Rows of `q` go through `shared`, of shape (rows, vocabulary), everything else through the channel. `hurried` holds the
    number of the last request that is to end its racing drafts.
    """
    for ticket in count(1):
        try:
            request = channel.receive()
        except (EOFError, OSError):
            return
        assert request is not None
        try:
            method, arguments = unpickled(request)
            if method == "draft":
                requests = [DraftRequest(*request) for request in arguments]
                answer = packed(worker.draft(requests, hurried=lambda ticket=ticket: hurried[0] >= ticket), shared)
            else:
                answer = getattr(worker, method)(*arguments)
        except Exception as error:
            answer = error
        channel.send(pickle.dumps((ticket, answer)))


def main(descriptor: str, folder: str) -> None:
    """Host the model pickled in `folder` on the socket `descriptor`."""
    channel = Channel(socket.socket(fileno=int(descriptor)))
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    hosted: Hosted = torch.load(Path(folder) / "hosted.pt", weights_only=False)
    shared = torch.from_file(str(Path(folder) / "q"), shared=True, size=hosted.rows * hosted.vocabulary, dtype=hosted.dtype)
    hurried = torch.from_file(str(Path(folder) / "hurried"), shared=True, size=1, dtype=torch.int64)
    try:
        channel.send(pickle.dumps("ready"))
    except BrokenPipeError:
        return  # nobody waits for this worker any more
    worker = Worker(hosted.model, hosted.vocabulary, eager=hosted.eager)
    serve(channel, worker, shared.view(hosted.rows, hosted.vocabulary).numpy(), hurried.numpy())


if __name__ == "__main__":
    from specdec.runtime import worker as importable  # pickled classes must have their importable names

    importable.main(*sys.argv[1:])
