"""Many sequences of one model: logits after the context of each, in as few forwards as its cache allows.

Each sequence has a slot. All sequences of a batch share one static cache, and their lengths may differ. Shorter inputs are
padded at the end, in cells that the mask hides. Prompts are read one sequence at a time, so that no other sequence is padded to
their length.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.runtime.branches import Branches, Feed
from specdec.runtime.cache import LENGTH, CachePlan, StaticCache, padded, why_not_static
from specdec.runtime.graph import GraphRunner, new_runner, why_stepwise
from specdec.runtime.placement import device_of
from specdec.runtime.runner import PREFILL_CHUNK, Forward
from specdec.runtime.vocabulary import Wanted
from specdec.sampling import Sampler
from specdec.tokens import Tokens, common_prefix

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
        self,
        model: PreTrainedModel,
        vocabulary: int,
        size: int,
        forward: Forward,
        *,
        eager: bool,
        plan: CachePlan | None = None,
    ) -> None:
        super().__init__(model, vocabulary)
        self._runners = [new_runner(model, vocabulary, forward, eager=eager, plan=plan) for _ in range(size)]

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

    def draft(
        self, slot: int, context: Sequence[int], length: int, stop: StopRule | None, sampler: Sampler, uniforms: Sequence[float]
    ) -> tuple[list[int], Tensor | None] | None:
        runner = self._runners[slot]
        if not isinstance(runner, GraphRunner) or why_stepwise(sampler, stop) is not None:
            return None
        return runner.draft(context, length, sampler, uniforms)


class Batched(BatchRunner):
    """One forward for all slots that are wanted."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, length: int = LENGTH) -> None:
        super().__init__(model, vocabulary)
        self._size, self._forward, self._length = size, forward, length
        self.forget()

    @property
    def why_eager(self) -> str | None:
        return "batches run without graphs" if self.model.device.type == "cuda" else self._forward.why_eager

    def forget(self) -> None:
        self._held = [Tokens()] * self._size
        self._cache = StaticCache(self.model, self._length, self._size)

    @torch.inference_mode()
    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        for slot, context, positions in wanted:
            self._prepare(slot, Tokens.of(context), len(context) - positions)
        fresh = {slot: context[len(self._held[slot]) :] for slot, context, _ in wanted}
        logits = self._feed(fresh)
        first = min(fresh)
        return [logits[slot - first, len(fresh[slot]) - positions : len(fresh[slot])] for slot, _, positions in wanted]

    def branches(self, forks: Sequence[Branches]) -> Feed:
        width, steps = max(len(fork.prefixes) for fork in forks), max(fork.steps for fork in forks)
        given, device = {fork.slot: fork for fork in forks}, device_of(self.model)
        slots = range(min(given), max(given) + 1)
        start = max(len(self._held[slot]) for slot in slots)  # one for all, so that all see as many cells in each step
        every = [given.get(slot, Branches(slot, start, (), 0)).padded(start, width, steps) for slot in slots]
        self._reserve(every[0].end)
        masks = torch.stack([fork.mask(self.model.dtype, device) for fork in every]).unsqueeze(1)
        prefixes = torch.tensor([fork.prefixes for fork in every], device=device)
        cells = torch.arange(start, every[0].end, device=device).view(steps, 1, width).expand(-1, len(slots), -1)
        step = count()

        def feed(tokens: Sequence[Sequence[int]]) -> list[Tensor]:
            depth, fed = next(step), {fork.slot: own for fork, own in zip(forks, tokens, strict=True)}
            ids = torch.tensor([padded(fed.get(slot, ()), width) for slot in slots], device=device)
            seen = masks[..., : start + (depth + 1) * width]
            where = self._cache.beside(prefixes + depth, cells[depth], seen, slots[0])
            logits = self._forward(input_ids=ids, **where)[:, :, : self.vocabulary]
            return [logits[fork.slot - slots[0], : len(fork.prefixes)] for fork in forks]

        return feed

    def _prepare(self, slot: int, context: Tokens, scored: int) -> None:
        """Roll a slot back to the longest prefix of `context` that it holds, then read what is too long for a common forward.

        `scored` is the first position to give logits for. That position and all later ones are left to the common forward.
        """
        self._held[slot] = context.first(min(common_prefix(self._held[slot], context), scored))
        while scored - (start := len(self._held[slot])) > LONGEST_PADDED:
            self._feed({slot: context[start : min(scored, start + PREFILL_CHUNK)]}, keep=1)

    def _feed(self, fresh: Mapping[int, Sequence[int]], keep: int = 0) -> Tensor:
        """Feed `fresh` tokens to their slots, all in one forward.

        Returns logits of all slots from the first that is fed to the last, after the last `keep` of the tokens, padding
        included: shape (slots, keep, vocabulary). Without a `keep`, after all of them: shape (slots, width, vocabulary).
        """
        first, last, width = min(fresh), max(fresh), max(map(len, fresh.values()))
        slots = range(first, last + 1)
        ids = [padded(fresh.get(slot, ()), width) for slot in slots]
        starts = [len(self._held[slot]) for slot in slots]
        end = max(starts) + width
        self._reserve(end)
        device = device_of(self.model)
        positions = torch.tensor(starts).unsqueeze(1) + torch.arange(width)
        where = self._cache.at(positions.to(device), visible=end, first_slot=first)
        logits = self._forward(input_ids=torch.tensor(ids, device=device), logits_to_keep=keep, **where)
        for slot, tokens in fresh.items():
            self._held[slot] += tokens
        return logits[:, :, : self.vocabulary]

    def _reserve(self, length: int) -> None:
        """Let each slot hold `length` tokens."""
        if length > self._cache.length:
            try:
                self._cache.grow(max(length, 2 * self._cache.length))
            except BaseException:  # out of memory, or Ctrl-C: some layers may have grown
                self.forget()
                raise


def new_batch_runner(
    model: PreTrainedModel, vocabulary: int, size: int, forward: Forward, *, eager: bool, plan: CachePlan | None = None
) -> BatchRunner:
    """A runner for `size` sequences: batched where the `plan` of the model allows it, else one by one."""
    batched = why_not_static(model) is None if plan is None else plan.batched
    if size > 1 and batched:
        return Batched(model, vocabulary, size, forward)
    return OneByOne(model, vocabulary, size, forward, eager=eager, plan=plan)
