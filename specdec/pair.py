"""A target and a draft, and the lanes they work on.

The vocabulary and the context are the target's. A draft that knows fewer tokens, or holds a shorter context, proposes less. One
with another tokenizer needs a `specdec.vocabularies.Matching`.

Many decodes may use one pair, also in threads: each step of a decode is one `Turn`.
"""

from __future__ import annotations

import threading
import warnings
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from specdec.correction import corrected
from specdec.drafters import SmallDraft, drafter_of
from specdec.errors import InputError, PairError
from specdec.loading import load_model, load_small_draft, load_tokenizer
from specdec.machine import available_cores
from specdec.own_layers import is_self_draft, self_draft
from specdec.runtime.admission import admit
from specdec.runtime.cache import CachePlan, context_limit
from specdec.runtime.crossing import CannotCross
from specdec.runtime.drafter import NewDrafter
from specdec.runtime.lane import InlineLane, Lane, ProcessLane, ThreadLane
from specdec.runtime.parallel import is_split, ranks_of, serves, split_options
from specdec.runtime.sequences import new_batch_runner
from specdec.runtime.staged import AHEAD
from specdec.runtime.timing import CONTEXT_TOKENS, fork_positions, measured_costs, speed_ratio
from specdec.runtime.vocabulary import head_size
from specdec.runtime.watch import Evaluation, Watch
from specdec.runtime.worker import NewWorker
from specdec.sampling import Sampling
from specdec.shapes import is_shape
from specdec.source import sources
from specdec.state import BRANCHES, Costs
from specdec.statistics import Statistics
from specdec.vocabularies import SAME, Matching, match_tokenizers, require_way

LANES = ("auto", "inline", "thread", "process")


class Pair:
    """Two models ready to decode. Use it as a context manager, or `close()` it, to end a draft process early.

    `target`, `draft`   the models; without a draft, only strategies that need none can run. They work in evaluation mode, and
                        are left in the mode that they were in. A decode sees the weights that they have when it starts
    `tokenizer`         the target's; may be missing when prompts are token ids
    `matching`          how the draft's tokens become the target's; their ids mean the same unless given
    `revisions`         those of the hub that target and draft were loaded from, as far as they were named
    `small_draft`       a third model, which drafts for the draft (`specdec.runtime.staged`); it guesses `small_draft_length`
                        tokens for each forward of the draft
    `lane`              where the draft works: `"inline"`, `"thread"`, `"process"`, or `"auto"` (a thread when the draft is on
                        CUDA, a process when it is on a CPU of two cores or more, else inline)
    `eager`             whether forwards are transformers' own, operation by operation. Otherwise they are replayed as graphs on
                        CUDA, and fused on a CPU, which takes a copy of the weights (two in float32); `why_eager()` says where
                        this is not possible
    """

    def __init__(
        self,
        target: PreTrainedModel,
        draft: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        lane: str = "auto",
        eager: bool = False,
        matching: Matching = SAME,
        small_draft: PreTrainedModel | None = None,
        small_draft_length: int | None = None,
    ) -> None:
        if lane not in LANES:
            raise InputError(f"unknown lane {lane!r}: choose one of {', '.join(LANES)}")
        if draft is None and lane in ("thread", "process"):
            raise InputError(f"lane {lane!r} is where a draft works, and there is none: leave it out, or give a draft")
        if draft is not None and is_split(draft):
            raise PairError("the draft is split over ranks, and it works on rank 0 alone: load it whole")
        if small_draft_length is not None and small_draft is None:
            raise InputError(f"small_draft_length {small_draft_length} has no use without a small_draft: leave it out")
        draft_plan = None if draft is None else admit(draft)
        small = (AHEAD if small_draft_length is None else small_draft_length, draft_plan, matching)
        self._small = None if small_draft is None else SmallDraft.admitted(small_draft, *small)
        self.target, self.draft = target, draft
        self.tokenizer, self.matching = tokenizer, matching
        self.lane, self.eager = lane, eager
        self.revisions: tuple[str | None, str | None] = (None, None)
        self._speed_ratios: dict[bool, float] = {}
        self._costs: dict[bool, Costs] = {}
        self._target_lane: Lane | None = None
        self._draft_lane: Lane | None = None
        self._draft_vocabulary: int | None = None
        self._watches: dict[str, Watch] = {}
        self.lock = threading.RLock()
        self.user: object = None
        self._ranks = ranks_of(target)  # after what may be refused: the ranks serve one pair only
        try:
            self._plan = self._admitted_target()
            if self._ranks is not None:
                self.target_lane()  # from here on, the target answers through its lane only
        except BaseException:
            if self._ranks is not None:
                self._ranks.close()
            raise

    @classmethod
    def load(
        cls,
        target: str | Path,
        draft: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        draft_device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        lane: str = "auto",
        eager: bool = False,
        tensor_parallel: bool = False,
        vocabularies: str = "auto",
        small_draft: str | Path | None = None,
        small_draft_length: int | None = None,
        **options: Any,
    ) -> Pair:
        """Load a pair from directories or hub names, or make one of random weights (`shape:NAME`), without a tokenizer.

        A draft `layers:8` is made of the target's first 8 layers, `layers:0-3,8-11` of these (`self_draft`).

        `device`        CUDA where there is one, else the CPU, unless given
        `draft_device`  the same as `device` unless given
        `dtype`         the checkpoint's unless given (bfloat16 for a shape); float32 on a CPU without instructions for it

        `tensor_parallel`   whether all processes (ranks) that torchrun started share the target. Rank 0 goes on with the pair.
                        On other ranks this call does not return: they serve, and end with code 0 when rank 0 closes its pair
        `vocabularies`  how the draft's tokens become the target's: `"same"` ids, `"common"` tokens, or `"text"`. `"auto"`
                        chooses by the tokenizers (`specdec.vocabularies`), and says so where they differ
        `small_draft`   a third model with the same tokenizer, which drafts for the draft on its device; `layers:2` for the
                        draft's own first 2 layers. It guesses `small_draft_length` tokens for each of the draft's forwards (3)
        `options`       those of `from_pretrained` that `specdec.source` lists: plain for the target, with `draft_` before them
                        for the draft (`draft_revision="main"`); `trust_remote_code`, `attn_implementation` and the like are, as
                        `device` is, the same for the draft unless given

        Raises `PairError` for a model that is missing, broken or does not fit, and `InputError` for an option that has no use.
        """
        if tensor_parallel:
            options |= split_options()
        if small_draft is not None and draft is None:
            raise InputError(f"small_draft {small_draft} drafts for a draft, and there is none: give it as the draft")
        found = sources(target, draft, device=device, draft_device=draft_device, dtype=dtype, options=options)
        if "distributed_config" in options and serves():
            found = found[:1]  # the draft works on rank 0
        tokenizers = [] if any(is_shape(source.name) for source in found) else [load_tokenizer(source) for source in found]
        require_way(vocabularies, tokenizers=draft is not None and not is_self_draft(draft) and bool(tokenizers))
        matching = SAME
        if len(tokenizers) == 2:
            matching = match_tokenizers(tokenizers[0], tokenizers[1], vocabularies, str(target), str(draft))
        models = [load_model(source) for source in found]
        if is_self_draft(draft):
            models.append(self_draft(models[0], str(draft)))
        more: dict[str, Any] = {"matching": matching}
        if small_draft is None or len(models) == 2:
            more["small_draft_length"] = small_draft_length
        if small_draft is not None and len(models) == 2:
            more["small_draft"] = load_small_draft(small_draft, models[1], found[0], tokenizers)
        pair = cls(*models, tokenizer=tokenizers[0] if tokenizers else None, lane=lane, eager=eager, **more)
        pair.revisions = (options.get("revision"), options.get("draft_revision"))
        return pair

    @classmethod
    def bundled(cls, **options: Any) -> Pair:
        """The small trained pair inside the package; `options` as for `load`."""
        folder = Path(str(files("specdec") / "bundled"))
        return cls.load(folder / "target", folder / "draft", **options)

    @property
    def small_draft(self) -> PreTrainedModel | None:
        """The third model, which drafts for the draft."""
        return None if self._small is None else self._small.model

    @property
    def eos(self) -> frozenset[int]:
        """Tokens that end an output, by the target's generation configuration."""
        eos: int | list[int] | None = getattr(self.target.generation_config, "eos_token_id", None)
        return frozenset([eos] if isinstance(eos, int) else eos or ())

    @property
    def vocabulary(self) -> int:
        """Tokens that the target has a logit for."""
        return head_size(self.target)

    @property
    def context_limit(self) -> int:
        """Tokens that the target holds: the prompt and the output."""
        return context_limit(self.target)

    @property
    def draft_context_limit(self) -> int:
        """Tokens that both models hold. Nothing is drafted beyond; the target goes on alone.

        A draft with tokens of its own reads the last ones that it holds, so it drafts as long as the target goes on.
        """
        if self.draft is None or self.matching.way != "same":
            return self.context_limit
        return min(self.context_limit, context_limit(self.draft))

    def _admitted_target(self) -> CachePlan:
        plan = admit(self.target)
        if self.draft is not None and plan.widest == 1:
            raise PairError(
                f"{self.target.config.model_type} cannot verify drafts: on a cache, its forward in transformers is right for "
                "one token at a time only; use it as the draft, or as a target without one"
            )
        return plan

    def target_lane(self) -> Lane:
        """Where the target works, in the caller's thread. The first call makes the lane, which may copy weights."""
        if self._target_lane is None:
            if self._ranks is None:  # which admit together, when the pair is made
                self._plan = self._admitted_target()
            self._watches["target"] = Watch(self.target)
            new_runner = new_batch_runner if self._ranks is None else self._ranks.new_runner
            self._target_lane = InlineLane(NewWorker(self.target, self.vocabulary, self.eager, self._plan, new_runner))
        return self._target_lane

    def draft_lane(self) -> Lane | None:
        """Where the draft works; `None` without a draft.

        The first call makes the lane, and may start a process. A lane whose process was lost is replaced by a new one.
        """
        if self.draft is not None and (self._draft_lane is None or self._draft_lane.ended):
            given = admit(self.draft), self.vocabulary, self.matching, self._small
            self._draft_vocabulary = self.vocabulary
            new_drafter = drafter_of(self.draft, *given, eager=self.eager)
            self._watches |= {f"draft {number}": Watch(model) for number, model in enumerate(new_drafter.models)}
            self._draft_lane = self._new_draft_lane(new_drafter)
        return self._draft_lane

    def _new_draft_lane(self, new_drafter: NewDrafter) -> Lane:
        kinds = {"inline": InlineLane, "thread": ThreadLane, "process": ProcessLane}
        try:
            return kinds[self._chosen_lane](new_drafter)
        except CannotCross as error:
            if self.lane != "auto":
                raise
            said = str(error).partition(": ")[0]
            warnings.warn(f"{said}: it works inline, in turn with the target", RuntimeWarning, stacklevel=3)
            return InlineLane(new_drafter)

    def refresh(self, *, draft: bool) -> None:
        """End the lane of the target, and with `draft` also that of the draft, if its model has changed since it was made.

        A lane whose model may have changed unseen forgets its texts.
        """
        if self._target_lane is not None and self._stale(self._target_lane, [self._watches["target"]]):
            self._target_lane.close()
            self._target_lane = None
        resized = self._draft_vocabulary != self.vocabulary
        if draft and self._draft_lane is not None and (self._stale(self._draft_lane, self._drafting()) or resized):
            self._draft_lane.close()
            self._draft_lane = None

    @staticmethod
    def _stale(lane: Lane, watches: list[Watch]) -> bool:
        changed = any(watch.changed() for watch in watches)
        if not changed and not lane.ended and any(watch.may_hide_changes for watch in watches):
            lane.submit("forget")()
        return changed

    def turn(self, *, drafts: bool) -> Turn:
        """A decode's turns on this pair, or a measurement's; `drafts` says whether it uses the draft."""
        return Turn(self, drafts=drafts)

    def evaluation(self) -> Evaluation:
        """Evaluation mode of the models whose modules are called here: not of fused ones, and not of those in a process."""
        target = self._target_lane is not None and self._target_lane.asks_mode
        draft = self._draft_lane is not None and self._draft_lane.asks_mode
        watches = ([self._watches["target"]] if target else []) + (self._drafting() if draft else [])
        return Evaluation([watch.modules for watch in watches])

    def _drafting(self) -> list[Watch]:
        """The watches of all models that draft."""
        return [watch for name, watch in self._watches.items() if name != "target"]

    def why_eager(self) -> dict[str, str | None]:
        """Why each model runs operation by operation, as transformers wrote it; `None` where it does not. Makes both lanes."""
        with self.turn(drafts=True) as (target, draft):
            return {"target": target.why_eager, **({} if draft is None else {"draft": draft.why_eager})}

    @property
    def _chosen_lane(self) -> str:
        if self.lane != "auto" or self.draft is None:
            return self.lane
        if self.draft.device.type == "cuda":
            return "thread"
        return "process" if available_cores() > 1 and self.draft.device.type == "cpu" else "inline"

    def speed_ratio(self, *, sampled: bool = False) -> float:
        """`c`: seconds of a target step over seconds of a draft step, both at work: greedy, or `sampled` at temperature 1.

        The first call of each times both models.
        """
        if sampled not in self._speed_ratios:
            context, sampling = max(1, min(CONTEXT_TOKENS, self.draft_context_limit - 8)), Sampling(float(sampled))
            with self.turn(drafts=True) as (target, draft):
                ratio = 1.0 if draft is None else speed_ratio(target, draft, context=context, sampling=sampling)
            self._speed_ratios[sampled] = ratio
        return self._speed_ratios[sampled]

    def costs(self, *, sampled: bool = False) -> Costs:
        """What work takes, for closed forms. The first call of each times both models; decodes then correct them."""
        if sampled not in self._costs:
            ratio, room = self.speed_ratio(sampled=sampled), self.draft_context_limit - fork_positions(max(BRANCHES))
            context = max(1, min(CONTEXT_TOKENS, room))
            with self.turn(drafts=True) as (target, draft):
                self._costs[sampled] = measured_costs(target, draft, ratio, context, Sampling(float(sampled)))
        return self._costs[sampled]

    def follow(self, decode: Statistics, *, sampled: bool) -> None:
        """Correct `costs`, if they are known yet, by how long both models took in a decode of one sequence."""
        if sampled in self._costs:
            self._costs[sampled] = corrected(self._costs[sampled], decode)

    def close(self) -> None:
        """End the lanes. A decode that goes on makes new ones."""
        with self.lock:
            self.user = None
            if self._target_lane is not None:
                self._target_lane.close()
                self._target_lane = None
            if self._ranks is not None:
                self._ranks.close()
            if self._draft_lane is not None:
                self._draft_lane.close()
                self._draft_lane = None

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Turn:
    """The turns of one decode on a pair. In a `with` block it has the lanes of target and draft to itself.

    `claims`   how often the lanes had to be claimed, since others had used them or they were new. What they held is gone then
    """

    def __init__(self, pair: Pair, *, drafts: bool) -> None:
        self._pair, self._drafts = pair, drafts
        self._user = object()
        self._lanes: tuple[Lane, Lane | None] | None = None
        self._evaluation = Evaluation(())
        self._found_training = False
        self.claims = 0

    def claim(self) -> tuple[Lane, Lane | None]:
        """The lanes, now those of this decode. The first call makes them anew if their models have changed."""
        pair = self._pair
        if pair.user is not self._user or self._lanes is None:
            if self._lanes is None:
                pair.refresh(draft=self._drafts)
            self._lanes = pair.target_lane(), pair.draft_lane() if self._drafts else None
            pair.user = self._user
            self.claims += 1
        return self._lanes

    def __enter__(self) -> tuple[Lane, Lane | None]:
        self._pair.lock.acquire()
        try:
            before, lanes = self.claims, self.claim()
            if self.claims > before:
                self._evaluation = self._pair.evaluation()
            self._found_training = self._evaluation.__enter__()
            return lanes
        except BaseException:
            self._pair.lock.release()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pair = self._pair
        try:
            if kind is not None:
                pair.user = None  # whatever was under way, the next turn begins its sequences again
                if self._found_training:
                    pair.close()  # a thread may still be drafting; what it computes in training mode must not be kept
            self._evaluation.__exit__()
        finally:
            pair.lock.release()
