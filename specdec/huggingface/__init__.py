"""A strategy as `model.generate(..., custom_generate=strategy, draft=draft_model)`.

`generate` of transformers prepares inputs, logits processors and stopping criteria, and hands them over. The rest is
`specdec.decoding`. `options` says what becomes of every keyword; `inputs` reads the prompts, padded or not; `rows` makes
processors and criteria of a batch those of its rows; `outputs` makes what `generate` returns.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers.generation.utils import GenerateDecoderOnlyOutput

from specdec.decoding import Decoding, decode
from specdec.errors import InputError
from specdec.huggingface.inputs import Prompts, prompts_of, require_one_border, require_own_inputs, require_plain_rows
from specdec.huggingface.options import require_possible, require_text_only
from specdec.huggingface.outputs import as_dictionary, sequences_of
from specdec.huggingface.rows import Endings, Group, endings_of, grouped
from specdec.output import Result
from specdec.pair import Pair
from specdec.runtime.cache import unwrapped
from specdec.runtime.watch import evaluation
from specdec.sampling import Sampling
from specdec.settings import Settings
from specdec.strategy import DecodingStrategy
from specdec.synthetic import require_text
from specdec.verification import Rule

MODE = ("streamer", "assistant_model", "assistant_tokenizer", "tokenizer", "synced_gpus")
"""Keywords that `generate` gives to a mode of decoding, beside the inputs of the model (`specdec.handover`)."""


def generate(
    strategy: DecodingStrategy,
    model: Any,
    input_ids: Tensor,
    draft: Any,
    verification: str | Rule,
    prepared: dict[str, Any],
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decode prompts of shape (rows, width), padded on the left or not. Returns what `generate` returns.

    `draft` is a model, which then works inline, or a `Pair` with this target, whose lanes stay warm between calls. The seed
    comes from torch's global generator, so `transformers.set_seed` reproduces the tokens.
    """
    given = {name: prepared.pop(name) for name in MODE if name in prepared}
    streamer = given.get("streamer")
    try:
        require_text(verification)
        config = prepared.pop("generation_config")
        processors, criteria = prepared.pop("logits_processor"), prepared.pop("stopping_criteria")
        require_possible(config, given, model.generation_config)
        require_text_only(prepared)
        require_own_inputs(model)
        prompts = prompts_of(input_ids, prepared)
        endings = endings_of(criteria, len(prompts), prompts.width, scored=bool(config.output_scores))
        require_one_border(model, prompts, endings.max_new_tokens)
        groups = grouped(prompts, processors, endings.criteria)
        temperature = 1.0 if config.do_sample else 0.0  # the processors hold the other one
        with _pair(model, draft, given.get("assistant_model")) as pair, evaluation(model):
            require_plain_rows(model, prompts)
            outputs = _outputs(
                pair, strategy, prompts, endings, groups, streamer if len(prompts) == 1 else None, temperature, verification
            )
            sequences = sequences_of(input_ids, outputs, None if endings.eos is None else config._pad_token_tensor)
            if streamer is not None and len(prompts) > 1:
                for tokens in sequences[:, prompts.width :].T.cpu():
                    streamer.put(tokens)
            if not config.return_dict_in_generate:
                return sequences
            return as_dictionary(model, sequences, prompts.width, config, processors, prepared)
    finally:
        if streamer is not None:
            streamer.end()


def _pair(model: Any, draft: Any, assistant: Any) -> AbstractContextManager[Pair]:
    """The pair that decodes: the one given, or one of the model and its draft, for this call."""
    if draft is not None and assistant is not None:
        raise InputError("draft and assistant_model are both given: give the draft once")
    draft = assistant if draft is None else draft
    if isinstance(draft, Pair):
        if model not in (draft.target, unwrapped(draft.target)):  # adapters and torch.compile call generate of the model inside
            raise InputError("the pair given as draft has another target than this model: build it as Pair(model, draft_model)")
        return nullcontext(draft)
    if draft is not None and not isinstance(draft, nn.Module):
        kind = f"the name {draft!r}" if isinstance(draft, str) else f"of type {type(draft).__name__}"
        raise InputError(f"draft is {kind}, not a model: load it with AutoModelForCausalLM.from_pretrained, or give a Pair")
    return Pair(model, draft, lane="inline")  # type: ignore[arg-type]


def _outputs(
    pair: Pair,
    strategy: DecodingStrategy,
    prompts: Prompts,
    endings: Endings,
    groups: list[Group],
    streamer: Any,
    temperature: float,
    verification: str | Rule,
) -> list[tuple[int, ...]]:
    """The new tokens of each row. A streamer gets those of a single row as they come."""
    outputs: dict[int, tuple[int, ...]] = {}
    budget = pair.context_limit if endings.max_new_tokens is None else endings.max_new_tokens
    for group in groups:
        rows = [prompts.row(i) for i in group.rows]
        sampling = Sampling(temperature, logits_processor=group.processors)
        of_group: dict[str, Any] = {
            "settings": Settings(sampling, endings.eos or frozenset(), budget),
            "stop": endings.stop(group.padding, prompts.input_ids.device),
            "verification": verification,
            "seed": int(torch.randint(2**31, ())),
        }
        if streamer is None:
            results = decode(pair, strategy, rows, batch_size=len(rows), **of_group)
        else:
            results = [_streamed(Decoding(pair, strategy, rows[0], **of_group), streamer)]
        for i, result in zip(group.rows, results, strict=True):
            _require_whole(result, budget, pair)
            outputs[i] = result.tokens
    return [outputs[i] for i in range(len(prompts))]


def _streamed(decoding: Decoding, streamer: Any) -> Result:
    """The output, whose tokens the streamer gets one by one, as from `generate`."""
    for part in decoding:
        for token in part.tokens:
            streamer.put(torch.tensor([token]))
    return decoding.result()


def _require_whole(result: Result, budget: int, pair: Pair) -> None:
    if result.finished_by == "length" and len(result.tokens) < budget:
        raise InputError(
            f"the context of {pair.context_limit} tokens ended an output after {len(result.tokens)} of {budget} new tokens, "
            f"where generate goes on: ask for max_new_tokens={len(result.tokens)} at most"
        )
