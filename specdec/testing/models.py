"""Tiny random models, tokenizers and helpers that the tests share. Everything is made here, in milliseconds, from a seed."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from specdec.sampling import Dice

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.6,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Sizes of most models here. The wide initialisation makes rows that differ from history to history."""

SLIDING: dict[str, Any] = {"sliding_window": 5}
GEMMA: dict[str, Any] = SLIDING | {"query_pre_attn_scalar": 8}

CONFIGS: dict[str, Any] = {
    "llama": lambda v, **more: LlamaConfig(vocab_size=v, **(SMALL | more)),
    "gpt2": lambda v, **more: GPT2Config(
        vocab_size=v,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=more.get("max_position_embeddings", 128),
        initializer_range=0.6,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "qwen2": lambda v, **more: Qwen2Config(vocab_size=v, **(SMALL | more)),
    "qwen3": lambda v, **more: Qwen3Config(vocab_size=v, **(SMALL | more)),
    "mistral": lambda v, **more: MistralConfig(vocab_size=v, **(SMALL | SLIDING | more)),
    "gemma2": lambda v, **more: Gemma2Config(vocab_size=v, **(SMALL | GEMMA | more)),
    "gemma3": lambda v, **more: Gemma3TextConfig(vocab_size=v, **(SMALL | GEMMA | more)),
    "mamba": lambda v, **more: MambaConfig(vocab_size=v, hidden_size=16, state_size=4, num_hidden_layers=2),
}
"""Architectures by name: plain attention with rotary and with learned positions, and sliding windows."""


def model(
    architecture: str = "llama", vocabulary: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any
) -> Any:
    """A random causal language model; `more` overrides its configuration."""
    config = CONFIGS[architecture](vocabulary, **more)
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    return made.to(dtype).eval()


def minuscule(vocabulary: int, seed: int, **more: Any) -> Any:
    """The fastest model there is: one layer, one head."""
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes["initializer_range"] = 0.8
    return model("llama", vocabulary, seed, **(sizes | more))


def resembling(target: Any, noise: float = 0.05, seed: int = 1) -> Any:
    """A draft that often agrees with `target`: its weights with a little noise on them."""
    draft = copy.deepcopy(target)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for weight in draft.parameters():
            weight.add_(noise * weight.std(correction=0) * torch.randn_like(weight))
    return draft


def byte_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer whose vocabulary is `words`, written in GPT-2's byte alphabet (`Ã` is the byte 0xC3)."""
    raw = Tokenizer(BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


def fresh_logits(of: Any, context: Sequence[int], rows: int = 1) -> Tensor:
    """What the model says of the last `rows` prefixes of `context`, without any cache."""
    with torch.inference_mode():
        return of(input_ids=torch.tensor([list(context)]), use_cache=False).logits[0, -rows:]


def greedy_tokens(of: Any, prompt: Sequence[int], new_tokens: int) -> tuple[int, ...]:
    """Autoregressive argmax decoding without cache, strategy or loop of ours."""
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(int(fresh_logits(of, tokens)[-1].argmax()))
    return tuple(tokens[len(prompt) :])


class Broken:
    """A logits processor that answers NaN. Unlike one defined in a test, a worker process can import it."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, float("nan"))


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
    """Contexts as rounds make them, and how many rows are asked of each: mostly cut back a little, now and then anew."""
    source = random.Random(seed)
    context = [source.randrange(vocabulary)]
    for _ in range(steps):
        if source.random() < 0.08 or len(context) > longest:
            context = [source.randrange(vocabulary) for _ in range(source.randint(1, longest // 2))]
        else:
            keep = source.randint(max(1, len(context) - 6), len(context))
            context = context[:keep] + [source.randrange(vocabulary) for _ in range(source.randint(0, 5))]
        yield list(context), source.randint(1, min(6, len(context)))
