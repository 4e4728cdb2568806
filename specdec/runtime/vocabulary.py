"""Which of the target's tokens a model knows: those it has a logit for, and those it can read.

A draft may know fewer tokens than its target. It never proposes the others (`q` is 0 there). Where a text holds them, it reads
another token instead. Proposals are verified, so neither changes the output law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from specdec.tokens import Tokens

Wanted: TypeAlias = tuple[int, Sequence[int], int]
"""A slot, the whole context of its sequence, and how many of its last positions to give logits for. A `ScoreRequest` is one."""

Rows: TypeAlias = Callable[[Sequence[Wanted]], list[Tensor]]
"""Logits of shape (positions, own vocabulary) for each of the wanted, whose contexts are in the model's own tokens."""

STAND_IN = 0
"""The token that is read in place of one that the model does not know."""


def head_size(model: PreTrainedModel) -> int:
    """Tokens that the output head has a logit for, padding included."""
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if type(weight) is nn.Parameter:
        return int(weight.shape[0])
    size: int | None = getattr(head, "out_features", None)  # quantised weights have other shapes, or are no tensors
    return int(model.config.get_text_config(decoder=True).vocab_size if size is None else size)


def embedding_size(model: PreTrainedModel) -> int:
    """Tokens that the model can read."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else head_size(model)


class Known:
    """What one model knows of a vocabulary of `size` tokens.

    `proposed`   how many of these tokens, the first ones, it has a logit for
    `whole`      whether these are all
    `read`       how many tokens it can read
    """

    def __init__(self, model: PreTrainedModel, size: int) -> None:
        self.proposed = min(size, head_size(model))
        self.whole = self.proposed == size
        self._missing = size - self.proposed
        self.read = embedding_size(model)
        self._legible: dict[int, tuple[int, ...]] = {}  # by slot: a head that the model can read as it is

    def readable(self, slot: int, context: Sequence[int]) -> Sequence[int]:
        """A text as the model can read it. A text that it can read as it is takes no longer when it is long."""
        if self.whole:
            return context
        text = Tokens.of(context)
        if text.head is not self._legible.get(slot):
            if max(text.head, default=0) >= self.read:
                return self.legible(text)
            self._legible[slot] = text.head
        return text if max(text.tail, default=0) < self.read else self.legible(text)

    def legible(self, tokens: Iterable[int]) -> list[int]:
        """Tokens, with another one in place of each that the model cannot read."""
        return [token if token < self.read else STAND_IN for token in tokens]

    def widened(self, rows: Tensor, filling: float = -torch.inf) -> Tensor:
        """Rows over the whole vocabulary, from rows over the proposed tokens: logits, or probabilities by a `filling` of 0."""
        return rows if self.whole else F.pad(rows, (0, self._missing), value=filling)

    def own(self, rows: Tensor) -> Tensor:
        """The inverse of `widened`: the columns of the tokens that the model proposes."""
        return rows[:, : self.proposed]

    def logits(self, rows: Rows, wanted: Sequence[Wanted]) -> list[Tensor]:
        """Logits over the whole vocabulary, of the model whose `rows` are given."""
        if self.whole:
            return rows(wanted)
        readable = [(slot, self.readable(slot, context), positions) for slot, context, positions in wanted]
        return [self.widened(own) for own in rows(readable)]
