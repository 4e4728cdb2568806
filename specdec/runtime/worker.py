"""What a lane runs: one model that drafts or scores, and the process that hosts it.

`python -m specdec.runtime.worker SOCKET MODEL` answers requests on an inherited socket until the other side closes it. A plain
subprocess needs no `if __name__ == "__main__"` in the user's script, and dies with its parent.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.errors import ModelError, PairError
from specdec.runtime.runner import Runner
from specdec.sampling import Dice, Sampler, Sampling
from specdec.strategy import StopRule

ARGMAX = "argmax"
"""Stands for `q` of a greedily drafted token, whose row nobody needs."""


@dataclass(frozen=True)
class Drafting:
    """A drafted run: `tokens`, their rows `q` of shape (len, vocabulary) (`None` when greedy), seconds of work."""

    tokens: list[int]
    q: Tensor | None
    busy_seconds: float


@dataclass(frozen=True)
class Scoring:
    """The target's rows: `p` of shape (rows, vocabulary), or the greedy choice of each row; seconds of work."""

    p: Tensor | None
    best: list[int] | None
    rows: int
    busy_seconds: float


@dataclass(frozen=True)
class Hosted:
    """What a worker process needs: the model, and the shape of the shared rows of `q`."""

    model: PreTrainedModel
    vocabulary: int
    rows: int
    dtype: torch.dtype


class Worker:
    """One model at work for one decode at a time."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._sampler = Sampler(Sampling())
        self._dice = Dice(0)

    def begin(self, sampling: Sampling, seed: object, prompt: Sequence[int]) -> None:
        """Start a decode: set the sampling, reseed, and fill the cache with all of the prompt but its last token."""
        self._sampler = Sampler(sampling)
        self._dice = Dice(seed)
        if len(prompt) > 1:
            self._runner.logits(prompt[:-1], 1)

    def forget(self) -> None:
        """Empty the cache."""
        self._runner.forget()

    @torch.inference_mode()
    def draft(self, context: Sequence[int], length: int, stop: StopRule | None) -> Drafting:
        """Continue `context` by up to `length` tokens, one forward each.

        A row that is no distribution ends the draft with the tokens before it, and is an error only where there are none:
        to drop drafted tokens because of what came of them would bias the output.
        """
        start = time.perf_counter()
        extended = list(context)
        rows: list[Tensor] = []
        for _ in range(length):
            try:
                token, row = self._next(extended, with_row=stop is not None)
            except ModelError:
                if len(extended) == len(context):
                    raise
                break
            extended.append(token)
            if row is not None:
                rows.append(row)
            if stop is not None and stop(row, token):
                break
        q = torch.stack(rows) if rows and not self._sampler.greedy else None
        return Drafting(extended[len(context) :], q, time.perf_counter() - start)

    def _next(self, context: Sequence[int], *, with_row: bool) -> tuple[int, Tensor | None]:
        """A token after `context`, and the row it was sampled from (greedy choices have one only if it is wanted)."""
        logits = self._runner.logits(context, 1)
        if self._sampler.greedy:
            row = self._sampler.probabilities(logits, context)[0] if with_row else None
            return self._sampler.best(logits, context)[0], row
        row = self._sampler.probabilities(logits, context)[0]
        return self._dice.pick(row), row

    @torch.inference_mode()
    def score(self, context: Sequence[int], rows: int) -> Scoring:
        """The last `rows` rows after `context`."""
        start = time.perf_counter()
        logits = self._runner.logits(context, rows)
        greedy = self._sampler.greedy
        best = self._sampler.best(logits, context) if greedy else None
        p = None if greedy else self._sampler.probabilities(logits, context)
        return Scoring(p, best, rows, time.perf_counter() - start)


def unpickled(request: bytes) -> tuple[str, tuple[Any, ...]]:
    """A request; what it names must be importable here."""
    try:
        return pickle.loads(request)
    except (AttributeError, ImportError) as error:  # a class of the user's own script
        raise PairError(f"the draft process cannot load what it was sent ({error}): use lane='thread' or 'inline'") from error


SPIN_SECONDS = 0.002
"""How long to look for a message before sleeping, since a sleeping core takes a while to wake."""


def spin(connection: Connection) -> None:
    """Look for a message for a moment. Each side has a core of its own, so this takes no time from the other."""
    until = time.perf_counter() + SPIN_SECONDS
    while not connection.poll(0) and time.perf_counter() < until:
        pass


def serve(connection: Connection, worker: Worker, shared: Tensor) -> None:
    """Answer `(method, arguments)` with `(number of the request, result or error)` until the other side is gone.

    Rows of `q` go through `shared`, of shape (rows, vocabulary); everything else through the socket.
    """
    for ticket in count(1):
        try:
            spin(connection)
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            method, arguments = unpickled(request)
            answer = getattr(worker, method)(*arguments)
            if isinstance(answer, Drafting):
                if answer.q is not None:
                    shared[: len(answer.tokens)] = answer.q
                answer = answer.tokens, answer.q is not None, answer.busy_seconds
        except Exception as error:
            answer = error
        connection.send((ticket, answer))


def main(descriptor: str, folder: str) -> None:
    """Host the model pickled in `folder` on the socket `descriptor`."""
    connection = Connection(int(descriptor))
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    hosted: Hosted = torch.load(Path(folder) / "hosted.pt", weights_only=False)
    shared = torch.from_file(str(Path(folder) / "q"), shared=True, size=hosted.rows * hosted.vocabulary, dtype=hosted.dtype)
    try:
        connection.send("ready")
    except BrokenPipeError:
        return  # nobody waits for this worker any more
    serve(connection, Worker(Runner(hosted.model, hosted.vocabulary)), shared.view(hosted.rows, hosted.vocabulary))


if __name__ == "__main__":
    from specdec.runtime import worker as importable  # pickled classes must have their importable names

    importable.main(*sys.argv[1:])
