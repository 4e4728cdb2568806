"""Messages between two processes of one machine that both wait on a core of their own.

A round sends and receives one each, and finds its caches cold from the models' weights: every line here costs it ten times
what it would cost in a loop. So a message is one system call where it can be.
"""

from __future__ import annotations

import select
import socket
import time

SPIN_SECONDS = 0.03
"""How long to look for a message before sleeping: longer than a round, since a core that slept is slow for a while."""

HEADER = 8
"""Bytes that hold a message's length."""

CHUNK = 1 << 13
"""Bytes to ask for at least: more than a draft takes without its rows."""


class Channel:
    """One end of a socket pair. Raises `EOFError` or `OSError` where the other end is gone."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._held = b""

    def send(self, message: bytes) -> None:
        self._socket.sendall(len(message).to_bytes(HEADER, "little") + message)

    def receive(self, within_seconds: float | None = None) -> bytes | None:
        """The next message; `None` if nothing arrived for so long. Looks for it for a while before it sleeps."""
        sleeps_at, end = time.perf_counter() + SPIN_SECONDS, HEADER
        patience = None if within_seconds is None else 1000 * within_seconds
        while len(self._held) < end or len(self._held) < (end := HEADER + int.from_bytes(self._held[:HEADER], "little")):
            try:
                more = self._socket.recv(max(CHUNK, end - len(self._held)), socket.MSG_DONTWAIT)
            except BlockingIOError:
                if time.perf_counter() >= sleeps_at and not self._poll.poll(patience):
                    return None
                continue
            if not more:
                raise EOFError
            self._held += more
        message, self._held = self._held[HEADER:end], self._held[end:]
        return message

    def close(self) -> None:
        self._socket.close()
