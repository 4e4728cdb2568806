"""Adapters and GGUF files: each decodes as the model that it makes. Quantised weights: tests/sweep/test_quantised.py."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from checkpoints import LFS, UP, WORDS, Change, decoded, settings, weights, written
from peft import LoraConfig, get_peft_model

from specdec import Pair, PairError, loading
from specdec.runtime.vocabulary import head_size
from specdec.source import Source
from specdec.summary import DescribedPair
from specdec.testing.models import fresh_logits, greedy_tokens


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> tuple[Path, Any]:
    """A folder of an adapter, and the model that it makes of its base."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(0)
        lora = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = get_peft_model(Pair.load(checkpoint).target, lora).eval()
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter", adapted


def test_an_adapters_folder_loads_with_its_base(adapter: tuple[Path, Any], checkpoint: Path) -> None:
    folder, adapted = adapter
    pair = Pair.load(folder, checkpoint, lane="inline")
    rows, base = (fresh_logits(made, [3, 4, 5, 6], 4) for made in (adapted, pair.draft))
    assert (rows - base).abs().max() > 0.1
    torch.testing.assert_close(fresh_logits(pair.target, [3, 4, 5, 6], 4), rows)
    assert decoded(pair) == greedy_tokens(adapted, [3, 4, 5], 6)
    assert pair.tokenizer is not None  # that of the base


@pytest.mark.parametrize("own", [True, False])
def test_an_adapter_of_the_hub_keeps_its_own_tokenizer(own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the cache at first is its configuration alone."""
    written("adapter_config.json", '{"base_model_name_or_path": "org/base"}')(tmp_path)
    asked: list[tuple[str, str]] = []

    def cached(name: str, file: str, **options: Any) -> str | None:
        assert (options.pop("revision"), any(options.values())) == ("v2", False)
        asked.append((name, file))
        return str(tmp_path / file) if own else None

    monkeypatch.setattr(loading, "find_adapter_config_file", lambda *_, **__: str(tmp_path / "adapter_config.json"))
    monkeypatch.setattr(loading, "cached_file", cached)
    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", lambda name, **_: name)
    found: Any = loading.load_tokenizer(Source("org/adapter", "cpu", None, {"revision": "v2"}))
    assert found == ("org/adapter" if own else "org/base")
    assert asked == [("org/adapter", "tokenizer_config.json")]


def test_an_adapter_in_its_bases_folder_is_used_too(adapter: tuple[Path, Any], copied: Path) -> None:
    folder, adapted = adapter
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / name, copied / name)
    torch.testing.assert_close(fresh_logits(Pair.load(copied).target, [3, 4, 5]), fresh_logits(adapted, [3, 4, 5]))
    weights(lambda held: held.pop(UP))(copied)  # transformers reports on the adapter only
    with pytest.raises(PairError, match=UP):
        Pair.load(copied)


def lacking(name: str) -> Change:
    return weights(lambda held: held.pop(next(key for key in held if name in key)), "adapter_model.safetensors")


def of_base(name: str) -> Change:
    return settings("adapter_config.json", base_model_name_or_path=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lacking("layers.1.self_attn.v_proj.lora_B"), "model.layers.1.self_attn.v_proj.lora_B"),
        (of_base("/absent/base"), "'/absent/base' is no directory here"),
        (of_base(""), "names no base model"),
        (written("adapter_model.safetensors", LFS), "adapter_model.safetensors is a Git LFS pointer"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter: tuple[Path, Any], change: Change, words: str) -> None:
    change(adapter[0])
    with pytest.raises(PairError) as refused:
        Pair.load(adapter[0])
    assert words in str(refused.value)


def test_an_adapter_without_peft_is_refused_by_name(adapter: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdec.diagnosis.is_peft_available", lambda: False)
    with pytest.raises(PairError, match="it is an adapter, and those take the package peft; pip install peft"):
        Pair.load(adapter[0])


def as_gguf(made: Any, path: Path) -> None:
    """The tiny model as llama.cpp keeps it: its heads' halves are interleaved."""
    config, file = made.config, gguf.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_embedding_length(config.hidden_size)
    file.add_block_count(config.num_hidden_layers)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.head_dim)
    file.add_key_length(config.head_dim)
    file.add_vocab_size(config.vocab_size)
    file.add_tokenizer_model("llama")
    file.add_token_list(WORDS)
    file.add_token_scores([0.0] * len(WORDS))
    file.add_token_types([2, 3, 3] + [1] * (len(WORDS) - 3))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, weight in made.state_dict().items():
        array = weight.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(key.split(".")[-2])
        if heads is not None:
            array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        named = names.get_name(key, try_suffixes=(".weight",))
        assert named is not None
        file.add_tensor(named, np.ascontiguousarray(array))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def test_a_gguf_file_is_loaded_by_its_name(checkpoint: Path, tmp_path: Path) -> None:
    made = Pair.load(checkpoint).target
    as_gguf(made, tmp_path / "tiny.gguf")
    pair = Pair.load(tmp_path, gguf_file="tiny.gguf")
    torch.testing.assert_close(fresh_logits(pair.target, [3, 4, 5]), fresh_logits(made, [3, 4, 5]))
    assert decoded(pair) == greedy_tokens(made, [3, 4, 5], 6)
    with pytest.raises(PairError, match=r"is a file: give its folder .* and gguf_file='tiny.gguf'"):
        Pair.load(tmp_path / "tiny.gguf")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:-2000])
    with pytest.raises(PairError, match=r"cut.gguf is damaged"):
        Pair.load(tmp_path, gguf_file="cut.gguf")


@pytest.mark.filterwarnings("ignore:torch", "ignore::DeprecationWarning")
def test_dynamic_quantisation_is_refused_by_name(checkpoint: Path) -> None:
    """torch's dynamic int8 keeps packed weights, and quantises the positions of a forward together."""
    target = Pair.load(checkpoint).target
    quantise: Any = torch.ao.quantization.quantize_dynamic  # pyright: ignore[reportDeprecated]
    int8 = quantise(target, {torch.nn.Linear}, dtype=torch.qint8)
    assert head_size(int8) == len(WORDS)
    whole, alone = fresh_logits(int8, [3, 4, 5, 6], 4)[0], fresh_logits(int8, [3])[0]
    assert (whole - alone).abs().max() > 0.01
    with pytest.raises(PairError, match="quantised dynamically by torch"):
        Pair(int8)
    with pytest.raises(PairError, match="quantised dynamically by torch"):
        Pair(target, int8)


def test_a_report_names_the_revision() -> None:
    pair = Pair.bundled(lane="inline")
    pair.revisions = ("v2", None)
    assert DescribedPair.of(pair).target == "specdec/bundled/target@v2"
    assert DescribedPair.of(pair).draft == "specdec/bundled/draft"
