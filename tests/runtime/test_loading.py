"""Checkpoints as people have them: each decodes as `generate` does, or is refused in one line that names the cause."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import LFS, UP, WORDS, Change, cut, decoded, saved, settings, weights, written
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from specdec import InputError, Pair, PairError
from specdec.loading import quiet_transformers
from specdec.source import sources
from specdec.testing.models import greedy_tokens, model

# --- what is wrong with the files ----------------------------------------------------------------------------------


def renamed(before: str, after: str) -> Change:
    return lambda folder: (folder / before).rename(folder / after)


def of_tomorrow(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "FutureSplit"}}))


def in_shards_without_one(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    saved(model("llama", len(WORDS), seed=1, dtype=torch.float32), folder, max_shard_size="3KB")
    sorted(folder.glob("model-*"))[1].unlink()


def in_shards_with_a_cut_index(folder: Path) -> None:
    in_shards_without_one(folder)
    written("model.safetensors.index.json", '{"weight_map": {"a"')(folder)


def adapter_without_weights(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)}))


def without_a_head(folder: Path) -> None:
    tiny = T5Config(vocab_size=len(WORDS), d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    saved(T5ForConditionalGeneration(tiny), folder)


BROKEN: dict[str, tuple[Change, list[str]]] = {
    "pointer": (written("model.safetensors", LFS), ["model.safetensors", "Git LFS pointer", "git lfs pull"]),
    "pointer for the tokenizer": (written("tokenizer.json", LFS), ["tokenizer.json", "Git LFS pointer"]),
    "cut": (cut(-10), ["model.safetensors", "its header says", "fetch it again"]),
    "cut in its header": (cut(50), ["model.safetensors", "cut short (50 bytes)"]),
    "empty": (cut(0), ["model.safetensors", "cut short (0 bytes)"]),
    "a weight is missing": (weights(lambda held: held.pop(UP)), ["incomplete", UP, "model.safetensors"]),
    "a weight of another shape": (weights(lambda held: held.update({UP: held[UP][:8].clone()})), [UP, "(8, 16)", "(24, 16)"]),
    "a bias without a place": (
        weights(lambda held: held.update({"model.layers.0.mlp.up_proj.bias": torch.ones(24)})),
        ["model.layers.0.mlp.up_proj.bias", "leaves no place"],
    ),
    "fewer layers by config.json": (settings(num_hidden_layers=1, layer_types=None), ["model.layers.1.", "leaves no place"]),
    "other sizes by config.json": (settings(intermediate_size=20), ["does not fit", "(16, 24)", "(16, 20)"]),
    "a shard is missing": (in_shards_without_one, ["model-00002-of-", "model.safetensors.index.json lists"]),
    "an index is cut": (in_shards_with_a_cut_index, ["model.safetensors.index.json is no list of weights", "fetch it again"]),
    "an index of nothing": (
        lambda folder: [in_shards_without_one(folder), written("model.safetensors.index.json", "[]")(folder)],
        ["model.safetensors.index.json is no list of weights"],
    ),
    "pickled weights": (renamed("model.safetensors", "pytorch_model.bin"), ["no safetensors", "pytorch_model.bin", "convert"]),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), ["needs config.json"]),
    "config.json is cut": (written("config.json", '{"model_type": "lla'), ["config.json"]),
    "no tokenizer": (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], ["tokenizer", "needs a tokenizer"]),
    "a tokenizer of tomorrow": (of_tomorrow, ["tokenizer.json", "newer version", "upgrade"]),
    "an unknown kind": (settings(model_type="future9"), ["future9", "newer"]),
    "an encoder-decoder": (without_a_head, ["no causal language model"]),
    "code of its own": (
        settings(model_type="mine", auto_map={"AutoConfig": "a.A", "AutoModelForCausalLM": "b.B"}),
        ["code of its own", "trust_remote_code=True"],
    ),
    "adapter without weights": (adapter_without_weights, ["adapter_model.safetensors"]),
    "GGUF that is not named": (
        lambda folder: [written("m.gguf", "GGUF")(folder), (folder / "config.json").unlink()],
        ["GGUF", "gguf_file='m.gguf'"],
    ),
    "AWQ": (
        settings(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128}),
        ["quantised by awq", "gptqmodel"],
    ),
    "bitsandbytes": (
        settings(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True, "_load_in_4bit": True}),
        ["quantised by bitsandbytes", "pip install"],
    ),
    "fp8 that is not": (
        settings(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}),
        ["config.json says fp8", "model.safetensors"],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_refused_by_cause_and_remedy(
    kind: str, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question on standard input"))
    change, words = BROKEN[kind]
    change(copied)
    with pytest.raises(PairError) as refused:
        Pair.load(copied, lane="inline")
    said = str(refused.value)
    assert [word for word in [str(copied), *words] if word not in said] == []
    assert "\n" not in said
    assert "device" not in said
    assert capfd.readouterr() == ("", "")


def test_weights_of_other_parts_are_left_aside(copied: Path, checkpoint: Path) -> None:
    """A head of another task and a buffer of an old version, as many published checkpoints hold them."""
    others = {"score.weight": torch.ones(2), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    others["model.layers.0.self_attn.masked_bias"] = torch.ones(1)
    weights(lambda held: held.update(others))(copied)
    assert decoded(Pair.load(copied)) == decoded(Pair.load(checkpoint))


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "num_local_experts": 3, "initializer_range": 0.6, "eos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return saved(MixtralForCausalLM(MixtralConfig(vocab_size=len(WORDS), **sizes)), tmp_path / "experts")


def test_experts_decode_in_float64(experts: Path) -> None:
    """transformers' grouped products take no double."""
    pair = Pair.load(experts, dtype="float64", lane="inline")
    assert pair.target.dtype == torch.float64
    assert decoded(pair) == greedy_tokens(pair.target, [3, 4, 5], 6)


def test_experts_in_memory_are_refused_with_the_remedy(experts: Path) -> None:
    target: Any = Pair.load(experts).target.double()
    with pytest.raises(PairError, match=r"call model\.set_experts_implementation\('eager'\) first"):
        Pair(target)
    target.set_experts_implementation("eager")
    assert decoded(Pair(target)) == greedy_tokens(target, [3, 4, 5], 6)


def test_an_expert_that_is_missing_is_named(experts: Path) -> None:
    weights(lambda held: held.pop("model.layers.0.block_sparse_moe.experts.1.w1.weight"))(experts)
    with pytest.raises(PairError, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj are incomplete"):
        Pair.load(experts)


def test_two_threads_that_load_leave_the_log_of_transformers_as_it_was() -> None:
    library, inside, leave = logging.getLogger("transformers"), threading.Event(), threading.Event()
    before = library.handlers, library.level
    of_other: list[str] = []

    def load() -> None:
        with quiet_transformers() as heard:
            inside.set()
            leave.wait(20)
            of_other.extend(heard)

    other = threading.Thread(target=load)
    with quiet_transformers() as outer, quiet_transformers() as inner:
        other.start()
        assert inside.wait(20)
        library.warning("both")
    library.warning("one")
    leave.set()
    other.join()
    assert (library.handlers, library.level) == before
    assert (outer, inner, of_other) == (["both"], ["both"], ["both", "one"])


# --- options of from_pretrained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"revison": "x"}, "unknown option 'revison': did you mean revision"),
        ({"colour": 1}, "unknown option 'colour': there are revision"),
        ({"draft_revision": "x"}, "draft_revision is for a draft"),
        ({"draft_device": "cpu"}, "draft_device is for a draft"),
        ({"revision": "main"}, "revision is for names of the hub"),
        ({"device": "cpu", "device_map": "auto"}, "device_map says where"),
        ({"max_memory": {0: "1GB"}}, "max_memory is for a model that device_map spreads, and there is none: give device_map"),
        ({"offload_folder": "x"}, "offload_folder is for a model that device_map spreads"),
        ({"dtype": "fp16"}, "dtype 'fp16': choose one of float64, float32, bfloat16, float16"),
        ({"dtype": torch.int8}, "dtype 'int8'"),
        ({"device": "nowhere"}, "device nowhere cannot be used"),
        ({"device": "meta"}, "device meta cannot be used"),
        ({"gguf_file": "absent.gguf"}, "absent.gguf"),
        ({"attn_implementation": "seldom"}, "seldom"),
        ({"variant": "fp16"}, "model.fp16.safetensors"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantised by bitsandbytes"),
    ],
)
def test_an_option_without_a_meaning_is_refused_by_name(checkpoint: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refused:
        Pair.load(checkpoint, **options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("option", ["draft_max_memory", "draft_offload_folder"])
def test_limits_of_a_draft_that_nothing_spreads_are_refused_by_name(checkpoint: Path, option: str) -> None:
    options: dict[str, Any] = {"device_map": "cpu", option: {"cpu": "1GB"}}
    with pytest.raises(InputError, match=f"{option} is for a model that draft_device_map spreads"):
        Pair.load(checkpoint, checkpoint, **options)


def test_shapes_have_no_options_of_checkpoints() -> None:
    with pytest.raises(InputError, match="revision is for checkpoints, and shape:tiny-target has random weights"):
        Pair.load("shape:tiny-target", revision="main")
    with pytest.raises(InputError, match="draft_gguf_file is for checkpoints, and shape:tiny-draft"):
        Pair.load("shape:tiny-target", "shape:tiny-draft", draft_gguf_file="x.gguf")
    with pytest.raises(InputError, match="revision is for names of the hub"):
        Pair.bundled(revision="main")


def test_options_reach_the_model_that_they_are_for() -> None:
    given = {"revision": "a", "draft_revision": "b", "trust_remote_code": True, "attn_implementation": "sdpa", "variant": None}
    given |= {"draft_attn_implementation": "eager", "quantization_config": {"quant_method": "torchao"}}
    nowhere: dict[str, Any] = {"device": None, "draft_device": None, "dtype": "auto"}
    target, draft = sources("org/one", "org/two", **nowhere, options=given)
    both = {"trust_remote_code": True}
    quantised = {"quantization_config": {"quant_method": "torchao"}}
    assert target.options == both | quantised | {"revision": "a", "attn_implementation": "sdpa"}
    assert draft.options == both | {"revision": "b", "attn_implementation": "eager"}
    assert (target.dtype, target.device) == (None, draft.device)


def test_attention_is_chosen_for_both_or_for_the_draft(checkpoint: Path) -> None:
    pair = Pair.load(checkpoint, checkpoint, attn_implementation="eager", draft_attn_implementation="sdpa", lane="inline")
    assert pair.draft is not None
    assert [made.config._attn_implementation for made in (pair.target, pair.draft)] == ["eager", "sdpa"]


def test_a_device_of_torch_is_taken_as_its_name_is(checkpoint: Path) -> None:
    cpu = torch.device("cpu")
    pair = Pair.load(checkpoint, checkpoint, device=cpu, draft_device=cpu, lane="inline")
    assert pair.draft is not None
    assert (pair.target.device, pair.draft.device) == (cpu, cpu)
    with pytest.raises(PairError, match="device meta cannot be used"):
        Pair.load(checkpoint, device=torch.device("meta"))


def test_a_mapped_model_is_not_moved(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedModel, "to", lambda *_: pytest.fail("moved what was placed already"))
    pair = Pair.load(checkpoint, device_map={"": "cpu"})
    assert decoded(pair) == greedy_tokens(pair.target, [3, 4, 5], 6)


def test_code_of_its_own_runs_when_it_is_trusted(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("transformers.dynamic_module_utils", "transformers.utils", "transformers.utils.hub"):
        monkeypatch.setattr(f"{module}.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (copied / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\nclass Config(LlamaConfig):\n    model_type = 'mine'\n\n\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    settings(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})(copied)
    pair = Pair.load(copied, trust_remote_code=True)
    assert type(pair.target).__module__.startswith("transformers_modules")
    assert decoded(pair) == greedy_tokens(pair.target, [3, 4, 5], 6)


def test_a_file_that_cannot_be_read_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def closed(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    cut(-10)(copied)
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(PairError, match=r"its model\.safetensors cannot be read \(Permission denied\)"):
        Pair.load(copied, lane="inline")
