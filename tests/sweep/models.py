"""A tiny random model of any type that transformers knows: `build("qwen3_next")`.

Sizes are set by the names that configuration classes have in common. `SPECIAL` holds what single types need besides. Weights
are scaled so that the context decides what comes next; the initial ones of most types repeat the last token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
)

VOCABULARY, HIDDEN, HEADS, HEAD, LAYERS, WINDOW, EXPERTS = 64, 32, 4, 8, 3, 8, 4

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_dim", "embedding_size", "lru_width", "width", "embed_dim"),
        HIDDEN,
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers", "depth"), 1),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
            "num_decoder_attention_heads",
            "num_encoder_attention_heads",
            "swa_num_attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "swa_head_dim", "v_head_dim", "index_head_dim", "attention_head_size", "dim_head"), HEAD),
    **dict.fromkeys(
        ("intermediate_size", "ffn_hidden_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "dff"), 48
    ),
    **dict.fromkeys(("n_inner", "feed_forward_size", "dense_intermediate_size", "prefix_dense_intermediate_size"), 48),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_experts_intermediate_size",
            "shared_intermediate_size",
            "expert_ffn_hidden_size",
            "moe_shared_expert_intermediate_size",
        ),
        24,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"), 256),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), WINDOW),
    **dict.fromkeys(("attention_chunk_size", "local_attention_window_len"), WINDOW),
    # experts
    **dict.fromkeys(
        ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "zero_expert_num", "num_experts_per_layer"),
        EXPERTS,
    ),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(
        ("n_group", "topk_group", "num_expert_group", "n_shared_experts", "first_k_dense_replace", "num_dense_layers"), 1
    ),
    "router_hidden_size": 16,
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 12,
    "index_topk": 64,
    "index_n_heads": 16,
    "rotary_dim": 4,
    # recurrent layers
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), HEAD),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size", "block_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    "mamba_d_ssm": 64,
    "mamba_dt_rank": 4,
    "time_step_rank": 4,
    "attention_hidden_size": HIDDEN,
    # what can be bidirectional
    "is_decoder": True,
    "causal": True,
    # pictures and sound, which are not looked at
    "image_size": 16,
    "patch_size": 4,
    "num_nextn_predict_layers": 0,
    "num_mtp_layers": 0,
}
"""Sizes by the names of configuration classes."""


KINDS_OF_LAYERS = ("layer_types", "mlp_layer_types", "layers_block_type")
LATENT = {"num_key_value_heads": HEADS}
TEXT_DECODER = {"encoder_layers": LAYERS}
ASSISTANT = {
    "text_config.hidden_size_per_layer_input": 0,
    "text_config.vocab_size_per_layer_input": 0,
    "text_config.num_kv_shared_layers": LAYERS,
}
GLOBAL = {"global_head_dim": HEAD}
PICTURE_WORD = {"vocabulary_map": {"<image>": 60}}
AXES = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
HYBRID = ["linear_attention", "full_attention", "linear_attention"]
ROPE = {"rope_type": "default", "rope_theta": 1e4}

SPECIAL: dict[str, dict[str, Any]] = {
    "qwen2_5_omni_thinker": {"vision_start_token_id": 62},
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"), TEXT_DECODER),
    **dict.fromkeys(("pegasus", "plbart", "whisper"), TEXT_DECODER),
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"), GLOBAL),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), ASSISTANT),
    **dict.fromkeys(("glm4v_text", "glm_ocr_text", "paddleocr_vl_text", "qwen2_5_omni_text", "qwen2_5_vl_text"), AXES),
    **dict.fromkeys(("qwen2_vl_text", "hunyuan_vl_text", "cosmos3_edge_text"), AXES),
    **dict.fromkeys(("chameleon", "emu3"), PICTURE_WORD),
    "granite_docling_vision": {"out_hidden_size": HIDDEN},
    "inkling2_vision": {"text_hidden_size": HIDDEN},
    "glm4v_moe_text": {"rope_parameters": {**AXES["rope_parameters"], "mrope_section": [1, 1, 0]}},
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [24, 24]},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "cohere_compass_text": {"layer_types": SLIDING, "rope_parameters": dict.fromkeys(SLIDING, ROPE)},
    "dbrx": {
        "ffn_config.moe_num_experts": 4,
        "ffn_config.moe_top_k": 2,
        "attn_config.kv_n_heads": 2,
        "attn_config.rope_theta": 1e4,
        "attn_config.clip_qkv": 8.0,
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
    "dots3_note_audio_encoder": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN},
    "dots3_note_text": {
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": HEAD,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 8, "laurel_rank": 8},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": {"layer_types": HYBRID},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"head_dim": 16},
    "prophetnet": {"num_encoder_layers": LAYERS},
    "qwen4_exp_text": {
        "indexer_n_heads": 16,
        "indexer_kv_heads": 1,
        "indexer_head_dim": HEAD,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [1],
        "ngram_vocab_size_base": 50,
        "split_ngram_parts": 1,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention", "recurrent"]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh", "local"],
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
        "hash_seed": 1,
    },
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_blocks": LAYERS, "autocast_kernel_dtype": "float32"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What single types need, by the name of the configuration's type; a dot leads into a part."""

DECODER_ONLY = {"musicgen", "musicgen_melody"}
"""Types whose causal language model is made from the part `decoder` of the configuration."""

FLOAT32 = {"inkling2", "inkling2_text", "xglm", "xlnet"}
"""Types whose forward does not take float64."""


LARGEST = 50_000_000
"""Weights of a model that is still tiny."""


def build(model_type: str, *, seed: int = 0, image_text: bool = False, **more: Any) -> Any:
    """A random model of the type, in evaluation mode, and in float64 where its forward takes that.

    `image_text` chooses the class that takes pictures too; `more` overrides the configuration.
    """
    config = configuration(model_type, **more)
    for part in (config, *parts_of(config)):
        part._attn_implementation = part._experts_implementation = "eager"
    kind: Any = AutoModelForImageTextToText if image_text else AutoModelForCausalLM
    if image_text:
        require_tiny(kind, config)
    dtype = torch.float32 if model_type in FLOAT32 else torch.float64
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if model_type in DECODER_ONLY:
            decoder: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            model = decoder(config.decoder)
        else:
            model = kind.from_config(config, dtype=torch.float32)
        model = model.to(dtype).eval()
        scale(model)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def require_tiny(kind: Any, config: Any) -> None:
    """Refuse a configuration whose parts kept their usual size: that model does not fit in memory."""
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in kind.from_config(config).parameters())
    if weights > LARGEST:
        raise ValueError(f"a part of it keeps its usual size: {weights / 1e6:.0f} million weights")


def configuration(model_type: str, **more: Any) -> Any:
    """The tiny configuration of a type."""
    return made(CONFIG_MAPPING[model_type], SPECIAL.get(model_type, {}) | more)


def made(kind: Any, special: Mapping[str, Any]) -> Any:
    """A configuration of that class, with the common sizes and `special` ones."""
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    values = {name: SIZES[name] for name in known if name in SIZES}
    if "kv_lora_rank" in known:
        values |= LATENT
    values |= {
        f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "sep")) if f"{name}_token_id" in known
    }
    if "tie_word_embeddings" in known:
        values["tie_word_embeddings"] = False
    values |= {name: mixed(kinds) for name, kinds in default_kinds(kind).items() if name not in special}
    for name, part in (getattr(kind, "sub_configs", None) or {}).items():
        inner = {key.partition(".")[2]: value for key, value in special.items() if key.startswith(f"{name}.")}
        if isinstance(part, type) and issubclass(part, PreTrainedConfig):
            values[name] = made(part, SPECIAL.get(part.model_type, {}) | inner)
        else:
            spec = kind.sub_configs_defaults[name]
            usual = {key: value for key, value in spec.init_kwargs.items() if key not in SIZES}
            values[name] = made(CONFIG_MAPPING[spec.model_type], SPECIAL.get(spec.model_type, {}) | usual | inner)
    values |= {name: value for name, value in special.items() if "." not in name}
    return kind(**values)


def default_kinds(kind: Any) -> dict[str, list[str]]:
    """The kinds of layers that a configuration of that class has by default, where it has several."""
    try:
        default = kind()
    except Exception:  # some classes have no default that is valid
        return {}
    names = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, list[str]] = {
        name: [*dict.fromkeys(getattr(default, name, None) or ())] for name in KINDS_OF_LAYERS if name in names
    }
    return {name: kinds for name, kinds in found.items() if len(kinds) > 1}


def mixed(kinds: Sequence[str]) -> list[str]:
    """Layers of every kind, in turn."""
    return [kinds[i % len(kinds)] for i in range(max(LAYERS, len(kinds)))]


def parts_of(config: Any) -> list[Any]:
    """The configurations inside one, at any depth."""
    found: list[Any] = []
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            found += [value, *parts_of(value)]
    return found


def scale(model: Any) -> None:
    """Give every matrix weights that keep the size of what passes through it."""
    with torch.no_grad():
        for weight in model.parameters():
            spread = float(weight.std(correction=0)) if weight.ndim > 1 else 0
            if spread > 0:
                weight.mul_(1.5 / math.sqrt(weight.shape[-1]) / spread)
