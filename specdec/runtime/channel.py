"""Messages between two processes of one machine. Each process waits on a core of its own.

A round sends one message and receives one. Between them the models' weights push this code out of the CPU's caches, and each
line then takes ten times as long as in a loop. Hence a message takes one system call where possible.
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
"""The fewest bytes to ask for: more than a draft takes without its rows."""


class Channel:
    """One end of a socket pair. Raises `EOFError` or `OSError` when the other end is gone.

    Ctrl-C may leave half a message behind, and what follows would be read as its other half. So it closes this end then.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._held = b""

    def send(self, message: bytes) -> None:
        """Send one message, however long."""
        try:
            self._socket.sendall(len(message).to_bytes(HEADER, "little") + message)
        except KeyboardInterrupt:
            self.close()
            raise

    def receive(self, within_seconds: float | None = None) -> bytes | None:
        """The next message. It looks for `SPIN_SECONDS`, then sleeps; `None` if it slept `within_seconds` in vain."""
        sleeps_at, end = time.perf_counter() + SPIN_SECONDS, HEADER
        patience = None if within_seconds is None else 1000 * within_seconds
        while True:
            if len(self._held) >= end:
                end = HEADER + int.from_bytes(self._held[:HEADER], "little")
                if len(self._held) >= end:
                    message, self._held = self._held[HEADER:end], self._held[end:]
                    return message
            try:
                more = self._socket.recv(max(CHUNK, end - len(self._held)), socket.MSG_DONTWAIT)
                if not more:
                    raise EOFError
                self._held += more
            except BlockingIOError:
                if time.perf_counter() >= sleeps_at and not self._poll.poll(patience):
                    return None
            except KeyboardInterrupt:
                self.close()
                raise

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close this end; the other end sees that."""
        self._socket.close()
