"""Many sequences of one model: logits after the context of each, in as few forwards as its cache allows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor
from transformers import PreTrainedModel

from specdec.runtime.runner import Runner

Asked: TypeAlias = tuple[int, Sequence[int], int]
"""Row, whole context, and how many of its last prefixes logits are wanted after."""


class Rows(ABC):
    """A model with a cache for several sequences, by row. Not thread-safe: it belongs to one lane."""

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self.model, self.vocabulary = model, vocabulary

    @abstractmethod
    def logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        """Logits of shape (rows, vocabulary) for each of `asked`, in order; a row may be asked for once at a time."""

    @abstractmethod
    def forget(self) -> None:
        """Empty the caches."""


class Apart(Rows):
    """A runner for each row, one after the other: for a single sequence, and for models whose caches cannot be batched."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, size: int) -> None:
        super().__init__(model, vocabulary)
        self._runners = [Runner(model, vocabulary) for _ in range(size)]

    def logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        return [self._runners[row].logits(context, rows) for row, context, rows in asked]

    def forget(self) -> None:
        for runner in self._runners:
            runner.forget()


def new_rows(model: PreTrainedModel, vocabulary: int, size: int) -> Rows:
    """Room for `size` sequences."""
    return Apart(model, vocabulary, size)
