"""The process that hosts the draft of a process lane.

`python -m specdec.runtime.host SOCKET DRAFTER SHARED` answers requests on an inherited socket until the other side closes it.
It is a plain subprocess, so the user's script needs no `if __name__ == "__main__"`, and the process ends with its parent.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specdec.errors import LaneError, PairError, SpecdecError
from specdec.runtime.channel import Channel
from specdec.runtime.contexts import Receiver
from specdec.runtime.crossing import received, rows_and_answered
from specdec.runtime.drafter import Drafter, NewDrafter
from specdec.runtime.messages import DraftRequest, ForkRequest, packed, read_ticket


@dataclass(frozen=True)
class Hosted:
    """What the process needs: how to make its drafter, and the number of `rows` and the type of the shared memory for `q`."""

    new_drafter: NewDrafter
    rows: int
    dtype: torch.dtype


def unpickled(request: bytes) -> tuple[str, tuple[Any, ...]]:
    """A request. What it names must be importable here."""
    try:
        return pickle.loads(request)
    except (AttributeError, ImportError) as error:  # a class of the user's own script
        raise PairError(f"the draft process cannot load what it was sent ({error}): use lane='thread' or 'inline'") from error


def serve(channel: Channel, drafter: Drafter, shared: NDArray[Any], answered: NDArray[np.int64]) -> None:
    """Answer `(ticket, contexts, (method, arguments))` with `(ticket, result or error)` until the other side is gone.

    Rows of `q` go through `shared`, of shape (rows, vocabulary), as far as they fit. All else goes through the channel.
    What is held of contexts (`specdec.runtime.contexts`) is brought up to date first: a request may fail.
    `answered` holds the ticket of a request: the target has answered, and racing drafts of requests up to that ticket end.
    """
    held = Receiver()
    while True:
        try:
            message = channel.receive()
        except (EOFError, OSError):
            return
        assert message is not None
        ticket, request = read_ticket(message)
        differences, asked = pickle.loads(request)
        contexts = [held.context(difference) for difference in differences]
        try:
            method, arguments = unpickled(asked)
            if method == "draft":
                requests = [DraftRequest(slot, text, *rest) for text, (slot, *rest) in zip(contexts, arguments, strict=True)]
                answer = packed(drafter.draft(requests, answered=lambda ticket=ticket: answered[0] >= ticket), shared)
            elif method == "fork":
                forks = [ForkRequest(slot, text, *rest) for text, (slot, *rest) in zip(contexts, arguments, strict=True)]
                answer = drafter.fork(forks)
            elif method == "branch":
                answer = packed(drafter.branch(*arguments), shared)
            else:
                answer = getattr(drafter, method)(*arguments)
        except SpecdecError as error:
            answer = error
        except Exception as error:  # its class may be unknown on the other side
            answer = LaneError(f"the draft worker failed with {type(error).__name__}: {error}")
        channel.send(pickle.dumps((ticket, answer)))


def main(*descriptors: str) -> None:
    """Host a drafter, with the socket, the file and the shared memory of these descriptors. Says first what went wrong."""
    connection, sent, memory = map(int, descriptors)
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with closing(Channel(socket.socket(fileno=connection))) as channel, suppress(OSError, EOFError):  # the other side is gone
        go = channel.receive()
        assert go is not None
        sys.path[:] = pickle.loads(go)
        try:
            with os.fdopen(sent, "rb") as file:
                hosted: Hosted = received(file)
            shared, answered = rows_and_answered(memory, hosted.rows, hosted.new_drafter.vocabulary, hosted.dtype)
            for model in hosted.new_drafter.models:
                model.eval()
            drafter = hosted.new_drafter()
        except Exception as error:  # what the user's own classes may raise, too
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            refusal = PairError(f"the draft process cannot take the draft ({reason}): use lane='thread' or 'inline'")
            channel.send(pickle.dumps(refusal))
        else:
            channel.send(pickle.dumps("ready"))
            serve(channel, drafter, shared, answered)


if __name__ == "__main__":
    from specdec.runtime import host as importable  # pickled classes must have their importable names

    importable.main(*sys.argv[1:])
    os._exit(0)  # who closed the lane waits for the end, and to take torch apart takes a second
