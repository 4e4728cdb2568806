"""Peers: `generate` of transformers on the same pair, plain and with `assistant_model`, timed as our strategies are.

Our seconds exclude the prefill, so those of peers must too. But `generate` reads the prompt itself, so a hook times every
forward of the two models. The clock starts at the first forward: what `generate` prepares before that is excluded, as it is for
our strategies. The first forward of each model reads the prompt too, and counts as much as its later ones on average.
Source: transformers 5.23, `generation/utils.py` and `generation/candidate_generator.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean
from types import TracebackType
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from specdec.bench.run import ALL_DRAFT_LENGTHS, Decoder
from specdec.bench.values import BASELINE
from specdec.errors import InputError
from specdec.loading import quiet_transformers
from specdec.output import Result
from specdec.pair import Pair
from specdec.runtime.cache import cache_name
from specdec.runtime.vocabulary import head_size
from specdec.runtime.watch import evaluation
from specdec.settings import Options, configuration
from specdec.statistics import Statistics
from specdec.text import Text

SECONDS = (
    "from the first forward of the call to its end, without the reading of the prompt: "
    "the first forward of each model counts as much as its later ones do on average"
)
"""How the seconds of peers are taken, for the report."""

CONSTANT_LENGTHS = (2, 4)
"""Draft lengths of assisted generation in addition to its default, unless others are given."""


@dataclass(frozen=True)
class HuggingFaceGenerate:
    """`target.generate(...)`."""

    name: str = field(default="hf_generate", init=False)
    lossless: bool = field(default=True, init=False)

    @property
    def parameters(self) -> dict[str, Any]:
        return {}

    def decode(self, pair: Pair, prompt: Sequence[int], **options: Any) -> Result:
        return generate(pair, prompt, **options)


@dataclass(frozen=True)
class HuggingFaceAssisted:
    """`target.generate(..., assistant_model=draft)`, drafting `draft_length` tokens each time.

    `"default"` is what assisted generation does by itself: up to 20 tokens, and none after a token to which the draft gave a
    probability below 0.4. The draft's own generation configuration may say otherwise.
    """

    draft_length: int | str = "default"

    name: str = field(default="hf_assisted", init=False)
    lossless: bool = field(default=True, init=False)

    @property
    def parameters(self) -> dict[str, Any]:
        return {"draft_length": self.draft_length}

    def decode(self, pair: Pair, prompt: Sequence[int], **options: Any) -> Result:
        draft = pair.draft
        if draft is None:
            raise InputError("assisted generation needs a draft model: give the pair one")
        own: Any = draft.generation_config
        chosen = {
            "num_assistant_tokens": own.num_assistant_tokens,
            "num_assistant_tokens_schedule": own.num_assistant_tokens_schedule,
            "assistant_confidence_threshold": own.assistant_confidence_threshold,
        }
        if self.draft_length != "default":
            chosen = dict(zip(chosen, (self.draft_length, "constant", 0.0), strict=True))
        with configured(draft, **chosen):
            return generate(pair, prompt, draft, **options)


COUNTERPARTS = {HuggingFaceGenerate.name: BASELINE, HuggingFaceAssisted.name: "speculative"}
"""Our strategy with the algorithm of each peer."""


def hugging_face(pair: Pair, draft_lengths: Sequence[int] = (), *, full: bool = False) -> list[Decoder]:
    """Plain generation, and assisted generation at its default length and at constant ones (1 to 8 when `full`).

    Without a draft, plain generation only. Raises `InputError` if the two models have other tokens, or heads of
    different sizes.
    """
    if pair.draft is None:
        return [HuggingFaceGenerate()]
    if pair.matching.way != "same":
        raise InputError("assisted generation is compared for drafts with the target's own tokens: leave --against hf out")
    heads = head_size(pair.target), head_size(pair.draft)
    if heads[0] != heads[1]:
        raise InputError(
            f"assisted generation needs heads of one size, and the target's has {heads[0]} outputs and the draft's {heads[1]}: "
            "leave --against hf out"
        )
    lengths = draft_lengths or (ALL_DRAFT_LENGTHS if full else CONSTANT_LENGTHS)
    return [HuggingFaceGenerate(), HuggingFaceAssisted(), *(HuggingFaceAssisted(length) for length in lengths)]


def generate(
    pair: Pair,
    prompt: Sequence[int],
    draft: PreTrainedModel | None = None,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    **_: Any,
) -> Result:
    """One `generate` with the settings of `specdec.decode`, the checkpoint's included; the verification rule is its own."""
    target: Any = pair.target
    room = (pair.context_limit if draft is None else pair.draft_context_limit) - len(prompt)
    if room < 1:
        raise InputError(f"the prompt has {len(prompt)} tokens, more than the draft of assisted generation holds: shorten it")
    budget = min(max_new_tokens, room)
    config = configuration(target, len(prompt), Options(budget, temperature, max_time=math.inf))
    config.pad_token_id = config.pad_token_id or 0  # nothing is padded, and without one a warning comes with every call
    config.max_length = None  # the budget says it
    ids = torch.tensor([list(prompt)], device=target.device)
    arguments = {"attention_mask": torch.ones_like(ids), "generation_config": config, "assistant_model": draft}
    arguments["tokenizer"] = pair.tokenizer if config.stop_strings else None
    gpus = {model.device for model in (target, draft) if model is not None and model.device.type == "cuda"}
    watches = [Watch(target)] if draft is None else [Watch(target), Watch(draft)]
    # What transformers warns of in here is how its assisted generation calls `generate` itself.
    with (
        torch.random.fork_rng(gpus),
        configured(target),
        quiet_transformers(),
        evaluation(target, draft),
        ExitStack() as opened,
    ):
        for watch in watches:
            opened.enter_context(watch)
        torch.manual_seed(seed)
        begin = time.perf_counter()
        tokens = tuple(target.generate(ids, **arguments)[0, len(prompt) :].tolist())
        end = time.perf_counter()
    finished_by = "eos" if tokens[-1] in pair.eos else "length" if len(tokens) == budget else "stop"
    statistics = counted(len(prompt), len(tokens), *(watch.forwards() for watch in watches))
    statistics.decode_seconds = end - min(watch.began for watch in watches) - statistics.prefill_seconds
    statistics.prefill_seconds = end - begin - statistics.decode_seconds
    return Result(tokens, Text(pair.tokenizer).of(tokens), finished_by, statistics)


@contextmanager
def configured(model: PreTrainedModel, **settings: Any) -> Generator[None]:
    """The model with a plain generation configuration, since its own would be laid over the one that it is given."""
    own = model.generation_config
    model.generation_config = GenerationConfig(**settings)
    try:
        yield
    finally:
        model.generation_config = own


@dataclass(frozen=True)
class TimedForward:
    """One forward of a model over `fed` tokens, after `held` cached ones."""

    held: int
    fed: int
    seconds: float


@dataclass
class Watch:
    """Times every forward of a model while it is open. On CUDA it records events, so that no forward waits for it."""

    model: PreTrainedModel
    began: float = math.inf
    _marks: list[tuple[int, int, Any, Any]] = field(default_factory=list[tuple[int, int, Any, Any]])

    def __enter__(self) -> None:
        self._hooks = [
            self.model.register_forward_pre_hook(self._before, with_kwargs=True),
            self.model.register_forward_hook(self._after),
        ]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, model: PreTrainedModel, arguments: Any, named: dict[str, Any]) -> None:
        if not self._marks:
            self.began = time.perf_counter()
        cache = named[cache_name(model) or "past_key_values"]
        self._marks.append((cache.get_seq_length(), named["input_ids"].shape[1], self._now(), None))

    def _after(self, model: PreTrainedModel, arguments: Any, output: Any) -> None:
        self._marks[-1] = (*self._marks[-1][:3], self._now())

    def _now(self) -> Any:
        if self.model.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.model.device))
        return event

    def forwards(self) -> list[TimedForward]:
        """All forwards in order; call this after the work is done."""
        gpu = self.model.device.type == "cuda"
        return [
            TimedForward(held, fed, begin.elapsed_time(end) / 1000 if gpu else end - begin)
            for held, fed, begin, end in self._marks
        ]


def counted(prompt: int, new_tokens: int, target: Sequence[TimedForward], draft: Sequence[TimedForward] = ()) -> Statistics:
    """The counts of a call with `prompt` tokens and `new_tokens`; each forward of the target was one round.

    `prefill_seconds` is the time of the prompt alone.
    """
    statistics = Statistics(new_tokens=new_tokens)
    target_prompt, draft_prompt = prompt_seconds(target), prompt_seconds(draft)
    known = [prompt, *(forward.held + 1 for forward in target[1:]), prompt + new_tokens]  # all tokens before each round
    for i, forward in enumerate(target):
        guessed = forward.fed - (prompt if i == 0 else 1)
        statistics.count_forward(guessed + 1, forward.seconds - (target_prompt if i == 0 else 0))
        statistics.drafted_tokens += guessed
        statistics.count_round(max(0, known[i + 1] - known[i] - 1), guessed, certain=0)  # a late stop commits nothing
    statistics.draft_busy_seconds = sum(forward.seconds for forward in draft) - draft_prompt
    statistics.forward_seconds = statistics.target_busy_seconds + statistics.draft_busy_seconds
    statistics.prefill_seconds = target_prompt + draft_prompt
    return statistics


def prompt_seconds(forwards: Sequence[TimedForward]) -> float:
    """Seconds by which the first forward, which reads the prompt, exceeds the mean of the later ones; 0 without later ones."""
    later = [forward.seconds for forward in forwards[1:]]
    return max(0.0, forwards[0].seconds - mean(later)) if later else 0.0
