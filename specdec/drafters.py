"""Which drafter works for a pair: one model, one with another tokenizer, or two models, the smaller drafting for the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedModel

from specdec.errors import InputError, PairError
from specdec.inputs import at_least_one
from specdec.runtime.admission import admit
from specdec.runtime.cache import CachePlan
from specdec.runtime.drafter import NewDrafter
from specdec.runtime.staged import NewStaged
from specdec.runtime.vocabulary import head_size
from specdec.runtime.worker import NewWorker
from specdec.runtime.written import NewTextDrafter
from specdec.vocabularies import Matching


@dataclass(frozen=True, eq=False)
class SmallDraft:
    """The smallest of three models: it guesses `length` tokens for each forward of the draft."""

    model: PreTrainedModel
    length: int
    plan: CachePlan

    @classmethod
    def admitted(cls, model: PreTrainedModel, length: int, draft_plan: CachePlan | None, matching: Matching) -> Self:
        """A model that may draft for the draft of that plan (`None` without a draft); else a `PairError` or an `InputError`."""
        at_least_one(small_draft_length=length)
        if draft_plan is None:
            raise InputError("small_draft drafts for a draft, and there is none: give it as the draft")
        if matching.way != "same":
            raise PairError("small_draft drafts for a draft with the target's own tokenizer: leave it out")
        if draft_plan.widest == 1:
            raise PairError("the draft reads one token at a time, so nothing can draft for it: leave small_draft out")
        return cls(model, length, admit(model))


def drafter_of(
    draft: PreTrainedModel,
    plan: CachePlan | None,
    vocabulary: int,
    matching: Matching,
    small: SmallDraft | None,
    *,
    eager: bool,
) -> NewDrafter:
    """What a lane makes the drafter from; rows have `vocabulary` entries, the target's."""
    both = matching.vocabularies
    if both is not None and matching.way == "text":
        return NewTextDrafter(NewWorker(draft, head_size(draft), eager, plan), vocabulary, both)
    worker = NewWorker(draft, vocabulary, eager, plan, vocabularies=both)
    return worker if small is None else NewStaged(worker, NewWorker(small.model, vocabulary, eager, small.plan), small.length)
