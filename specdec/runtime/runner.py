"""One model with its cache: logits after any context, by computing only what the cache does not hold.

A runner is never told to roll back. It is asked for whole contexts, keeps the longest common prefix with what its cache holds,
and feeds the rest (rule 4 of `specdec.effects`). It works with every causal language model of transformers whose cache can be
trimmed. Plain attention layers get a preallocated cache, where trimming sets a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from specdec.errors import PairError

PREFILL_CHUNK = 1024
"""Tokens that are fed at once, so that the attention mask of a long prompt stays small."""

UNLIMITED = 1_000_000_000
"""The context limit, in tokens, of a model whose configuration names none."""


class TrimmableLayer(CacheLayerMixin):
    """Keys and values of one attention layer in buffers of shape (1, heads, capacity, dim), doubled when full."""

    is_sliding = False
    is_croppable = True
    _layer_type = None

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        capacity = max(256, 2 * key_states.shape[-2])
        self.keys = key_states.new_empty(*key_states.shape[:2], capacity, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        end = self.length + key_states.shape[-2]
        if end > keys.shape[-2]:
            more = max(keys.shape[-2], end - keys.shape[-2])
            self.keys = keys = torch.cat([keys, torch.empty_like(keys[..., :1, :]).expand(-1, -1, more, -1)], dim=-2)
            self.values = values = torch.cat([values, torch.empty_like(values[..., :1, :]).expand(-1, -1, more, -1)], dim=-2)
        keys.narrow(2, self.length, key_states.shape[-2]).copy_(key_states)
        values.narrow(2, self.length, key_states.shape[-2]).copy_(value_states)
        self.length = end
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens (transformers counts them negatively)."""
        self.length += tokens_to_remove

    def reset(self) -> None:
        self.length = 0


class WindowLayer(DynamicSlidingWindowLayer):
    """A sliding window that returns what the mask expects, even while it holds more tokens for a rollback.

    transformers 5.17 returns all it holds; 5.23 returns what the mask expects.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        visible = self.sliding_window - 1 + key_states.shape[-2]
        return keys[:, :, -visible:], values[:, :, -visible:]


class Forward:
    """The model's own forward. It is called as a model of transformers is, and returns logits, shape (slots, kept, vocabulary).

    `why_eager` says why the model runs operation by operation, as transformers wrote it; `None` when not asked.
    """

    why_eager: str | None = None

    def __init__(self, model: PreTrainedModel, why_eager: str | None = None) -> None:
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


class Runner:
    """A model with a cache for one sequence. Not thread-safe: one runner belongs to one lane."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, forward: Forward | None = None) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.device = model.device
        self._forward = forward or Forward(model)
        self.why_eager = self._forward.why_eager
        self._position_ids = position_ids(model)
        self._held: list[int] = []
        self._cache, self._plain = new_cache(model)
        self._oldest = 0  # the shortest context that a cropped cache can still be cut back to

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

    def forget(self) -> None:
        """Empty the cache."""
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
        self._cache, self._plain = new_cache(self.model)
        self._oldest = 0
        self._held = []

    def _trim(self, keep: int) -> None:
        """Hold at most the first `keep` tokens. A cache that no longer has them starts again from nothing."""
        surplus = len(self._held) - keep
        if surplus == 0:
            return
        if self._plain or max(self._oldest, 1) <= keep:
            self._cache.crop(-surplus)
            self._oldest = keep  # a sliding window drops older tokens when it is cropped
            del self._held[keep:]
        else:
            self._start_again()


def new_cache(model: PreTrainedModel) -> tuple[DynamicCache, bool]:
    """An empty cache that can be trimmed, and whether it is the preallocated one. Refuses models that have none."""
    cache = DynamicCache(config=model.config)
    plain = bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    if plain:
        cache.layers[:] = [TrimmableLayer() for _ in cache.layers]
    elif not cache.is_croppable:
        raise PairError(
            f"{model.config.model_type} has recurrent layers whose state cannot be rolled back: "
            "choose a model with attention layers only"
        )
    else:
        for i, layer in enumerate(cache.layers):
            if type(layer) is DynamicSlidingWindowLayer:
                cache.layers[i] = WindowLayer(layer.sliding_window)
        cache.activate_past_recording()
    return cache, plain


def position_ids(model: PreTrainedModel) -> Tensor | None:
    """All positions of the context, shape (1, limit), for models that take them ready-made. That saves these a little work."""
    limit = context_limit(model)
    if limit == UNLIMITED or "position_ids" not in signature(model.forward).parameters:
        return None
    return torch.arange(limit, device=model.device).unsqueeze(0)


def context_limit(model: PreTrainedModel) -> int:
    """The longest context, in tokens, that the configuration allows; `UNLIMITED` when it names none."""
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or UNLIMITED


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
