"""Sizes of models: what is read of a config is what transformers builds, and the catalogue holds the same."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sim import read_model
from sim.setup.model_size import catalogue, short_name, size_of
from specdec import InputError
from specdec.measure.size import facts_of

CATALOGUE = json.loads(files("sim").joinpath("data/models.json").read_text(encoding="utf-8"))
SHAPE = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 100}
GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 100}
FEW = {"num_key_value_heads": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip

KINDS: dict[str, dict[str, Any]] = {
    "llama": SHAPE | FEW,
    "qwen3": SHAPE | FEW | {"head_dim": 32},
    "gemma2": SHAPE | FEW | {"head_dim": 32},
    "gemma3_text": SHAPE | {"num_key_value_heads": 1, "head_dim": 32, "sliding_window": 16},
    "gemma4_text": SHAPE
    | FEW
    | {"num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 32, "vocab_size_per_layer_input": 100},
    "falcon": SHAPE | {"multi_query": True, "new_decoder_architecture": False},
    "gpt2": GPT2,
    "gpt_bigcode": GPT2 | {"multi_query": True},
    "gpt_neox": SHAPE,
    "gpt_oss": SHAPE | FEW | EXPERTS | {"head_dim": 16},
    "mixtral": SHAPE | FEW | EXPERTS,
    "deepseek_v3": SHAPE | LATENT,
}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_cache_are_those_of_the_model(kind: str) -> None:
    size = size_of(facts_of(KINDS[kind] | {"model_type": kind}, kind))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind].from_dict(KINDS[kind])).eval()
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    if kind == "deepseek_v3":  # engines keep what all heads share; transformers unpacks it
        assert size.cache_bytes_per_token == 4 * 2 * (16 + 8)
        return
    with torch.no_grad():
        cache = model(input_ids=torch.arange(4)[None], use_cache=True).past_key_values
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers if layer.keys is not None)
    assert size.cache_bytes_per_token == 2 * numbers / 4


@pytest.mark.parametrize(
    ("quantisation", "width"),
    [
        ({"quant_method": "fp8"}, 1.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 0.5 + 1 / 64),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 32}}}},
            0.5625,
        ),
        ({"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "mlp"]}, 2.0),
        ({"quant_method": "fp8", "ignore": ["re:.*(self_attn|mlp).*"]}, 2.0),
    ],
)
def test_quantised_weights_are_those_of_layers_and_not_of_tables(quantisation: dict[str, Any], width: float) -> None:
    config = SHAPE | {"model_type": "llama", "tie_word_embeddings": False, "quantization_config": quantisation}
    size = size_of(facts_of(config, "it"))
    matrices, norms, tables = 4 * (4 * 64 * 64 + 3 * 64 * 64), 9 * 64, 2 * 100 * 64
    assert size.weight_bytes == pytest.approx(width * matrices + 2 * (norms + tables))


def test_only_experts_are_in_four_bits_where_the_method_says_so() -> None:
    config = KINDS["gpt_oss"] | {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}
    size = size_of(facts_of(config, "it"))
    experts = size.expert_parameters * size.expert_bytes_per_parameter
    assert size.expert_bytes_per_parameter == pytest.approx(0.5 + 1 / 32, rel=0.05)  # biases stay
    assert size.weight_bytes - experts == pytest.approx(2 * (size.parameters - size.expert_parameters))


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B", "google/gemma-3-1b", "openai/gpt-oss-20b"])
def test_the_catalogue_holds_what_transformers_builds(name: str) -> None:
    assert facts_of(CATALOGUE[name]["config"], name) == CATALOGUE[name]["size"]


def test_every_entry_has_the_parameters_that_its_makers_state() -> None:
    assert len(CATALOGUE) == len(catalogue())
    for name, model in CATALOGUE.items():
        assert model["size"]["parameters"] == pytest.approx(model["parameters"], rel=0.01), name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("Llama 3.1 70B", "llama-3.1-70b"),
        ("google/gemma-2-27b-it", "gemma-2-27b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
    ],
)
def test_a_model_is_found_as_people_write_it(written: str, name: str) -> None:
    assert short_name(written) == name
    assert read_model(written) == catalogue()[name]


BAD: dict[str, tuple[Any, str]] = {
    "no type": (SHAPE, "model_type None: give the config.json"),
    "a misspelt type": (SHAPE | {"model_type": "lama"}, "did you mean llama"),
    "no object": ([1], "model_type None"),
    "a state": (SHAPE | {"model_type": "mamba"}, "keeps a state"),
    "an unknown quantisation": (SHAPE | {"model_type": "llama", "quantization_config": {"quant_method": "aqlm"}}, "'aqlm'"),
    "text for a number": (SHAPE | {"model_type": "llama", "hidden_size": "big"}, "hidden_size"),
    "too many layers": (SHAPE | {"model_type": "llama", "num_hidden_layers": 10**9}, "1000000000 layers"),
    "too many experts": (KINDS["mixtral"] | {"model_type": "mixtral", "num_local_experts": 10**9}, "1000000000 experts"),
    "no decoder": ({"model_type": "t5"}, "not one that transformers builds as a decoder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configs_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    config, culprit = BAD[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    for source in (path, tmp_path):
        with pytest.raises(InputError, match="model config") as refused:
            read_model(source)
        assert culprit in str(refused.value)
        assert "\n" not in str(refused.value)


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'meta-llama/Llama-3.1-71B': did you mean llama-3.1-70b\? Or give its config.json"):
        read_model("meta-llama/Llama-3.1-71B")
    with pytest.raises(InputError, match=r"nowhere/config.json cannot be read"):
        read_model("nowhere/config.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_model(tmp_path)
    for broken in ("{", "[" * 100_000, "\0"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(InputError, match="is not JSON"):
            read_model(tmp_path)
    for name in ("a" * 5000, "\0", ""):
        with pytest.raises(InputError):
            read_model(name)
