"""Hugging Face's own generation as a peer: the same text, the same ends, and seconds that leave the prompt out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_benchmarks import TEXTS, made_up, reported
from tiny_models import minuscule
from transformers import GenerationConfig

from specdec import InputError, Pair, create, decode
from specdec.bench import BASELINE, Ours, hugging_face, report_of
from specdec.bench.peers import HuggingFaceAssisted, HuggingFaceGenerate, TimedForward, counted
from specdec.bench.values import PeerComparison
from specdec.output import Result

OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0, "verification": "token", "seed": 5}


def test_peers_honour_the_models_own_settings_as_ours_do(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its penalties, minimum length and ends; the temperature is the benchmark's, and no output ends by the clock."""
    own = GenerationConfig(repetition_penalty=1.2, no_repeat_ngram_size=2, min_new_tokens=5, do_sample=True, temperature=9.0)
    monkeypatch.setattr(pair.target, "generation_config", own)
    plain = [decode(pair, create(BASELINE), text, **OPTIONS).tokens for text in TEXTS]
    own.eos_token_id, own.max_time = [plain[0][3], plain[0][9]], 1e-9
    ours = [Ours(create(BASELINE)).decode(pair, text, **OPTIONS) for text in TEXTS]
    assert {5 < len(result.tokens) <= 24 for result in ours} == {True}
    assert "eos" in {result.finished_by for result in ours}
    drafts_own = pair.draft.generation_config if pair.draft else None
    for peer in hugging_face(pair):
        for text, expected in zip(TEXTS, ours, strict=True):
            found = peer.decode(pair, text, **OPTIONS)
            assert (found.tokens, found.finished_by) == (expected.tokens, expected.finished_by)
            assert found.statistics.new_tokens == len(expected.tokens)
            assert found.statistics.rounds + found.statistics.accepted_tokens == len(expected.tokens)
        sampled = [peer.decode(pair, [1], **{**OPTIONS, "temperature": 1.0, "seed": seed}).tokens for seed in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]
    assert pair.target.generation_config is own
    assert pair.draft is None or pair.draft.generation_config is drafts_own


def test_peers_leave_the_global_random_numbers_alone_and_no_hook_behind(pair: Pair) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for peer in hugging_face(pair):
        peer.decode(pair, [1], **{**OPTIONS, "temperature": 1.0})
    assert torch.rand(1) == expected
    for model in (pair.target, pair.draft):
        assert model is not None
        assert not vars(model)["_forward_hooks"]
        assert not vars(model)["_forward_pre_hooks"]


def test_the_budget_ends_at_the_context() -> None:
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=16))
    assert len(HuggingFaceGenerate().decode(limited, [1] * 10, **OPTIONS).tokens) == 6


def test_a_constant_draft_length_is_kept_and_the_default_is_transformers_own(pair: Pair) -> None:
    constant = HuggingFaceAssisted(3).decode(pair, [1, 2], **OPTIONS).statistics
    assert max(constant.window_forwards) == 4
    assert constant.window_forwards[4] >= constant.rounds - 2  # towards the end of the budget there is less to draft
    default = HuggingFaceAssisted().decode(pair, [1, 2], **OPTIONS).statistics
    assert len(default.window_forwards) > 2
    assert default.draft_busy_seconds > 0


def test_the_seconds_of_a_peer_leave_the_prompt_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only goes on in forwards: a second for each token the target reads, a tenth for each the draft does."""
    now = 0.0
    monkeypatch.setattr("specdec.bench.peers.time", SimpleNamespace(perf_counter=lambda: now))

    def costs(price: float) -> Callable[..., None]:
        def work(module: Any, arguments: Any, named: dict[str, Any], output: Any) -> None:
            nonlocal now
            now += price * named["input_ids"].shape[1]

        return work

    assert pair.draft is not None
    hooks = [
        pair.target.register_forward_hook(costs(1.0), with_kwargs=True),
        pair.draft.register_forward_hook(costs(0.1), with_kwargs=True),
    ]
    try:
        plain = HuggingFaceGenerate().decode(pair, [1] * 30, **OPTIONS).statistics
        assisted = HuggingFaceAssisted(3).decode(pair, [1] * 30, **OPTIONS).statistics
    finally:
        for hook in hooks:
            hook.remove()
    assert (plain.decode_seconds, plain.prefill_seconds) == pytest.approx((24, 29))
    assert plain.overhead_share == 0
    assert plain.window_seconds == {1: 24}
    usual = assisted.target_busy_seconds / assisted.rounds
    assert 3 < usual <= 4
    assert assisted.decode_seconds == pytest.approx(assisted.target_busy_seconds + assisted.draft_busy_seconds)
    assert assisted.prefill_seconds == pytest.approx(33 - usual + 0.1 * 30, abs=0.2)


def test_the_forwards_of_a_peer_are_counted_by_round() -> None:
    """A prompt of 10 and 8 new tokens in rounds of 3 guesses: 3, 0 and 2 are accepted; then a late stop commits nothing."""
    target = [TimedForward(0, 13, 9.0), TimedForward(13, 4, 3.0), TimedForward(14, 4, 5.0), TimedForward(17, 1, 4.0)]
    draft = [TimedForward(0, 10, 2.0), TimedForward(10, 1, 0.5), TimedForward(11, 1, 1.5)]
    found = counted(10, 8, target, draft)
    assert found.acceptance_histogram == {0: 2, 2: 1, 3: 1}
    assert (found.rounds, found.drafted_tokens, found.accepted_tokens) == (4, 9, 5)
    assert found.window_forwards == {4: 3, 1: 1}
    assert found.window_seconds == {4: 12.0, 1: 4.0}
    assert (found.target_busy_seconds, found.draft_busy_seconds, found.prefill_seconds) == (16.0, 3.0, 6.0)
    assert counted(10, 1, [TimedForward(0, 10, 9.0)]).prefill_seconds == 0  # nothing to compare it with


def test_a_pair_that_assisted_generation_cannot_serve(pair: Pair) -> None:
    assert [peer.name for peer in hugging_face(Pair(pair.target))] == ["hf_generate"]
    padded = Pair(minuscule(70, seed=3), minuscule(64, seed=3), lane="inline")
    with pytest.raises(InputError, match="70 outputs and the draft's 64: leave --against hf out"):
        hugging_face(padded)


def test_peers_have_the_same_lengths_when_asked(pair: Pair) -> None:
    def drafted(**options: Any) -> list[Any]:
        return [peer.parameters.get("draft_length") for peer in hugging_face(pair, **options)]

    assert drafted() == [None, "default", 2, 4]
    assert drafted(draft_lengths=[3]) == [None, "default", 3]
    assert drafted(full=True) == [None, "default", *range(1, 9)]


def test_each_peer_is_compared_with_what_does_the_same_at_its_best(pair: Pair) -> None:
    lined_up = [create(BASELINE), *(create(name, draft_length=k) for name in ("speculative", "pearl") for k in (1, 2))]
    seconds = (8.0, 4.0, 5.0, 3.0, 2.0), (10.0, 9.0, 7.0, 6.0)
    done = report_of(made_up(pair, lined_up, sum(seconds, ()), peers=hugging_face(pair)))
    assert done.against == (
        PeerComparison(
            temperature=1.0,
            peer="hf_generate",
            peer_parameters={},
            ours=BASELINE,
            parameters={},
            times_as_fast=1.25,
            interval=(1.25, 1.25),
        ),
        PeerComparison(
            temperature=1.0,
            peer="hf_assisted",
            peer_parameters={"draft_length": 4},
            ours="speculative",
            parameters={"draft_length": 1},
            times_as_fast=1.5,
            interval=(1.5, 1.5),
        ),
    )
    assert [found.strategy for found in done.results][-4:] == ["hf_generate", *["hf_assisted"] * 3]
    assert done.results[-1].predicted_tokens_per_second is done.results[-1].measured is None
    assert "the first forward of each model" in (done.settings.peer_seconds or "")
    assert report_of(made_up(pair, lined_up, seconds[0])).against == ()


def test_a_peer_that_answers_otherwise_is_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original = HuggingFaceGenerate.decode

    def other(self: Any, pair: Pair, prompt: Any, **options: Any) -> Result:
        result = original(self, pair, prompt, **options)
        return replace(result, tokens=(*result.tokens[:-1], (result.tokens[-1] + 1) % 64))

    monkeypatch.setattr(HuggingFaceGenerate, "decode", other)
    check = reported(pair, temperatures=(0.0,), repeats=1, peers=hugging_face(pair)).greedy_check
    assert check is not None
    assert {found.strategy for found in check.differences} == {"hf_generate"}
    assert {found.position for found in check.differences} == {5}
