"""What a model weighs: transformers builds it of its config on the meta device, where weights take no memory.

Counted are weights, experts, what a quantisation leaves of a weight, and keys and values by the kinds of layers. Not counted:
towers for pictures and sound, the states of linear attention, and what kernels need besides weights. Imports transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specdec.errors import InputError
from specdec.inputs import did_you_mean

Facts = dict[str, float]
BYTES = 2.0
"""Of a number that is not quantised: engines hold weights, keys and values in 16 bits."""

MOST_LAYERS, MOST_EXPERTS = 1000, 10_000
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_k")
SPARED = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules")
"""Where a quantisation names the modules that it leaves alone."""


def model_facts(path: Path) -> Facts:
    """The fields of `sim.ModelSize` from a `config.json`, or the folder that holds it.

    Raises `InputError` for a file that cannot be read, a model that transformers cannot build, an unknown quantisation, and a
    model that keeps a state besides keys and values.
    """
    path = path / "config.json" if path.is_dir() else path
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"model config {path} cannot be read ({error.strerror}): give a config.json or its folder") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"model config {path} is not JSON ({error}): give the config.json of a model") from error
    return facts_of(written, f"model config {path}")


def facts_of(written: Any, source: str) -> Facts:
    """The same from the content of a config; `source` is what errors call it."""
    kind = written.get("model_type") if isinstance(written, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        close = did_you_mean(kind, list(CONFIG_MAPPING)) if isinstance(kind, str) else ""
        hint = close or "give the config.json of a model that transformers knows"
        raise InputError(f"{source} has model_type {kind!r}: {hint}")
    quantisation = written.get("quantization_config") or (written.get("text_config") or {}).get("quantization_config")
    try:
        config = CONFIG_MAPPING[kind].from_dict(written)
        text = config.get_text_config(decoder=True)
        if not 1 <= text.num_hidden_layers <= MOST_LAYERS:
            raise ValueError(f"{text.num_hidden_layers} layers")
        if (_first(text, EXPERTS) or 1) > MOST_EXPERTS:
            raise ValueError(f"{_first(text, EXPERTS)} experts")
        for part in (config, text):
            part.__dict__.pop("quantization_config", None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text if text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else config)
        return _weighed(model, text, _Quantisation.of(quantisation, source)) | _cache(model, text, source)
    except InputError as error:
        raise InputError(str(error) if source in str(error) else f"{source}: {error}") from error
    except Exception as error:  # a config may hold anything, and every model checks its own in its own way
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{source} is not one that transformers builds as a decoder ({said}): correct the config") from error


@dataclass(frozen=True)
class _Quantisation:
    """Bytes of a weight of the layers, the scales of its group included, and the modules that are spared."""

    bytes: float = BYTES
    spared: tuple[str, ...] = ()
    experts_only: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any] | None, source: str) -> _Quantisation:
        if not config:
            return cls()
        method = str(config.get("quant_method", "")).lower().replace("-", "_")
        spared = tuple(name for key in SPARED for name in config.get(key) or ())
        match method:
            case "fp8" | "fbgemm_fp8" | "finegrained_fp8":
                return cls(1.0, spared)
            case "awq" | "gptq" | "auto_round" | "gptqmodel":
                bits, group = int(config.get("bits") or config.get("w_bit") or 4), int(config.get("group_size") or 128)
                return cls(bits / 8 + ((2 + bits / 8) / group if group > 0 else 0), spared)
            case "bitsandbytes":
                half = config.get("load_in_4bit") or config.get("_load_in_4bit")
                return cls((0.5 + (1 if config.get("bnb_4bit_use_double_quant") else 4) / 64) if half else 1.0, spared)
            case "compressed_tensors":
                return cls(_compressed(config), spared)
            case "mxfp4":
                return cls(0.5 + 1 / 32, spared, experts_only=True)
            case _:
                known = "fp8, awq, gptq, bitsandbytes, compressed-tensors and mxfp4 are known"
                raise InputError(
                    f"{source} is quantised by {method or 'an unnamed method'!r}: {known}; give another checkpoint"
                )

    def of_weight(self, name: str, weight: torch.Tensor) -> float:
        """Bytes of a number of this weight, which belongs to a layer."""
        expert = _is_expert(name)
        spared = weight.ndim < 2 or any(_named(name, entry) for entry in self.spared) or (self.experts_only and not expert)
        return BYTES if spared or (expert and "bias" in name) else self.bytes


def _compressed(config: Mapping[str, Any]) -> float:
    groups = [group.get("weights") for group in (config.get("config_groups") or {}).values() if isinstance(group, dict)]
    weights = next((group for group in groups if group), None)
    if weights is None:
        return BYTES
    group = weights.get("group_size") or 0
    return int(weights.get("num_bits", 8)) / 8 + (BYTES / group if group > 0 else 0)


def _named(name: str, entry: str) -> bool:
    return bool(re.search(entry[3:], name)) if entry.startswith("re:") else entry in name


def _is_expert(name: str) -> bool:
    return ".experts." in name


def _first(config: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)


def _weighed(model: Any, config: Any, quantisation: _Quantisation) -> Facts:
    """Numbers of weights, and bytes of them, in all and by experts."""
    head = model.get_output_embeddings()
    kept = None if head is None else head.weight
    lookups = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding) and part.weight is not kept}
    total = read_only_by_row = stored = routed = routed_bytes = 0.0
    for name, weight in model.named_parameters():
        table = id(weight) in lookups or weight is kept
        size, width = weight.numel(), BYTES if table else quantisation.of_weight(name, weight)
        total, stored = total + size, stored + size * width
        read_only_by_row += size * (id(weight) in lookups)
        if _is_expert(name):
            routed, routed_bytes = routed + size, routed_bytes + size * width
    facts: Facts = {"parameters": total, "bytes_per_parameter": stored / total, "lookup_parameters": read_only_by_row}
    facts |= {"layers": config.num_hidden_layers, "hidden": config.hidden_size}
    experts = _first(config, EXPERTS)
    if (experts or 1) > 1:
        per_token = _first(config, EXPERTS_PER_TOKEN)
        if not routed or per_token is None:
            raise InputError("its experts are not found: give a dense model, or one with num_experts_per_tok")
        facts |= {"experts": float(experts or 1), "experts_per_token": per_token, "expert_parameters": routed}
        facts |= {"expert_bytes_per_parameter": routed_bytes / routed}
    return facts


def _cache(model: Any, config: Any, source: str) -> Facts:
    """Bytes of keys and values that a token adds, and over how many GPUs they can be split."""
    kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)
    layers = list(zip(kinds, getattr(config, "per_layer_config", None) or [config] * len(kinds), strict=True))
    layers = layers[: len(layers) - (getattr(config, "num_kv_shared_layers", None) or 0)]
    layers = [(kind, layer) for kind, layer in layers if not kind.startswith("linear")]
    stateful = model._is_stateful and len(layers) == config.num_hidden_layers
    if stateful or not layers or any("attention" not in kind for kind, _ in layers):
        raise InputError(f"{source} keeps a state that is not keys and values: give a model whose layers are attention")
    if getattr(config, "kv_lora_rank", None):  # multi-head latent attention: one compressed vector for all heads
        return {"cache_bytes_per_token": len(layers) * BYTES * (config.kv_lora_rank + config.qk_rope_head_dim), "key_heads": 1}
    sizes = [2 * BYTES * _key_heads(layer) * _dimension(layer) for _, layer in layers]
    facts: Facts = {"cache_bytes_per_token": sum(sizes), "key_heads": min(_key_heads(layer) for _, layer in layers)}
    window = _first(config, ("sliding_window", "attention_chunk_size"))
    sliding = sum(size for size, (kind, _) in zip(sizes, layers, strict=True) if kind != "full_attention")
    return facts | ({"window": window, "window_bytes_per_token": sliding} if window and sliding else {})


def _dimension(layer: Any) -> int:
    return getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads


def _key_heads(layer: Any) -> int:
    if getattr(layer, "multi_query", False) and not getattr(layer, "new_decoder_architecture", False):
        return 1
    grouped = getattr(layer, "num_key_value_heads", None) or getattr(layer, "num_kv_heads", None)
    return grouped or layer.num_attention_heads
