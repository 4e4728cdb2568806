"""The caches of a model: one that is trimmed, for a single sequence, and one of static shapes.

A trimmable cache (`new_cache`) grows with its sequence. To roll back is to cut it.

A static cache (`StaticCache`) serves many sequences of different lengths, or one sequence under CUDA graphs. Keys and values
are buffers of shape (slots, length, heads, dim). Each sequence has a slot, and each of its tokens has the cell of its position.
A forward writes the cells of the tokens that it is fed. A token sees the cells of its slot up to its own. A mask hides later
cells, which may hold tokens that were rolled back. Three things follow:

- to roll back is to go on from an earlier position;
- sequences may differ in length;
- a sequence that is fed fewer tokens than others is padded at the end, with any token.

The static cache does not know how long its sequences are; its caller does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from specdec.errors import PairError

UNLIMITED = 1_000_000_000
"""The context limit, in tokens, of a model whose configuration names none."""

LENGTH = 512
"""Cells of each slot of a static cache at first. A cache that is full grows, at least to twice its length."""

MASKED_ATTENTION = ("eager", "sdpa")
"""Attention implementations of transformers that take a mask with a column for every cell."""


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
        """Drop the last `-tokens_to_remove` tokens: transformers passes a negative number."""
        self.length += tokens_to_remove

    def reset(self) -> None:
        self.length = 0


class SlidingWindowLayer(DynamicSlidingWindowLayer):
    """A sliding window that returns what the mask expects, though it holds more tokens, for a rollback.

    transformers 5.17 returns all it holds; 5.23 returns what the mask expects.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        visible = self.sliding_window - 1 + key_states.shape[-2]
        return keys[:, :, -visible:], values[:, :, -visible:]


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
                cache.layers[i] = SlidingWindowLayer(layer.sliding_window)
        cache.activate_past_recording()
    return cache, plain


@dataclass
class Cells:
    """Which cells the next forward writes and sees. All layers of a cache share one of these.

    `slots`       of the cache, `length` cells each
    `first_slot`  that is fed; the slots that are fed follow each other
    `fed`         cells of the tokens that are fed, numbered through all slots, shape (slots that are fed * width,)
    `visible`     how many cells of each slot, from the first, attention reads
    """

    slots: int
    length: int
    first_slot: int
    fed: Tensor
    visible: int


class StaticLayer(CacheLayerMixin):
    """Keys and values of one attention layer, shape (slots, length, heads, dim)."""

    is_sliding = False
    _layer_type = None

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self._cells = cells

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.is_initialized = True

    def _empty(self, states: Tensor) -> Tensor:
        _, heads, _, dim = states.shape
        # Zeros: a hidden cell has weight 0, and 0 x NaN would be NaN.
        return states.new_zeros(self._cells.slots, self._cells.length, heads, dim)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self._updated(self.keys, key_states), self._updated(self.values, value_states)

    def _updated(self, held: Tensor, states: Tensor) -> Tensor:
        """Write what is fed. Returns what attention reads of the slots that are fed, shape (slots, heads, visible, dim)."""
        held.flatten(0, 1).index_copy_(0, self._cells.fed, states.transpose(1, 2).flatten(0, 1))
        return held.narrow(0, self._cells.first_slot, len(states)).narrow(1, 0, self._cells.visible).transpose(1, 2)

    def grow(self) -> None:
        """Move to buffers of the new length."""
        if self.keys is not None and self.values is not None:
            held = self.keys, self.values
            self.keys, self.values = (self._empty(old.transpose(1, 2)) for old in held)
            for old, new in zip(held, (self.keys, self.values), strict=True):
                new[:, : old.shape[1]] = old

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cells.visible, 0

    def get_seq_length(self) -> int:
        return 0  # sequences differ; `StaticCache.at` says where tokens stand

    def get_max_length(self) -> int:
        return self._cells.length


class StaticCache(Cache):
    """The cache of one model for `slots` sequences of up to `length` tokens. It serves the models that `why_not_static` allows.

    Use it with `torch.inference_mode`.
    """

    def __init__(self, model: PreTrainedModel, length: int, slots: int = 1) -> None:
        config = model.config.get_text_config(decoder=True)
        self._cells = Cells(slots, length, 0, torch.empty(0), length)
        super().__init__(layers=[StaticLayer(self._cells) for _ in DynamicCache(config=config).layers])
        self._dtype = model.dtype
        self._last_position = context_limit(model) - 1
        self._columns = torch.arange(length, device=model.device)
        self._slots = torch.arange(slots, device=model.device).unsqueeze(1)
        self._starts = length * self._slots

    @property
    def length(self) -> int:
        """Cells of each slot. Every position that is fed must be below, padding too."""
        return self._cells.length

    def at(self, positions: Tensor, visible: int | None = None, first_slot: int = 0) -> dict[str, Any]:
        """What a forward needs in addition to its tokens: `forward(input_ids=ids, **cache.at(positions))`.

        `positions`   of the tokens, integers of shape (slots that are fed, width), all different within a slot
        `visible`     how many cells attention reads, all of them unless given; every position must be below
        `first_slot`  the first of the slots that are fed
        """
        starts = self._starts[first_slot : first_slot + len(positions)]
        self._cells.first_slot, self._cells.fed = first_slot, (starts + positions).flatten()
        self._cells.visible = self.length if visible is None else visible
        hidden = self._columns[: self._cells.visible] > positions[:, None, :, None]
        mask = torch.zeros_like(hidden, dtype=self._dtype)  # a mask to add, since eager attention adds a boolean one too
        return {
            "attention_mask": mask.masked_fill_(hidden, torch.finfo(self._dtype).min),
            "position_ids": positions.clamp(max=self._last_position),  # padding may lie beyond the longest context
            "past_key_values": self,
        }

    def grow(self, length: int) -> None:
        """Give each slot `length` cells. What the cache holds stays."""
        self._cells.length = length
        self._columns = torch.arange(length, device=self._columns.device)
        self._starts = length * self._slots
        for layer in self.layers:
            assert isinstance(layer, StaticLayer)
            layer.grow()


def padded(tokens: Sequence[int], width: int) -> list[int]:
    """`tokens`, then any token up to `width`."""
    return [*tokens, *[0] * (width - len(tokens))]


def context_limit(model: PreTrainedModel) -> int:
    """The longest context, in tokens, that the configuration allows; `UNLIMITED` when it names none."""
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or UNLIMITED


def why_not_static(model: PreTrainedModel) -> str | None:
    """Why a `StaticCache` cannot serve `model`, in words that follow "because"; `None` when it can."""
    config = model.config.get_text_config(decoder=True)
    name = config.model_type
    attention: str | None = config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    static: bool = model._can_compile_fullgraph  # pyright: ignore[reportPrivateUsage]
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "")
    layers = DynamicCache(config=config).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return f"{name} has layers that are not plain attention (sliding windows, recurrent or shared ones)"
    if not static or "position_ids" not in signature(model.forward).parameters:
        return f"transformers' {name} does not work on a cache of static shapes"
    if attention not in MASKED_ATTENTION:
        return f"its attention implementation {attention} takes no mask of ours: load it with one of {MASKED_ATTENTION}"
    if rope == "longrope" or "dynamic" in rope:
        return f"{name}'s rotary angles ({rope}) depend on the longest sequence"
    return None
