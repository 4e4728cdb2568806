"""Models that somebody wraps or extends: they decode as `generate` does, or are refused by the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from transformers import LlamaForCausalLM

import specdec
from specdec import Pair
from specdec.testing.models import model, resembling

VOCABULARY, PROMPT = 20, torch.tensor([[5, 6, 7]])
STRATEGY = specdec.create("speculative", draft_length=3)


class HandsOn(LlamaForCausalLM):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


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
