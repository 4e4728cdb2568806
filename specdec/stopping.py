"""Texts that end an output, found as `generate` of transformers finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from specdec.errors import InputError


class StopStrings:
    """Says whether the newest token completes a stop string, as `generate` does (`StopStringCriteria`).

    So special tokens have their text, and a stop string may begin in the prompt, or in the middle of a token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, stop_strings: Sequence[str]) -> None:
        if tokenizer is None:
            raise InputError("stop strings need a tokenizer, and acceptance that is not synthetic: use `eos` or `stop`")
        try:
            self._criterion = StopStringCriteria(tokenizer, list(stop_strings))
        except ValueError as error:
            raise InputError(
                f"stop strings {', '.join(map(repr, stop_strings))} cannot be made of this tokenizer's tokens: "
                "leave them out, or use `eos` or `stop`"
            ) from error
        table: Any = self._criterion.embedding_vec
        ends: Any = table[:, int(self._criterion.max_valid_positions) * len(stop_strings) : -1] > 0
        self.reach: int = self._criterion.maximum_token_len
        self._last = frozenset(ends.any(dim=1).nonzero().flatten().tolist())

    def __call__(self, tokens: tuple[int, ...]) -> str | None:
        """`"stop"` if the last of these tokens completes a stop string. The last `reach` of a text and its prompt suffice."""
        if tokens[-1] not in self._last:
            return None
        ids: Any = torch.tensor([tokens[-self.reach :]])
        return "stop" if bool(self._criterion(ids, None)) else None
