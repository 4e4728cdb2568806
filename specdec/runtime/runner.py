"""One model with its cache: logits after any context, computed only for tokens that the cache does not hold.

No call rolls a runner back. Each call gives it a whole context. It keeps the longest common prefix with what its cache holds,
and feeds the rest (rule 4 of `specdec.effects`). `Runner` works with every model that `admission.admit`
lets in.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from specdec.runtime.branches import SCRATCH, Branches, Feed
from specdec.runtime.cache import CachePlan, cache_name, forward_parameters, new_cache, stretched_beyond
from specdec.runtime.layers import SlidingLayer
from specdec.runtime.placement import device_of
from specdec.runtime.recurrent import Copies, is_recurrent
from specdec.tokens import Tokens, common_prefix

PREFILL_CHUNK = 1024
"""Tokens that are fed at once, so that the attention mask of a long prompt stays small."""

MOST_PENDING = 16
"""Tokens fed again inside the next window after a roll-back. If there are more, they get a forward of their own."""

FIRST_POSITIONS = 4096
"""Length at first of the table that positions are read from."""

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3}
"""The largest difference of logits that is rounding, relative to the largest logit; a tenth for shorter types."""


class Forward:
    """The model's own forward. It is called as a model of transformers is, and returns logits, shape (slots, kept, vocabulary).

    `why_eager` says why the model runs operation by operation, as transformers wrote it; `None` where it does not.
    """

    why_eager: str | None

    def __init__(self, model: PreTrainedModel, why_eager: str = "no faster forward was asked for") -> None:
        self._model, self.why_eager = model, why_eager
        parameters = forward_parameters(model)
        any_name = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
        self._cuts_logits = "logits_to_keep" in parameters or any_name
        self._cache_name = cache_name(model) or "past_key_values"

    def __call__(
        self,
        input_ids: Tensor,
        past_key_values: Cache,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        options: dict[str, Any] = {self._cache_name: past_key_values}
        if position_ids is not None:
            options["position_ids"] = position_ids
        if self._cuts_logits:
            options["logits_to_keep"] = logits_to_keep
        return self._model(input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **options).logits


class Runner:
    """A model with a cache for one sequence. Not thread-safe: one runner belongs to one lane.

    It calls `forward`, the model's own unless given, on a cache rolled back by `plan`, by its layer types unless given.
    `why_eager` says why forwards are transformers' own, launched operation by operation; `None` where they are not.
    """

    def __init__(
        self, model: PreTrainedModel, vocabulary: int, forward: Forward | None = None, plan: CachePlan | None = None
    ) -> None:
        self.model, self.vocabulary, self.device = model, vocabulary, device_of(model)
        self._forward = forward or Forward(model)
        self.why_eager = self._forward.why_eager
        self._plan, self._border = plan, stretched_beyond(model)
        self._table = torch.arange(FIRST_POSITIONS, device=self.device).unsqueeze(0) if takes_positions(model) else None
        self._start_again()
        self._simple = self._copies is None and self._border is None and (plan is None or plan.widest is None)

    def forget(self) -> None:
        """Empty the cache."""
        self._trim(0)

    def logits(self, context: Sequence[int], positions: int) -> Tensor:
        """Logits after the last `positions` prefixes of `context`, the whole context the last: shape (positions, vocabulary).

        `context` has at least `positions` tokens. Logits are raw, in the model's dtype, cut to the common vocabulary.
        """
        tokens, border = Tokens.of(context), self._border
        if self._simple:
            return self._at_once(tokens, positions)
        if border is not None and len(tokens) - positions < border < len(tokens):
            short = self._pieces(tokens.first(border), positions - len(tokens) + border)
            return torch.cat([short, self._pieces(tokens, len(tokens) - border)])
        return self._pieces(tokens, positions)

    def _at_once(self, tokens: Tokens, positions: int) -> Tensor:
        """`logits`, by one window after at most a few long ones."""
        end = len(tokens)
        start = self._keep(tokens, end - positions)
        while end - start > max(PREFILL_CHUNK, positions):
            stop = min(start + PREFILL_CHUNK, end - positions)
            self._feed(tokens[start:stop], 1)
            start = stop
        return self._feed(tokens[start:], positions)

    def _keep(self, tokens: Tokens, most: int) -> int:
        """Hold what is held of `tokens`, at most the first `most`. Returns how many that are."""
        self._trim(min(common_prefix(self._held, tokens), most))
        held = len(self._held)
        self._held = tokens.first(held)  # the same tokens: these share their beginning with the next context
        return held

    def _pieces(self, tokens: Tokens, positions: int) -> Tensor:
        """`logits`, by as many windows as the model needs. All rows lie on one side of the border."""
        end, scored = len(tokens), len(tokens) - positions
        stretched = self._border is not None and end > self._border
        if stretched != self._stretched:
            self._start_again()
            self._stretched = stretched
        start = self._keep(tokens, scored)
        rows: list[Tensor] = []
        while start < end:
            stop = self._stop(start, scored, end)
            wanted = stop - max(start, scored)
            logits = self._feed(tokens[start:stop], max(1, wanted))
            start = stop
            if wanted > 0:
                rows.append(logits)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _stop(self, start: int, scored: int, end: int) -> int:
        """Where a window that begins at `start` ends."""
        if self._plan is not None and self._plan.widest is not None:
            return end if start == 0 else min(end, start + self._plan.widest)
        # A prompt is not rolled back, so that nobody needs a copy of the states before its last token.
        whole = self._copies is None or (start == 0 and end - scored == 1)
        if scored - start > (PREFILL_CHUNK if whole else MOST_PENDING):
            end = min(scored, start + PREFILL_CHUNK)
        if self._stretched:  # a window that ends before the border would turn its keys by the angles of short contexts
            assert self._border is not None
            return max(end, self._border + 1)
        return end

    def branches(self, branches: Branches) -> Feed:
        """What feeds the branches behind the context that is held. Ask `why_not_forked` before."""
        prefixes = torch.tensor([branches.prefixes], device=self.device)
        mask = branches.mask(self.model.dtype, self.device)[None, None]

        def feed(tokens: Sequence[Sequence[int]]) -> list[Tensor]:
            count, end = len(branches.prefixes), len(self._held) + len(branches.prefixes)
            depth = (len(self._held) - branches.start) // count
            logits = self._forwarded(list(tokens[0]), count, prefixes + depth, mask[..., :end])
            self._held += [SCRATCH] * count
            return [logits[:, : self.vocabulary]]

        return feed

    def _feed(self, tokens: Sequence[int], positions: int) -> Tensor:
        """Read tokens after those held. Returns logits after the last `positions` of them."""
        start = len(self._held)
        where = None if self._table is None else self._positions(start, start + len(tokens))
        logits = self._forwarded(tokens, positions, where)
        self._held += tokens
        return logits if logits.shape == (positions, self.vocabulary) else logits[-positions:, : self.vocabulary]

    def _forwarded(self, tokens: Sequence[int], kept: int, where: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Logits after the last `kept` of these tokens, which the cache holds then."""
        ids = torch.tensor([tokens], device=self.device)
        try:
            with torch.inference_mode():
                if self._copies is not None:
                    self._copies.take(len(self._held))
                return self._forward(ids, self.cache, where, mask, logits_to_keep=kept)[0]
        except BaseException:  # Ctrl-C too: some layers hold the new keys, some do not
            self._start_again()
            raise

    def _positions(self, start: int, end: int) -> Tensor:
        assert self._table is not None
        if end > self._table.shape[1]:
            self._table = torch.arange(2 * end, device=self.device).unsqueeze(0)
        return self._table[:, start:end]

    def _start_again(self) -> None:
        self.cache = new_cache(self.model)
        self._sliding = [layer for layer in self.cache.layers if isinstance(layer, SlidingLayer)]
        restored = is_recurrent(self.cache) if self._plan is None else self._plan.rollback == "restore"
        self._copies = Copies(self.cache) if restored else None
        self._stretched = False
        self._held = Tokens()

    def _trim(self, keep: int) -> None:
        """A cache that no longer holds the first `keep` tokens starts again from nothing."""
        held = len(self._held)
        if held == keep:
            return
        shortest = max((layer.shortest for layer in self._sliding), default=0)
        if self._copies is not None:
            keep = self._copies.put_back(keep, held) if self._copies.newest(keep) >= max(1, shortest) else 0
        if keep < max(1, shortest):
            self._start_again()
            return
        if self._copies is None:
            self.cache.crop(keep - held)
        self._held = self._held.first(keep)


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether the model is told the positions of its tokens. It need not compute them then, and some compute them wrongly."""
    return "position_ids" in forward_parameters(model)
