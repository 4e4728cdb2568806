"""The process of a process lane, and what it shares with this one: a socket, and two files without a name.

It can be started early, before torch is imported here: it spends its first seconds on importing torch, too, and waits then
for the message that the file of its drafter is written. Imports no torch.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import IO

from specdec.runtime.channel import Channel


def nameless_file() -> IO[bytes]:
    """A file that no folder shows, in memory where the system has such files (Linux), else in the folder for temporary ones."""
    try:
        return os.fdopen(os.memfd_create("specdec"), "w+b")
    except (AttributeError, OSError):  # another system, or one that forbids it
        return tempfile.TemporaryFile()


class Hosting:
    """One process that will host a drafter.

    `drafter`   the file that the process reads its drafter from, once it has been told to
    `shared`    the file whose memory both processes see
    `channel`   this end of the socket
    """

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self.channel = Channel(ours)
        self.drafter, self.shared = nameless_file(), nameless_file()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process; the first call starts it. Raises `OSError`."""
        if self._process is None:
            descriptors = self._theirs.fileno(), self.drafter.fileno(), self.shared.fileno()
            self._process = subprocess.Popen(
                # -P: a file of the current folder must not take the place of a module
                [sys.executable, "-P", "-m", "specdec.runtime.host", *map(str, descriptors)],
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C is for the caller; the worker ends when its socket closes
                env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path())},
            )
            self._theirs.close()
        return self._process

    def go(self) -> subprocess.Popen[bytes]:
        """Tell the process that its drafter is written, and where modules are found by now. Raises `OSError`."""
        process = self.start()
        with suppress(OSError):  # it has ended, which the first answer that is waited for will say
            self.channel.send(pickle.dumps(search_path()))
        self.drafter.close()
        self.shared.close()
        return process

    def abandon(self) -> None:
        """Let go of everything, and end a process that was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._theirs.close()
        self.drafter.close()
        self.shared.close()
        self.channel.close()


def search_path() -> list[str]:
    """Where this process finds modules, without an entry that means the current folder."""
    return [entry or os.getcwd() for entry in sys.path]


_early: list[Hosting] = []
"""At most one, whose process was started before anything is known of its drafter."""


@contextmanager
def started_early(wanted: bool) -> Generator[None]:
    """In the block, if it is `wanted`, the next lane finds its process started. It ends with the block if no lane took it."""
    try:
        if wanted:
            _early.append(Hosting())
            with suppress(OSError):  # the lane will start it, or say why it cannot
                _early[-1].start()
        yield
    finally:
        while _early:
            _early.pop().abandon()


def next_hosting() -> Hosting:
    """The one that was started early, or a new one that is not started yet."""
    return _early.pop() if _early else Hosting()
