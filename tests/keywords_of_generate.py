"""Examples of every keyword of `generate`, and the law that `generate` itself gives, position by position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decodes import WORDS
from tiny_models import minuscule
from torch import Tensor
from transformers import (
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)

from specdec.runtime.cache import CACHE_NAMES, cache_name
from specdec.runtime.engine import Engine
from specdec.testing.models import byte_tokenizer, resembling

VOCABULARY = len(WORDS)
TARGET = minuscule(VOCABULARY, seed=4, hidden_size=16, max_position_embeddings=64)
DRAFT = resembling(TARGET, 0.3)
TOKENIZER: Any = byte_tokenizer(WORDS)
TOKENIZER.bos_token, TOKENIZER.pad_token = "?", "!"
IDS = torch.tensor([[3, 5, 7, 2, 9, 3, 5]])
BATCH = torch.tensor([[0, 0, 0, 4, 8, 3, 5], [0, 2, 1, 6, 9, 3, 5], [11, 5, 7, 2, 9, 3, 5]])
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
NEW_TOKENS = 8
PLAIN: dict[str, Any] = {"inputs": IDS, "max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
SAMPLED: dict[str, Any] = {"do_sample": True, "top_k": 0}
PADDED: dict[str, Any] = {"inputs": BATCH, "attention_mask": MASK}
ENDS: dict[str, Any] = {"eos_token_id": [3, 10]}


class Even(LogitsProcessor):
    """Allows even tokens only, after an odd number of tokens."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        odd = torch.arange(scores.shape[-1]) % 2 == input_ids.shape[1] % 2
        return scores.masked_fill(odd, -torch.inf)


class Sixth(StoppingCriteria):
    """Ends a sequence after six new tokens."""

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] == IDS.shape[1] + 6)


def allowed(row: int, input_ids: Tensor) -> list[int]:
    """A `prefix_allowed_tokens_fn` that depends on the row and on the context."""
    return [token for token in range(VOCABULARY) if (token + row + int(input_ids[-1])) % 3]


def asked(**more: Any) -> dict[str, Any]:
    return PLAIN | more


CHANGES: dict[str, dict[str, Any]] = {
    "inputs": {"inputs": BATCH[:, 3:]},
    "input_ids": {"inputs": None, "input_ids": BATCH[:, 3:]},
    "attention_mask": PADDED | {"pad_token_id": 1},
    "generation_config": {"generation_config": GenerationConfig(repetition_penalty=1.9)},
    "logits_processor": {"logits_processor": LogitsProcessorList([Even()])},
    "stopping_criteria": {"stopping_criteria": StoppingCriteriaList([Sixth()])},
    "prefix_allowed_tokens_fn": PADDED | {"prefix_allowed_tokens_fn": allowed},
    "tokenizer": {"tokenizer": TOKENIZER, "stop_strings": ["f"]},
    "stop_strings": {"tokenizer": TOKENIZER, "stop_strings": "f"},
    "token_healing": {"inputs": torch.tensor([[3, 4, 0]]), "tokenizer": TOKENIZER, "token_healing": True, "pad_token_id": 17},
    "max_length": {"max_new_tokens": None, "max_length": 10},
    "max_new_tokens": {"max_new_tokens": 3},
    "min_length": PADDED | ENDS | {"min_length": 13},
    "min_new_tokens": PADDED | ENDS | {"min_new_tokens": 6},
    "max_time": {"max_time": 1e-9},
    "eos_token_id": ENDS,
    "pad_token_id": PADDED | ENDS | {"pad_token_id": 1},
    "bos_token_id": {"inputs": None, "bos_token_id": 3},
    "repetition_penalty": PADDED | {"repetition_penalty": 1.9},
    "encoder_repetition_penalty": PADDED | {"encoder_repetition_penalty": 1.9},
    "no_repeat_ngram_size": PADDED | {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": PADDED | {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": PADDED | {"bad_words_ids": [[5], [3, 9]]},
    "suppress_tokens": {"suppress_tokens": [1, 5, 6, 7, 8]},
    "begin_suppress_tokens": PADDED | {"begin_suppress_tokens": list(range(12))},
    "sequence_bias": PADDED | {"sequence_bias": [[[4], 3.0], [[5, 7], 9.0], [[0, 4], 9.0]]},
    "forced_bos_token_id": {"inputs": IDS[:, :1], "forced_bos_token_id": 9},
    "forced_eos_token_id": PADDED | {"forced_eos_token_id": 9},
    "exponential_decay_length_penalty": PADDED | ENDS | {"exponential_decay_length_penalty": (2, 3.0)},
    "watermarking_config": PADDED | {"watermarking_config": WatermarkingConfig(bias=9.0)},
    "do_sample": SAMPLED,
    "temperature": SAMPLED | {"temperature": 0.4},
    "top_k": SAMPLED | {"top_k": 3},
    "top_p": SAMPLED | {"top_p": 0.6},
    "min_p": SAMPLED | {"min_p": 0.3},
    "top_h": SAMPLED | {"top_h": 0.4},
    "typical_p": SAMPLED | {"typical_p": 0.3},
    "epsilon_cutoff": SAMPLED | {"epsilon_cutoff": 0.2},
    "eta_cutoff": SAMPLED | {"eta_cutoff": 0.9},
    "num_return_sequences": SAMPLED | PADDED | {"num_return_sequences": 3, "repetition_penalty": 1.4},
}
"""A call for each keyword that is used. It must differ from the call without, so that an ignored keyword would be seen."""

SAME: dict[str, dict[str, Any]] = {
    "assistant_model": {"assistant_model": DRAFT, "draft": None},
    "position_ids": PADDED | {"position_ids": (MASK.cumsum(-1) - 1).clamp(min=0)},
    "logits_to_keep": {"logits_to_keep": 2},
    "custom_generate": {},
    "renormalize_logits": SAMPLED | {"renormalize_logits": True},
    "remove_invalid_values": {"remove_invalid_values": True},
    "negative_prompt_ids": {"negative_prompt_ids": IDS},
    "negative_prompt_attention_mask": {"negative_prompt_attention_mask": IDS},
    "trust_remote_code": {"trust_remote_code": True},
    "early_stopping": {"early_stopping": True},
    "length_penalty": {"length_penalty": 2.0},
    "num_beam_groups": {"num_beam_groups": 2},
    "diversity_penalty": {"diversity_penalty": 0.5},
    "decoder_start_token_id": {"decoder_start_token_id": 3},
    "disable_compile": {"disable_compile": True},
    "transformers_version": {"transformers_version": "5.0.0"},
}
"""A call for each keyword that changes no law, here or ever."""

SHOWN = ("streamer", "return_dict_in_generate", "output_scores", "output_logits")
"""Keywords that show more, which have tests of their own."""

CACHE = cache_name(TARGET) or ""
"""What this transformers calls the keys and values."""

REFUSED: dict[str, Any] = {
    "assistant_tokenizer": TOKENIZER,
    "synced_gpus": True,
    CACHE: DynamicCache(),
    "inputs_embeds": torch.ones(1, IDS.shape[1], 16, dtype=torch.float64),
    "num_beams": 3,
    "guidance_scale": 2.0,
    "output_attentions": True,
    "output_hidden_states": True,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"nbits": 4},
    "max_cache_len": 99,
    "prefill_chunk_size": 2,
    "compile_config": CompileConfig(),
    "use_mtp": True,
    "low_memory": True,
    "is_assistant": True,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "constraints": ["any"],
    "force_words_ids": [[3]],
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 5,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "assistant_lookbehind": 5,
    "target_lookbehind": 5,
}
"""A value for each keyword that is refused."""

ELSEWHERE = {
    "continuous_batching_config": "transformers warns of it, as of what is deprecated",
    **{name: "the cache of other models and versions" for name in CACHE_NAMES if name != CACHE},
    "pixel_values": "an input of other models",
    "input_features": "an input of other models",
    "token_type_ids": "an input of other models",
    "encoder_outputs": "an input of other models",
    "mm_encoder_outputs": "an input of other models",
}
"""Refused keywords that have tests of their own, because a plain language model does not take them."""


def generated(strategy: Any, keywords: dict[str, Any]) -> Any:
    """What `generate` returns, with a strategy or, for `None`, by itself."""
    of: Any = TARGET
    if strategy is not None:
        keywords = {"custom_generate": strategy, "draft": DRAFT, **keywords}
    else:
        keywords = {name: value for name, value in keywords.items() if name != "draft"}
    return of.generate(**{name: value for name, value in keywords.items() if value is not None})


def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], Tensor]:
    """Rows of `p` by their contexts, as they are verified from now on."""
    rows: dict[tuple[int, ...], Tensor] = {}
    verdict: Any = Engine._verdict

    def recording(self: Any, slot: Any, effect: Any) -> Any:
        context = effect.scores.committed.tokens
        for i, row in enumerate(effect.scores.rows.p if effect.scores.rows.p is not None else ()):
            rows[context + effect.guess.tokens[:i]] = torch.as_tensor(row).float()
        return verdict(self, slot, effect)

    monkeypatch.setattr(Engine, "_verdict", recording)
    return rows


def forced(keywords: dict[str, Any], tokens: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `generate` alone returns, with its laws as `scores`, if the tokens that it draws are these, shape (rows, new)."""
    columns = iter(tokens.T)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", lambda *_, **__: next(columns).unsqueeze(1))
        return generated(None, keywords | {"return_dict_in_generate": True, "output_scores": True})


def difference(strategy: Any, keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """How the output of a strategy differs from that of `generate`, or its law at any position does; `None` if nothing does."""
    if not keywords["do_sample"]:
        ours, theirs = generated(strategy, keywords), generated(None, keywords)
        return None if torch.equal(ours, theirs) else f"{ours.tolist()} instead of {theirs.tolist()}"
    rows = recorded(monkeypatch)
    ours = generated(strategy, keywords)
    width = keywords["inputs"].shape[1]
    theirs = forced(keywords, ours[:, width:], monkeypatch)
    if not torch.equal(ours, theirs.sequences):
        return f"{ours.tolist()}, and generate would go on with {theirs.sequences.tolist()}"
    ends = set(keywords.get("eos_token_id", ()))
    masks = keywords.get("attention_mask", torch.ones_like(keywords["inputs"])).repeat_interleave(
        len(ours) // len(keywords["inputs"]), 0
    )
    for row, mask in zip(range(len(ours)), masks, strict=True):
        context = tuple(ours[row, :width][mask == 1].tolist())
        for scores, token in zip(theirs.scores, ours[row, width:].tolist(), strict=True):
            off = float((rows[context] - scores[row].softmax(-1)).abs().max())
            if off > 1e-5:
                return f"after {context} the laws differ by {off}"
            if token in ends:
                break
            context = (*context, token)
    return None
