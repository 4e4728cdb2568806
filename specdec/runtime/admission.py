"""Which models may decode: asked when a pair is made, before anything is decoded.

First come questions that cost nothing: is this a causal language model with a head, and does it take a cache? Then the model is
probed. What a decode relies on is that rows of logits on a cache equal the rows of a whole forward without one, after windows of
several widths, and after roll-backs. A dozen forwards of few tokens try that, on random tokens. They cross the borders that a
configuration names (a sliding window, an attention chunk, the original context of longrope) where these are short. A model that
fails is refused by name, with the measured difference. So no table of names says which model works.

How large a difference may be. Two forwards that add in another order differ by rounding. How much depends on the format of the
numbers, and is measured against the spread of the logits, their standard deviation over the vocabulary. In a fault, part of the
past is lost or stands in the wrong place. Rows then differ by a good part of what the past does to them. The probe measures
that too: it reads the same tokens after another past. So a row passes if it differs

- by no more than rounding (`Tolerance.rounding`, a share of the spread), or
- by a small share (`Tolerance.past`) of what another past would do.

In float32 and float64 the shares are small, and every row must pass: chunked and stepwise recurrences agree to about 1e-4. In
bfloat16 and float16, routers of experts meet ties and choose otherwise, and quantised activations share a scale with the rest of
their window. That moves few rows, or all of them a little. So the shares are larger, the median row of each window counts, and
a model fails only if it fails on two prompts. A lost past moves every row of every prompt.

A small model is probed in a float32 copy first. Recurrent states are compared too, and one is spoilt with NaN: where a window does not read the state before it, NaN does not
reach its rows, however little the state weighs.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from specdec.errors import PairError
from specdec.runtime.cache import (
    CachePlan,
    context_limit,
    forward_parameters,
    new_cache,
    stretched_beyond,
    why_not_static,
    windows,
)
from specdec.runtime.recurrent import CUT, is_recurrent, recurrent_states
from specdec.runtime.runner import Forward, Runner, common_prefix, takes_positions
from specdec.runtime.sequences import Batched, Wanted

LONGEST_BORDER = 64
"""Borders within so many tokens are crossed by the probe."""

MOST_BORDERS = 2

SMALL = 4_000_000
"""Weights of a model that is probed in a float32 copy too."""

PROMPT = 6
"""Tokens of the prompt of a probe that crosses no border."""

REJOINED = 6
"""The step after which recurrent states are compared: the last that goes on from a copy."""

Step = tuple[list[int], int]
"""A whole context, and how many of its last positions to compare."""


@dataclass(frozen=True)
class Tolerance:
    """How far rows on a cache may be from rows without one.

    `rounding`  as a share of the spread of the logits
    `past`      as a share of what another past does to the rows
    `prompts`   how many prompts are tried before a model is refused; where more than one, the median row counts, else the worst
    """

    rounding: float
    past: float
    prompts: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Tolerance:
        if is_quantised(model):
            return cls(0.05, 0.25, 2)
        if model.dtype not in (torch.float32, torch.float64):
            return cls(4 * torch.finfo(model.dtype).eps, 0.2, 2)
        exact = model.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        return cls(1e-4, 1e-4, 1) if exact else cls(4e-3, 0.05, 1)  # else products may be rounded to 10 bits (TF32)


def admit(model: PreTrainedModel) -> CachePlan:
    """How the cache of `model` is used. Raises `PairError`, in one line, for a model that cannot be decoded rightly.

    A model that was admitted is not probed again while its format, device, attention and modules stay.
    """
    require_causal(model)
    key = (model.dtype, model.device, model.config._attn_implementation, sum(1 for _ in model.modules()))  # pyright: ignore[reportPrivateUsage]
    if model not in _ADMITTED or _ADMITTED[model][0] != key:
        with _evaluating(model):
            _ADMITTED[model] = key, _probed(model)
    return _ADMITTED[model][1]


_ADMITTED: WeakKeyDictionary[nn.Module, tuple[Any, CachePlan]] = WeakKeyDictionary()


def require_causal(model: object) -> None:
    """Raise `PairError` unless this is a causal language model that takes a cache, as far as its class says."""
    config: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not isinstance(config, PreTrainedConfig):
        what = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise PairError(f"{what} is not a causal language model of transformers: load it with Pair.load")
    named: Any = model
    if config.is_encoder_decoder:
        raise PairError(f"{config.model_type} is an encoder-decoder model: choose a causal language model, which is a decoder only")
    if not named.can_generate():
        raise PairError(f"{type(model).__name__} has no language-model head: load it with AutoModelForCausalLM")
    if not {"past_key_values", "cache_params"} & forward_parameters(named).keys():
        raise PairError(f"{config.model_type} keeps no cache in transformers: choose a causal model that takes past_key_values")


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether some weights are held in fewer bits than the model's format, by whatever library."""
    weights = (parameter.data for parameter in model.parameters())
    return (
        getattr(model, "is_quantized", False)
        or any(type(weight) is not Tensor or not weight.is_floating_point() for weight in weights)
        or any(".quantized" in type(module).__module__ for module in model.modules())
    )


def _probed(model: PreTrainedModel) -> CachePlan:
    failures: list[str] = []
    try:
        tolerance, starts = Tolerance.of(model), _starts(model)
        exact = _exact_copy(model) if tolerance.prompts > 1 else None
        prompts = [[_Probe(model, start, seed) for start in starts] for seed in range(tolerance.prompts)]
        exact_prompts = [] if exact is None else [[_Probe(exact, start, 0) for start in starts]]

        def failure(plan: CachePlan | None) -> str | None:
            found = _failure(exact_prompts, Tolerance.of(exact), plan) if exact is not None else None
            return found or _failure(prompts, tolerance, plan)

        for plan in _candidates(model):
            found = failure(plan)
            if found is None:
                return replace(plan, batched=why_not_static(model) is None and failure(None) is None)
            failures.append(found)
    except Exception as error:  # whatever a model raises: it means that the model cannot be used
        failures.append(_said(error))
    raise PairError(f"{model.config.model_type} cannot be used: {failures[0]}; choose another causal model")


def _exact_copy(model: PreTrainedModel) -> PreTrainedModel | None:
    """A small model in float32; `None` for others. Faults lie in the code of a model, and here no rounding hides them."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return None if weights > SMALL or is_quantised(model) else copy.deepcopy(model).float()


def _said(error: Exception) -> str:
    return f"a forward failed ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]})"


def _candidates(model: PreTrainedModel) -> list[CachePlan]:
    """The plans to try, the cheapest first."""
    cache = new_cache(model)
    restored = [CachePlan("restore"), CachePlan("restore", widest=1)]
    if is_recurrent(cache):
        return restored
    known = all(isinstance(layer, CUT) for layer in cache.layers)
    return [CachePlan("cut"), *([CachePlan("cut", widest=1)] if known else restored)]


def _starts(model: PreTrainedModel) -> list[int]:
    """Lengths of the prompts, such that the windows after them cross the short borders of the configuration."""
    borders = {window for _, window in windows(model.config.get_text_config(decoder=True))} | {stretched_beyond(model)}
    near = sorted(border for border in borders if border is not None and border <= LONGEST_BORDER)[:MOST_BORDERS]
    most = max(1, context_limit(model) - 7)
    return sorted({min(most, max(1, border - 2)) for border in near}) or [min(most, PROMPT)]


def _failure(prompts: Sequence[Sequence[_Probe]], tolerance: Tolerance, plan: CachePlan | None) -> str | None:
    """How the cache of `plan` fails, or the static one without a plan, on every prompt; `None` where it does not."""
    failure = None
    for probes in prompts:
        try:
            steps = [step for probe in probes for step in (probe.batched() if plan is None else probe.alone(plan))]
            failure = next((probe_step.failure(tolerance) for probe_step in steps if probe_step.failure(tolerance)), None)
        except Exception as error:
            failure = _said(error)
        if failure is None:
            return None
    return failure


@dataclass(frozen=True)
class _Compared:
    """Rows of one window beside those of whole forwards.

    `what`          names the window
    `past`          what another past does to a row
    `ignores_past`  whether NaN in a recurrent state before the window did not reach its rows, which rounding cannot hide
    """

    what: str
    ours: Tensor
    whole: Tensor
    past: float
    ignores_past: bool = False

    def failure(self, tolerance: Tolerance) -> str | None:
        if self.ignores_past:
            return "a window of several tokens ignores the recurrent state before it"
        apart = _distances(self.ours, self.whole)
        finite = self.whole.isfinite()
        spread = float(self.whole[finite].std(correction=0)) if finite.any() else 0.0
        worst = float(apart.max() if tolerance.prompts == 1 else apart.median())
        if worst <= max(tolerance.rounding * spread, tolerance.past * self.past):
            return None
        return f"rows on its cache differ from rows without one by {worst:.2g} after {self.what} (logits spread by {spread:.2g})"


def _distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """Root mean square differences of rows. Equal infinities, and NaN beside NaN, do not differ."""
    equal = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return (ours - theirs).masked_fill(equal, 0).nan_to_num(nan=torch.inf).square().mean(-1).sqrt()


class _Probe:
    """A prompt of `start` tokens, contexts that go on from it as accepts and rejects make them, and rows without a cache."""

    def __init__(self, model: PreTrainedModel, start: int, seed: int) -> None:
        self._model, self._start = model, start
        self._forward, self._whole = Forward(model), Whole(model)
        ids = _ids(model, random.Random(seed))
        first = [next(ids) for _ in range(start + 6)]
        second = [*first[: start + 2], *(next(ids) for _ in range(5))]
        third = [*second[: start + 3], *(next(ids) for _ in range(3))]
        last = [*third[: start - 1], *(next(ids) for _ in range(2))]
        self._other_past = [*(next(ids) for _ in range(start)), *first[start:]]
        steps = [
            (first[:start], 1),
            (first[: start + 3], 3),
            (first[: start + 4], 1),
            (first[: start + 6], 2),
            (second[: start + 6], 4),
            (second, 1),
            (third, 2),
            (last, 2),
        ]
        limit = context_limit(model)
        self._steps: list[Step] = [
            (context, min(positions, len(context))) for context, positions in steps if len(context) <= limit
        ]
        self._first, self._second = first, second

    @cached_property
    def _references(self) -> list[Tensor]:
        """Rows without a cache. Later contexts come first, so that one forward serves those that they begin with."""
        return [self._whole.rows(*step) for step in reversed(self._steps)][::-1]

    @cached_property
    def _past(self) -> float:
        """What another past does to the rows of the longest of the first contexts."""
        context = max((tokens for tokens, _ in self._steps if self._first[: len(tokens)] == tokens), key=len)
        rows = max(1, len(context) - self._start)
        other = self._whole.rows(self._other_past[: len(context)], rows)
        return float(_distances(other, self._whole.rows(context, rows)).mean().nan_to_num())

    def alone(self, plan: CachePlan) -> Iterator[_Compared]:
        """Every step on the cache of a single sequence."""
        runner, before = Runner(self._model, sys.maxsize, self._forward, plan), list[int]()
        for (context, positions), whole in zip(self._steps, self._references, strict=True):
            kept = common_prefix(before, context)
            what = f"a window of {len(context) - kept} tokens"
            if kept < len(before):
                what += f" and a roll-back of {len(before) - kept}"
            yield _Compared(what, _comparable(runner.logits(context, positions)), whole, self._past)
            if plan.rollback == "restore" and context is self._steps[REJOINED][0]:
                yield from self._states(runner, plan, context)
            before = context

    def _states(self, runner: Runner, plan: CachePlan, context: list[int]) -> Iterator[_Compared]:
        """Recurrent states after windows and roll-backs, beside those after one forward over the same tokens."""
        at_once = Runner(self._model, sys.maxsize, self._forward, plan)
        at_once.logits(context, 1)
        pairs = list(zip(recurrent_states(runner.cache), recurrent_states(at_once.cache), strict=True))
        for ours, whole in (map(_comparable, pair) for pair in pairs):
            past = float(whole.std(correction=0))
            yield _Compared("windows and roll-backs, in a recurrent state,", ours.reshape(1, -1), whole.reshape(1, -1), past)
        if pairs and len(context) + 3 <= context_limit(self._model):
            with torch.inference_mode():
                pairs[0][1].fill_(torch.nan)
            rows = _comparable(at_once.logits([*context, *self._first[:3]], 3))
            yield _Compared("a spoilt state", rows, rows, 0, ignores_past=not rows[-1].isnan().any())

    def batched(self) -> Iterator[_Compared]:
        """Two sequences of different lengths on a static cache. One of them is rolled back."""
        start, short = self._start, max(1, self._start - 3)
        runner = Batched(self._model, sys.maxsize, 2, self._forward, length=start + 8)
        rounds: list[list[Wanted]] = [
            [(0, self._first[:start], 1), (1, self._second[:short], 1)],
            [(0, self._first[: start + 3], 3), (1, self._second[: short + 1], 1)],
            [(0, self._second[: start + 4], 2), (1, self._second[: short + 4], 3)],
        ]
        for wanted in rounds:
            fitting = [one for one in wanted if len(one[1]) <= context_limit(self._model)]
            for (slot, context, positions), ours in zip(fitting, runner.logits(fitting) if fitting else [], strict=True):
                whole = self._whole.rows(list(context), positions)
                yield _Compared(f"a forward with another sequence ({slot})", _comparable(ours), whole, self._past)


class Whole:
    """Rows of logits by forwards without a cache. A forward serves every context that its tokens begin with."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._border, self._positions = model, stretched_beyond(model), takes_positions(model)
        self._found: list[tuple[list[int], Tensor]] = []

    def rows(self, context: list[int], positions: int) -> Tensor:
        """Logits after the last `positions` prefixes of `context`, each as a forward over that prefix alone would give."""
        border, scored = self._border, len(context) - positions
        if border is not None and scored < border < len(context):
            return torch.cat([self.rows(context[:border], border - scored), self.rows(context, len(context) - border)])
        for tokens, rows in self._found:
            if tokens[: len(context)] == context and (border is None or (len(tokens) > border) == (len(context) > border)):
                return rows[scored : len(context)]
        ids = torch.tensor([context], device=self._model.device)
        where = {"position_ids": torch.arange(len(context), device=ids.device).unsqueeze(0)} if self._positions else {}
        with torch.inference_mode():
            logits = _comparable(self._model(input_ids=ids, use_cache=False, **where).logits[0])
        self._found.append((context, logits))
        return logits[scored:]


def _comparable(rows: Tensor) -> Tensor:
    return rows.to("cpu", torch.float64)


def _ids(model: PreTrainedModel, source: random.Random) -> Iterator[int]:
    """Random tokens that stand for text: none that a configuration names (padding, images, ends)."""
    config: Any = model.config.get_text_config(decoder=True)
    embedding: Any = model.get_input_embeddings()
    size = min(config.vocab_size, getattr(embedding, "num_embeddings", config.vocab_size))
    named = {**vars(config), **vars(model.config), "padding_idx": getattr(embedding, "padding_idx", None)}
    special = {one for key, one in named.items() if key.endswith(("token_id", "token_index", "padding_idx")) and type(one) is int}
    usual = [token for token in range(size) if token not in special] or list(range(size))
    while True:
        yield source.choice(usual)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every module's own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
