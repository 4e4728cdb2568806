"""What a lane is asked, what it answers, and how an answer crosses to another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.verification import Row

ARGMAX = "argmax"
"""Stands for `q` of a greedily drafted token, since that row is not needed."""


class DraftRequest(NamedTuple):
    """Continue the sequence in `slot` by up to `length` tokens; `context` is its whole context.

    A `racing` draft also ends when the target has answered (`Lane.target_answered`).
    """

    slot: int
    context: Sequence[int]
    length: int
    stop: StopRule | None = None
    racing: bool = False


class ScoreRequest(NamedTuple):
    """Score the last `positions` prefixes of `context`, the whole context of the sequence in `slot`."""

    slot: int
    context: Sequence[int]
    positions: int


@dataclass(frozen=True)
class Drafting:
    """The answer to a `DraftRequest`.

    `tokens`        the drafted tokens
    `q`             the rows they were sampled from, shape (tokens, vocabulary); `None` when greedy
    `busy_seconds`  until this draft was done
    `failure`       why there is no token at all; empty otherwise
    """

    tokens: list[int]
    q: Row | None
    busy_seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Scoring:
    """The answer to a `ScoreRequest`.

    `p`             the target's rows, shape (positions, vocabulary); `None` when greedy
    `best`          the greedy choice at each position; `None` when sampling
    `busy_seconds`  of the whole forward, which may serve several sequences
    """

    p: Tensor | None
    best: list[int] | None
    positions: int
    busy_seconds: float


@dataclass(frozen=True)
class Hosted:
    """What a worker process needs: the model, and the shape (`rows`, `vocabulary`) and type of the shared memory for `q`."""

    model: PreTrainedModel
    vocabulary: int
    rows: int
    dtype: torch.dtype
    eager: bool


Packed: TypeAlias = tuple[tuple[list[int], bool, float, str], ...]


def packed(draftings: Sequence[Drafting], shared: NDArray[Any]) -> Packed:
    """Draftings without `q`. Their rows are written to `shared`, one draft behind the other."""
    end = 0
    for drafting in draftings:
        if drafting.q is not None:
            shared[end : end + len(drafting.q)] = drafting.q
            end += len(drafting.q)
    return tuple((drafting.tokens, drafting.q is not None, drafting.busy_seconds, drafting.failure) for drafting in draftings)


def unpacked(draftings: Packed, shared: NDArray[Any]) -> list[Drafting]:
    """The inverse of `packed`. It copies the rows, since the next draft overwrites `shared`."""
    end = 0
    found: list[Drafting] = []
    for tokens, sampled, seconds, failure in draftings:
        start, end = end, end + len(tokens)
        found.append(Drafting(tokens, shared[start:end].copy() if sampled else None, seconds, failure))
    return found
