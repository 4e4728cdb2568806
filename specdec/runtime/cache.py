"""The caches of a model: one that is rolled back, for a single sequence, and one of static shapes.

The cache of a single sequence (`new_cache`) grows with it. A `CachePlan` says how it is rolled back: `specdec.runtime.layers`
holds layers that are cut, `specdec.runtime.recurrent` puts back copies of those that cannot be.

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

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer, get_layer_types_and_kwargs

from specdec.runtime.layers import SlidingLayer, TrimmableLayer
from specdec.runtime.placement import device_of, several_devices

UNLIMITED = 1_000_000_000
"""The context limit, in tokens, of a model whose configuration names none."""

LENGTH = 512
"""Cells of each slot of a static cache at first. A cache that is full grows, at least to twice its length."""

CACHE_NAMES = ("past_key_values", "cache_params", "cache")
"""What forwards of transformers call their cache; `cache` from 5.24 on."""

MASKED_ATTENTION = ("eager", "sdpa")
"""Attention implementations of transformers that take a mask with a column for every cell."""

CHANGING_ANGLES = ("longrope", "dynamic")
"""Kinds of rotary angles that change with the length of the sequence."""

NOT_PLAIN = "has layers that are not plain attention (sliding windows, recurrent or shared ones)"


@dataclass(frozen=True)
class CachePlan:
    """How the cache of a model is used. `specdec.runtime.admission.admit` finds it out.

    `rollback`  `"cut"` where keys of later tokens are dropped, `"restore"` where copies of earlier states are put back
    `widest`    the most tokens that a forward on a cache reads rightly; `None` for any number
    `batched`   whether sequences of a batch share one forward, on a static cache
    """

    rollback: Literal["cut", "restore"]
    widest: int | None = None
    batched: bool = False


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for one sequence. What can be cut is in layers of ours; what cannot stays as transformers makes it."""
    own = own_cache(model)
    if own is not None:
        return own()
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = TrimmableLayer()
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[i] = SlidingLayer(layer.sliding_window)
    return cache


def own_cache(model: PreTrainedModel) -> type[DynamicCache] | None:
    """The kind of cache that a model's file defines for it (MiniMax); `None` for nearly all models."""
    file = sys.modules[type(model).__module__]
    kinds = [kind for kind in vars(file).values() if isinstance(kind, type) and issubclass(kind, DynamicCache)]
    return next((kind for kind in kinds if kind.__module__ == file.__name__), None)


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
        self._windows = windows(config)
        self._dtype = model.dtype
        self._last_position = context_limit(model) - 1
        self._columns = torch.arange(length, device=device_of(model))
        self._slots = torch.arange(slots, device=device_of(model)).unsqueeze(1)
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
        self._feed_to(positions, self.length if visible is None else visible, first_slot)
        masks = {kind: self._mask(positions[:, None, :, None], kind, window) for kind, window in self._windows}
        return self._options(positions, masks if len(masks) > 1 else next(iter(masks.values())))

    def beside(self, positions: Tensor, cells: Tensor, mask: Tensor, first_slot: int = 0) -> dict[str, Any]:
        """What a forward needs whose tokens do not lie in the cells of their positions. Attention must be plain.

        `cells`   of the tokens, of the shape of `positions`
        `mask`    what to add to the scores, shape (slots that are fed, 1, width, cells that attention reads)
        """
        self._feed_to(cells, mask.shape[-1], first_slot)
        return self._options(positions, mask)

    def _feed_to(self, cells: Tensor, visible: int, first_slot: int) -> None:
        starts = self._starts[first_slot : first_slot + len(cells)]
        self._cells.first_slot, self._cells.fed = first_slot, (starts + cells).flatten()
        self._cells.visible = visible

    def _options(self, positions: Tensor, mask: Any) -> dict[str, Any]:
        return {
            "attention_mask": mask,
            "position_ids": positions.clamp(max=self._last_position),  # padding may lie beyond the longest context
            "past_key_values": self,
        }

    def _mask(self, positions: Tensor, kind: str, window: int | None) -> Tensor:
        """What to add to the scores of each token and cell. A layer with a window reads the cells inside only."""
        columns = self._columns[: self._cells.visible]
        hidden = columns > positions
        if window is not None:
            first = positions // window * window if kind == "chunked_attention" else positions - window + 1
            hidden |= columns < first
        mask = torch.zeros_like(hidden, dtype=self._dtype)  # a mask to add, since eager attention adds a boolean one too
        return mask.masked_fill_(hidden, torch.finfo(self._dtype).min)

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


def forward_parameters(model: PreTrainedModel) -> Mapping[str, Parameter]:
    """The named parameters of the model's forward; of the wrapped model's where adapters or `torch.compile` wrap it.

    A forward of `(*args, **kwargs)` hands on what it is given: the parameters are those of the first that names a cache.
    """
    plain: Any = unwrapped(model)
    forwards = [plain.forward, *(vars(kind)["forward"] for kind in type(plain).mro() if "forward" in vars(kind))]
    found = [signature(forward).parameters for forward in forwards]
    return next((own for own in found if not own.keys().isdisjoint(CACHE_NAMES)), found[0])


def unwrapped(model: PreTrainedModel) -> Any:
    """The model inside adapters or `torch.compile`."""
    wrapped: Any = getattr(model, "_orig_mod", model)
    return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped


def cache_name(model: PreTrainedModel) -> str | None:
    """The name of the parameter of the model's forward that takes its cache; `None` where there is none."""
    return next((name for name in CACHE_NAMES if name in forward_parameters(model)), None)


def stretched_beyond(model: PreTrainedModel) -> int | None:
    """The context, in tokens, beyond which all rotary angles are others (longrope); `None` where angles never change."""
    borders = [rope.get("original_max_position_embeddings") for rope in _ropes(model) if rope.get("rope_type") == "longrope"]
    return min((border for border in borders if border), default=None)


def mixes_angles(model: PreTrainedModel) -> bool:
    """Whether `generate` keeps keys of short contexts beside those of long ones when longrope's border is crossed.

    A few classes (Phi-3, PhiMoE, Phi-4) read the whole context again there, as a runner does.
    """
    prepares: list[Any] = [vars(kind).get("prepare_inputs_for_generation") for kind in type(unwrapped(model)).mro()]
    names = [prepare.__code__.co_names for prepare in prepares if hasattr(prepare, "__code__")]
    return stretched_beyond(model) is not None and not any("original_max_position_embeddings" in own for own in names)


def _ropes(model: PreTrainedModel) -> list[dict[str, Any]]:
    """The rotary parameters of the model, or of each of its layer types."""
    rope: dict[str, Any] = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [rope, *(one for one in rope.values() if isinstance(one, dict))]


def windows(config: PreTrainedConfig) -> set[tuple[str, int | None]]:
    """The types of a model's layers, each with the tokens that its attention sees; `None` for all of them."""
    types, options = get_layer_types_and_kwargs(config)
    return {(kind, more.get("sliding_window")) for kind, more in zip(types, options, strict=True)}


def why_not_plain(model: PreTrainedModel) -> str | None:
    """Why `model` has more than plain attention layers, in words that follow "because"; `None` when it has not."""
    layers = DynamicCache(config=model.config).layers
    plain = layers and all(type(layer) is DynamicLayer for layer in layers)
    return None if plain else f"{model.config.get_text_config(decoder=True).model_type} {NOT_PLAIN}"


def why_not_static(model: PreTrainedModel) -> str | None:
    """Why a `StaticCache` cannot serve `model`, in words that follow "because"; `None` when it can."""
    config = model.config.get_text_config(decoder=True)
    name = config.model_type
    attention: str | None = config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    static: bool = model._can_compile_fullgraph  # pyright: ignore[reportPrivateUsage]
    changing = [rope["rope_type"] for rope in _ropes(model) if rope.get("rope_type") in CHANGING_ANGLES]
    layers = DynamicCache(config=config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return f"{name} has recurrent, shared or indexed layers"
    if len(windows(config)) > len({kind for kind, _ in windows(config)}):
        return f"{name}'s layers of one type have windows of different sizes"
    if (spread := several_devices(model)) is not None:
        return spread
    if not static or "position_ids" not in forward_parameters(model):
        return f"transformers' {name} does not work on a cache of static shapes"
    if attention not in MASKED_ATTENTION:
        return f"its attention implementation {attention} takes no mask of ours: load it with one of {MASKED_ATTENTION}"
    if changing:
        return f"{name}'s rotary angles ({changing[0]}) depend on the longest sequence"
    return None
