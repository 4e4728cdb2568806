"""Recurrent states are rolled back by copies: every forward equals one without a cache, for targets and for drafts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from decodes import strategies
from tiny_models import HYBRIDS, cut_short, hybrid, random_histories
from torch import Tensor

from specdec import DecodingStrategy, Pair, PairError, create, decode
from specdec.runtime import runner
from specdec.runtime.admission import admit
from specdec.runtime.cache import CachePlan
from specdec.runtime.recurrent import MOST_COPIES, Copies
from specdec.runtime.runner import MOST_PENDING, Runner
from specdec.testing.models import fresh_logits, greedy_tokens, model, resembling

VOCABULARY = 12
ONE_TOKEN_AT_A_TIME = {"jamba", "mamba"}
"""Their forwards forget the state before a window of several tokens, in transformers 5.23."""

CLOSE = 2e-5
"""Norms, angles and recurrences are float32 inside transformers, whatever the dtype."""


@pytest.fixture(scope="module")
def hybrids() -> dict[str, Any]:
    return {name: hybrid(name, VOCABULARY, seed=1) for name in HYBRIDS}


@pytest.fixture
def put_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens were rolled back, each time that a copy was put back."""
    found: list[int] = []
    original = Copies.put_back

    def counting(self: Copies, length: int, held: int) -> int:
        found.append(held - length)
        return original(self, length, held)

    monkeypatch.setattr(Copies, "put_back", counting)
    return found


@pytest.mark.parametrize("name", HYBRIDS)
def test_how_the_cache_of_each_model_is_used(hybrids: dict[str, Any], name: str) -> None:
    assert admit(hybrids[name]) == CachePlan("restore", 1 if name in ONE_TOKEN_AT_A_TIME else None, batched=False)


@pytest.mark.parametrize("name", HYBRIDS)
def test_logits_are_recomputed_logits(hybrids: dict[str, Any], name: str, put_back: list[int]) -> None:
    of = hybrids[name]
    cached = Runner(of, VOCABULARY, plan=admit(of))
    for context, positions in random_histories(steps=25, longest=30, seed=2):
        torch.testing.assert_close(cached.logits(context, positions), fresh_logits(of, context, positions), rtol=0, atol=CLOSE)
    assert len(put_back) > 5


def test_states_weigh_enough_to_be_missed(hybrids: dict[str, Any]) -> None:
    """Or the tests here could not fail: a roll-back that leaves the states as they are is seen."""
    for name in set(HYBRIDS) - ONE_TOKEN_AT_A_TIME - {"lfm2"}:
        of = hybrids[name]
        cached = Runner(of, VOCABULARY, plan=admit(of))
        cached.logits([1, 2, 3, 4], 1)
        cached.logits([1, 2, 3, 4, 5, 6], 2)
        assert cached._copies is not None
        [(_, own)] = cached._copies._taken
        for layer, states in zip((layer for layer, _ in cached._copies._owners()), own, strict=True):
            states.update({key: one for key, one in vars(layer).items() if key in states})  # no copy at all
        apart = cached.logits([1, 2, 3, 4, 7], 1) - fresh_logits(of, [1, 2, 3, 4, 7])
        assert apart.abs().max() > 100 * CLOSE, name


def test_all_strategies_with_a_hybrid_pair_are_the_target_without_a_cache(
    hybrids: dict[str, Any], monkeypatch: pytest.MonkeyPatch, put_back: list[int]
) -> None:
    """Greedy tokens, and every forward of both models: a hundred roll-backs of Qwen3-Next."""
    target = hybrids["qwen3_next"]
    pair = Pair(target, resembling(target, 0.9), lane="inline")
    put_back.clear()
    cached, checked = Runner.logits, set[int]()

    def checking(self: Runner, context: Sequence[int], positions: int) -> Tensor:
        ours = cached(self, context, positions)
        torch.testing.assert_close(ours, fresh_logits(self.model, context, positions), rtol=0, atol=CLOSE)
        checked.add(id(self))
        return ours

    expected = greedy_tokens(target, [1, 2, 3], 20)
    monkeypatch.setattr(Runner, "logits", checking)
    for strategy in strategies(3):
        result = decode(pair, strategy, [1, 2, 3], max_new_tokens=20, temperature=0, eos=())
        assert tuple(result.tokens) == expected, strategy
        decode(pair, strategy, [3, 2, 1], max_new_tokens=20, temperature=1, seed=5, eos=())
    assert len(checked) == 2
    assert len(put_back) >= 100
    assert len({*put_back}) > 2  # of different depths


@pytest.mark.parametrize("name", ["bamba", "jamba", "lfm2", "mamba", "mamba2"])
@pytest.mark.parametrize("strategy", [create("speculative", draft_length=3), create("pearl", draft_length=3)], ids=str)
def test_a_hybrid_drafts_and_is_drafted_for(hybrids: dict[str, Any], name: str, strategy: DecodingStrategy) -> None:
    attending, recurrent = model("llama", VOCABULARY, seed=3), hybrids[name]
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    pairs = [Pair(attending, recurrent, lane="inline")]
    if name not in ONE_TOKEN_AT_A_TIME:
        pairs.append(Pair(recurrent, attending, lane="inline"))
    for pair in pairs:
        found = decode(pair, strategy, prompts, batch_size=3, max_new_tokens=8, temperature=0, eos=())
        expected = [greedy_tokens(pair.target, prompt, 8) for prompt in prompts]
        assert [tuple(result.tokens) for result in found] == expected


@pytest.mark.parametrize("name", sorted(ONE_TOKEN_AT_A_TIME))
def test_a_target_that_reads_one_token_at_a_time_is_used_alone(hybrids: dict[str, Any], name: str) -> None:
    target = hybrids[name]
    with pytest.raises(PairError, match=f"{name} cannot verify drafts: .* use it as the draft"):
        Pair(target, model("llama", VOCABULARY), lane="inline")
    pair = Pair(target, lane="inline")
    for strategy in (create("autoregressive"), create("prompt_lookup")):
        result = decode(pair, strategy, [1, 2, 1, 2, 1], max_new_tokens=10, temperature=0, eos=())
        assert tuple(result.tokens) == greedy_tokens(target, [1, 2, 1, 2, 1], 10)


# --- copies ----------------------------------------------------------------------------------------------------------


def test_copies_are_few_and_dense_near_the_end(hybrids: dict[str, Any]) -> None:
    of = hybrids["qwen3_5_text"]
    cached = Runner(of, VOCABULARY, plan=admit(of))
    context = [i % VOCABULARY for i in range(60)]
    for end in range(1, 61):
        cached.logits(context[:end], 1)
    assert cached._copies is not None
    lengths = [length for length, _ in cached._copies._taken]
    assert len(lengths) <= MOST_COPIES
    assert lengths[-1] == 59
    gaps = [after - before for before, after in pairwise(lengths)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] >= 8
    torch.testing.assert_close(cached.logits(context[:40], 3), fresh_logits(of, context[:40], 3), rtol=0, atol=CLOSE)


def test_attention_layers_of_a_hybrid_are_cut_not_copied(hybrids: dict[str, Any]) -> None:
    for name in ("qwen3_next", "falcon_h1"):  # attention in layers of their own, and beside a recurrence in every layer
        cached = Runner(hybrids[name], VOCABULARY, plan=admit(hybrids[name]))
        cached.logits([1, 2, 3], 1)
        cached.logits([1, 2, 3, 4], 1)
        assert cached._copies is not None
        assert all("keys" not in own for _, copies in cached._copies._taken for own in copies)


def test_pending_tokens_are_bounded(hybrids: dict[str, Any]) -> None:
    """One of eight drafts is accepted in each round, so no window's own copy can be used; few tokens are read twice."""
    of = hybrids["qwen3_5_text"]
    cached, widths = Runner(of, VOCABULARY, plan=admit(of)), list[int]()
    handle = of.register_forward_pre_hook(
        lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    context = [1, 2, 3]
    for number in range(40):
        cached.logits([*context, *[number % VOCABULARY] * 8], 9)
        context += [(number + 1) % VOCABULARY, (number + 5) % VOCABULARY]
    handle.remove()
    assert max(widths) <= MOST_PENDING + 9
    assert 40 < len(widths) < 60


def test_a_prompt_is_read_in_chunks(hybrids: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 4)
    for name in ("qwen3_next", "jamba"):
        of = hybrids[name]
        for length in range(1, 16, 3):
            context = [(7 * i + length) % VOCABULARY for i in range(length)]
            positions = min(6, length)
            ours = Runner(of, VOCABULARY, plan=admit(of)).logits(context, positions)
            torch.testing.assert_close(ours, fresh_logits(of, context, positions), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_forward_that_was_cut_short_leaves_no_trace(hybrids: dict[str, Any], error: type[BaseException]) -> None:
    of = hybrids["qwen3_next"]
    cached = Runner(of, VOCABULARY, plan=admit(of))
    cut_short(cached, error)
    for context in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 9, 9]):
        torch.testing.assert_close(cached.logits(context, 2), fresh_logits(of, context, 2), rtol=0, atol=CLOSE)
