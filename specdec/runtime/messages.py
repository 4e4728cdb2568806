"""What a lane is asked and what it answers, and how an answer crosses a process."""

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
"""Stands for `q` of a greedily drafted token, whose row nobody needs."""


class DraftRequest(NamedTuple):
    """Continue the sequence in `row`, whose context is given in full, by up to `length` tokens; if `racing`, until hurried."""

    row: int
    context: Sequence[int]
    length: int
    stop: StopRule | None = None
    racing: bool = False


class ScoreRequest(NamedTuple):
    """Score the last `rows` prefixes of the context of the sequence in `row`."""

    row: int
    context: Sequence[int]
    rows: int


@dataclass(frozen=True)
class Drafting:
    """A drafted run: `tokens`, their rows `q` of shape (len, vocabulary) (`None` when greedy), seconds until it was done.

    `failure` says why there is no token at all.
    """

    tokens: list[int]
    q: Row | None
    busy_seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Scoring:
    """The target's rows: `p` of shape (rows, vocabulary), or the greedy choice of each row; seconds of the whole forward."""

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
    eager: bool


Packed: TypeAlias = tuple[tuple[list[int], bool, float, str], ...]


def packed(draftings: Sequence[Drafting], shared: NDArray[Any]) -> Packed:
    """Draftings without their rows, which are written to `shared` one after the other."""
    end = 0
    for drafting in draftings:
        if drafting.q is not None:
            shared[end : end + len(drafting.q)] = drafting.q
            end += len(drafting.q)
    return tuple((drafting.tokens, drafting.q is not None, drafting.busy_seconds, drafting.failure) for drafting in draftings)


def unpacked(draftings: Packed, shared: NDArray[Any]) -> list[Drafting]:
    """The other side of `packed`. The buffer is written again by the next draft, so its rows are copied."""
    end = 0
    found: list[Drafting] = []
    for tokens, sampled, seconds, failure in draftings:
        start, end = end, end + len(tokens)
        found.append(Drafting(tokens, shared[start:end].copy() if sampled else None, seconds, failure))
    return found
