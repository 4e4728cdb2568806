"""What `generate` returns: sequences with padding after their ends, and scores, logits and a cache where they are asked for.

Scores and logits come from one forward of the target over the finished sequences, on the cache that `generate` prepared. The
logits processors then go over its rows position by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec.errors import InputError
from specdec.huggingface.inputs import ATTENTION_MASK, POSITION_IDS
from specdec.runtime.cache import CACHE_NAMES


def sequences_of(input_ids: Tensor, outputs: Sequence[Sequence[int]], pad: Tensor | None) -> Tensor:
    """Prompts and outputs, shape (rows, width + longest output). Rows that ended earlier end in padding."""
    longest = max(map(len, outputs))
    if pad is None and any(len(output) < longest for output in outputs):
        raise InputError("the outputs of a batch differ in length, and no pad_token_id is set: give pad_token_id")
    fill = 0 if pad is None else int(pad)
    rows = [[*output, *[fill] * (longest - len(output))] for output in outputs]
    return torch.cat([input_ids, torch.tensor(rows, device=input_ids.device)], dim=1)


def as_dictionary(
    model: Any, sequences: Tensor, width: int, config: Any, processors: Any, inputs: dict[str, Any]
) -> GenerateDecoderOnlyOutput:
    """The output for `return_dict_in_generate`: sequences and cache, and the scores and logits that are asked for.

    `width` counts the tokens of a prompt, padding included. Scores are those of the target, as the processors make them.
    """
    rows, cache = _forward(model, sequences, width, inputs)
    steps = range(rows.shape[1])
    logits = tuple(rows[:, i].to(copy=True, dtype=torch.float32, device=sequences.device) for i in steps)
    scores = None
    if config.output_scores:
        scores = tuple(processors(sequences[:, : width + i], logits[i].clone()) for i in steps)
    return GenerateDecoderOnlyOutput(
        sequences=sequences,  # type: ignore[arg-type]
        scores=scores,  # type: ignore[arg-type]
        logits=logits if config.output_logits else None,  # type: ignore[arg-type]
        **{_cache_field(): cache},
    )


def _cache_field() -> str:
    """What the output calls its cache; `cache` from transformers 5.24 on."""
    return next(field.name for field in fields(GenerateDecoderOnlyOutput) if field.name in CACHE_NAMES)


def _forward(model: Any, sequences: Tensor, width: int, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
    """Logits before each new token, shape (rows, new tokens, vocabulary), and the cache with all tokens but the last."""
    new_tokens = sequences.shape[1] - width
    heeded = (ATTENTION_MASK, POSITION_IDS, *CACHE_NAMES, "use_cache", "logits_to_keep")
    arguments = {name: inputs[name] for name in heeded if name in inputs}
    if "logits_to_keep" in arguments:
        arguments["logits_to_keep"] = new_tokens
    arguments = model._update_model_kwargs_for_generation({}, arguments, num_new_tokens=new_tokens - 1)
    prepared = model.prepare_inputs_for_generation(sequences[:, :-1], is_first_iteration=True, **arguments)
    with torch.no_grad():
        outputs = model(**prepared, return_dict=True)
    cache = next((getattr(outputs, name) for name in CACHE_NAMES if getattr(outputs, name, None) is not None), None)
    return outputs.logits[:, -new_tokens:], cache
