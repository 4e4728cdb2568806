"""Calls of `generate` with a strategy that are refused, each in one line that names what cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from keywords_of_generate import CACHE, DRAFT, ENDS, IDS, PADDED, TARGET, Even, Sixth, asked, generated
from tiny_models import minuscule
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessorList,
    MambaConfig,
    MambaForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.generation.stopping_criteria import ConfidenceCriteria

import specdec
import strategies
from specdec import InputError, Pair, PairError
from specdec.testing.models import model, resembling

SPECULATIVE = specdec.create("speculative", draft_length=3)


def stopping(*criteria: Any) -> dict[str, Any]:
    return {"stopping_criteria": StoppingCriteriaList(criteria)}


class Scored(StoppingCriteria):
    """Looks at scores, as a criterion may."""

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        return scores[-1].max() > 0


HOLE, RIGHT = torch.tensor([[1, 1, 0, 1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
HELD = DynamicCache(config=TARGET.config)
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a hole": ({"attention_mask": HOLE}, "attention_mask hides tokens"),
    "right padding": ({"attention_mask": RIGHT}, "attention_mask hides tokens"),
    "nothing visible": ({"attention_mask": 0 * IDS}, "attention_mask hides a whole prompt"),
    "positions": ({"position_ids": torch.arange(9, 16)[None]}, "position_ids cannot be used"),
    "embeddings alone": (
        {"inputs": None, "inputs_embeds": torch.ones(1, 4, 16, dtype=torch.float64)},
        "inputs_embeds cannot be used",
    ),
    "own processor": (PADDED | {"logits_processor": LogitsProcessorList([Even()])}, "Even is not one of transformers"),
    "own criterion": (PADDED | ENDS | stopping(Sixth()), "Sixth is not one of transformers"),
    "criterion with scores": (stopping(Scored()) | {"output_scores": True}, "Scored gets no scores"),
    "criterion that fails": (stopping(Scored()), "Scored fails .TypeError.*no scores"),
    "confidence": (stopping(ConfidenceCriteria(0.5)), "ConfidenceCriteria gets no scores"),
    "rows without an end": (PADDED | {"max_time": 9.0}, "MaxTimeCriteria ends one row before the others.*eos_token_id"),
    "context": ({"max_new_tokens": 90}, "context of 64 tokens.*max_new_tokens=57"),
    "a name": ({"draft": "gpt2"}, "draft is the name 'gpt2', not a model: load it"),
    "a number": ({"draft": 3}, "draft is of type int, not a model"),
    "two drafts": ({"assistant_model": DRAFT}, "draft and assistant_model are both given"),
    "synthetic": ({"verification": "synthetic:0.8"}, "no text to show"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_value_is_refused_in_a_line_that_names_it(name: str) -> None:
    keywords, message = REFUSALS[name]
    with pytest.raises(InputError, match=message) as refusal:
        generated(SPECULATIVE, asked(**keywords))
    assert "\n" not in str(refusal.value)


def test_a_cache_that_holds_tokens_is_refused_however_it_came() -> None:
    of: Any = TARGET
    held = getattr(of(IDS, use_cache=True), CACHE)
    held._is_user_defined = False
    mask = torch.ones(1, 2 * IDS.shape[1], dtype=torch.long)
    with pytest.raises(InputError, match=f"{CACHE} cannot be used"):
        generated(SPECULATIVE, asked(**{CACHE: held, "attention_mask": mask}))


class Heedless(LlamaForCausalLM):
    """Generates as if nothing were padding."""

    def prepare_inputs_for_generation(
        self, *args: Any, attention_mask: Any = None, position_ids: Any = None, **more: Any
    ) -> Any:
        prepare: Any = super()
        return prepare.prepare_inputs_for_generation(*args, **more)


def test_a_model_that_reads_padding_gets_no_padded_prompts() -> None:
    of: Any = resembling(TARGET, 0.0)
    of.__class__ = Heedless
    ask = {"custom_generate": SPECULATIVE, "draft": DRAFT}
    for _ in range(2):  # the answer is remembered
        with pytest.raises(InputError, match=r"llama reads padding: its logits differ by .* from those of the tokens alone"):
            of.generate(**asked(**PADDED, **ask))
    assert of.generate(**asked(**ask)).shape == (1, 15)


class Prefixed(LlamaForCausalLM):
    """Generates with positions of its own."""

    def prepare_inputs_for_generation(self, *args: Any, position_ids: Any = None, **more: Any) -> Any:
        prepare: Any = super()
        return prepare.prepare_inputs_for_generation(*args, position_ids=2 * position_ids, **more)


def test_a_model_whose_generate_prepares_other_inputs_is_refused() -> None:
    of: Any = resembling(TARGET, 0.0)
    of.__class__ = Prefixed
    with pytest.raises(InputError, match="llama cannot be used: in generate its logits differ by"):
        of.generate(**asked(), custom_generate=SPECULATIVE, draft=DRAFT)


def test_how_a_checkpoint_computes_is_no_request_unless_it_changes_logits() -> None:
    of: Any = resembling(TARGET, 0.0)
    of.generation_config.use_cache = False
    of.generation_config.num_assistant_tokens = 5
    ask = {"custom_generate": SPECULATIVE, "draft": DRAFT}
    assert torch.equal(of.generate(**asked(**ask)), generated(None, asked()))
    with pytest.raises(InputError, match="num_assistant_tokens=6 cannot be used"):
        of.generate(**asked(**ask, num_assistant_tokens=6))
    of.generation_config.cache_implementation = "paged"
    with pytest.raises(InputError, match="cache_implementation='paged' cannot be used"):
        of.generate(**asked(**ask, use_cache=True))


# --- models inside others


def test_a_pair_may_hold_the_model_around_this_one() -> None:
    around: Any = resembling(TARGET, 0.0)
    with Pair(around, DRAFT, lane="inline") as pair:
        with pytest.raises(InputError, match="another target than this model"):
            generated(SPECULATIVE, asked(draft=pair))
        around.get_base_model = lambda: TARGET  # as PEFT's models have it
        assert torch.equal(generated(SPECULATIVE, asked(draft=pair)), generated(None, asked()))


def test_a_model_whose_inputs_another_prepares_is_refused() -> None:
    of: Any = resembling(TARGET, 0.0)
    of.prepare_inputs_for_generation = Heedless.prepare_inputs_for_generation.__get__(of)
    with pytest.raises(InputError, match="LlamaForCausalLM prepares the inputs of this LlamaForCausalLM, as for a soft prompt"):
        of.generate(**asked(), custom_generate=SPECULATIVE, draft=DRAFT)


SIZES: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def llava() -> Any:
    text = LlamaConfig(vocab_size=24, eos_token_id=None, bos_token_id=None, **SIZES)
    configured: Any = LlavaConfig
    vision = CLIPVisionConfig(image_size=4, patch_size=2, **SIZES)
    config = configured(text_config=text, vision_config=vision, image_token_id=23, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config)


def t5() -> Any:
    sizes: dict[str, Any] = {"vocab_size": 24, "d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    sizes["decoder_start_token_id"] = 0
    return T5ForConditionalGeneration(T5Config(**sizes))


INPUTS_OF_OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "token_type_ids": (lambda: model("gpt2", 24), {"token_type_ids": torch.ones_like(IDS)}),
    "encoder_outputs": (t5, {}),
    "pixel_values": (llava, {"inputs": torch.tensor([[23] * 4 + [5]]), "pixel_values": torch.ones(1, 3, 4, 4)}),
    CACHE: (lambda: model("mistral", 24), {CACHE: DynamicCache()}),
}


@pytest.mark.parametrize("name", INPUTS_OF_OTHERS)
def test_inputs_of_other_models_are_refused_by_name(name: str) -> None:
    make, keywords = INPUTS_OF_OTHERS[name]
    with pytest.raises(InputError, match=name):
        make().eval().generate(**asked(**keywords), custom_generate=SPECULATIVE, draft=minuscule(24, seed=1))


def test_an_unknown_field_of_a_later_transformers_is_refused_unless_it_has_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first: Any = GenerationConfig.__init__

    def later(self: Any, **fields: Any) -> None:
        self.bend_the_law = fields.pop("bend_the_law", None)
        first(self, **fields)

    monkeypatch.setattr(GenerationConfig, "__init__", later)
    assert torch.equal(generated(SPECULATIVE, asked()), generated(None, asked()))
    with pytest.raises(InputError, match=r"bend_the_law=2 cannot be used .*: transformers .* has it: leave it out"):
        generated(SPECULATIVE, asked(bend_the_law=2))


def test_a_recurrent_target_is_refused_as_one_that_cannot_verify() -> None:
    """Its cache counts no tokens, and raised an error of transformers."""
    model: Any = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=4)).eval()
    with pytest.raises(PairError, match="mamba cannot verify drafts"):
        model.generate(torch.tensor([[1, 2]]), custom_generate=strategies.Pearl(2), draft=model, max_new_tokens=2)
