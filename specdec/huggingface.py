"""A strategy as `model.generate(..., custom_generate=strategy, draft=draft_model)`.

`generate` of transformers prepares logits processors and stopping criteria, and hands them over. The rest is
`specdec.decoding`. `generate` keeps `streamer`, `assistant_model` and `tokenizer` to itself, so the draft is given by the
keyword `draft`, and stop strings by `StopStringCriteria`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec.decoding import decode
from specdec.errors import InputError
from specdec.pair import Pair
from specdec.sampling import Sampling
from specdec.settings import Settings
from specdec.strategy import DecodingStrategy
from specdec.synthetic import require_text
from specdec.verification import Rule


def generate(
    strategy: DecodingStrategy,
    model: PreTrainedModel,
    input_ids: Tensor,
    draft: PreTrainedModel | Pair | None,
    verification: str | Rule,
    prepared: dict[str, Any],
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decode one sequence. `input_ids` has shape (1, prompt); the result has shape (1, prompt + new), as from `generate`.

    `draft` is a model, which then works inline, or a `Pair` with this target, whose lanes stay warm between calls. The seed
    comes from torch's global generator, so `transformers.set_seed` reproduces the tokens.
    """
    require_text(verification)
    config, mask = prepared["generation_config"], prepared.get("attention_mask")
    if len(input_ids) != 1 or (mask is not None and not bool((mask == 1).all())):
        raise InputError(
            f"one sequence without padding is decoded at a time, not a batch of {len(input_ids)}: loop over prompts"
        )
    pair = draft if isinstance(draft, Pair) else Pair(model, draft, lane="inline")
    if pair.target is not model:
        raise InputError("the pair given as draft has another target than this model: build it as Pair(model, draft_model)")
    stopping = prepared.get("stopping_criteria") or []

    def stop(tokens: tuple[int, ...]) -> str | None:
        ids = torch.tensor([tokens], device=input_ids.device)
        return "stop" if any(bool(criterion(ids, None)) for criterion in stopping) else None

    processors = tuple(prepared.get("logits_processor") or ())
    sampling = Sampling(1.0 if config.do_sample else 0.0, logits_processor=processors)
    result = decode(
        pair,
        strategy,
        input_ids[0].tolist(),
        settings=Settings(sampling, max_new_tokens=pair.context_limit),  # the stopping criteria know the budget
        stop=stop,
        verification=verification,
        seed=int(torch.randint(2**31, ())),
    )
    new = torch.tensor([result.tokens], dtype=input_ids.dtype, device=input_ids.device)
    sequences = torch.cat([input_ids, new], dim=1)
    return GenerateDecoderOnlyOutput(sequences=sequences) if config.return_dict_in_generate else sequences  # type: ignore[arg-type]
