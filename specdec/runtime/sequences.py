"""Many sequences of one model: logits after the context of each, in as few forwards as its cache allows.

A batch stands in one static cache, a row for each sequence, whatever their lengths. Rows that are fed fewer tokens than others
are padded behind their end, where nothing is seen of it; prompts are read row by row, so that nobody is padded to their length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.runtime.cache import StaticCache, why_not_static
from specdec.runtime.graph import GraphRunner, new_runner, why_stepwise
from specdec.runtime.runner import PREFILL_CHUNK, Forward, common_prefix
from specdec.sampling import Dice, Sampler

Asked: TypeAlias = tuple[int, Sequence[int], int]
"""Row, whole context, and how many of its last prefixes logits are wanted after."""

LENGTH = 512
"""Tokens that a row of a batch holds at first; doubled when it is full."""

LONGEST_WAIT = 8
"""Tokens beyond its last rows that a sequence may bring into a common forward; more of them are read alone before."""


class Rows(ABC):
    """A model with a cache for several sequences, by row. Not thread-safe: it belongs to one lane.

    `why_eager` says why its forwards are transformers' own, launched operation by operation, if so.
    """

    why_eager: str | None

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self.model, self.vocabulary = model, vocabulary

    @abstractmethod
    def logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        """Logits of shape (rows, vocabulary) for each of `asked`, in order. A row may be asked for once at a time."""

    @abstractmethod
    def forget(self) -> None:
        """Empty the caches."""

    def draft(
        self, row: int, context: Sequence[int], length: int, stop: StopRule | None, sampler: Sampler, dice: Dice
    ) -> tuple[list[int], Tensor | None] | None:
        """A whole draft at once, `(tokens, q)`, where that is possible without coming to the host after each token."""
        return None


class Apart(Rows):
    """A runner for each row, one after the other: for a single sequence, and for models whose caches cannot be batched."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, *, eager: bool) -> None:
        super().__init__(model, vocabulary)
        self._runners = [new_runner(model, vocabulary, forward, eager=eager) for _ in range(size)]

    @property
    def why_eager(self) -> str | None:  # type: ignore[override]  # a capture may fail at any time
        return self._runners[0].why_eager

    def logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        return [self._runners[row].logits(context, rows) for row, context, rows in asked]

    def forget(self) -> None:
        for runner in self._runners:
            runner.forget()

    def draft(
        self, row: int, context: Sequence[int], length: int, stop: StopRule | None, sampler: Sampler, dice: Dice
    ) -> tuple[list[int], Tensor | None] | None:
        runner = self._runners[row]
        if not isinstance(runner, GraphRunner) or why_stepwise(sampler, stop) is not None:
            return None
        return runner.draft(context, length, sampler, [dice.uniform() for _ in range(0 if sampler.greedy else length)])


class Together(Rows):
    """One forward for all rows that are asked for."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, size: int, forward: Forward) -> None:
        super().__init__(model, vocabulary)
        self._size, self._forward = size, forward
        self.why_eager = "batches run without graphs" if model.device.type == "cuda" else forward.why_eager
        self.forget()

    def forget(self) -> None:
        self._held: list[list[int]] = [[] for _ in range(self._size)]
        self._cache = StaticCache(self.model, LENGTH, self._size)

    @torch.inference_mode()
    def logits(self, asked: Sequence[Asked]) -> list[Tensor]:
        for row, context, rows in asked:
            held = self._held[row]
            del held[min(common_prefix(held, list(context)), len(context) - rows) :]
            while len(context) - rows - len(held) > LONGEST_WAIT:
                self._feed({row: list(context[len(held) : min(len(context) - rows, len(held) + PREFILL_CHUNK)])}, keep=1)
        fresh = {row: list(context[len(self._held[row]) :]) for row, context, _ in asked}
        logits = self._feed(fresh)
        first = min(fresh)
        return [logits[row - first, len(fresh[row]) - rows : len(fresh[row])] for row, _, rows in asked]

    def _feed(self, fresh: dict[int, list[int]], keep: int = 0) -> Tensor:
        """Feed some rows their tokens; logits of shape (rows from the first to the last, width or `keep`, vocabulary)."""
        first, last, width = min(fresh), max(fresh), max(map(len, fresh.values()))
        ids = [(tokens := fresh.get(row, [])) + [0] * (width - len(tokens)) for row in range(first, last + 1)]
        starts = [len(self._held[row]) for row in range(first, last + 1)]
        end = max(starts) + width
        if end > self._cache.length:
            self._cache.grow(max(end, 2 * self._cache.length))
        positions = torch.tensor(starts).unsqueeze(1) + torch.arange(width)
        where = self._cache.at(positions.to(self.model.device), visible=end, first_row=first)
        logits = self._forward(input_ids=torch.tensor(ids, device=self.model.device), logits_to_keep=keep, **where)
        for row, tokens in fresh.items():
            self._held[row] += tokens
        return logits[:, :, : self.vocabulary]


def new_rows(model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, *, eager: bool) -> Rows:
    """Room for `size` sequences: together where the model can be batched, else apart."""
    if size == 1 or why_not_static(model) is not None:
        return Apart(model, vocabulary, size, forward, eager=eager)
    return Together(model, vocabulary, size, forward)
