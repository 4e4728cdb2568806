"""Models are admitted, or refused by name in one line, when a pair is made; what is admitted decodes rightly."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import HYBRIDS, hybrid
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    MixtralConfig,
    OpenAIGPTConfig,
    RwkvConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from specdec import Pair, PairError, create, decode
from specdec.runtime import probe
from specdec.runtime.admission import admit, require_causal
from specdec.runtime.cache import CachePlan, StaticCache
from specdec.runtime.layers import SlidingLayer, TrimmableLayer
from specdec.runtime.probe import Tolerance, is_quantised
from specdec.runtime.recurrent import Copies
from specdec.testing.models import SMALL, causal, greedy_tokens, model

VOCABULARY = 12
NAMED: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LOW = [torch.bfloat16, torch.float16]

JAMBA: dict[str, Any] = SMALL | HYBRIDS["jamba"] | {"vocab_size": VOCABULARY}

NOT_CAUSAL: dict[str, tuple[Callable[[], Any], str]] = {
    "a name": (lambda: "gpt2", "'gpt2' is not a causal language model of transformers: load it with Pair.load"),
    "a module": (lambda: nn.Linear(2, 2), "a Linear is not a causal language model"),
    "an encoder-decoder": (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)),
        "t5 is an encoder-decoder model: choose a causal language model",
    ),
    "no head": (lambda: LlamaModel(model("llama").config), "LlamaModel has no language-model head: load it with Auto"),
    "a classifier": (
        lambda: LlamaForSequenceClassification(model("llama").config),
        "LlamaForSequenceClassification has no language-model head",
    ),
    "a state of its own": (
        lambda: AutoModelForCausalLM.from_config(
            RwkvConfig(vocab_size=8, hidden_size=8, attention_hidden_size=8, num_hidden_layers=2, **NAMED)
        ),
        "rwkv keeps no cache in transformers: choose a causal model that takes one",
    ),
    "nothing kept": (
        lambda: AutoModelForCausalLM.from_config(OpenAIGPTConfig(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=32)),
        "openai-gpt keeps no cache",
    ),
    "a cache of its own": (
        lambda: AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                "recurrent_gemma", vocab_size=8, lru_width=16, **(SMALL | {"num_hidden_layers": 3, "pad_token_id": 0})
            )
        ),
        r"recurrent_gemma cannot be used: rows on its cache differ from rows without one by [\d.e-]+ after a window of 3",
    ),
}


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_what_cannot_decode_is_refused_by_name_in_one_line(name: str) -> None:
    make, message = NOT_CAUSAL[name]
    of = make()
    with pytest.raises(PairError, match=message) as refused:
        Pair(of, lane="inline")
    assert "\n" not in str(refused.value)
    with pytest.raises(PairError, match=message):  # as a draft too, though some strategies never ask it
        Pair(model("llama", VOCABULARY), of, lane="inline")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *LOW], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral"])
def test_attention_is_cut_and_batched_in_every_format(architecture: str, dtype: torch.dtype) -> None:
    assert admit(model(architecture, VOCABULARY, seed=1, dtype=dtype)) == CachePlan("cut", None, batched=True)


@pytest.mark.parametrize("dtype", [torch.float64, *LOW], ids=str)
def test_routers_of_experts_may_meet_ties(dtype: torch.dtype) -> None:
    of = causal(MixtralConfig(vocab_size=VOCABULARY, num_local_experts=4, **SMALL), seed=1, dtype=dtype)
    assert admit(of).rollback == "cut"


@pytest.mark.parametrize("name", ["jamba", "mamba"])
def test_a_window_that_ignores_its_state_is_seen_in_bfloat16(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By NaN, where rounding hides what the state does; no float32 copy is made of a large model."""
    monkeypatch.setattr("specdec.runtime.admission.SMALL", 0)
    monkeypatch.setattr(Tolerance, "of", lambda _: Tolerance(1, 1, 2))  # nothing is seen in the rows
    assert admit(hybrid(name, VOCABULARY, seed=1, dtype=torch.bfloat16)).widest == 1
    assert admit(hybrid("falcon_h1", VOCABULARY, seed=1, dtype=torch.bfloat16)).widest is None


def test_a_small_model_is_probed_in_a_float32_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rounding hides a lost state. The states themselves are not looked at here."""
    monkeypatch.setattr(probe.Probe, "_states", lambda *_: iter(()))
    admitted = []
    for small in (4_000_000, 0):
        monkeypatch.setattr("specdec.runtime.admission.SMALL", small)
        admitted.append(admit(causal(AutoConfig.for_model("jamba", **JAMBA), seed=1, dtype=torch.bfloat16)).widest)
    assert admitted == [1, None]


# --- faults ----------------------------------------------------------------------------------------------------------


def not_cut(self: Any, tokens_to_remove: int) -> None:
    """A roll-back that only seems to be one."""


def one_token_less(self: Any, key_states: Tensor, value_states: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    keys, values = update(self, key_states, value_states)
    return keys.roll(1, -2) if keys.shape[-2] > 4 else keys, values


update = TrimmableLayer.update

FAULTS: dict[str, tuple[str, Any, str, Any]] = {
    "no roll-back": ("llama", TrimmableLayer, "crop", not_cut),
    "no roll-back of a window": ("mistral", SlidingLayer, "crop", not_cut),
    "keys in another place": ("llama", TrimmableLayer, "update", one_token_less),
    "a window of another size": ("mistral", SlidingLayer, "__init__", lambda self, window: sliding(self, window - 1)),
    "states of later tokens": ("qwen3_5_text", Copies, "put_back", lambda self, length, held: length),
}
sliding = SlidingLayer.__init__


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_lost_past_is_refused_with_the_measured_difference(
    monkeypatch: pytest.MonkeyPatch, fault: str, dtype: torch.dtype
) -> None:
    architecture, owner, name, faulty = FAULTS[fault]
    recurrent = owner is Copies
    of = hybrid(architecture, VOCABULARY, 1, dtype) if recurrent else model(architecture, VOCABULARY, seed=1, dtype=dtype)
    monkeypatch.setattr(owner, name, faulty)
    with pytest.raises(PairError, match=rf"{architecture} cannot be used: .*(by [\d.]+ after a window of|forward failed)"):
        admit(of)
    monkeypatch.undo()
    admit(of)  # what was refused may come back


def test_another_past_is_not_a_fault_below_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars: a tenth of what another past does is a fault in float32; in bfloat16 it may be rounding."""
    whole = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    step = probe.Compared("a window of 1 tokens", whole + 0.01, whole, past=0.1)
    exact, rounded = (Tolerance.of(model("llama", VOCABULARY, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert "differ from rows without one by 0.01 after a window of 1 tokens (logits spread by 1.1)" in (
        step.failure(exact) or ""
    )
    assert step.failure(rounded) is None
    assert probe.Compared("", whole + 0.5, whole, past=0.6).failure(rounded)
    unfit = whole.masked_fill(whole == 1, torch.nan).masked_fill(whole == 2, -torch.inf)
    assert probe.Compared("", unfit, unfit, past=0).failure(exact) is None
    assert probe.Compared("", whole, unfit, past=0).failure(exact)


def test_any_error_of_a_model_is_a_refusal() -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("odd\nand long")

    of = model("llama", VOCABULARY, seed=1)
    of.model.layers[1].register_forward_hook(fail)
    with pytest.raises(PairError, match=r"llama cannot be used: a forward failed \(ZeroDivisionError: odd\); choose"):
        Pair(of, lane="inline")


def test_what_fails_in_a_batch_only_is_decoded_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-NeoX Japanese views keys that must be contiguous; and a mask that hides too little is seen."""
    sizes = {"intermediate_multiple_size": 2, "max_position_embeddings": 64} | SMALL
    japanese = causal(AutoConfig.for_model("gpt_neox_japanese", vocab_size=VOCABULARY, **sizes), seed=1)
    assert admit(japanese) == CachePlan("cut", None, batched=False)
    pair = Pair(japanese, japanese, lane="inline")
    results = decode(
        pair, create("speculative", draft_length=3), [[1, 2, 3], [4]], batch_size=2, max_new_tokens=8, temperature=0, eos=()
    )
    assert [tuple(one.tokens) for one in results] == [greedy_tokens(japanese, prompt, 8) for prompt in ([1, 2, 3], [4])]
    monkeypatch.setattr(StaticCache, "_mask", lambda self, positions, *_: torch.zeros(len(positions), 1, positions.shape[2], 1))
    assert not admit(model("llama", VOCABULARY, seed=1, dtype=torch.float32)).batched


def last_raised(_: Any, __: Any, output: Tensor) -> Tensor:
    """A hook that reads where a forward ends, so that rows depend on the width of forwards."""
    return torch.cat([output[:, :-1], output[:, -1:] + 1], 1)


@pytest.mark.parametrize("who", ["target", "draft"])
def test_a_model_is_admitted_again_after_hooks(who: str) -> None:
    target, draft = model("llama", VOCABULARY, seed=4), model("llama", VOCABULARY, seed=5)
    pair = Pair(target, draft, lane="inline")
    strategy, prompt = create("speculative", draft_length=3), [1, 2, 3]
    decode(pair, strategy, prompt, max_new_tokens=4)
    handle = getattr(pair, who).model.layers[0].register_forward_hook(last_raised)
    for _ in range(2):
        with pytest.raises(PairError, match="llama cannot be used: rows on its cache differ"):
            decode(pair, strategy, prompt, max_new_tokens=4)
        with pytest.raises(PairError, match="llama cannot be used: rows on its cache differ"):
            Pair(target, draft, lane="inline")
    handle.remove()
    assert list(decode(pair, strategy, prompt, max_new_tokens=4).tokens) == list(greedy_tokens(target, prompt, 4))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_that_tokens_invoke_is_refused_while_it_is_active() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], alora_invocation_tokens=[5, 6], task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model("llama", VOCABULARY, seed=1), config)
    for of in (adapted, adapted.get_base_model()):
        with pytest.raises(PairError, match=r"adapter default is an aLoRA, .*: disable it, or"):
            Pair(of, lane="inline")
        with adapted.disable_adapter():
            admit(of)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("width", [1, 3])
def test_adapters_by_row_are_refused_by_name(width: int) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model("llama", VOCABULARY, seed=1), config).eval()
    pair = Pair(adapted, lane="inline")
    options: dict[str, Any] = {"custom_generate": create("autoregressive"), "draft": pair, "max_new_tokens": 3}
    with pytest.raises(PairError, match=r"adapter_names gives each row .*: call set_adapter, and decode"):
        adapted.generate(torch.tensor([[5] * width, [6] * width]), adapter_names=["default", "__base__"], **options)


# --- cost ------------------------------------------------------------------------------------------------------------


def counted(of: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    of.register_forward_pre_hook(lambda _, args, options: seen.append(options["input_ids"]), with_kwargs=True)
    return seen


def test_a_model_is_probed_once_by_few_forwards_of_few_tokens() -> None:
    of, draft = model("llama", VOCABULARY, seed=1), model("gemma2", VOCABULARY, seed=1)
    seen, drafted = counted(of), counted(draft)
    Pair(of, draft, lane="inline")
    assert 10 <= len(seen) <= 20
    assert 10 <= len(drafted) <= 20
    assert max(ids.shape[1] for ids in seen) <= 13
    before = len(seen)
    Pair(of, lane="inline").close()
    assert len(seen) == before
    of.float()
    Pair(of, lane="inline")
    assert len(seen) > before


@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_a_probe_stays_within_the_context(limit: int) -> None:
    of = model("gpt2", VOCABULARY, seed=1, max_position_embeddings=limit)
    seen = counted(of)
    admit(of)
    assert 0 < max(ids.shape[1] for ids in seen) <= limit


def test_borders_that_are_far_are_not_crossed() -> None:
    for window, longest in ((4096, 13), (60, 66)):
        of = model("mistral", VOCABULARY, seed=1, sliding_window=window, max_position_embeddings=8192)
        seen = counted(of)
        admit(of)
        assert max(ids.shape[1] for ids in seen) in range(longest - 2, longest + 1)


def test_tokens_with_a_meaning_are_not_used() -> None:
    of = model("llama", VOCABULARY, seed=1, pad_token_id=3, eos_token_id=4)
    of.config.image_token_id = 5
    seen = counted(of)
    admit(of)
    assert not {3, 4, 5} & set(torch.cat([ids.flatten() for ids in seen[:8]]).tolist())


def test_modes_are_as_before_and_a_plan_travels() -> None:
    of = model("llama", VOCABULARY, seed=1).train()
    of.model.layers[0].eval()
    plan = admit(of)
    assert of.training
    assert not of.model.layers[0].training
    assert pickle.loads(pickle.dumps(plan)) == plan


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_wrapped_models_are_asked_through_their_wrapping() -> None:
    compiled: Any = torch.compile(model("llama", VOCABULARY, seed=1), backend="eager")
    require_causal(compiled)
    adapted: Any = get_peft_model(model("llama", VOCABULARY, seed=1), LoraConfig(r=2, target_modules=["q_proj"]))
    assert admit(adapted) == CachePlan("cut", None, batched=True)


def test_weights_in_fewer_bits_are_known() -> None:
    of = model("llama", VOCABULARY, seed=1)
    assert not is_quantised(of)
    require_causal(of)
    of.is_quantized = True
    assert is_quantised(of)
    assert Tolerance.of(of).prompts == 2


def test_a_fault_on_one_prompt_of_two_is_a_tie(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16. In float32 there is no second prompt."""
    failures = iter(["a tie", None, None])
    monkeypatch.setattr("specdec.runtime.admission.SMALL", 0)
    monkeypatch.setattr(probe.Compared, "failure", lambda *_: next(failures, None))
    assert admit(model("llama", VOCABULARY, seed=1, dtype=torch.bfloat16)) == CachePlan("cut", None, batched=True)
