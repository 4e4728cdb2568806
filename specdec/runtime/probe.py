"""The probe of a model: rows on a cache beside rows without one, after windows of several widths and after roll-backs.

How large a difference may be. Two forwards that add in another order differ by rounding. How much depends on the format of the
numbers, and is measured against the spread of the logits, their standard deviation over the vocabulary. In a fault, part of the
past is lost or stands in the wrong place. Rows then differ by a good part of what the past does to them. The probe measures
that too: it reads the same tokens after another past. So a row passes if it differs

- by no more than rounding (`Tolerance.rounding`, a share of the spread), or
- by a small share (`Tolerance.past`) of what another past would do.

In float32 and float64 the shares are small, and every row must pass: chunked and stepwise recurrences agree to 1e-6 in small
models. In bfloat16 and float16, routers of experts meet ties and choose otherwise, and quantised activations share a scale with
the rest of their window. That moves few rows, or all of them a little. So the shares are larger, the median row of each window
counts, and a model fails only if it fails on two prompts. A lost past moves every row of every prompt.

A recurrent state may weigh so little that rounding hides its loss. So states are compared too, and one is spoilt with NaN: if a
window does not read the state before it, NaN does not reach its rows.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.runtime.cache import (
    CachePlan,
    cache_name,
    context_limit,
    forward_parameters,
    new_cache,
    stretched_beyond,
    unwrapped,
)
from specdec.runtime.placement import device_of
from specdec.runtime.recurrent import recurrent_states
from specdec.runtime.runner import ROUNDING, Forward, Runner, takes_positions
from specdec.runtime.sequences import StaticRunner
from specdec.runtime.vocabulary import Wanted
from specdec.tokens import Tokens, common_prefix

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
        exact = device_of(model).type == "cpu" and torch.get_float32_matmul_precision() == "highest"
        return cls(1e-4, 1e-4, 1) if exact else cls(4e-3, 0.05, 1)  # else products may be rounded to 10 bits (TF32)


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether some weights are held in fewer bits than the model's format, by whatever library."""
    weights = (getattr(parameter.data, "_local_tensor", parameter.data) for parameter in model.parameters())  # of its share
    return (
        getattr(model, "is_quantized", False)
        or any(type(weight) is not Tensor or not weight.is_floating_point() for weight in weights)
        or any(".quantized" in type(module).__module__ for module in model.modules())
    )


@dataclass(frozen=True)
class Compared:
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
        apart = distances(self.ours, self.whole)
        finite = self.whole.isfinite()
        spread = float(self.whole[finite].std(correction=0)) if finite.any() else 0.0
        worst = float(apart.max() if tolerance.prompts == 1 else apart.median())
        if worst <= max(tolerance.rounding * spread, tolerance.past * self.past):
            return None
        return (
            f"rows on its cache differ from rows without one by {worst:.2g} after {self.what} (logits spread by {spread:.2g})"
        )


def distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """Root mean square differences of rows. Equal infinities, and NaN beside NaN, do not differ."""
    equal = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return (ours - theirs).masked_fill(equal, 0).nan_to_num(nan=torch.inf).square().mean(-1).sqrt()


class Probe:
    """A prompt of `start` tokens, contexts that go on from it as accepts and rejects make them, and rows without a cache."""

    def __init__(self, model: PreTrainedModel, start: int, seed: int) -> None:
        self._model, self._start = model, start
        self._forward, self._whole = Forward(model), Whole(model)
        ids = usual_tokens(model, random.Random(seed))
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
        return float(distances(other, self._whole.rows(context, rows)).mean().nan_to_num())

    def alone(self, plan: CachePlan) -> Iterator[Compared]:
        """Every step on the cache of a single sequence."""
        runner, before = Runner(self._model, sys.maxsize, self._forward, plan), list[int]()
        for (context, positions), whole in zip(self._steps, self._references, strict=True):
            kept = common_prefix(Tokens.of(before), Tokens.of(context))
            what = f"a window of {len(context) - kept} tokens"
            if kept < len(before):
                what += f" and a roll-back of {len(before) - kept}"
            yield Compared(what, comparable(runner.logits(context, positions)), whole, self._past)
            if plan.rollback == "restore" and context is self._steps[REJOINED][0]:
                yield from self._states(runner, plan, context)
            before = context

    def _states(self, runner: Runner, plan: CachePlan, context: list[int]) -> Iterator[Compared]:
        """Recurrent states after windows and roll-backs, beside those after one forward over the same tokens."""
        at_once = Runner(self._model, sys.maxsize, self._forward, plan)
        at_once.logits(context, 1)
        pairs = list(zip(recurrent_states(runner.cache), recurrent_states(at_once.cache), strict=True))
        for ours, whole in (map(comparable, pair) for pair in pairs):
            past = float(whole.std(correction=0))
            yield Compared("windows and roll-backs, in a recurrent state,", ours.reshape(1, -1), whole.reshape(1, -1), past)
        if pairs and len(context) + 3 <= context_limit(self._model):
            with torch.inference_mode():
                pairs[0][1].fill_(torch.nan)
            rows = comparable(at_once.logits([*context, *self._first[:3]], 3))
            yield Compared("a spoilt state", rows, rows, 0, ignores_past=not rows[-1].isnan().any())

    def batched(self) -> Iterator[Compared]:
        """Two sequences of different lengths on a static cache. One of them is rolled back."""
        start, short = self._start, max(1, self._start - 3)
        runner = StaticRunner(self._model, sys.maxsize, 2, self._forward, length=start + 8)
        rounds: list[list[Wanted]] = [
            [(0, self._first[:start], 1), (1, self._second[:short], 1)],
            [(0, self._first[: start + 3], 3), (1, self._second[: short + 1], 1)],
            [(0, self._second[: start + 4], 2), (1, self._second[: short + 4], 3)],
        ]
        for wanted in rounds:
            fitting = [one for one in wanted if len(one[1]) <= context_limit(self._model)]
            for (slot, context, positions), ours in zip(fitting, runner.logits(fitting) if fitting else [], strict=True):
                whole = self._whole.rows(list(context), positions)
                yield Compared(f"a forward with another sequence ({slot})", comparable(ours), whole, self._past)


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
        ids = torch.tensor([context], device=device_of(self._model))
        where = {"position_ids": torch.arange(len(context), device=ids.device).unsqueeze(0)} if self._positions else {}
        with torch.inference_mode():
            logits = comparable(self._model(input_ids=ids, use_cache=False, **where).logits[0])
        self._found.append((context, logits))
        return logits[scored:]


def comparable(rows: Tensor) -> Tensor:
    return rows.to("cpu", torch.float64, copy=True)  # what was compared does not change with a state


def usual_tokens(model: PreTrainedModel, source: random.Random) -> Iterator[int]:
    """Random tokens that stand for text: none that a configuration names (padding, images, ends)."""
    config: Any = model.config.get_text_config(decoder=True)
    embedding: Any = model.get_input_embeddings()
    size = min(config.vocab_size, getattr(embedding, "num_embeddings", config.vocab_size))
    named = {**vars(config), **vars(model.config), "padding_idx": getattr(embedding, "padding_idx", None)}
    special = {
        one for key, one in named.items() if key.endswith(("token_id", "token_index", "padding_idx")) and type(one) is int
    }
    usual = [token for token in range(size) if token not in special] or list(range(size))
    while True:
        yield source.choice(usual)


def difference_in_generate(model: Any, prompt: Sequence[int], padding: Sequence[int] = ()) -> float:
    """The largest difference of the last logits between `generate`, with padding, and a plain forward; 0 if it is rounding."""
    ids = torch.tensor([[*padding, *prompt]], device=device_of(model))
    mask = torch.ones_like(ids)
    mask[:, : len(padding)] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = model.prepare_inputs_for_generation(
        ids, attention_mask=mask if padding else None, position_ids=positions, use_cache=False, is_first_iteration=True
    )
    counted = {"position_ids": positions[:, len(padding) :]} if "position_ids" in forward_parameters(model) else {}
    with torch.inference_mode():
        theirs = model(**inputs, return_dict=True).logits[0, -1].double()
        alone = model(input_ids=ids[:, len(padding) :], use_cache=False, **counted, return_dict=True).logits[0, -1].double()
    return _beyond_rounding(model, alone, theirs)


def difference_after_a_step(model: Any, tokens: Sequence[int]) -> float:
    """The same for the last of `tokens`, fed after the others as `generate` feeds the second step, and as a runner does."""
    ids, forward = torch.tensor([tokens], device=device_of(model)), Forward(model)
    positions = torch.arange(len(tokens), device=ids.device).unsqueeze(0)
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids[:, :-1]), "position_ids": positions[:, :-1]}
    given |= {"use_cache": True, cache_name(model) or "past_key_values": new_cache(model)}
    with torch.inference_mode():
        first = model(**model.prepare_inputs_for_generation(ids[:, :-1], is_first_iteration=True, **given), return_dict=True)
        given = model._update_model_kwargs_for_generation(first, given, is_encoder_decoder=False)
        second = model.prepare_inputs_for_generation(ids, next_sequence_length=1, **given)
        theirs = model(**second, return_dict=True).logits[0, -1].double()
        cache, counted = new_cache(model), takes_positions(model)
        for part in (slice(0, -1), slice(-1, None)):
            alone = forward(ids[:, part], cache, positions[:, part] if counted else None)[0, -1].double()
    return _beyond_rounding(model, alone, theirs)


def _beyond_rounding(model: Any, ours: Tensor, theirs: Tensor) -> float:
    difference = float((ours - theirs).abs().max())
    return 0.0 if difference <= ROUNDING.get(model.dtype, 0.1) * float(ours.abs().max()) else difference


def is_own_method(model: Any, name: str) -> bool:
    """Whether a method of `generate` is not one of transformers, but of a class or a package of somebody else."""
    method = getattr(unwrapped(model), name)
    return not str(getattr(method, "__module__", "")).startswith("transformers.")
