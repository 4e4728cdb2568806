"""Copies of the states that cannot be cut: recurrent layers, convolutions, and layers that nobody here knows.

A key belongs to one token, so a cache of keys is cut. A recurrent state holds all tokens before it. To roll it back is to put
an earlier copy back, and to feed the tokens after that copy again. Copies are few: whenever there are more than `MOST_COPIES`,
every second one is dropped. So the copies are dense near the end of the sequence and sparse far from it, and their memory is
bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import (
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
)

from specdec.runtime.layers import SlidingLayer, TrimmableLayer

MOST_COPIES = 8

CUT = (TrimmableLayer, SlidingLayer, DummyLayer)
"""Layers that `crop` rolls back, whatever else the cache holds."""


def is_recurrent(cache: Cache) -> bool:
    """Whether a cache holds states that no `crop` can roll back."""
    return type(cache) is not DynamicCache or any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def recurrent_states(cache: Cache) -> list[Tensor]:
    """The states of all recurrent layers that have any."""
    linear = [layer for layer in cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin)]
    return [state for layer in linear for state in layer.recurrent_states.values() if state is not None]


class Copies:
    """Copies of what `cache` cannot cut, each taken at some length of the sequence, the shortest first."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._taken: list[tuple[int, list[dict[str, Any]]]] = []

    def take(self, length: int) -> None:
        """Copy the states of a sequence of `length` tokens, unless they were copied already."""
        if length == 0 or (self._taken and self._taken[-1][0] == length):
            return
        self._taken.append((length, [{name: _copy(vars(own)[name]) for name in names} for own, names in self._owners()]))
        if len(self._taken) > MOST_COPIES:
            del self._taken[-2::-2]

    def newest(self, length: int) -> int:
        """The length of the newest copy of at most `length`; 0 where there is none."""
        return max((taken for taken, _ in self._taken if taken <= length), default=0)

    def put_back(self, length: int, held: int) -> int:
        """Roll back from `held` tokens to the `newest` copy of at most `length`, which there must be. Returns its length."""
        while self._taken[-1][0] > length:
            self._taken.pop()
        reached, copies = self._taken.pop()
        for (own, _), copy in zip(self._owners(), copies, strict=True):
            vars(own).update(copy)
        for layer in self._cache.layers:
            if isinstance(layer, LinearAttentionAndFullAttentionLayer) or type(layer) is DynamicLayer:
                DynamicLayer.crop(layer, reached - held)
            elif isinstance(layer, CUT):
                layer.crop(reached - held)
        return reached

    def _owners(self) -> Iterator[tuple[object, list[str]]]:
        """What holds states, and the attributes to copy. Keys and values of all tokens are cut instead."""
        if type(self._cache) is not DynamicCache:  # a cache of the model's own
            yield self._cache, [name for name in vars(self._cache) if name != "layers"]
        for layer in self._cache.layers:
            if isinstance(layer, LinearAttentionAndFullAttentionLayer):
                yield layer, [name for name in vars(layer) if name not in ("keys", "values")]
            elif not isinstance(layer, CUT) and type(layer) is not DynamicLayer:
                yield layer, list(vars(layer))


def _copy(state: Any) -> Any:
    """A copy that no forward changes: tensors are updated in place, in lists and dictionaries too."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copy(value) for key, value in state.items()}
    return [_copy(value) for value in state] if isinstance(state, list) else state
