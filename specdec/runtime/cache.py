"""One cache of static shapes: many rows of different lengths, or one row under CUDA graphs.

Keys and values stand in buffers of shape (rows, length, heads, dim), each token's in the slot of its position. A forward
writes wherever its tokens stand and sees, in each row, the slots up to the token's own: what lies behind is invisible until
it is written again. So rolling back is going on from an earlier position, rows need not be equally long, and rows shorter
than the window are padded behind their end with any token. The cache does not know how long its rows are; its caller does.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from specdec.runtime.runner import context_limit

MASKED_ATTENTION = ("eager", "sdpa")
"""Attention implementations of transformers that take a mask with a column for every slot."""


@dataclass
class Slots:
    """Where the next forward writes and how far it sees; all layers of a cache share one.

    `rows`       of the cache, `length` slots each
    `first_row`  that is fed; those that are follow each other
    `fed`        slots of the tokens that are fed, counted through all rows, shape (rows that are fed * width,)
    `visible`    how many slots, from the first, attention reads
    """

    rows: int
    length: int
    first_row: int
    fed: Tensor
    visible: int


class StaticLayer(CacheLayerMixin):
    """Keys and values of one attention layer, of shape (rows, length, heads, dim): a token's are written at once."""

    is_sliding = False
    _layer_type = None

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.is_initialized = True

    def _empty(self, states: Tensor) -> Tensor:
        _, heads, _, dim = states.shape
        # Zeros, since masked slots weigh 0, and 0 x NaN would be NaN.
        return states.new_zeros(self._slots.rows, self._slots.length, heads, dim)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self._updated(self.keys, key_states), self._updated(self.values, value_states)

    def _updated(self, held: Tensor, states: Tensor) -> Tensor:
        """Write what is fed; what attention reads of the rows that are fed, shape (rows, heads, visible, dim)."""
        held.flatten(0, 1).index_copy_(0, self._slots.fed, states.transpose(1, 2).flatten(0, 1))
        return held.narrow(0, self._slots.first_row, len(states)).narrow(1, 0, self._slots.visible).transpose(1, 2)

    def grow(self) -> None:
        """Move to buffers of the slots' new length."""
        if self.keys is not None and self.values is not None:
            held = self.keys, self.values
            self.keys, self.values = (self._empty(old.transpose(1, 2)) for old in held)
            for old, new in zip(held, (self.keys, self.values), strict=True):
                new[:, : old.shape[1]] = old

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._slots.visible, 0

    def get_seq_length(self) -> int:
        return 0  # rows differ; where tokens stand is said by `StaticCache.at`

    def get_max_length(self) -> int:
        return self._slots.length


class StaticCache(Cache):
    """The cache of one model, for `rows` sequences of up to `length` tokens.

    Use it with `torch.inference_mode`. Only models that `why_not_static` has nothing against are served.
    """

    def __init__(self, model: PreTrainedModel, length: int, rows: int = 1) -> None:
        config = model.config.get_text_config(decoder=True)
        self._slots = Slots(rows, length, 0, torch.empty(0), length)
        super().__init__(layers=[StaticLayer(self._slots) for _ in DynamicCache(config=config).layers])
        self._dtype = model.dtype
        self._last_position = (context_limit(model) or 1_000_000_000) - 1
        self._columns = torch.arange(length, device=model.device)
        self._rows = torch.arange(rows, device=model.device).unsqueeze(1)
        self._starts = length * self._rows

    @property
    def length(self) -> int:
        """Slots of each row; every position that is fed lies below it, those of padding too."""
        return self._slots.length

    def at(self, positions: Tensor, visible: int | None = None, first_row: int = 0) -> dict[str, Any]:
        """What a forward needs beside its tokens: `forward(input_ids=ids, **cache.at(positions))`.

        `positions` are the tokens' own, integers of shape (rows, width), different within a row; the rows that are fed begin
        with `first_row`. `visible` bounds the slots that attention reads, all of them unless the caller knows that every
        position lies below it.
        """
        starts = self._starts[first_row : first_row + len(positions)]
        self._slots.first_row, self._slots.fed = first_row, (starts + positions).flatten()
        self._slots.visible = self.length if visible is None else visible
        hidden = self._columns[: self._slots.visible] > positions[:, None, :, None]
        mask = torch.zeros_like(hidden, dtype=self._dtype)  # to be added: eager attention adds a boolean one, too
        return {
            "attention_mask": mask.masked_fill_(hidden, torch.finfo(self._dtype).min),
            "position_ids": positions.clamp(max=self._last_position),  # padding may stand behind the longest context
            "past_key_values": self,
        }

    def grow(self, length: int) -> None:
        """Give each row `length` slots; what is held stays."""
        self._slots.length = length
        self._columns = torch.arange(length, device=self._columns.device)
        self._starts = length * self._rows
        for layer in self.layers:
            assert isinstance(layer, StaticLayer)
            layer.grow()


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
        return f"{name}'s rotary angles ({rope}) depend on the longest row"
    return None
