"""The tiniest models, a processor that fails, and scripted dice: what the tests of several rooms share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from specdec.runtime.runner import Runner
from specdec.sampling import Dice
from specdec.testing.models import SMALL, causal, model


def minuscule(vocabulary: int, seed: int, **more: Any) -> Any:
    """The fastest model there is: one layer, one head."""
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes["initializer_range"] = 0.8
    return model("llama", vocabulary, seed, **(sizes | more))


STATIC = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma3")
"""Architectures that a static cache serves."""


def attending(architecture: str, vocabulary: int = 12, **more: Any) -> Any:
    """A model whose attention is exact in float64."""
    of = model(architecture, vocabulary, seed=1, **more)
    of.set_attn_implementation("sdpa")
    return of


LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
STATES: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}

HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": LINEAR | EXPERTS | {"shared_expert_intermediate_size": 8},
    "qwen3_5_text": LINEAR,
    "falcon_h1": STATES | {"mamba_d_ssm": 32, "mamba_chunk_size": 4},
    "bamba": STATES | {"attn_layer_indices": [1], "mamba_chunk_size": 4},
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 4, "chunk_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    }
    | {"num_experts": 2, "num_experts_per_tok": 1},
    "mamba": {"state_size": 4},
}
"""Models with recurrent layers, and convolutions: what their types add to `SMALL`."""


def hybrid(name: str, vocabulary: int, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    """A random model with a layer that cannot be cut. Its states weigh enough to be missed."""
    sizes = SMALL if name not in ("mamba", "mamba2") else {key: one for key, one in SMALL.items() if "head" not in key}
    config = AutoConfig.for_model(name, vocab_size=vocabulary, max_position_embeddings=128, **(sizes | HYBRIDS[name]))
    made = causal(config, seed, dtype)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter, weight in made.named_parameters():
            if weight.dim() == 2 and "A_log" not in parameter:
                weight.normal_(0, 1 if "embed" in parameter else weight.shape[1] ** -0.5)
    return made


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


def cut_short(cached: Runner, error: type[BaseException]) -> None:
    """Feed a runner, and interrupt its next forward between two layers, of which the first has stored its keys already."""
    cached.logits([1, 2, 3, 4, 5, 6], 1)

    def interrupt(*_: Any) -> None:
        raise error

    layers: Any = cached.model.model.layers
    handle = layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        cached.logits([1, 2, 3, 4, 5, 6, 7, 8], 1)
    handle.remove()


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
