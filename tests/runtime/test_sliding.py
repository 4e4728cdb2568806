"""Sliding windows, chunks and longrope: memory is bounded, roll-backs are right, and sequences of a batch share a forward."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from decodes import generated
from tiny_models import random_histories
from transformers import Llama4TextConfig, Phi3Config

from specdec import InputError, Pair, create, decode
from specdec.runtime import layers
from specdec.runtime.cache import CachePlan, why_not_static
from specdec.runtime.layers import MARGIN, SlidingLayer
from specdec.runtime.runner import Runner
from specdec.runtime.sequences import StaticRunner, new_batch_runner
from specdec.testing.models import SMALL, causal, fresh_logits, model

VOCABULARY = 12


def chunked(chunk: int = 5) -> Any:
    """Llama 4: attention in chunks of five tokens, every second layer over all of them."""
    return causal(
        Llama4TextConfig(
            vocab_size=VOCABULARY,
            attention_chunk_size=chunk,
            no_rope_layers=[1, 0],
            num_local_experts=2,
            intermediate_size_mlp=24,
            **SMALL,
        )
    )


def longrope(original: int) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.0, 1.2, 1.5, 2.0],
        "long_factor": [3.0, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": original,
    }


def stretched(original: int = 10) -> Any:
    """Phi-3 with longrope: beyond ten tokens of context, all rotary angles are others."""
    rope = longrope(original)
    sizes: dict[str, Any] = SMALL | {
        "pad_token_id": 0,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": original,
    }
    return causal(Phi3Config(vocab_size=VOCABULARY, rope_parameters=rope, **sizes))


# --- one sequence ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [1, 3, 64])
@pytest.mark.parametrize("name", ["mistral", "gemma3", "chunked"])
def test_roll_backs_within_and_beyond_the_margin(monkeypatch: pytest.MonkeyPatch, name: str, margin: int) -> None:
    """A window of five; buffers are moved often, and a roll-back that is deeper than the margin starts again."""
    monkeypatch.setattr(layers, "MARGIN", margin)
    monkeypatch.setattr(layers, "FIRST_CAPACITY", 4)
    of = chunked() if name == "chunked" else model(name, VOCABULARY, seed=1)
    runner = Runner(of, VOCABULARY)
    for context, positions in random_histories(steps=80, longest=60, seed=2):
        ours = runner.logits(context, positions)
        torch.testing.assert_close(ours, fresh_logits(of, context, positions), rtol=0, atol=2e-5)


def test_memory_is_bounded_by_the_window() -> None:
    of = model("mistral", VOCABULARY, seed=1, sliding_window=6, max_position_embeddings=2048)
    runner, source = Runner(of, VOCABULARY), random.Random(0)
    context = [source.randrange(VOCABULARY) for _ in range(1500)]  # a prompt, which is read in chunks
    for _ in range(300):
        runner.logits(context, 1)
        context.append(source.randrange(VOCABULARY))
    torch.testing.assert_close(runner.logits(context, 2), fresh_logits(of, context, 2), rtol=0, atol=2e-5)
    for layer in runner.cache.layers:
        assert isinstance(layer, SlidingLayer)
        assert layer.keys is not None
        assert layer.keys.shape[-2] <= max(2 * (5 + MARGIN), layers.FIRST_CAPACITY)


def test_a_draft_as_long_as_the_margin_is_rolled_back_without_starting_again() -> None:
    layer, states = SlidingLayer(8), torch.zeros(1, 1, 1, 2)
    for _ in range(1000):
        layer.update(states, states)
        assert layer.length - layer.shortest >= min(layer.length, MARGIN - 1)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3", "chunked"])
def test_sequences_with_windows_share_a_forward(name: str) -> None:
    """Three sequences, longer than the window and shorter, that grow and are cut back at random."""
    of = chunked() if name == "chunked" else model(name, VOCABULARY, seed=1)
    assert Pair(of, lane="inline")._plan.batched
    runner, source = new_batch_runner(of, VOCABULARY, 3, Runner(of, VOCABULARY)._forward, eager=True), random.Random(3)
    assert isinstance(runner, StaticRunner)
    contexts = [[source.randrange(VOCABULARY) for _ in range(length)] for length in (1, 4, 30)]
    for _ in range(20):
        for context in contexts:
            del context[max(1, len(context) - source.randint(0, 3)) :]
            context += [source.randrange(VOCABULARY) for _ in range(source.randint(1, 4))]
        wanted = [(slot, context, 1) for slot, context in enumerate(contexts)]
        for context, ours in zip(contexts, runner.logits(wanted), strict=True):
            torch.testing.assert_close(ours, fresh_logits(of, context), rtol=0, atol=2e-5)


def test_what_cannot_share_a_forward_says_why() -> None:
    spread = model("llama", VOCABULARY)
    spread.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu"}
    assert why_not_static(spread) == "its layers lie on several devices (0, cpu)"
    spread.hf_device_map = {"": 0}
    assert why_not_static(spread) is None
    assert "rotary angles (longrope)" in (why_not_static(stretched()) or "")
    mixed = model("mistral", VOCABULARY)
    mixed.config.layer_types = ["sliding_attention", "linear_attention"]
    assert "recurrent, shared or indexed layers" in (why_not_static(mixed) or "")


# --- longrope --------------------------------------------------------------------------------------------------------


def each_alone(of: Any, context: list[int], positions: int) -> torch.Tensor:
    """Logits after each prefix by a forward of its own, since the length of a forward decides all of its angles."""
    ends = range(len(context) - positions + 1, len(context) + 1)
    return torch.cat([fresh_logits(of, context[:end]) for end in ends])


def test_longrope_changes_all_angles_at_the_border() -> None:
    """Or the test below could not fail."""
    of = stretched()
    context = [(5 * i) % VOCABULARY for i in range(14)]
    apart = (fresh_logits(of, context, 14)[:10] - each_alone(of, context[:10], 10)).abs().max()
    assert apart > 1e-2


def test_windows_across_the_border_of_longrope(monkeypatch: pytest.MonkeyPatch) -> None:
    """To and fro: windows on either side, across, and chunks of a long prompt that end before the border."""
    monkeypatch.setattr("specdec.runtime.runner.PREFILL_CHUNK", 4)
    of = stretched()
    runner, sides = Runner(of, VOCABULARY), set()
    for context, positions in random_histories(steps=100, longest=22, seed=4):
        ours = runner.logits(context, positions)
        torch.testing.assert_close(ours, each_alone(of, context, positions), rtol=0, atol=2e-5)
        sides.add((len(context) - positions < 10, len(context) > 10))
    assert sides == {(True, False), (True, True), (False, True)}


@pytest.mark.parametrize(
    "strategy", [create("autoregressive"), create("speculative", draft_length=3), create("pearl", draft_length=3)]
)
def test_longrope_decodes_as_generate_does_across_the_border(strategy: Any) -> None:
    of = stretched()
    of.generation_config.eos_token_id = None
    pair = Pair(of, of, lane="inline")
    assert pair._plan == CachePlan("cut")
    result = decode(pair, strategy, [1, 2, 3, 4], max_new_tokens=16, temperature=0, eos=())
    assert tuple(result.tokens) == generated(of, (1, 2, 3, 4), 16)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_longrope_of_families_that_do_not_read_again_is_refused_across_the_border(family: str) -> None:
    """`generate` keeps the keys of the short context there. On either side of the border, outputs are its own."""
    plain: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    of = model(family, VOCABULARY, seed=1, rope_parameters=longrope(10), max_position_embeddings=64, **plain)
    of.generation_config.eos_token_id = None
    pair, strategy = Pair(of, of, lane="inline"), create("speculative", draft_length=3)
    for prompt, tokens in (((1, 2, 3, 4), 7), (tuple(i % VOCABULARY for i in range(11)), 20)):
        result = decode(pair, strategy, prompt, max_new_tokens=tokens, temperature=0, eos=())
        assert tuple(result.tokens) == generated(of, prompt, tokens)
    with pytest.raises(InputError, match=r"longrope turns .* after 10 tokens.* give max_new_tokens=7 at most, or a prompt of"):
        decode(pair, strategy, (1, 2, 3, 4), max_new_tokens=8, temperature=0, eos=())
    with pytest.raises(InputError, match="max_new_tokens=1 at most"):
        of.generate(torch.tensor([[1] * 10]), custom_generate=strategy, draft=pair, max_new_tokens=2)


def test_padded_rows_do_not_cross_the_border_of_longrope() -> None:
    """`generate` turns all rows by the angles of the longest, and reads again by the padded length."""
    of = stretched()
    of.set_attn_implementation("sdpa")  # eager attention of wholly hidden rows is NaN
    of.generation_config.eos_token_id, of.generation_config.pad_token_id = None, 0
    pair, strategy = Pair(of, of, lane="inline"), create("speculative", draft_length=3)

    def padded(tokens: int, *lengths: int) -> Any:
        ids = torch.tensor([[0] * (max(lengths) - length) + [1 + i % 9 for i in range(length)] for length in lengths])
        options: dict[str, Any] = {"attention_mask": (ids > 0).long(), "max_new_tokens": tokens}
        ours = of.generate(ids, custom_generate=strategy, draft=pair, **options)
        return torch.equal(ours, of.generate(ids, **options))

    assert padded(5, 4, 6)
    assert padded(8, 11, 14)
    for tokens, lengths in ((6, (4, 6)), (2, (4, 14))):
        with pytest.raises(InputError, match=r"longrope .* in a padded batch by the longest row: decode prompts one at a time"):
            padded(tokens, *lengths)
