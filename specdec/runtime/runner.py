"""One model with its cache: logits after any context, computed only for tokens that the cache does not hold.

No call rolls a runner back. Each call gives it a whole context. It keeps the longest common prefix with what its cache holds,
and feeds the rest (rule 4 of `specdec.effects`). `Runner` works with every causal language model of transformers whose cache
can be trimmed. Plain attention layers get a preallocated cache, where trimming sets a length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import signature

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from specdec.runtime.cache import UNLIMITED, context_limit, new_cache

PREFILL_CHUNK = 1024
"""Tokens that are fed at once, so that the attention mask of a long prompt stays small."""


class Forward:
    """The model's own forward. It is called as a model of transformers is, and returns logits, shape (slots, kept, vocabulary).

    `why_eager` says why the model runs operation by operation, as transformers wrote it; `None` where it does not.
    """

    why_eager: str | None

    def __init__(self, model: PreTrainedModel, why_eager: str = "no faster forward was asked for") -> None:
        self._model, self.why_eager = model, why_eager

    def __call__(
        self,
        input_ids: Tensor,
        past_key_values: Cache,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        where = {} if position_ids is None else {"position_ids": position_ids}
        return self._model(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            use_cache=True,
            **where,
        ).logits


class SequenceRunner(ABC):
    """A model with a cache for one sequence. Not thread-safe: one runner belongs to one lane.

    `why_eager` says why forwards are transformers' own, launched operation by operation; `None` where they are not.
    """

    why_eager: str | None

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.device = model.device
        self._held: list[int] = []

    def logits(self, context: Sequence[int], positions: int) -> Tensor:
        """Logits after the last `positions` prefixes of `context`, the whole context the last: shape (positions, vocabulary).

        `context` has at least `positions` tokens. Logits are raw, in the model's dtype, cut to the common vocabulary.
        """
        tokens = context if isinstance(context, list) else list(context)
        self._trim(min(common_prefix(self._held, tokens), len(tokens) - positions))
        while len(tokens) - len(self._held) > max(PREFILL_CHUNK, positions):
            start = len(self._held)
            self._feed(tokens[start : min(start + PREFILL_CHUNK, len(tokens) - positions)], 1)
        return self._feed(tokens[len(self._held) :], positions)

    @abstractmethod
    def forget(self) -> None:
        """Empty the cache."""

    @abstractmethod
    def _trim(self, keep: int) -> None:
        """Hold at most the first `keep` tokens."""

    @abstractmethod
    def _feed(self, tokens: list[int], positions: int) -> Tensor:
        """Read tokens after those held. Returns logits after the last `positions` of them."""


class Runner(SequenceRunner):
    """Calls `forward`, the model's own unless given, on a cache that is trimmed."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, forward: Forward | None = None) -> None:
        super().__init__(model, vocabulary)
        self._forward = forward or Forward(model)
        self.why_eager = self._forward.why_eager
        self._position_ids = position_ids(model)
        self._cache, self._preallocated = new_cache(model)
        self._shortest = 0  # fewest tokens that the cache can be cut back to; 0 before it was cut

    def forget(self) -> None:
        self._trim(0)

    def _feed(self, tokens: list[int], positions: int) -> Tensor:
        ids = torch.tensor([tokens], device=self.device)
        start = len(self._held)
        where = None if self._position_ids is None else self._position_ids[:, start : start + len(tokens)]
        try:
            with torch.inference_mode():
                logits = self._forward(ids, self._cache, where, logits_to_keep=positions)[0]
        except BaseException:  # Ctrl-C too: some layers hold the new keys, some do not
            self._start_again()
            raise
        self._held += tokens
        return logits if logits.shape == (positions, self.vocabulary) else logits[-positions:, : self.vocabulary]

    def _start_again(self) -> None:
        self._cache, self._preallocated = new_cache(self.model)
        self._shortest = 0
        self._held = []

    def _trim(self, keep: int) -> None:
        """A cache that no longer holds the first `keep` tokens starts again from nothing."""
        surplus = len(self._held) - keep
        if surplus == 0:
            return
        if self._preallocated or max(self._shortest, 1) <= keep:
            self._cache.crop(-surplus)
            self._shortest = keep  # a sliding window that is cut has lost what came before it
            del self._held[keep:]
        else:
            self._start_again()


def position_ids(model: PreTrainedModel) -> Tensor | None:
    """All positions up to the context limit, shape (1, limit); `None` for models that do not take positions.

    A model that is given positions need not compute them.
    """
    limit = context_limit(model)
    if limit == UNLIMITED or "position_ids" not in signature(model.forward).parameters:
        return None
    return torch.arange(limit, device=model.device).unsqueeze(0)


def common_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many leading tokens of two lists are equal. Whole slices are compared, at C speed."""
    low, high = 0, min(len(held), len(wanted))
    if held[:high] == wanted[:high]:
        return high
    while high - low > 1:  # held[:low] is equal, held[:high] is not
        middle = (low + high) // 2
        if held[low:middle] == wanted[low:middle]:
            low = middle
        else:
            high = middle
    return low
