"""Which models may decode: asked when a pair is made, before anything is decoded.

First come questions that cost nothing: is this a causal language model with a head, and does it take a cache? Then the model is
probed (`specdec.runtime.probe`). What a decode relies on is that rows of logits on a cache equal the rows of a whole forward
without one, after windows of several widths, and after roll-backs. A dozen forwards of few tokens try that. They cross the
borders that a configuration names (a sliding window, an attention chunk, the original context of longrope) where these are
short. The probe also finds out how the cache is rolled back, how wide windows may be, and whether sequences of a batch can
share a forward. A model that fails is refused by name, with the measured difference. So no table of names says which works.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from specdec.errors import PairError
from specdec.runtime.cache import (
    CachePlan,
    cache_name,
    context_limit,
    new_cache,
    stretched_beyond,
    unwrapped,
    why_not_static,
    windows,
)
from specdec.runtime.probe import (
    Probe,
    Tolerance,
    difference_after_a_step,
    difference_in_generate,
    is_own_method,
    is_quantised,
    usual_tokens,
)
from specdec.runtime.recurrent import CUT, is_recurrent
from specdec.runtime.watch import evaluation, hooks_of

STEPS = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
"""Methods of a model by which `generate` makes the inputs of each step."""

LONGEST_BORDER = 64
"""Borders within so many tokens are crossed by the probe."""

MOST_BORDERS = 2

SMALL = 4_000_000
"""Weights of a model that is probed in a float32 copy too."""

PROMPT = 6
"""Tokens of the prompt of a probe that crosses no border."""

COPIED = Tolerance(1e-3, 1e-3, 1)
"""For a float32 copy, whose tables may have been rounded to the model's own format before."""


def admit(model: PreTrainedModel) -> CachePlan:
    """How the cache of `model` is used. Raises `PairError`, in one line, for a model that cannot be decoded rightly.

    A model that was admitted is not probed again while its format, device, attention, modules, hooks and forwards stay.
    """
    require_causal(model)
    _require_known_loop(model)
    _require_steady_rows(model)
    _require_plain_adapters(model)
    modules = list(model.modules())
    attention = model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    replaced = [(i, id(vars(module)["forward"])) for i, module in enumerate(modules) if "forward" in vars(module)]
    key = (model.dtype, model.device, attention, len(modules), list(chain.from_iterable(hooks_of(modules))), replaced)
    if model not in _ADMITTED or _ADMITTED[model][0] != key:
        with evaluation(model):
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
        raise PairError(f"{config.model_type} is an encoder-decoder model: choose a causal language model (decoder only)")
    if not named.can_generate():
        raise PairError(f"{type(model).__name__} has no language-model head: load it with AutoModelForCausalLM")
    if cache_name(named) is None:
        raise PairError(f"{config.model_type} keeps no cache in transformers: choose a causal model that takes one")


def _require_known_loop(model: PreTrainedModel) -> None:
    """Raise `PairError` for a class with a decoding loop of its own: it may choose tokens in any way."""
    if is_own_method(model, "_sample"):
        raise PairError(
            f"{type(unwrapped(model)).__name__} has a _sample of its own, which a strategy would replace: "
            "take that method out, or call generate without custom_generate"
        )


def _require_steady_rows(model: PreTrainedModel) -> None:
    """Raise `PairError` for weights whose products quantise all positions of a forward together: rows then depend on others."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized.dynamic"):
            raise PairError(
                f"{name or 'the model'} is quantised dynamically by torch: its logits change with the width of a forward; "
                "quantise weights only, as torchao does"
            )


def _require_plain_adapters(model: Any) -> None:
    """Raise `PairError` for adapters that need to be told more than tokens.

    `generate` looks for the tokens that invoke an aLoRA, and tells layers which adapter each row of a batch has.
    """
    configs: dict[str, Any] = getattr(model, "peft_config", None) or {}
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_disable_adapters")] if configs else []
    hooks: list[Any] = [hook for layer in layers for hook in layer._forward_pre_hooks.values()]
    if any("adapter_names" in getattr(hook, "keywords", ()) for hook in hooks):
        raise PairError(
            "adapter_names gives each row of a batch an adapter of its own, and a strategy decodes every row by itself: "
            "call set_adapter, and decode the rows of one adapter at a time"
        )
    active = {name for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
    for name in sorted(active):
        if getattr(configs.get(name), "alora_invocation_tokens", None):
            raise PairError(
                f"adapter {name} is an aLoRA, which works from its alora_invocation_tokens on, and is told no tokens here: "
                "disable it, or call generate without custom_generate"
            )


class _Otherwise(Exception):
    """`generate` reads more of a model than its tokens and positions."""


def _probed(model: PreTrainedModel) -> CachePlan:
    failures: list[str] = []
    try:
        if difference := _difference_in_generate(model):
            raise _Otherwise(f"in generate its logits differ by {difference:.2g} from those of its tokens and positions alone")
        tolerance, starts = Tolerance.of(model), _starts(model)
        exact = _exact_copy(model) if tolerance.prompts > 1 else None
        prompts = [[Probe(model, start, seed) for start in starts] for seed in range(tolerance.prompts)]
        exact_prompts = [] if exact is None else [[Probe(exact, start, 0) for start in starts]]

        def failure(plan: CachePlan | None) -> str | None:
            found = _failure(exact_prompts, COPIED, plan) if exact is not None else None
            return found or _failure(prompts, tolerance, plan)

        for plan in _candidates(model):
            found = failure(plan)
            if found is None:
                return replace(plan, batched=why_not_static(model) is None and failure(None) is None)
            failures.append(found)
    except _Otherwise as error:
        failures.append(str(error))
    except Exception as error:  # whatever a model raises: it means that the model cannot be used
        failures.append(_said(error))
    grouped = "grouped_mm" in model.get_experts_implementation().values() and "Expected mat_a" in failures[0]
    remedy = "call model.set_experts_implementation('eager') first" if grouped else "choose another causal model"
    raise PairError(f"{model.config.model_type} cannot be used: {failures[0]}; {remedy}")


def _difference_in_generate(model: PreTrainedModel) -> float:
    """How far logits are from those of `generate` on a short prompt; 0 for rounding, and for what no forward can answer."""
    ids = usual_tokens(model, random.Random(0))
    try:
        prompt = [next(ids) for _ in range(min(4, context_limit(model)))]
        found = difference_in_generate(model, prompt)
        if len(prompt) > 1 and any(is_own_method(model, name) for name in STEPS):
            found = max(found, difference_after_a_step(model, prompt))
    except Exception:  # the probe says what fails in a forward
        return 0.0
    return 0.0 if math.isnan(found) else found


def _exact_copy(model: PreTrainedModel) -> PreTrainedModel | None:
    """A small model in float32; `None` for others. Faults lie in the code of a model, and here no rounding hides them.

    A forward that was replaced (in a model that is spread or split) would go on with the weights of the original.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    replaced = any("forward" in vars(module) for module in model.modules())
    return None if weights > SMALL or replaced or is_quantised(model) else copy.deepcopy(model).float()


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


def _failure(prompts: Sequence[Sequence[Probe]], tolerance: Tolerance, plan: CachePlan | None) -> str | None:
    """How the cache of `plan` fails, or the static one without a plan, on every prompt; `None` where it does not."""
    failure = None
    for probes in prompts:
        try:
            compared = (step for probe in probes for step in (probe.batched() if plan is None else probe.alone(plan)))
            failure = next(filter(None, (step.failure(tolerance) for step in compared)), None)
        except Exception as error:
            failure = _said(error)
        if failure is None:
            return None
    return failure
