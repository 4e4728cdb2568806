"""Fused forwards answer what the models answer that they were made of."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from decodes import generated
from tiny_models import minuscule
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from specdec import DecodingStrategy, Pair, create, decode
from specdec.loading import is_native
from specdec.runtime import fused
from specdec.runtime.fused import FAMILIES, NARROW, FusedForward, can_pack, new_forward, packed_bytes, why_not_fused
from specdec.runtime.runner import Forward, Runner
from specdec.testing.models import fresh_logits, model

VOCABULARY = 12
DRAFTING = ("speculative", "pearl")

LLAMA3_ANGLES = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 2.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

SERVED: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, no shared keys": {"num_attention_heads": 2, "num_key_value_heads": 2},
    "llama, heads of their own size": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, scaled angles": {"rope_parameters": LLAMA3_ANGLES},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
}


def served(name: str, dtype: torch.dtype = torch.float64, **more: Any) -> Any:
    """A model whose norms and biases are not the ones and zeros that they are made as."""
    of = model(name.partition(",")[0], VOCABULARY, seed=1, dtype=dtype, **{**SERVED[name], **more})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, weight in of.named_parameters():
            if "norm" in parameter or "bias" in parameter:
                weight.add_(torch.rand(weight.shape, generator=generator).to(dtype))
    return of


def histories(steps: int, seed: int) -> list[tuple[list[int], int]]:
    """Contexts that grow and are cut back, narrow and wide, over the length that rotary angles are held for at first."""
    source = random.Random(seed)
    context: list[int] = []
    found: list[tuple[list[int], int]] = []
    for step in range(steps):
        del context[max(0, len(context) - source.randrange(4)) :]
        more = 280 if step == steps // 2 else source.choice([1, 1, 2, 5, NARROW, NARROW + 3])
        context += [source.randrange(VOCABULARY) for _ in range(more)]
        found.append((list(context), source.randint(1, min(6, len(context)))))
    return found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SERVED)
def test_fused_logits_are_the_models(name: str, dtype: torch.dtype) -> None:
    of = served(name, dtype, max_position_embeddings=1024)
    ours = Runner(of, VOCABULARY, FusedForward(of))
    for context, positions in histories(steps=24, seed=2):
        atol = 1e-4 if dtype == torch.float64 else 1e-3  # transformers norms and turns in float32
        torch.testing.assert_close(ours.logits(context, positions), fresh_logits(of, context, positions), rtol=0, atol=atol)


@pytest.mark.parametrize("name", SERVED)
def test_bfloat16_is_rounded_no_worse_than_by_the_model_itself(name: str) -> None:
    of = served(name, torch.bfloat16, max_position_embeddings=1024)
    exact = copy.deepcopy(of).double()
    ours, own = Runner(of, VOCABULARY, FusedForward(of)), Runner(of, VOCABULARY)
    errors: tuple[list[Tensor], list[Tensor]] = ([], [])
    for context, positions in histories(steps=24, seed=2):
        for runner, found in zip((ours, own), errors, strict=True):
            found.append((runner.logits(context, positions).double() - fresh_logits(exact, context, positions)).abs().mean())
    mean_error, own_error = (torch.stack(found).mean() for found in errors)
    assert 0 < mean_error < 1.1 * own_error


def test_a_type_that_cannot_be_packed_is_multiplied_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "can_pack", lambda dtype: False)
    for dtype in (torch.float32, torch.bfloat16):
        of = served("qwen2", dtype)
        ours, own = (Runner(of, VOCABULARY, forward).logits([1, 2, 3], 3) for forward in (FusedForward(of), None))
        torch.testing.assert_close(ours, own, rtol=0, atol=1e-3 if dtype == torch.float32 else 2)


@pytest.mark.parametrize("strategy", [create("autoregressive"), *(create(name, draft_length=3) for name in DRAFTING)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_eager_decode_gives_the_same_tokens(strategy: DecodingStrategy, batch_size: int) -> None:
    """In float64, and other tokens than another seed gives."""
    target, draft = served("llama"), served("llama, biases")
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    found = []
    for eager, seed in ((False, 3), (True, 3), (True, 4)):
        with Pair(target, draft, lane="inline", eager=eager) as pair:
            assert pair.why_eager() == dict.fromkeys(("target", "draft"), "eager forwards were asked for" if eager else None)
            results = decode(pair, strategy, prompts, batch_size=batch_size, max_new_tokens=20, temperature=1, seed=seed)
            found.append([result.tokens for result in results])
    assert found[0] == found[1] != found[2]


def test_what_is_not_fused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {why_not_fused(served(name)) for name in SERVED} == {None}
    assert {name.partition(",")[0] for name in SERVED} == set(FAMILIES)
    assert "gpt2's layers are not one of llama," in (why_not_fused(model("gpt2")) or "")
    assert "sliding windows" in (why_not_fused(model("mistral")) or "")
    assert "activation is gelu" in (why_not_fused(model("llama", hidden_act="gelu")) or "")
    assert "rotary angles (dynamic)" in (
        why_not_fused(model("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0})) or ""
    )
    hooked, replaced, own, subclass = (model() for _ in range(4))
    hooked.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert "model.layers.1.mlp was replaced, or has hooks" in (why_not_fused(hooked) or "")
    replaced.model.layers[0].self_attn.q_proj = nn.Sequential(replaced.model.layers[0].self_attn.q_proj)
    assert "self_attn.q_proj was replaced" in (why_not_fused(replaced) or "")
    own.forward = own.forward
    assert "its forward was replaced" in (why_not_fused(own) or "")
    subclass.__class__ = type("Mine", (type(subclass),), {"__module__": __name__})
    assert "layers are not one of" in (why_not_fused(subclass) or "")
    monkeypatch.setattr(fused, "available_bytes", lambda: 1000)
    assert "GB more" in (why_not_fused(minuscule(VOCABULARY, seed=1)) or "")
    assert type(new_forward(minuscule(VOCABULARY, seed=1), eager=False)) is Forward


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_module_that_is_not_of_the_family_is_the_reason(name: str) -> None:
    paths = ["model", "lm_head", *(f"model.{part}" for part in ("embed_tokens", "rotary_emb", "layers", "layers.0", "norm"))]
    parts = ["input_layernorm", "post_attention_layernorm", "self_attn", "mlp", "mlp.act_fn", "mlp.up_proj", "self_attn.k_proj"]
    parts += ["self_attn.q_norm", "self_attn.k_norm"] if name == "qwen3" else []
    for path in [*paths, *(f"model.layers.1.{part}" for part in parts)]:
        of = served(name)
        module = of.get_submodule(path)
        module.__class__ = type("Own", (type(module),), {})
        assert why_not_fused(of) == f"its {path} was replaced, or has hooks"


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # of norms, by peft
@pytest.mark.parametrize("adapter", ["norms", "tokens"])
def test_a_fused_forward_does_not_leave_an_adapter_out(adapter: str) -> None:
    """Adapters of norms and of embeddings wrap modules whose own weights stay as they were."""
    peft = pytest.importorskip("peft")
    of = served("llama", tie_word_embeddings=False)
    base = fresh_logits(of, [1, 2, 3], 3)
    norms, tokens = peft.LNTuningConfig(target_modules=["norm"]), peft.TrainableTokensConfig(token_indices=[1, 2])
    peft.inject_adapter_in_model(norms if adapter == "norms" else tokens, of)
    with torch.no_grad():
        for parameter in of.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    adapted = fresh_logits(of, [1, 2, 3], 3)
    assert not torch.allclose(adapted, base, atol=1e-2)
    ours = Runner(of, VOCABULARY, new_forward(of, eager=False))
    torch.testing.assert_close(ours.logits([1, 2, 3], 3), adapted)


def test_how_much_the_packed_weights_take() -> None:
    of = model(dtype=torch.bfloat16)
    linear = sum(weight.numel() for name, weight in of.named_parameters() if "proj" in name or "lm_head" in name)
    assert packed_bytes(of) == 2 * linear
    assert packed_bytes(of.float()) == 4 * linear * (2 if can_pack(torch.float32) else 1)


def test_free_memory_is_read_where_linux_reports_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       200 kB\nMemAvailable:   100 kB\n")
    monkeypatch.setattr(fused, "MEMINFO", meminfo)
    assert fused.available_bytes() == 102_400
    meminfo.unlink()
    assert fused.available_bytes() is None


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16)],
)
def test_a_cpu_gets_the_format_of_the_checkpoint_if_it_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with Pair.bundled(device="cpu", lane="inline") as pair:
        assert pair.draft is not None
        assert pair.target.dtype == pair.draft.dtype == dtype
    with Pair.load("shape:tiny-draft", device="cpu") as pair:
        assert pair.target.dtype == dtype
    with Pair.load("shape:tiny-draft", device="cpu", dtype="float64") as pair:
        assert pair.target.dtype == torch.float64
    assert not is_native(torch.float16, "cpu")
    assert is_native(torch.float16, "cuda:1")


def scaled(of: Any, _: pytest.MonkeyPatch) -> None:
    of.model.layers[0].self_attn.scaling = 1.0


def more_epsilon(of: Any, _: pytest.MonkeyPatch) -> None:
    of.model.layers[0].input_layernorm.variance_epsilon = 5.0


def patched_rotation(_: Any, patch: pytest.MonkeyPatch) -> None:
    rotate = modeling_llama.apply_rotary_pos_emb
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, *more: rotate(q, k * 0.5, *more))


def patched_norm(_: Any, patch: pytest.MonkeyPatch) -> None:
    forward = modeling_llama.LlamaRMSNorm.forward
    patch.setattr(modeling_llama.LlamaRMSNorm, "forward", lambda self, x: forward(self, x) * 1.5)


def fewer_layers(of: Any, _: pytest.MonkeyPatch) -> None:
    of.config.num_hidden_layers = 1


def cut_layers(of: Any, _: pytest.MonkeyPatch) -> None:
    of.model.layers = of.model.layers[:1]


@pytest.mark.parametrize("change", [scaled, more_epsilon, patched_rotation, patched_norm, fewer_layers, cut_layers])
def test_what_no_module_shows_is_seen_in_the_logits(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    of = model("llama", VOCABULARY, seed=1)
    change(of, monkeypatch)
    pair = Pair(of, lane="inline")
    tokens = decode(pair, create("autoregressive"), [1, 2, 3], max_new_tokens=12, temperature=0).tokens
    assert tuple(tokens) == generated(of, (1, 2, 3), 12)
    reason = pair.why_eager()["target"] or ""
    assert "its own logits differ from those of a fused forward by" in reason or "its configuration names" in reason


@pytest.mark.parametrize("change", [scaled, more_epsilon, fewer_layers])
def test_a_pair_that_is_warm_sees_changed_numbers_and_configurations(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    of = model("llama", VOCABULARY, seed=1)
    pair, strategy = Pair(of, lane="inline"), create("autoregressive")
    before = decode(pair, strategy, [1, 2, 3], max_new_tokens=12, temperature=0).tokens
    change(of, monkeypatch)
    after = decode(pair, strategy, [1, 2, 3], max_new_tokens=12, temperature=0).tokens
    assert tuple(after) == generated(of, (1, 2, 3), 12) != tuple(before)


def test_autocast_runs_the_models_own_forward() -> None:
    of = model("llama", VOCABULARY, seed=1, dtype=torch.float32)
    pair, strategy = Pair(of, lane="inline"), create("autoregressive")
    assert pair.why_eager() == {"target": None}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = decode(pair, strategy, [1, 2, 3], max_new_tokens=12, temperature=0).tokens
        assert tuple(tokens) == generated(of, (1, 2, 3), 12)
        assert pair.why_eager() == {"target": "autocast is on"}
    decode(pair, strategy, [1, 2, 3], max_new_tokens=1)
    assert pair.why_eager() == {"target": None}
