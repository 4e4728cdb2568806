"""Logits processors and stopping criteria of a batch, as `generate` calls them, for one row of it.

`generate` calls them for all rows at once, on padded contexts. A strategy decodes each row alone and unpadded. Most processors
of transformers do not see the difference. Those that do are called with what they would have seen. Those that are not of
transformers may look at anything, so that they are refused in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation import logits_process as processing
from transformers.generation import stopping_criteria as stopping

from specdec.ending import Stop
from specdec.errors import InputError
from specdec.huggingface.inputs import Prompts
from specdec.processors import STATELESS

CONTEXT_FREE = {
    processing.TemperatureLogitsWarper,
    processing.TopKLogitsWarper,
    processing.TopPLogitsWarper,
    processing.TopHLogitsWarper,
    processing.MinPLogitsWarper,
    processing.TypicalLogitsWarper,
    processing.EpsilonLogitsWarper,
    processing.EtaLogitsWarper,
    processing.SuppressTokensLogitsProcessor,
    processing.InfNanRemoveLogitsProcessor,
    processing.LogitNormalization,
}
"""Processors that look at logits alone."""

BY_NUMBER = {processing.EncoderRepetitionPenaltyLogitsProcessor, processing.EncoderNoRepeatNGramLogitsProcessor}
"""Processors that look at the number of the row too."""


@dataclass(frozen=True)
class InBatch(LogitsProcessor):
    """A processor that is called as if it were for all rows of a padded batch. All rows are copies of row `row`."""

    processor: LogitsProcessor
    row: int
    rows: int
    padding: tuple[int, ...]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        ids = padded(input_ids, self.padding)
        if self.rows == 1:
            return self.processor(ids, scores)
        every = self.processor(ids.expand(self.rows, -1), scores.repeat(self.rows, 1))  # type: ignore[arg-type]
        return every[self.row : self.row + 1]


def padded(input_ids: Any, padding: tuple[int, ...]) -> Any:
    """A context, shape (1, length), with its padding again."""
    if not padding:
        return input_ids
    return torch.cat([torch.tensor([padding], dtype=input_ids.dtype, device=input_ids.device), input_ids], dim=1)


@dataclass(frozen=True)
class Group:
    """Rows that are decoded together: they share processors and a stop function."""

    rows: tuple[int, ...]
    processors: tuple[Any, ...]
    padding: tuple[int, ...] = ()


def grouped(prompts: Prompts, processors: Sequence[Any], criteria: Sequence[Any]) -> list[Group]:
    """All rows, in as few groups as processors and criteria allow. Refuses those that a strategy cannot use."""
    for processor in processors:
        _require_usable(processor, len(prompts))
    processors = [_without_padding(processor, prompts) for processor in processors]
    groups: dict[tuple[Any, ...], Group] = {}
    for row in range(len(prompts)):
        padding = prompts.hidden(row)
        of_row = tuple(_of_row(processor, row, len(prompts), padding) for processor in processors)
        key = (*map(_identity, of_row), padding if criteria else ())
        found = groups.get(key, Group((), of_row, padding if criteria else ()))
        groups[key] = replace(found, rows=(*found.rows, row))
    return list(groups.values())


def _identity(processor: Any) -> tuple[Any, ...]:
    """Is equal for what processes rows alike. A processor may be of a class that cannot be hashed."""
    if isinstance(processor, InBatch):
        return id(processor.processor), processor.row, processor.rows, processor.padding
    return (id(processor),)


def _require_usable(processor: Any, rows: int) -> None:
    kind = type(processor)
    known = STATELESS | {processing.PrefixConstrainedLogitsProcessor}
    if rows > 1 and kind not in known:
        raise InputError(
            f"the logits processor {kind.__name__} is not one of transformers, and may look at all rows of a batch: "
            "decode one sequence at a time"
        )


def _without_padding(processor: Any, prompts: Prompts) -> Any:
    """A repetition penalty that leaves out just the padding, as `generate` makes it, is one without padding."""
    if type(processor) is processing.RepetitionPenaltyLogitsProcessor:
        ignored = processor.prompt_ignore_length
        if isinstance(ignored, Tensor) and tuple(ignored.tolist()) == prompts.padding:
            return _Unpadded(processor.penalty)
    return processor


class _Unpadded(processing.RepetitionPenaltyLogitsProcessor):
    """A repetition penalty that sees no padding."""


def _of_row(processor: Any, row: int, rows: int, padding: tuple[int, ...]) -> Any:
    kind = type(processor)
    if kind in CONTEXT_FREE or kind is _Unpadded:
        return processor
    if kind is processing.PrefixConstrainedLogitsProcessor and rows > 1:
        allowed = partial(_allowed, processor._prefix_allowed_tokens_fn, row)
        processor = processing.PrefixConstrainedLogitsProcessor(allowed, 1)
    by_number = kind in BY_NUMBER or isinstance(getattr(processor, "prompt_ignore_length", None), Tensor)
    if by_number and rows > 1:
        return InBatch(processor, row, rows, padding)
    return InBatch(processor, 0, 1, padding) if padding else processor


def _allowed(function: Callable[[int, Any], list[int]], row: int, _: int, input_ids: Any) -> list[int]:
    """What a `prefix_allowed_tokens_fn` allows a row, whatever its number is here."""
    return function(row, input_ids)


@dataclass(frozen=True)
class Endings:
    """When rows end: after `max_new_tokens` (`None`: never), at a token of `eos`, or by one of the other `criteria`."""

    max_new_tokens: int | None
    eos: frozenset[int] | None
    criteria: tuple[Any, ...]

    def stop(self, padding: tuple[int, ...], device: torch.device) -> Stop | None:
        """The other criteria as `decode` takes them."""
        return partial(_reason, self.criteria, padding, device) if self.criteria else None


def endings_of(criteria: Sequence[Any], rows: int, width: int, *, scored: bool) -> Endings:
    """Stopping criteria, for prompts of `width` tokens. Refuses those that a strategy cannot use. `scored`: they get scores."""
    lengths = [criterion.max_length for criterion in criteria if type(criterion) is stopping.MaxLengthCriteria]
    ends = [criterion.eos_token_id for criterion in criteria if type(criterion) is stopping.EosTokenCriteria]
    others = [
        criterion for criterion in criteria if type(criterion) not in (stopping.MaxLengthCriteria, stopping.EosTokenCriteria)
    ]
    for criterion in others:
        _require_no_scores(criterion, rows, scored=scored)
    if others and not ends and rows > 1:
        raise InputError(
            f"stopping criterion {type(others[0]).__name__} ends one row before the others, and generate goes on with that row "
            "where there is no eos_token_id: give one, or decode one sequence at a time"
        )
    return Endings(
        min(lengths) - width if lengths else None,
        frozenset(int(token) for tokens in ends for token in tokens) if ends else None,
        tuple(others),
    )


def _require_no_scores(criterion: Any, rows: int, *, scored: bool) -> None:
    name = type(criterion).__name__
    if type(criterion) in (stopping.MaxTimeCriteria, stopping.StopStringCriteria):
        return
    if scored or type(criterion) is stopping.ConfidenceCriteria:
        raise InputError(f"stopping criterion {name} gets no scores from a strategy: leave it out, or output_scores")
    if rows > 1:
        raise InputError(
            f"stopping criterion {name} is not one of transformers, and may look at all rows of a batch: "
            "decode one sequence at a time"
        )


def _reason(criteria: Sequence[Any], padding: tuple[int, ...], device: torch.device, tokens: tuple[int, ...]) -> str | None:
    ids = torch.tensor([padding + tokens], device=device)
    for criterion in criteria:
        try:
            done = bool(criterion(ids, None))
        except Exception as error:
            raise InputError(
                f"stopping criterion {type(criterion).__name__} fails ({type(error).__name__}: {error}): "
                "it gets token ids, and no scores"
            ) from error
        if done:
            return "stop"
    return None
