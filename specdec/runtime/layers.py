"""Layers of the cache of one sequence that are cut to roll back: keys and values in buffers.

`TrimmableLayer` holds every token. `SlidingLayer` is for attention that sees a window of the last tokens, and holds the window
and a margin. transformers can record what left the window, but then it holds every key until the next roll-back, and copies all
of them in each step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

FIRST_CAPACITY = 256
"""Tokens that the buffer of a layer holds at first, or twice the prompt if that is more."""

MARGIN = 64
"""Tokens that are held beyond the window. A roll-back of no more tokens than these always finds its window."""


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
        capacity = max(FIRST_CAPACITY, 2 * key_states.shape[-2])
        self.keys, self.values = _rows(key_states, capacity), _rows(value_states, capacity)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        end = self.length + key_states.shape[-2]
        if end > keys.shape[-2]:
            room = max(2 * keys.shape[-2], end)
            self.keys = keys = _moved(keys, 0, self.length, room)
            self.values = values = _moved(values, 0, self.length, room)
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


class SlidingLayer(CacheLayerMixin):
    """Keys and values of the last tokens, shape (1, heads, capacity, dim). A token sees `window` tokens, itself among them.

    `length`    tokens of the whole sequence
    `shortest`  the fewest tokens that `crop` can cut the sequence to; what it sees before that was dropped
    """

    is_sliding = True
    is_croppable = True
    _layer_type = None

    def __init__(self, window: int) -> None:
        super().__init__()
        self._reach = window - 1
        self._most = 2 * (self._reach + MARGIN)
        self.length = self._dropped = 0

    @property
    def shortest(self) -> int:
        return self._dropped + self._reach if self._dropped else 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = _rows(key_states, FIRST_CAPACITY), _rows(value_states, FIRST_CAPACITY)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store what is fed. Returns what attention reads: the window before the first of these tokens, and all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        held, fed = self.length - self._dropped, key_states.shape[-2]
        dropped = 0
        if held + fed > self.keys.shape[-2]:
            if held + fed > self._most:
                dropped = max(0, held - self._reach - MARGIN)
            room = max(held - dropped + fed, min(2 * self.keys.shape[-2], self._most))
            self.keys = _moved(self.keys, dropped, held, room)
            self.values = _moved(self.values, dropped, held, room)
        held -= dropped
        self._dropped += dropped
        self.keys.narrow(2, held, fed).copy_(key_states)
        self.values.narrow(2, held, fed).copy_(value_states)
        self.length += fed
        first = max(0, held - self._reach)
        return self.keys.narrow(2, first, held + fed - first), self.values.narrow(2, first, held + fed - first)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        seen = min(self.length, self._reach)
        return seen + query_length, self.length - seen

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self._reach + 1

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last `-tokens_to_remove` tokens: transformers passes a negative number."""
        self.length += tokens_to_remove
        assert self.length >= self.shortest

    def reset(self) -> None:
        self.length = self._dropped = 0


def _rows(states: Tensor, capacity: int) -> Tensor:
    return states.new_empty(*states.shape[:2], capacity, states.shape[-1])


def _moved(held: Tensor, start: int, end: int, capacity: int) -> Tensor:
    """A buffer that begins with the tokens from `start` to `end` of another."""
    moved = _rows(held, capacity)
    moved.narrow(2, 0, end - start).copy_(held.narrow(2, start, end - start))
    return moved
