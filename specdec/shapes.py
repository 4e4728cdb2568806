"""Models of a known shape with random weights, made on the device: the cost of a forward without a download.

    Pair.load("shape:llama-8b", "shape:llama-1b", device="cuda")
    specdec bench --target shape:llama-8b --draft shape:llama-1b --verification synthetic:0.8

Sizes are those of the published Llama 3.1 and 3.2 configurations; the context is 8,192 tokens. The 160M and 68M drafts have
Llama 3's vocabulary, as its draft must. Their heads are larger than those of the published models of these names; they have
as many parameters, in fewer layers. The tiny shapes are for tests on a CPU. There is no tokenizer, and tokens mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specdec.errors import PairError
from specdec.inputs import did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PREFIX = "shape:"

CONTEXT_LIMIT = 8192


def _sizes(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, *, vocabulary: int = 128_256, tied: bool = True
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "llama-70b-20-of-80-layers": _sizes(8192, 28672, 20, 64, 8, tied=False),
    "llama-8b": _sizes(4096, 14336, 32, 32, 8, tied=False),
    "llama-1b": _sizes(2048, 8192, 16, 32, 8),
    "llama-160m": _sizes(768, 3072, 7, 12, 12),
    "llama-68m": _sizes(512, 1024, 1, 8, 2),
    "tiny-target": _sizes(64, 128, 2, 4, 2, vocabulary=512, tied=False),
    "tiny-draft": _sizes(32, 64, 1, 2, 1, vocabulary=512),
}
"""Arguments of `LlamaConfig` by name."""


def is_shape(name: object) -> bool:
    """Whether a name is that of a shape."""
    return str(name).startswith(PREFIX)


def build(name: str, device: str, dtype: str | torch.dtype) -> PreTrainedModel:
    """The model of the shape `shape:NAME`, always with the same random weights, made on `device` in `dtype`.

    Raises `PairError` for an unknown name, and torch's own error where the device is missing or too small.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise PairError(f"unknown shape {shape!r}: {did_you_mean(shape, SHAPES) or 'there are ' + ', '.join(SHAPES)}")
    where = torch.device(device)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=CONTEXT_LIMIT, bos_token_id=None, eos_token_id=None)
    config.name_or_path = name
    with torch.random.fork_rng([where] if where.type == "cuda" else []), where:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
