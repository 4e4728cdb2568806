"""Models that somebody wraps or extends: they decode as `generate` does, or are refused by the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from transformers import LlamaForCausalLM

import specdec
from specdec import Pair, PairError
from specdec.testing.models import model, resembling

VOCABULARY, PROMPT = 20, torch.tensor([[5, 6, 7]])
STRATEGY = specdec.create("speculative", draft_length=3)


class HandsOn(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class OtherPositionsLater(LlamaForCausalLM):
    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool | None = False, **kwargs: Any) -> Any:
        parent: Any = super()
        prepared = parent.prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration:
            prepared["position_ids"] = prepared["position_ids"] + 5
        return prepared


class OtherStep(LlamaForCausalLM):
    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        updated = super()._update_model_kwargs_for_generation(*args, **kwargs)
        return updated | {"position_ids": updated["position_ids"] + 5}


class SameSteps(LlamaForCausalLM):
    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        return parent.prepare_inputs_for_generation(*args, **kwargs)

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super()._update_model_kwargs_for_generation(*args, **kwargs)


class OwnLoop(LlamaForCausalLM):
    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        parent: Any = super()
        return parent._sample(*args, **kwargs)


def llama(kind: type[LlamaForCausalLM] = LlamaForCausalLM) -> Any:
    of: Any = model("llama", VOCABULARY, seed=1)
    of.__class__ = kind
    return of.double()


def offloaded(of: Any) -> Any:
    accelerate.cpu_offload(of, execution_device="cpu")  # type: ignore[arg-type]
    return of


def with_a_decorated_forward(of: Any) -> Any:
    forward = of.forward
    of.forward = lambda *args, **kwargs: forward(*args, **kwargs)  # pyright: ignore[reportUnknownLambdaType]
    return of


WRAPPED: dict[str, Callable[[], Any]] = {
    "offloaded": lambda: offloaded(llama()),
    "decorated": lambda: with_a_decorated_forward(llama()),
    "subclass": lambda: llama(HandsOn),
    "same steps": lambda: llama(SameSteps),
    "compiled": lambda: torch.compile(llama(), backend="eager"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_models_decode_as_generate_does(name: str) -> None:
    draft: Any = resembling(model("llama", VOCABULARY, seed=1), 0.1).double()
    target = WRAPPED[name]()
    pair = Pair(target, draft, lane="inline")
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    expected = target.generate(PROMPT, **options)
    assert torch.equal(target.generate(PROMPT, custom_generate=STRATEGY, draft=pair, **options), expected)
    assert specdec.decode(pair, STRATEGY, PROMPT, max_new_tokens=12, temperature=0).tokens == tuple(expected[0, 3:].tolist())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (OtherPositionsLater, "in generate its logits differ by"),
        (OtherStep, "in generate its logits differ by"),
        (OwnLoop, "OwnLoop has a _sample of its own, .*: take that method out"),
    ],
)
def test_classes_that_generate_otherwise_are_refused(kind: type[LlamaForCausalLM], reason: str) -> None:
    with pytest.raises(PairError, match=reason):
        Pair(llama(kind), lane="inline")
