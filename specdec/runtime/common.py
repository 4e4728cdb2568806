"""Token-level intersection (TLI): a draft of another family proposes the tokens that both vocabularies spell alike.

`q` is the draft's row over the common tokens, which the softmax of the sampler renormalises; all others have logit -inf. The
draft reads the text in its own tokens (`translation.Reader`). Source: Timor et al. 2025, arXiv 2502.05202, algorithm 4. There,
drafted tokens stay as they are until they are verified; here the draft reads them, too, as it would write that text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.runtime.cache import context_limit
from specdec.runtime.placement import device_of
from specdec.runtime.translation import Reader, Vocabularies
from specdec.runtime.vocabulary import Rows, Wanted, embedding_size, head_size


class Common:
    """What a model with tokens of its own knows of a vocabulary of `size` tokens: stands where `Known` does.

    `proposed`   how many of its own tokens it has a logit for
    `whole`      never: its rows must always be translated
    """

    whole = False

    def __init__(self, model: PreTrainedModel, size: int, vocabularies: Vocabularies) -> None:
        self.proposed, self._size = head_size(model), size
        pairs = sorted((token, own) for token, own in vocabularies.common.items() if token < size and own < self.proposed)
        self._targets, self._own = torch.tensor(pairs, device=device_of(model)).unbind(1)
        self._reader = Reader(vocabularies, context_limit(model), embedding_size(model))

    def widened(self, rows: Tensor, filling: float = -torch.inf) -> Tensor:
        """Rows over the target's vocabulary, from the model's own."""
        wide = rows.new_full((len(rows), self._size), filling)
        return wide.index_copy_(1, self._targets, rows.index_select(1, self._own))

    def own(self, rows: Tensor) -> Tensor:
        """The columns of the common tokens."""
        return rows.index_select(1, self._targets)

    def logits(self, rows: Rows, wanted: Sequence[Wanted]) -> list[Tensor]:
        """Logits over the target's vocabulary, of the model whose `rows` are given."""
        if all(positions == 1 for _, _, positions in wanted):
            found = rows([(slot, self._reader.read(slot, context), 1) for slot, context, _ in wanted])
        else:
            found = [torch.cat([rows([one])[0] for one in self._windows(*one)]) for one in wanted]
        return [self.widened(own) for own in found]

    def _windows(self, slot: int, context: Sequence[int], positions: int) -> list[Wanted]:
        """The last prefixes of a context as windows in the model's own tokens: one, if each is the one before and a token."""
        windows: list[Wanted] = []
        for end in range(len(context) - positions + 1, len(context) + 1):
            text = self._reader.read(slot, context[:end])
            if windows and windows[-1][1] == text[:-1]:
                windows[-1] = slot, text, windows[-1][2] + 1
            else:
                windows.append((slot, text, 1))
        return windows
