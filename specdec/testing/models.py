"""Tiny models of random weights and tokenizers, for tests. All are made here, in milliseconds, from a seed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
"""Sizes of most models here. The wide initialisation makes rows that differ from context to context."""

SLIDING: dict[str, Any] = {"sliding_window": 5}
GEMMA: dict[str, Any] = SLIDING | {"query_pre_attn_scalar": 8}

GPT2: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.6,
    "bos_token_id": None,
    "eos_token_id": None,
}
MAMBA: dict[str, Any] = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}

CONFIGS: dict[str, Any] = {
    "llama": lambda v, **more: LlamaConfig(vocab_size=v, **(SMALL | more)),
    "gpt2": lambda v, **more: GPT2Config(vocab_size=v, **(GPT2 | more)),
    "qwen2": lambda v, **more: Qwen2Config(vocab_size=v, **(SMALL | more)),
    "qwen3": lambda v, **more: Qwen3Config(vocab_size=v, **(SMALL | more)),
    "mistral": lambda v, **more: MistralConfig(vocab_size=v, **(SMALL | SLIDING | more)),
    "gemma2": lambda v, **more: Gemma2Config(vocab_size=v, **(SMALL | GEMMA | more)),
    "gemma3": lambda v, **more: Gemma3TextConfig(vocab_size=v, **(SMALL | GEMMA | more)),
    "mamba": lambda v, **more: MambaConfig(vocab_size=v, **(MAMBA | more)),
}
"""Architectures by name: plain attention with rotary and with learned positions, and sliding windows."""


def model(
    architecture: str = "llama", vocabulary: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64, **more: Any
) -> Any:
    """A random causal language model; `more` overrides its configuration."""
    return causal(CONFIGS[architecture](vocabulary, **more), seed, dtype)


def causal(config: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A random causal language model of a configuration. Its attention and its experts are plain products, for float64."""
    config._attn_implementation = config._experts_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    return made.to(dtype).eval()


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


def fresh_logits(of: Any, context: Sequence[int], positions: int = 1) -> Tensor:
    """Logits after the last `positions` prefixes of `context`, without any cache: shape (positions, vocabulary)."""
    with torch.inference_mode():
        return of(input_ids=torch.tensor([list(context)], device=of.device), use_cache=False).logits[0, -positions:]


def greedy_tokens(of: Any, prompt: Sequence[int], new_tokens: int) -> tuple[int, ...]:
    """The model's own tokens at temperature 0, computed without a cache, a strategy or the decoding loop."""
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(int(fresh_logits(of, tokens)[-1].argmax()))
    return tuple(tokens[len(prompt) :])
