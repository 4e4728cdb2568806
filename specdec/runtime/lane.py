"""A lane is one drafter, or the target, on one executor: inline, in a thread, or in a process. It answers requests in order.

    inline    works in the caller's thread, when the caller waits for the answer
    thread    works on a thread of its own and, on CUDA, a stream of its own: for two models on one GPU, or on two devices
    process   works on a core of its own: on a CPU, a thread would wait for the interpreter lock

All three give the same answers for the same seed, except to a draft that races the target: the clock decides its length.
"""

from __future__ import annotations

import pickle
import subprocess
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from specdec.errors import LaneError, PairError, SpecdecError
from specdec.machine import available_cores
from specdec.runtime.channel import Channel
from specdec.runtime.contexts import Sender
from specdec.runtime.crossing import CannotCross, rows_and_answered, send
from specdec.runtime.drafter import NewDrafter
from specdec.runtime.host import Hosted
from specdec.runtime.hosting import Hosting, next_hosting
from specdec.runtime.messages import Drafting, DraftRequest, ForkRequest, unpacked, with_ticket

SHARED_ROWS = 512
"""Rows of `q` that a process lane hands over through shared memory. Further rows of the same request come by its channel."""

PATIENCE_SECONDS = 30.0
"""How long a process lane may be silent before it counts as hung."""

START_SECONDS = 300.0
"""How long a process may take to start. It imports torch and transformers first."""

Wait = Callable[[], Any]

WITH_ROWS = ("draft", "branch")
"""Requests whose answers have rows in the shared memory of a process lane."""


@dataclass(eq=False)
class Awaited:
    """A request to a process lane that is not answered yet; later one that is. It is forgotten with whoever waits for it."""

    method: str
    answered: bool = False
    answer: Any = None


def leave_a_core_to_the_draft() -> None:
    """Let torch use one thread less here than there are cores, for the whole process: the draft works on the core that is left.

    With a thread on every core, target and draft would wait for each other.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), available_cores() - 1)))


@dataclass
class LeftCore:
    """A core that is left to drafts while any process lane is open. `threads`: how many torch used before the first of them."""

    lanes: int = 0
    threads: int = 0

    def take(self) -> None:
        """A lane is opened."""
        if not self.lanes:
            self.threads = torch.get_num_threads()
        self.lanes += 1
        leave_a_core_to_the_draft()

    def give_back(self) -> None:
        """A lane is gone; with the last one, torch has its threads again."""
        self.lanes -= 1
        if not self.lanes:
            torch.set_num_threads(self.threads)


LEFT_CORE = LeftCore()


class Lane(ABC):
    """One model at work. `submit` starts a request and returns a function that waits for its answer.

    `overlaps`  whether it works while the caller does something else
    `ended`     whether it can no longer be used, since it was closed or its process was lost
    `asks_mode` whether the model's own modules are called here, whose answer depends on their mode (training or evaluation)
    """

    ended = False
    overlaps = True
    asks_mode = True

    @property
    @abstractmethod
    def why_eager(self) -> str | None:
        """Why forwards are transformers' own, launched operation by operation; `None` where they are not."""

    @abstractmethod
    def submit(self, method: str, *arguments: Any) -> Wait:
        """Start a method of the lane's `Drafter`, or of the target's `Worker`."""

    @abstractmethod
    def target_answered(self, seconds: float) -> None:
        """End racing drafts after the token in progress: the target has answered, `seconds` after it began."""

    @abstractmethod
    def close(self) -> None:
        """Free what the lane holds. The lane cannot be used afterwards."""


class InlineLane(Lane):
    """Works while the caller waits. Nothing overlaps, so a racing draft gets as many seconds as the target took."""

    overlaps = False

    def __init__(self, new_drafter: NewDrafter) -> None:
        self._worker = new_drafter()
        self.asks_mode = self._worker.asks_mode
        self._racing_seconds = 0.0

    def submit(self, method: str, *arguments: Any) -> Wait:
        if method == "draft":
            return lambda: self._draft(*arguments)
        return partial(getattr(self._worker, method), *arguments)

    def _draft(self, requests: Sequence[DraftRequest]) -> list[Drafting]:
        until = time.perf_counter() + self._racing_seconds
        return self._worker.draft(requests, lambda: time.perf_counter() >= until)

    @property
    def why_eager(self) -> str | None:
        return self._worker.why_eager

    def target_answered(self, seconds: float) -> None:
        self._racing_seconds = seconds

    def close(self) -> None:
        self._worker.forget()


class ThreadLane(Lane):
    """Works on its own thread and, on CUDA, its own stream."""

    def __init__(self, new_drafter: NewDrafter) -> None:
        self._worker = new_drafter()
        self.asks_mode = self._worker.asks_mode
        self._submitted = self._answered = 0
        self._executor = ThreadPoolExecutor(1, "draft-lane")
        device = new_drafter.models[0].device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def submit(self, method: str, *arguments: Any) -> Wait:
        self._submitted += 1
        if method == "draft":
            arguments += (partial(self._is_answered, self._submitted),)
        return self._executor.submit(self._work, method, arguments).result

    def _is_answered(self, ticket: int) -> bool:
        return self._answered >= ticket

    @property
    def why_eager(self) -> str | None:
        return self._worker.why_eager

    def target_answered(self, seconds: float) -> None:
        self._answered = self._submitted

    def _work(self, method: str, arguments: tuple[Any, ...]) -> Any:
        with torch.cuda.stream(self._stream):  # does nothing without a stream
            answer = getattr(self._worker, method)(*arguments)
            if self._stream is not None:
                self._stream.synchronize()  # the caller reads the rows from another stream
            return answer

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class ProcessLane(Lane):
    """Works in a subprocess. Rows of `q` come back through shared memory, and only when sampling needs them.

    While the subprocess lives, torch leaves a core to it here (`LeftCore`).
    """

    asks_mode = False

    def __init__(self, new_drafter: NewDrafter) -> None:
        self._why_eager = new_drafter.why_eager
        dtype = torch.float64 if any(model.dtype == torch.float64 for model in new_drafter.models) else torch.float32
        hosting = next_hosting()
        try:
            self._shared, self._answered = rows_and_answered(
                hosting.shared.fileno(), SHARED_ROWS, new_drafter.vocabulary, dtype
            )
            send(Hosted(new_drafter, SHARED_ROWS, dtype), hosting.drafter)
            self._process = _gone(hosting)
        except BaseException:
            hosting.abandon()
            raise
        self._channel = hosting.channel
        LEFT_CORE.take()
        self._finalizer = weakref.finalize(self, _end, self._process, self._channel)
        self._contexts = Sender()
        self._ready = False
        self._ticket = 0
        self._awaited: dict[int, weakref.ref[Awaited]] = {}

    def submit(self, method: str, *arguments: Any) -> Wait:
        if not self._ready:
            self._start()
        requests: Sequence[DraftRequest | ForkRequest] = arguments[0] if method in ("draft", "fork") else ()
        if requests:  # plain tuples are pickled in a fraction of the time
            arguments = tuple([(slot, *rest) for slot, _, *rest in requests])
        while method in WITH_ROWS and self._rows_are_awaited():
            self._take_in()  # what is asked for now overwrites the rows of what was asked for before
        self._ticket += 1  # before it is sent: Ctrl-C may come in between, and no two requests may have one number
        ticket = self._ticket
        try:
            asked = pickle.dumps((method, arguments))
            contexts = [self._contexts.difference(request.slot, request.context) for request in requests]
            self._channel.send(with_ticket(ticket, pickle.dumps((contexts, asked))))
            for request in requests:
                self._contexts.sent(request.slot, request.context)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # what pickle says of lambdas and local classes
            raise PairError(f"cannot send {method} to the draft process ({error}): use lane='thread' or 'inline'") from error
        except OSError as error:
            raise self._died() from error
        except KeyboardInterrupt:
            self._close_if_torn()
            raise
        awaited = Awaited(method)
        self._awaited[ticket] = weakref.ref(awaited)
        return partial(self._answer, awaited)

    def _rows_are_awaited(self) -> bool:
        """Whether somebody waits for an answer with rows."""
        return any((one := known()) is not None and one.method in WITH_ROWS for known in self._awaited.values())

    def _start(self) -> None:
        """Wait until the worker has its model. Raises what kept it from that."""
        said = self._receive(START_SECONDS)
        if isinstance(said, SpecdecError):
            self.close()
            raise said
        self._ready = True

    @property
    def why_eager(self) -> str | None:
        return self._why_eager

    def target_answered(self, seconds: float) -> None:
        self._answered[0] = self._ticket

    def close(self) -> None:
        self.ended = True
        self._finalizer()

    def _answer(self, awaited: Awaited) -> Any:
        while not awaited.answered:
            self._take_in()
        if isinstance(awaited.answer, SpecdecError):
            raise awaited.answer
        return awaited.answer

    def _take_in(self) -> None:
        """Receive an answer. One that nobody waits for any more, as after an interrupted round, is dropped."""
        ticket, answer = self._receive(PATIENCE_SECONDS)
        known = self._awaited.pop(ticket, None)  # none where Ctrl-C came after the request was sent
        awaited = None if known is None else known()
        if awaited is not None:
            awaited.answer = unpacked(answer, self._shared) if isinstance(answer, tuple) else answer
            awaited.answered = True

    def _receive(self, patience_seconds: float) -> Any:
        try:
            message = self._channel.receive(patience_seconds)
        except (EOFError, OSError) as error:
            raise self._died() from error
        except KeyboardInterrupt:
            self._close_if_torn()
            raise
        if message is not None:
            return pickle.loads(message)
        self.close()
        raise LaneError(
            f"the draft worker was silent for {patience_seconds:g} s and was ended; the next decode starts a new one"
        )

    def _close_if_torn(self) -> None:
        """After Ctrl-C: the next decode needs a new process if half a message was lost, and can go on with this one if not."""
        if self._channel.closed:
            self.close()

    def _died(self) -> LaneError:
        self.close()
        return LaneError(f"the draft worker ended with exit code {self._process.returncode}; the next decode starts a new one")


def _gone(hosting: Hosting) -> subprocess.Popen[bytes]:
    """The process at work."""
    try:
        return hosting.go()
    except OSError as error:
        raise CannotCross(f"a draft process cannot be started ({error}): use lane='thread' or 'inline'") from error


def _end(process: subprocess.Popen[bytes], channel: Channel) -> None:
    LEFT_CORE.give_back()
    channel.close()  # the worker sees the end of its input, and ends
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
