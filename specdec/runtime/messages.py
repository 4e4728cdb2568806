"""The requests that a lane answers, its answers, and the form in which drafts come back from another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

from specdec.effects import StopRule
from specdec.verification import Row

ARGMAX = "argmax"
"""`Known.q` of a token that was drafted greedily. At temperature 0 no rule reads that row."""


class DraftRequest(NamedTuple):
    """Continue the sequence in `slot` by up to `length` tokens; `context` is its whole context.

    Its tokens are sampled by `uniforms`, one for each in order; those of a greedy draft by none. A `racing` draft also ends
    when the target has answered (`Lane.target_answered`).
    """

    slot: int
    context: Sequence[int]
    length: int
    uniforms: Sequence[float] = ()
    stop: StopRule | None = None
    racing: bool = False


class ForkRequest(NamedTuple):
    """Prepare for the outcomes of verifying the last `len(fan_outs) - 1` tokens of `context`, the whole context of `slot`.

    After each number of accepted tokens, as many tokens of the target's are foreseen as `fan_outs` says, and each gets a branch
    of `length` tokens, or fewer where `stop` ends it. They are sampled by `uniforms`, branch after branch; those of a greedy
    fork by none. `race` is the seed of the noise by which the target will pick its token; `None` when greedy.
    """

    slot: int
    context: Sequence[int]
    fan_outs: Sequence[int]
    length: int
    uniforms: Sequence[float] = ()
    stop: StopRule | None = None
    race: int | None = None


class ScoreRequest(NamedTuple):
    """Score the last `positions` prefixes of `context`, the whole context of the sequence in `slot`."""

    slot: int
    context: Sequence[int]
    positions: int


@dataclass(frozen=True)
class Drafting:
    """The answer to a `DraftRequest`.

    `tokens`        the drafted tokens
    `q`             the rows they were sampled from, shape (tokens, vocabulary); `None` when greedy, or `certain`
    `busy_seconds`  wall seconds since the request began, until this draft was done
    `failure`       why there is no token at all; empty otherwise
    `certain`       whether they were computed, not sampled: the `q` of each is one-hot
    """

    tokens: list[int]
    q: Row | None
    busy_seconds: float
    failure: str = ""
    certain: bool = False


@dataclass(frozen=True)
class Forking:
    """The answer to a `ForkRequest`.

    `number`        by which its rows are asked for (`Worker.branch`), until the next fork of the same slot
    `outcomes`      those that are foreseen: how many tokens are accepted, and the token of the target's after them
    `tails`         the tokens of the branch of each outcome
    `busy_seconds`  wall seconds of the whole request
    `failure`       why there is no token at all; empty otherwise
    """

    number: int
    outcomes: list[tuple[int, int]]
    tails: list[list[int]]
    busy_seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Scoring:
    """The answer to a `ScoreRequest`.

    `p`             the target's rows, shape (positions, vocabulary); `None` when greedy
    `best`          the greedy choice at each position; `None` when sampling
    `positions`     how many were scored: fewer than asked where the row after them failed
    `busy_seconds`  wall seconds of the whole forward, which may serve several sequences
    """

    p: Tensor | None
    best: list[int] | None
    positions: int
    busy_seconds: float


def with_ticket(ticket: int, request: bytes) -> bytes:
    """A request with the number by which its answer is known."""
    return ticket.to_bytes(TICKET, "little") + request


def read_ticket(message: bytes) -> tuple[int, memoryview]:
    """The inverse of `with_ticket`."""
    return int.from_bytes(message[:TICKET], "little"), memoryview(message)[TICKET:]


TICKET = 8
"""Bytes that hold a request's number."""

SHARED = "shared"
"""Stands for rows that lie in the shared memory."""

Packed: TypeAlias = tuple[tuple[list[int], Row | None, float, str, bool], ...]


def packed(draftings: Sequence[Drafting], shared: NDArray[Any]) -> Packed:
    """Draftings whose rows were written to `shared`, one draft after another. A draft whose rows do not fit keeps them.

    Rows may lie on any device. They are handed over on the CPU.
    """
    end = 0
    found: list[tuple[list[int], Row | None, float, str, bool]] = []
    for drafting in draftings:
        q = drafting.q.cpu() if isinstance(drafting.q, Tensor) else drafting.q
        if q is not None and end + len(q) <= len(shared):
            shared[end : end + len(q)] = q
            end, q = end + len(q), SHARED
        found.append((drafting.tokens, q, drafting.busy_seconds, drafting.failure, drafting.certain))
    return tuple(found)


def unpacked(draftings: Packed, shared: NDArray[Any]) -> list[Drafting]:
    """The inverse of `packed`. It copies the rows, since the next request overwrites `shared`."""
    end = 0
    found: list[Drafting] = []
    for tokens, q, seconds, failure, certain in draftings:
        if isinstance(q, str):
            start, end = end, end + len(tokens)
            q = shared[start:end].copy()
        found.append(Drafting(tokens, q, seconds, failure, certain))
    return found
