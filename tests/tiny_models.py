"""The tiniest models, a processor that fails, and scripted dice: what the tests of several rooms share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from specdec.sampling import Dice
from specdec.testing.models import model


def minuscule(vocabulary: int, seed: int, **more: Any) -> Any:
    """The fastest model there is: one layer, one head."""
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes["initializer_range"] = 0.8
    return model("llama", vocabulary, seed, **(sizes | more))


class Broken:
    """A logits processor that answers NaN. A worker process can import it, since `tests/` is on `sys.path`."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, float("nan"))


class Beyond:
    """A logits processor that allows only the tokens from `first` on."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        allowed = torch.arange(scores.shape[-1], device=scores.device) >= self._first
        return scores.masked_fill(~allowed, -torch.inf)


class Scripted(Dice):
    """Dice that answer given uniforms, in order, and count how many were asked for."""

    def __init__(self, uniforms: Sequence[float]) -> None:
        self.uniforms = uniforms
        self.asked = 0

    def uniform(self) -> float:
        self.asked += 1
        return self.uniforms[self.asked - 1]


def grid(cells: int, dimensions: int) -> Iterator[tuple[float, ...]]:
    """Midpoints of all cells of the unit cube: averages over it are exact for every event whose borders are k/cells."""
    return itertools.product([(i + 0.5) / cells for i in range(cells)], repeat=dimensions)


def random_histories(steps: int, longest: int, seed: int, vocabulary: int = 12) -> Iterator[tuple[list[int], int]]:
    """Contexts as rounds make them, mostly cut back a little, now and then new; and how many positions of each to score."""
    source = random.Random(seed)
    context = [source.randrange(vocabulary)]
    for _ in range(steps):
        if source.random() < 0.08 or len(context) > longest:
            context = [source.randrange(vocabulary) for _ in range(source.randint(1, longest // 2))]
        else:
            keep = source.randint(max(1, len(context) - 6), len(context))
            context = context[:keep] + [source.randrange(vocabulary) for _ in range(source.randint(0, 5))]
        yield list(context), source.randint(1, min(6, len(context)))
