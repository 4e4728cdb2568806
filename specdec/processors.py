"""Finds logits processors that keep a state between calls, and refuses them by name.

Speculative decoding calls a processor for every row of a window: for drafts, and for rows that a rejection drops. `generate`
calls it once a token. So the answer must be a function of its two arguments, or outputs would have another law.

The history test calls a processor on contexts as `generate` would make them, one token longer each time. Then it calls copies
without that history, and the same object again in the reverse order. All must answer the same. A repeated call must change no
attribute: a counter may matter only much later. What cannot be copied is called itself, and only its answers are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from specdec.errors import InputError

CALLS = 16
"""Contexts in the history of a processor that is tested."""

DEPTH = 8
"""How far attributes of attributes are compared. They may lead back to where they began."""

STATELESS = frozenset(
    getattr(transformers, name)
    for name in (
        *("EncoderNoRepeatNGramLogitsProcessor", "EncoderRepetitionPenaltyLogitsProcessor", "EpsilonLogitsWarper"),
        *("EtaLogitsWarper", "ExponentialDecayLengthPenalty", "ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor"),
        *("InfNanRemoveLogitsProcessor", "LogitNormalization", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor"),
        *("MinPLogitsWarper", "NoBadWordsLogitsProcessor", "NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor"),
        *("SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor"),
        *("TemperatureLogitsWarper", "TopHLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper"),
        "WatermarkLogitsProcessor",
    )
)
"""Processors of transformers that are known to keep nothing, so that they are not tested."""

STATEFUL = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
}
"""Processors of transformers that keep a state, with the setting that makes them."""


def require_no_memory(processors: Sequence[Any], context: Sequence[int], vocabulary: int, device: torch.device) -> None:
    """Refuse processors that keep a state, after a prompt of token ids `context`. Those of transformers cost nothing."""
    for processor in processors:
        name = type(processor).__name__
        if type(processor) in STATELESS:
            continue
        setting = STATEFUL.get(name) if isinstance(processor, LogitsProcessor) else None
        reason = f"{setting} makes it remember" if setting else memory(processor, context, vocabulary, device)
        if reason is not None:
            raise InputError(
                f"logits processor {name} keeps a state between its calls ({reason}), and here drafts and rejected tokens "
                f"call it too: {f'leave {setting} out' if setting else 'let its answer depend on nothing but its arguments'}"
            )


def memory(processor: Any, context: Sequence[int], vocabulary: int, device: torch.device) -> str | None:
    """How a processor shows that it keeps a state; `None` where it does not."""
    dice = torch.Generator().manual_seed(0)
    logits = torch.randn(CALLS, 1, vocabulary, generator=dice).to(device)
    contexts = [torch.tensor([list(context)], device=device)]
    fresh, walked = duplicate(processor), duplicate(processor) or processor
    answers: list[Tensor | str] = []
    for row in logits:
        answers.append(answer(walked, contexts[-1], row))
        token = answers[-1].argmax(-1, keepdim=True) if isinstance(answers[-1], Tensor) else contexts[-1][:, -1:]
        contexts.append(torch.cat([contexts[-1], token], dim=1))
    before = duplicate(walked)
    if not alike(answer(walked, contexts[CALLS - 1], logits[-1]), answers[-1]):
        return "asked twice, it answers differently"
    if before is not None:
        earlier = dict(attributes(before))
        for name, value in attributes(walked):
            if not alike(value, earlier.get(name)):
                return f"each call changes its {name}"
    for i in reversed(range(CALLS)):
        if not alike(answer(walked, contexts[i], logits[i]), answers[i]):
            return "after other calls it answers differently"
        alone = duplicate(fresh)
        if alone is not None and not alike(answer(alone, contexts[i], logits[i]), answers[i]):
            return "without earlier calls it answers differently"
    return None


def answer(processor: Any, ids: Tensor, row: Tensor) -> Tensor | str:
    """What a processor makes of logits, or the name of the error that it raises."""
    try:
        return processor(ids, row.clone())
    except Exception as error:
        return type(error).__name__


def duplicate(processor: Any) -> Any:
    """A deep copy, but for models and tokenizers, which are shared; `None` where there is none."""
    shared = [value for _, value in attributes(processor) if isinstance(value, (nn.Module, PreTrainedTokenizerBase))]
    try:
        return copy.deepcopy(processor, {id(value): value for value in shared})
    except Exception:  # what a class says of itself, such as "cannot pickle '_thread.lock' object"
        return None


def attributes(thing: Any) -> list[tuple[str, Any]]:
    return list(getattr(thing, "__dict__", {}).items())


def alike(a: Any, b: Any, depth: int = 0) -> bool:
    """Whether two values are the same, as far as one can see `DEPTH` steps down."""
    deeper = partial(alike, depth=depth + 1)
    match a, b:
        case _ if depth > DEPTH:
            return True
        case Tensor(), Tensor():
            return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7))
        case np.ndarray(), np.ndarray():
            return np.array_equal(a, b)
        case torch.Generator(), torch.Generator():
            return torch.equal(a.get_state(), b.get_state())
        case dict(), dict():
            return list(a) == list(b) and all(deeper(a[key], b[key]) for key in a)
        case ((list() | tuple()), (list() | tuple())):
            return len(a) == len(b) and all(map(deeper, a, b))
        case ((set() | frozenset() | str() | bytes() | bool() | int() | float() | None), _):
            return bool(a == b) or (a != a and b != b)
        case _:
            own, other = attributes(a), attributes(b)
            return type(a) is type(b) and (a is b or not own or deeper(dict(own), dict(other)))
