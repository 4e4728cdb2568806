"""Static shapes: the cache of ragged rows, and the runner that CUDA replays as graphs, run here uncaptured."""

from __future__ import annotations

import random

import pytest
import torch
from models import CONFIGS, fresh_logits, model

from specdec.runtime.cache import StaticCache, why_not_static

VOCABULARY = 12
STATIC = ["gpt2", "llama", "qwen2", "qwen3"]


def tolerance(architecture: str, attention: str = "eager") -> float:
    """Eager softmax is float32 inside transformers, whatever the dtype, except in GPT-2."""
    return 2e-5 if attention == "eager" and architecture != "gpt2" else 1e-9


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", STATIC)
@torch.inference_mode()
def test_logits_of_ragged_rows_are_recomputed_logits(architecture: str, attention: str) -> None:
    """Rows grow, are cut back and start anew on their own, padded to the widest; the cache grows, and is read in part."""
    of = model(architecture, VOCABULARY, seed=1, max_position_embeddings=20)
    of.set_attn_implementation(attention)
    cache = StaticCache(of, 8)
    source = random.Random(1)
    rows: list[list[int]] = [[], [], []]
    lengths, ends = set(), set()
    for step in range(60):
        for row in rows:
            del row[source.randint(max(0, len(row) - 3), len(row)) if len(row) < 17 else 0 :]
        fresh = [[source.randrange(VOCABULARY) for _ in range(source.randint(1, min(6, 20 - len(row))))] for row in rows]
        width = max(map(len, fresh))
        end = max(map(len, rows)) + width  # may lie beyond the context, by padding
        if end > cache.length:
            cache.grow(2 * cache.length)
        ids = torch.tensor([[*tokens, *[step % VOCABULARY] * (width - len(tokens))] for tokens in fresh])
        positions = torch.tensor([[len(row) + i for i in range(width)] for row in rows])
        logits = of(input_ids=ids, **cache.at(positions, visible=end if step % 2 else None)).logits
        for row, tokens, ours in zip(rows, fresh, logits, strict=True):
            row += tokens
            expected = fresh_logits(of, row, len(tokens))
            torch.testing.assert_close(ours[: len(tokens)], expected, rtol=0, atol=tolerance(architecture, attention))
        lengths.add(tuple(map(len, rows)))
        ends.add(end)
    assert cache.length == 32
    assert len(lengths) > 30
    assert max(map(max, lengths)) == 20
    assert max(ends) > 20


@pytest.mark.parametrize("architecture", CONFIGS)
def test_which_models_the_static_cache_serves(architecture: str) -> None:
    why = why_not_static(model(architecture, VOCABULARY))
    assert (why is None) == (architecture in STATIC)
    assert why is None or "not plain attention" in why


def test_models_that_no_mask_reaches_or_whose_angles_depend_on_lengths_are_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert "rotary angles (dynamic)" in (why_not_static(model("llama", VOCABULARY, rope_parameters=rope)) or "")
    flash = model("llama", VOCABULARY)
    flash.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2 takes no mask" in (why_not_static(flash) or "")
    unfit = model("llama", VOCABULARY)
    unfit._can_compile_fullgraph = False
    assert "does not work on a cache of static shapes" in (why_not_static(unfit) or "")
