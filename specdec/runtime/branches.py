"""The branches of a fork, as one masked window: all of them are fed at once, and none sees another.

A branch follows a *prefix* of a context that the cache holds. Its tokens are kept behind the whole context, in scratch cells:
the first tokens of all branches, then their second tokens, and so on. So no key is copied or moved. A token's position is where
it stands in its own branch, and not the number of its cell. Source: SSD (arXiv 2603.03251).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.runtime.cache import why_not_plain, why_not_static

Feed: TypeAlias = Callable[[Sequence[Sequence[int]]], list[Tensor]]
"""Feeds each fork one token of every branch. Returns logits after them, shape (branches, vocabulary) for each fork."""

SCRATCH = -1
"""Stands in a runner's record for a cell that holds a token of a branch. No text has that token, so it is cut off next."""


@dataclass(frozen=True, slots=True)
class Branches:
    """Where the branches of one sequence stand.

    `slot`       of the sequence
    `start`      the first scratch cell, behind all tokens of its context
    `prefixes`   how many tokens of the context each branch follows
    `steps`      how many tokens will be fed to each branch
    """

    slot: int
    start: int
    prefixes: tuple[int, ...]
    steps: int

    @property
    def end(self) -> int:
        """The cell behind the last scratch cell."""
        return self.start + self.steps * len(self.prefixes)

    def padded(self, start: int, branches: int, steps: int) -> Branches:
        """The same with scratch cells from `start` on, and room for more branches and steps, which nobody reads."""
        more = branches - len(self.prefixes)
        return Branches(self.slot, start, self.prefixes + (start,) * more, steps)

    def mask(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What to add to the scores of each branch's token and cell, shape (branches, `end`).

        A token sees its prefix and its own branch. Cut off the cells of later steps as long as they are empty.
        """
        count = len(self.prefixes)
        mask = torch.full((count, self.end), torch.finfo(dtype).min, dtype=dtype, device=device)
        prefixes = torch.tensor(self.prefixes, device=device).unsqueeze(1)
        mask[:, : self.start].masked_fill_(torch.arange(self.start, device=device) < prefixes, 0)
        mask[:, self.start :].view(count, self.steps, count).diagonal(dim1=0, dim2=2).zero_()
        return mask


def why_not_forked(model: PreTrainedModel) -> str | None:
    """Why branches of `model` cannot share a forward, in words that follow "because"; `None` when they can.

    Sliding windows are among the reasons: their masks would need the positions of scratch cells too.
    """
    return why_not_plain(model) or why_not_static(model)
