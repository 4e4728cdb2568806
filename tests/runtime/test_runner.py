"""Runners and their caches: cached logits are recomputed logits.

Histories are random: contexts grow, are cut back anywhere, and branch, as accepts and rejects make them do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from tiny_models import cut_short, minuscule, random_histories
from torch import Tensor

import specdec
from specdec import Pair, decode
from specdec.runtime import runner
from specdec.runtime.cache import UNLIMITED, context_limit, new_cache
from specdec.runtime.layers import SlidingLayer, TrimmableLayer
from specdec.runtime.runner import Runner
from specdec.testing.models import CONFIGS, fresh_logits, model, resembling

VOCABULARY = 12
CACHED = sorted({*CONFIGS} - {"mamba"})
STRATEGIES = {
    "autoregressive": specdec.create("autoregressive"),
    "pearl": specdec.create("pearl", draft_length=3),
    "speculative": specdec.create("speculative", draft_length=3),
}
PREALLOCATED = {"llama", "gpt2", "qwen2", "qwen3"}


def tolerance(architecture: str, dtype: torch.dtype = torch.float64) -> float:
    """Rotary angles and norms are float32 inside transformers, whatever the dtype; GPT-2 has neither."""
    return 2e-4 if dtype == torch.float32 else 1e-9 if architecture == "gpt2" else 2e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("architecture", CACHED)
def test_cached_logits_are_recomputed_logits(architecture: str, dtype: torch.dtype) -> None:
    of = model(architecture, VOCABULARY, seed=1, dtype=dtype)
    cached = Runner(of, VOCABULARY)
    for context, positions in random_histories(steps=60, longest=30, seed=2):
        ours, fresh = cached.logits(context, positions), fresh_logits(of, context, positions)
        torch.testing.assert_close(ours, fresh, rtol=0, atol=tolerance(architecture, dtype))
        assert ours.shape == (positions, VOCABULARY)


def test_random_models_depend_on_their_whole_history() -> None:
    """Or the test above could not fail."""
    for architecture in CACHED:
        of = model(architecture, VOCABULARY, seed=1)
        window = 5 if architecture not in PREALLOCATED else 9  # beyond a sliding window, through two layers
        context = list(range(9))
        other = [11 if i == 9 - window else token for i, token in enumerate(context)]
        assert (fresh_logits(of, context) - fresh_logits(of, other)).abs().max() > 1e-3, architecture


@pytest.mark.parametrize("strategy", ["speculative", "pearl"])
@pytest.mark.parametrize("architecture", CACHED)
def test_every_forward_of_a_decode_equals_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch, architecture: str, strategy: str
) -> None:
    """Both models, through the production loop, with the accepts and rejects of sampling."""
    target = model(architecture, VOCABULARY, seed=1)
    noise = 0.3 if architecture in {*PREALLOCATED, "mistral"} else 1.0  # Gemma's norms hide small differences
    pair = Pair(target, resembling(target, noise), lane="inline")
    cached, checked = Runner.logits, set()

    def checking(self: Runner, context: Sequence[int], positions: int) -> Tensor:
        ours = cached(self, context, positions)
        torch.testing.assert_close(ours, fresh_logits(self.model, context, positions), rtol=0, atol=tolerance(architecture))
        checked.add(id(self))
        return ours

    monkeypatch.setattr(Runner, "logits", checking)
    accepted = set()
    for seed in range(4):
        result = decode(pair, specdec.create(strategy, draft_length=3), [1, 2, 3], max_new_tokens=12, temperature=1, seed=seed)
        accepted |= {*result.statistics.accepted_in_round}
    assert len(checked) == 2
    assert len(accepted) > 1  # windows were cut back to different lengths


@pytest.mark.parametrize("architecture", CACHED)
def test_which_cache_serves_which_model(architecture: str) -> None:
    layers = new_cache(model(architecture, VOCABULARY)).layers
    assert all(isinstance(layer, TrimmableLayer) for layer in layers) == (architecture in PREALLOCATED)
    assert any(isinstance(layer, SlidingLayer) for layer in layers) == (architecture not in PREALLOCATED)


def test_a_cache_outgrows_its_buffer() -> None:
    of = minuscule(VOCABULARY, seed=2, max_position_embeddings=2048)
    cached = Runner(of, VOCABULARY)
    source = random.Random(0)
    context = [source.randrange(VOCABULARY) for _ in range(10)]
    for growth in (0, 240, 5, 6, 900, 1, 255, 3):  # up to the buffer's end, over it, and to more than twice its size
        context += [source.randrange(VOCABULARY) for _ in range(growth)]
        torch.testing.assert_close(cached.logits(context, 1), fresh_logits(of, context), rtol=0, atol=2e-5)
        torch.testing.assert_close(cached.logits(context[:-7], 2), fresh_logits(of, context[:-7], 2), rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "gemma3"])
def test_prompts_are_fed_in_chunks(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 4)
    of = model(architecture, VOCABULARY, seed=1)
    for length in range(1, 24, 2):
        cached, widths = Runner(of, VOCABULARY), []
        handle = of.register_forward_pre_hook(
            lambda module, args, options, widths=widths: widths.append(options["input_ids"].shape[1]), with_kwargs=True
        )
        context = [(7 * i + length) % VOCABULARY for i in range(length)]
        positions = min(6, length)
        ours = cached.logits(context, positions)
        handle.remove()
        assert max(widths) <= 6
        assert sum(widths) == length
        torch.testing.assert_close(ours, fresh_logits(of, context, positions), rtol=0, atol=tolerance(architecture))


def test_only_what_is_new_is_computed() -> None:
    of = model("llama", VOCABULARY)
    cached, widths = Runner(of, VOCABULARY), []
    of.register_forward_pre_hook(lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True)
    for context, positions in (([1, 2, 3], 1), ([1, 2, 3, 4, 5], 3), ([1, 2, 3, 4, 6], 1), ([1, 2, 3, 4, 6], 1), ([9], 1)):
        cached.logits(context, positions)
    assert widths == [3, 3, 1, 1, 1]
    cached.forget()
    cached.logits([9, 1], 1)
    assert widths[-1] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_forward_that_was_cut_short_leaves_no_trace(architecture: str, error: type[BaseException]) -> None:
    of = model(architecture, VOCABULARY, seed=1)
    cached = Runner(of, VOCABULARY)
    cut_short(cached, error)
    for context in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 9, 9]):
        torch.testing.assert_close(
            cached.logits(context, 2), fresh_logits(of, context, 2), rtol=0, atol=tolerance(architecture)
        )


@pytest.mark.parametrize(("architecture", "limit"), [("llama", 77), ("gpt2", 77), ("gemma3", 77)])
def test_context_limits_come_from_the_configuration(architecture: str, limit: int) -> None:
    assert context_limit(model(architecture, VOCABULARY, max_position_embeddings=limit)) == limit
    assert context_limit(model("mamba", VOCABULARY)) == UNLIMITED
