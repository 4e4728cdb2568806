"""Many sequences of one model: logits after the context of each, in as few forwards as its cache allows.

Each sequence has a slot. All sequences of a batch share one static cache, and their lengths may differ. Shorter inputs are
padded at the end, in cells that the mask hides. Prompts are read one sequence at a time, so that no other sequence is padded to
their length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import partial
from itertools import count
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.runtime.branches import Branches, Feed
from specdec.runtime.cache import LENGTH, CachePlan, StaticCache, padded, why_not_static
from specdec.runtime.graph import (
    CapturedBranches,
    CapturedForward,
    CudaCapture,
    DeviceDraft,
    Graphs,
    graph_width,
    why_no_graphs,
    why_stepwise,
)
from specdec.runtime.placement import device_of
from specdec.runtime.runner import PREFILL_CHUNK, Forward, Runner
from specdec.runtime.vocabulary import Wanted
from specdec.sampling import NOT_A_TOKEN, Sampler, not_a_distribution
from specdec.tokens import Tokens, common_prefix

DRAFT_ROOM = 16
"""Tokens that a draft's tensors hold at first."""

LONGEST_PADDED = 8
"""The most unscored tokens of a sequence that a common forward reads. If there are more, its own forwards read them first."""


class BatchRunner(ABC):
    """A model with a cache for several sequences, each in its slot. Not thread-safe: it belongs to one lane."""

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self.model, self.vocabulary = model, vocabulary

    @property
    @abstractmethod
    def why_eager(self) -> str | None:
        """Why forwards are transformers' own, launched operation by operation; `None` when they are not."""

    @abstractmethod
    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        """Logits of shape (positions, vocabulary) for each of `wanted`, in order. One call names a slot at most once."""

    @abstractmethod
    def forget(self) -> None:
        """Empty the caches."""

    @abstractmethod
    def branches(self, forks: Sequence[Branches]) -> Feed:
        """What feeds the branches of several sequences, each behind the context that its slot holds.

        One call names a slot at most once. Each sequence has at least one branch. Ask `why_not_forked` before.
        """

    def draft(
        self, slot: int, context: Sequence[int], length: int, stop: StopRule | None, sampler: Sampler, uniforms: Sequence[float]
    ) -> tuple[list[int], Tensor | None] | None:
        """A whole draft at once, `(tokens, q)`; `None` where each token must come to the host before the next."""
        return None


class NewRunner(Protocol):
    """`new_batch_runner`, or what stands in for it."""

    def __call__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        size: int,
        forward: Forward,
        *,
        eager: bool,
        plan: CachePlan | None = None,
    ) -> BatchRunner: ...


class OneByOne(BatchRunner):
    """A runner for each slot, one after the other: for a single sequence, and for models whose caches cannot be batched."""

    def __init__(
        self, model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, plan: CachePlan | None = None
    ) -> None:
        super().__init__(model, vocabulary)
        self._runners = [Runner(model, vocabulary, forward, plan) for _ in range(size)]

    @property
    def why_eager(self) -> str | None:
        return self._runners[0].why_eager

    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        return [self._runners[slot].logits(context, positions) for slot, context, positions in wanted]

    def forget(self) -> None:
        for runner in self._runners:
            runner.forget()

    def branches(self, forks: Sequence[Branches]) -> Feed:
        feeds = [self._runners[fork.slot].branches(fork) for fork in forks]
        return lambda tokens: [logits for feed, own in zip(feeds, tokens, strict=True) for logits in feed([own])]


class StaticRunner(BatchRunner):
    """Sequences on one static cache, in one forward for all that are wanted.

    With `graphs`, a forward of few tokens feeds every slot, so that its shapes are always the same: slots of which nothing is
    wanted are padded. Without, it feeds the slots that are wanted, and those between them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        size: int,
        forward: Forward,
        graphs: Graphs | None = None,
        length: int = LENGTH,
    ) -> None:
        super().__init__(model, vocabulary)
        self._size, self._forward, self._graphs, self._length = size, forward, graphs, length
        self._device = device_of(model)
        self.forget()

    @property
    def why_eager(self) -> str | None:
        return self._forward.why_eager if self._graphs is None else self._graphs.why_eager

    def forget(self) -> None:
        self._held = [Tokens()] * self._size
        self._cache = StaticCache(self.model, self._length, self._size)
        self._drop_captured()

    def _drop_captured(self) -> None:
        self._forwards: dict[int, CapturedForward] = {}
        self._branches: dict[int, CapturedBranches] = {}
        self._draft: DeviceDraft | None = None

    @torch.inference_mode()
    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        most = PREFILL_CHUNK if len(wanted) == 1 else LONGEST_PADDED
        for slot, context, positions in wanted:
            self._prepare(slot, Tokens.of(context), len(context) - positions, most)
        return self._feed([(slot, context[len(self._held[slot]) :], positions) for slot, context, positions in wanted])

    def _prepare(self, slot: int, context: Tokens, scored: int, most: int) -> None:
        """Roll a slot back to the longest prefix of `context` that it holds. Then read tokens until `most` of them are left.

        `scored` is the first position to give logits for. That position and all later ones are left to the common forward.
        """
        self._held[slot] = context.first(min(common_prefix(self._held[slot], context), scored))
        while scored - (start := len(self._held[slot])) > most:
            self._feed([(slot, context[start : min(scored, start + PREFILL_CHUNK)], 1)])

    def _feed(self, fresh: Sequence[Wanted]) -> list[Tensor]:
        """Feed slots tokens after those that they hold, in one forward. Returns logits after the last `positions` of each."""
        given = {slot: tokens for slot, tokens, _ in fresh}
        longest = max(map(len, given.values()))
        slots, width = self._shape(given, longest)
        starts = [len(self._held[slot]) for slot in slots]
        self._reserve(max(starts) + (width or longest))
        ids = [padded(given.get(slot, ()), width or longest) for slot in slots]
        if width is not None:
            forward = self._forward_of(width)
            forward.inputs.copy_(
                torch.tensor([[*own, start] for own, start in zip(ids, starts, strict=True)]), non_blocking=True
            )
            forward.run()
            logits, keep = forward.logits, 0
        else:
            keep = fresh[0][2] if len(fresh) == 1 else 0
            positions = (torch.tensor(starts).unsqueeze(1) + torch.arange(longest)).to(self._device)
            where = self._cache.at(positions, visible=max(starts) + longest, first_slot=slots[0])
            logits = self._forward(input_ids=torch.tensor(ids, device=self._device), logits_to_keep=keep, **where)
        for slot, tokens, _ in fresh:
            self._held[slot] += tokens
        found: list[Tensor] = []
        for slot, tokens, positions in fresh:
            end = logits.shape[1] if keep else len(tokens)
            own = logits[slot - slots[0], end - positions : end, : self.vocabulary]
            found.append(own if width is None else own.clone())  # the next replay overwrites what this one gave
        return found

    def _shape(self, wanted: Collection[int], tokens: int) -> tuple[range, int | None]:
        """The slots that a forward feeds, and its width where it is a graph."""
        width = None if self._graphs is None else graph_width(tokens)
        return (range(min(wanted), max(wanted) + 1), None) if width is None else (range(self._size), width)

    def _forward_of(self, width: int) -> CapturedForward:
        """The graph of that width. The cache must hold as many tokens beyond those of the longest sequence."""
        if width not in self._forwards:
            assert self._graphs is not None
            inputs = torch.zeros(self._size, width + 1, dtype=torch.long, device=self._device)
            # a capture runs this work, and must not overwrite what the cache holds
            inputs[:, -1].copy_(torch.tensor([len(held) for held in self._held]))
            offsets = torch.arange(width, device=self._device)
            logits = torch.zeros(self._size, width, self.vocabulary, dtype=self.model.dtype, device=self._device)

            def run() -> None:
                where = self._cache.at(inputs[:, -1:] + offsets)
                logits.copy_(self._forward(input_ids=inputs[:, :-1], **where)[:, :, : self.vocabulary])

            self._forwards[width] = CapturedForward(inputs, logits, self._graphs.captured(run))
        return self._forwards[width]

    def branches(self, forks: Sequence[Branches]) -> Feed:
        most, steps = max(len(fork.prefixes) for fork in forks), max(fork.steps for fork in forks)
        given = {fork.slot: fork for fork in forks}
        slots, graph = self._shape(given, most)
        width = graph or most
        start = max(len(self._held[slot]) for slot in slots)  # one for all, so that all see as many cells in each step
        every = [given.get(slot, Branches(slot, start, (), 0)).padded(start, width, steps) for slot in slots]
        self._reserve(every[0].end)
        mask = torch.stack([fork.mask(self.model.dtype, self._device) for fork in every]).unsqueeze(1)
        prefixes = torch.tensor([fork.prefixes for fork in every], device=self._device)
        feed = partial(self._fed, mask, slots[0]) if graph is None else self._branches_of(graph, mask, start)
        step = count()

        def fed(tokens: Sequence[Sequence[int]]) -> list[Tensor]:
            depth, own = next(step), {fork.slot: one for fork, one in zip(forks, tokens, strict=True)}
            ids = torch.tensor([padded(own.get(slot, ()), width) for slot in slots], device=self._device)
            logits = feed(ids, prefixes + depth, start + depth * width)
            return [logits[fork.slot - slots[0], : len(fork.prefixes), : self.vocabulary] for fork in forks]

        return fed

    def _fed(self, mask: Tensor, first_slot: int, ids: Tensor, positions: Tensor, first: int) -> Tensor:
        """Logits after one token of every branch, which the cells from `first` on hold then."""
        end = first + ids.shape[1]
        cells = torch.arange(first, end, device=self._device).expand_as(ids)
        return self._forward(input_ids=ids, **self._cache.beside(positions, cells, mask[..., :end], first_slot))

    def _branches_of(self, width: int, mask: Tensor, start: int) -> CapturedBranches:
        """The graph of so many branches, with this mask. `start` is the first of their cells, which the cache must have."""
        if width not in self._branches:
            assert self._graphs is not None
            hidden = torch.finfo(self.model.dtype).min
            ids, positions = torch.zeros(2, self._size, width, dtype=torch.long, device=self._device)
            first, offsets = torch.full((1,), start, device=self._device), torch.arange(width, device=self._device)
            columns = torch.arange(self._cache.length, device=self._device)
            whole = torch.zeros(self._size, 1, width, self._cache.length, dtype=self.model.dtype, device=self._device)
            logits = torch.zeros(self._size, width, self.vocabulary, dtype=self.model.dtype, device=self._device)

            def run() -> None:
                written = whole.masked_fill(columns >= first + width, hidden)
                where = self._cache.beside(positions, (first + offsets).expand_as(ids), written)
                logits.copy_(self._forward(input_ids=ids, **where)[:, :, : self.vocabulary])

            self._branches[width] = CapturedBranches(ids, positions, first, whole, logits, self._graphs.captured(run))
        found = self._branches[width]
        found.mask[..., : mask.shape[-1]].copy_(mask)  # cells behind these are never written, so hidden
        return found

    @torch.inference_mode()
    def draft(
        self, slot: int, context: Sequence[int], length: int, stop: StopRule | None, sampler: Sampler, uniforms: Sequence[float]
    ) -> tuple[list[int], Tensor | None] | None:
        """One sequence is drafted on its device, where it has graphs. A row that is no distribution ends the draft.

        Raises `ModelError` when there are no tokens before such a row.
        """
        if self._graphs is None or self._size > 1 or why_stepwise(sampler, stop) is not None:
            return None
        tokens = Tokens.of(context)
        [logits] = self.logits([(slot, tokens, 1)])
        self._reserve(len(tokens) + length)
        forward = self._forward_of(1)
        forward.logits[0].copy_(logits)
        draft = self._draft
        if draft is None or draft.sampler.sampling != sampler.sampling or draft.room < length:
            draft = self._draft = DeviceDraft(sampler, forward, max(length, DRAFT_ROOM), self._graphs)
        drafted, q = draft(len(tokens) - 1, length, uniforms)
        self._held[slot] = tokens + drafted[:-1]
        if NOT_A_TOKEN in drafted:
            self.forget()  # the cache may hold NaN, and no mask hides that
            del drafted[drafted.index(NOT_A_TOKEN) :]
            if not drafted:
                raise not_a_distribution()
        return drafted, None if sampler.greedy else q[: len(drafted)].clone()

    def _reserve(self, length: int) -> None:
        """Let each slot hold `length` tokens. If the cache grows, drop what was captured on its old buffers."""
        if length > self._cache.length:
            self._drop_captured()
            try:
                self._cache.grow(max(length, 2 * self._cache.length))
            except BaseException:  # out of memory, or Ctrl-C: some layers may have grown
                self.forget()
                raise


def new_batch_runner(
    model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, *, eager: bool, plan: CachePlan | None = None
) -> BatchRunner:
    """A runner for `size` sequences, by the `plan` of the model: on a static cache if there are several or graphs can run."""
    if not eager and model.device.type == "cuda":
        if (why := why_no_graphs(model, plan)) is None:
            return StaticRunner(model, vocabulary, size, forward, Graphs(CudaCapture(model.device)))
        forward = Forward(model, why)
    batched = why_not_static(model) is None if plan is None else plan.batched
    if size > 1 and batched:
        return StaticRunner(model, vocabulary, size, forward)
    return OneByOne(model, vocabulary, size, forward, plan)
