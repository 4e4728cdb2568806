"""Prompts that are token ids already: sequences, tensors and arrays of one row, and what a tokenizer returned.

Takes what holds token ids beyond doubt, and refuses everything else by name. Knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from specdec.errors import InputError

IDS, MASK = "input_ids", "attention_mask"
ABOUT_IDS = {"special_tokens_mask", "offset_mapping", "length", "assistant_masks"}
"""What else a tokenizer returns that no model reads."""
GIVE = "give text, token ids or a list of messages"
SEVERAL = "decode takes one prompt: give a batch_size to decode a list of prompts"


def one_row(prompt: Any) -> tuple[int, ...]:
    """The token ids of one prompt. Raises `InputError` for anything else, by its kind."""
    if isinstance(prompt, Mapping):
        rows = rows_of(prompt)
    elif isinstance(prompt, Tensor | np.ndarray):
        rows = [_ids(row) for row in _rows(prompt)]
    elif isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes | bytearray | memoryview):
        rows = [_ids(prompt)]
    else:
        _refuse(prompt)
    if len(rows) != 1:
        raise InputError(f"the prompt has {len(rows)} rows, and {SEVERAL}")
    return rows[0]


def rows_of(encoding: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """The rows of what a tokenizer returned, without the padding on their left."""
    if IDS not in encoding:
        remedy = "put it into a list of messages" if "role" in encoding else GIVE
        raise InputError(f"the prompt is a mapping without {IDS!r}: {remedy}")
    for name, value in encoding.items():
        one_text = name == "token_type_ids" and value is not None and not any(map(any, _rows(value)))
        if value is not None and not one_text and name not in {IDS, MASK} | ABOUT_IDS:
            raise InputError(
                f"the prompt has {name!r}, which decode does not read: leave it out, or use model.generate with custom_generate"
            )
    rows = [_ids(row) for row in _rows(encoding[IDS])]
    mask = encoding.get(MASK)
    masks = [[1] * len(row) for row in rows] if mask is None else [_ids(row) for row in _rows(mask)]
    if [len(row) for row in rows] != [len(row) for row in masks]:
        raise InputError(f"{IDS!r} and {MASK!r} of the prompt have different shapes: give both as the tokenizer returned them")
    return [_without_padding(row, seen) for row, seen in zip(rows, masks, strict=True)]


def _without_padding(row: Sequence[int], seen: Sequence[int]) -> tuple[int, ...]:
    padded = len(row) - sum(map(bool, seen))
    if any(seen[:padded]):
        raise InputError(
            f"{MASK!r} hides tokens that are not padding on the left: tokenize without padding, or pad on the left"
        )
    return tuple(row[padded:])


def _rows(values: Any) -> list[Sequence[Any]]:
    """One row or several, of a tensor, an array or nested lists."""
    if isinstance(values, Tensor | np.ndarray):
        _require_integers(values)
        if values.ndim not in (1, 2):
            raise InputError(f"the prompt has {values.ndim} dimensions: give a row of token ids")
        rows: Any = values.tolist()
        return rows if values.ndim == 2 else [rows]
    if not isinstance(values, list | tuple):
        raise InputError(f"the prompt has token ids of type {type(values).__name__}: give a row of integers")
    nested = bool(values) and all(isinstance(row, list | tuple | Tensor | np.ndarray) for row in values)
    return [row for each in values for row in _rows(each)] if nested else [values]


def _require_integers(values: Tensor | np.ndarray) -> None:
    if isinstance(values, Tensor):
        integers = not (values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool)
    else:
        integers = values.dtype.kind in "iu"
    if not integers:
        raise InputError(f"the prompt is of {values.dtype}: token ids are integers")


def _ids(row: Sequence[Any]) -> tuple[int, ...]:
    """A row of integers, as `int`. Raises `InputError` that names the first one that is none."""
    ids: list[int] = []
    for token in row:
        if isinstance(token, bool):
            _refuse_token(token)
        try:
            ids.append(index(token))
        except TypeError:
            _refuse_token(token)
    return tuple(ids)


def _refuse_token(token: Any) -> NoReturn:
    if isinstance(token, str):
        raise InputError(f"the prompt is a list with the text {token[:40]!r}, and {SEVERAL}")
    if isinstance(token, Sequence | Mapping | Tensor | np.ndarray):
        raise InputError(f"the prompt holds rows ({type(token).__name__}), and {SEVERAL}")
    raise InputError(f"the prompt holds {token!r} of type {type(token).__name__}: token ids are integers")


def _refuse(prompt: Any) -> NoReturn:
    remedy = 'give text, as prompt.decode("utf-8")' if isinstance(prompt, bytes | bytearray | memoryview) else GIVE
    raise InputError(f"the prompt is of type {type(prompt).__name__}: {remedy}")
