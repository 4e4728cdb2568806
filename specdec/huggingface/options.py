"""Every keyword of `generate`, and what becomes of it where a strategy is the `custom_generate`.

A keyword is used as `generate` uses it, or has no effect in `generate` either, or is refused by name: none is ignored. The page
on `custom_generate` shows these tables, and its test tries every row. A field of `GenerationConfig` that is not in them, in
a version of transformers that came later, is refused unless it has its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import transformers
from transformers import GenerationConfig

from specdec.errors import InputError
from specdec.runtime.cache import CACHE_NAMES


@dataclass(frozen=True)
class Option:
    """What becomes of a keyword.

    `how`     `"used"` as `generate` uses it, `"no effect"` in `generate` either, or `"refused"`
    `note`    what to know; for what is refused, why and what to do instead
    `unless`  values that ask for nothing, and are not refused; `None` is always one
    `works`   whether it says only how tokens are computed: what the checkpoint itself says of that is left out, not refused
    """

    how: Literal["used", "no effect", "refused"]
    note: str = ""
    unless: tuple[Any, ...] = ()
    works: bool = False


def _used(names: str, note: str = "") -> dict[str, Option]:
    return {name: Option("used", note) for name in names.split()}


def _no_effect(names: str, note: str) -> dict[str, Option]:
    return {name: Option("no effect", note) for name in names.split()}


def _refused(names: str, note: str, *unless: Any) -> dict[str, Option]:
    return {name: Option("refused", note, unless) for name in names.split()}


def _works(names: str, note: str, *unless: Any) -> dict[str, Option]:
    return {name: Option("refused", note, unless, works=True) for name in names.split()}


ONE_BEAM = "read by beam search only, and a strategy has one beam"
LENGTH_OF_DRAFTS = "how long drafts are is a parameter of the strategy: leave it out, and give `strategies.Pearl(4)` the length"
OTHER_DECODING = "asks for another way of decoding: leave it out, or call generate without custom_generate"
OWN_CACHE = "the strategy decodes with caches of its own: leave it out"
TOKENS_ALONE = "models are decoded from token ids alone: leave it out, or call generate without custom_generate"

PARAMETERS: dict[str, Option] = {
    **_used("inputs", "one prompt or a batch, padded on the left or not"),
    **_used("generation_config", "each of its fields, as below"),
    **_used("logits_processor", "for `p` and for `q`; in a batch, those of transformers"),
    **_used("stopping_criteria", "in a batch, those of transformers; your own cannot have scores"),
    **_used("prefix_allowed_tokens_fn tokenizer"),
    **_used(
        "streamer", "gets the prompt, then each token, and is ended, after an error too; a batch when all of it is decoded"
    ),
    **_used("assistant_model", "is the draft, as is the keyword `draft`"),
    **_refused("assistant_tokenizer", "a draft has the target's own tokens: leave it out, and give a draft that shares them"),
    **_refused("synced_gpus", "the ranks of FSDP or DeepSpeed would decode different numbers of rounds: leave it out", False),
    **_no_effect("negative_prompt_ids negative_prompt_attention_mask", "read by guidance only, which is refused"),
    **_no_effect("trust_remote_code", "no code is loaded for a strategy"),
    **_used("custom_generate", "the strategy"),
}
"""The parameters of `generate` that are no input of a model and no field of `GenerationConfig`."""

INPUTS: dict[str, Option] = {
    **_used("input_ids"),
    **_used("attention_mask", "it may hide padding on the left"),
    **_used("position_ids", "those that `generate` makes from the mask; others are refused"),
    **_refused("past_key_values cache_params cache", f"{OWN_CACHE}, with the whole prompt as input_ids"),
    **_no_effect("logits_to_keep", "`generate` reads the last row"),
    **_refused("inputs_embeds", "the prompt is given as token ids: leave it out, and give input_ids"),
    **_refused("pixel_values input_features token_type_ids encoder_outputs", TOKENS_ALONE),
    **_refused("mm_encoder_outputs", f"it holds an image or a video (pixel_values), and {TOKENS_ALONE}"),
}
"""Inputs of models. Every input that is not here, of any model, is refused as `pixel_values` is."""

FIELDS: dict[str, Option] = {
    **_used("max_length max_new_tokens", "an output that the context of the pair would cut is refused"),
    **_used("min_length min_new_tokens max_time eos_token_id bos_token_id pad_token_id do_sample"),
    **_used("stop_strings token_healing", "with `tokenizer`"),
    **_used("temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff"),
    **_used("repetition_penalty encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size"),
    **_used("bad_words_ids suppress_tokens begin_suppress_tokens sequence_bias forced_bos_token_id forced_eos_token_id"),
    **_used("renormalize_logits remove_invalid_values exponential_decay_length_penalty"),
    **_used("watermarking_config", "a `WatermarkingConfig`; SynthID remembers calls, and is refused"),
    **_used("num_return_sequences", "independent samples"),
    **_used("return_dict_in_generate output_scores output_logits", "from one more forward over the whole output"),
    **_no_effect("early_stopping length_penalty num_beam_groups diversity_penalty", ONE_BEAM),
    **_no_effect("decoder_start_token_id", "read by encoder-decoder models only, which are refused"),
    **_no_effect("disable_compile", "nothing is compiled"),
    **_no_effect("transformers_version", "names the version that wrote the file"),
    **_refused("num_beams", "a strategy has one beam: leave it out, or call generate without custom_generate", 1),
    **_refused("guidance_scale", "guidance keeps a cache of its own, which drafts would spoil: leave it out", 1, 1.0),
    **_refused("output_attentions output_hidden_states", "they are not collected: leave it out", False),
    **_works("use_cache", "a strategy decodes with a cache: leave it out, or give True", True),
    **_works("cache_implementation", OWN_CACHE, "dynamic"),
    **_works("cache_config max_cache_len", OWN_CACHE),
    **_works("prefill_chunk_size", "prompts are read in chunks of 1024 tokens: leave it out"),
    **_works("compile_config", "the pair decides how forwards run: leave it out; `Pair(..., eager=...)` chooses"),
    **_refused("continuous_batching_config", OTHER_DECODING),
    **_refused("is_assistant", OTHER_DECODING, False),
    **_refused("penalty_alpha dola_layers constraints force_words_ids assistant_ensemble_weight", OTHER_DECODING),
    **_works("use_mtp low_memory", OTHER_DECODING, False),
    **_works("assistant_early_exit speculation_type", OTHER_DECODING),
    **_works("prompt_lookup_num_tokens max_matching_ngram_size", "leave it out; the strategy is `strategies.PromptLookup`"),
    **_works("num_assistant_tokens", LENGTH_OF_DRAFTS, 20),
    **_works("num_assistant_tokens_schedule", LENGTH_OF_DRAFTS, "constant"),
    **_works("assistant_confidence_threshold", LENGTH_OF_DRAFTS, 0.4),
    **_works("assistant_lookbehind target_lookbehind", "drafts share the target's tokens: leave it out", 10),
}
"""The fields of `GenerationConfig`."""


INEXACT = ("quantized", "paged")
"""Kinds of caches that change logits, whoever asks for them."""


def require_possible(config: Any, given: dict[str, Any], own: Any) -> None:
    """Refuse by name each field of a prepared configuration, and each parameter, that cannot be used.

    `own` is the checkpoint's configuration. What it says of how tokens are computed is no request, unless the call says more.
    """
    defaults = GenerationConfig._get_default_generation_params()  # pyright: ignore[reportPrivateUsage]
    known: dict[str, Any] = {**vars(GenerationConfig()), **defaults}
    for name, value in {**vars(config), **given}.items():
        option = FIELDS.get(name) or PARAMETERS.get(name)
        if option is not None and option.how == "refused":
            kept = option.works and value not in INEXACT and value == getattr(own, name, None)
            refuse_unless((*option.unless, value) if kept else option.unless, name, value, option.note)
        elif option is None and name in known and not name.startswith("_"):
            refuse_unless((known[name],), name, value, f"transformers {transformers.__version__} has it: leave it out")


def refuse_unless(nothing: tuple[Any, ...], name: str, value: Any, note: str) -> None:
    """An `InputError` that names a keyword, unless its value is `None` or one that asks for nothing."""
    if value is None or any(type(value) is type(none) and value == none for none in nothing):
        return
    shown = f"{name}={value!r}" if isinstance(value, (bool, int, float, str)) else name
    raise InputError(f"{shown} cannot be used with a strategy as custom_generate: {note}")


def require_text_only(inputs: dict[str, Any]) -> None:
    """Refuse by name each input of the model beside its tokens. `prompts_of` looks at mask, positions and cache."""
    for name, value in inputs.items():
        option = FIELDS.get(name) or INPUTS.get(name, INPUTS["pixel_values"])
        nothing = isinstance(value, dict) and all(part is None for part in value.values())  # a model without any image
        if option.how == "refused" and name not in {*FIELDS, *CACHE_NAMES} and not nothing:
            refuse_unless((), name, value, option.note)
