"""Decodes through the production loop: statistics, seeds, interruptions, contexts, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from decodes import (
    GREEDY_TOKENS,
    GREEDY_VOCABULARY,
    Tokens,
    generated,
    inline,
    random_prompts,
    strategies,
)
from tiny_models import minuscule

import specdec
from specdec import Batch, Decoding, DecodingStrategy, InputError, Pair, PairError, Round, Verdict, Verify, decode
from specdec.runtime import runner
from specdec.runtime.engine import Engine
from specdec.runtime.slot import Slot
from specdec.sampling import Sampler
from specdec.testing.models import greedy_tokens, model, resembling
from specdec.verification import Rule, match_rule, rules, token_rule

# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("strategy", strategies(1, 3), ids=str)
def test_statistics_add_up(greedy_pair: Pair, strategy: DecodingStrategy, temperature: float) -> None:
    for seed, prompt in enumerate(random_prompts(6, GREEDY_VOCABULARY, 6)):
        decoding = Decoding(greedy_pair, strategy, prompt * 2, max_new_tokens=11, temperature=temperature, seed=seed)
        rounds = list(decoding)
        result = decoding.result()
        counted = result.statistics
        assert counted.new_tokens == len(result.tokens) == sum(len(part.tokens) for part in rounds)
        assert counted.rounds == counted.target_forwards == len(rounds) == sum(counted.accepted_in_round.values())
        assert counted.accepted_tokens == sum(k * n for k, n in counted.accepted_in_round.items())
        assert 0 <= counted.accepted_tokens <= counted.drafted_tokens
        assert all(0 <= part.accepted <= len(part.tokens) for part in rounds)
        # what was accepted and then cut off at the end is all that may be missing
        assert counted.accepted_tokens - max(counted.accepted_in_round) <= sum(part.accepted for part in rounds)
        assert counted.mean_acceptance_length == 1 + counted.accepted_tokens / counted.rounds
        assert all(left >= right for left, right in pairwise([1.0, *counted.acceptance_by_position]))
        assert sum(counted.acceptance_by_position) == pytest.approx(counted.mean_acceptance_length - 1)
        assert 0 <= counted.target_idle_share <= 1
        if strategy.name in ("autoregressive", "prompt_lookup"):
            assert counted.draft_busy_seconds == 0


def test_statistics_of_full_agreement_are_known(agreeing_pair: Pair) -> None:
    prompt = (0, 1)
    speculative = decode(agreeing_pair, specdec.create("speculative", draft_length=4), prompt, max_new_tokens=15, temperature=0)
    assert speculative.statistics.acceptance_histogram == {4: 3}  # 4 drafted ones and a bonus, three times
    assert (speculative.statistics.drafted_tokens, speculative.statistics.tokens_per_target_forward) == (12, 5)
    pearl = decode(agreeing_pair, specdec.create("pearl", draft_length=4), prompt, max_new_tokens=13, temperature=0)
    assert pearl.statistics.acceptance_histogram == {1: 1, 4: 3}  # pre-verify, then post-verify of 3 and the fresh one
    assert (pearl.statistics.drafted_tokens, pearl.statistics.draft_acceptance_rate) == (16, 13 / 16)
    assert pearl.statistics.draft_steps == 16
    forked = decode(
        agreeing_pair, specdec.create("saguaro", draft_length=4, fan_out=2), prompt, max_new_tokens=16, temperature=0
    )
    assert forked.statistics.acceptance_histogram == {0: 1, 4: 3}
    assert forked.statistics.drafted_tokens == 2 * 4 + 3 * 10 * 4  # two branches behind no guess, ten behind four
    assert forked.statistics.draft_steps == 4 * (1 + 4)  # over the window, then a token of all branches at a time
    plain = decode(agreeing_pair, specdec.create("autoregressive"), prompt, max_new_tokens=5, temperature=0)
    assert (plain.statistics.drafted_tokens, plain.statistics.acceptance_histogram) == (0, {0: 5})


# --- seeds -----------------------------------------------------------------------------------------------------------

REPRODUCIBLE = [strategy for strategy in strategies(3) if strategy.name != "elastic"]
"""How far an elastic draft goes is the clock's affair, so that only its greedy outputs are decided by the seed."""


@pytest.mark.parametrize("verification", rules())
@pytest.mark.parametrize("strategy", REPRODUCIBLE, ids=str)
def test_a_seed_decides_the_tokens_whatever_was_decoded_before(
    greedy_pair: Pair, strategy: DecodingStrategy, verification: str
) -> None:
    def run(seed: int) -> Tokens:
        return decode(
            greedy_pair, strategy, [1, 2, 3], max_new_tokens=8, temperature=1, seed=seed, verification=verification
        ).tokens

    first = [run(seed) for seed in range(4)]
    decode(greedy_pair, strategy, [1, 2, 4, 5, 6], max_new_tokens=5, temperature=0)
    assert [run(seed) for seed in reversed(range(4))] == first[::-1]
    assert len(set(first)) > 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_rule_may_be_given_by_name_or_as_a_function(greedy_pair: Pair, batch_size: int) -> None:
    def run(verification: str | Rule) -> list[Tokens]:
        options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1, "seed": 2, "batch_size": batch_size}
        options["verification"] = verification
        return [result.tokens for result in decode(greedy_pair, REPRODUCIBLE[-1], [[1, 2, 3], [4], [5, 6]], **options)]

    assert run(token_rule) == run("token") != run(match_rule) == run("match")


def test_without_a_seed_outputs_vary(greedy_pair: Pair) -> None:
    assert len({decode(greedy_pair, strategies(2)[1], [1], max_new_tokens=8, temperature=1).tokens for _ in range(5)}) > 1


# --- interruptions ---------------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Interrupt when logits of either model are processed for the `at`-th time."""
    processed, calls = Sampler.processed, count(1)

    def interrupted(self: Sampler, logits: torch.Tensor, context: Sequence[int]) -> torch.Tensor:
        if next(calls) == at:
            raise KeyboardInterrupt
        return processed(self, logits, context)

    monkeypatch.setattr(Sampler, "processed", interrupted)


@pytest.mark.parametrize("strategy", REPRODUCIBLE, ids=str)
def test_an_interrupted_decoding_keeps_what_was_committed(
    greedy_pair: Pair, monkeypatch: pytest.MonkeyPatch, strategy: DecodingStrategy
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1, "seed": 3}
    whole = decode(greedy_pair, strategy, [5, 6, 5, 6], **options)
    kept = set()
    for at in (1, 4, 16 if strategy.drafts else 8):
        decoding = Decoding(greedy_pair, strategy, [5, 6, 5, 6], **options)
        with monkeypatch.context() as patched:
            interrupt(patched, at)
            with pytest.raises(KeyboardInterrupt):
                list(decoding)
        result = decoding.result()
        assert result.finished_by is None
        assert result.tokens == whole.tokens[: len(result.tokens)]
        assert result.statistics.new_tokens == len(result.tokens)
        assert decode(greedy_pair, strategy, [5, 6, 5, 6], **options).tokens == whole.tokens  # the pair is still good
        kept.add(len(result.tokens))
    assert len(kept) > 1
    assert Decoding(greedy_pair, strategy, [5], **options).result().tokens == ()


class Once:
    """Raises `error` at the `at`-th call, and never again."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self._calls, self._at, self._error = count(1), at, error

    def __call__(self, *_: object) -> None:
        if next(self._calls) == self._at:
            raise self._error("now")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("where", ["in a stop", "in a round"])
@pytest.mark.parametrize("strategy", strategies(3), ids=str)
def test_a_caller_who_goes_on_after_an_error_has_every_token(
    greedy_pair: Pair, monkeypatch: pytest.MonkeyPatch, strategy: DecodingStrategy, where: str, error: type[BaseException]
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0}
    whole, once, verdict = decode(greedy_pair, strategy, [5, 6, 5, 6], **options), Once(3, error), Engine._verdict

    def answered(self: Engine, slot: Slot, effect: Verify) -> Verdict:
        once()
        return verdict(self, slot, effect)

    if where == "in a round":
        monkeypatch.setattr(Engine, "_verdict", answered)
    decoding = Decoding(greedy_pair, strategy, [5, 6, 5, 6], stop=once if where == "in a stop" else None, **options)
    rounds: list[Round] = []
    with pytest.raises(error):
        rounds.extend(decoding)
    rounds.extend(decoding)
    assert tuple(token for one in rounds for token in one.tokens) == decoding.result().tokens == whole.tokens
    assert decoding.result().statistics.new_tokens == len(whole.tokens)


def test_an_output_that_ends_beside_an_error_leaves_its_slot(greedy_pair: Pair) -> None:
    strategy, first, second = specdec.create("autoregressive"), [5, 6, 7], [1, 2]
    options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0, "eos": ()}
    whole = decode(greedy_pair, strategy, [first, second, second], batch_size=1, **options)
    once = Once(1, ValueError)
    batch = Batch(greedy_pair, strategy, batch_size=2, stop=lambda tokens: once() if tokens[:2] == (1, 2) else None, **options)
    batch.submit(first, max_new_tokens=1)
    batch.submit(second)
    batch.submit(second)
    with pytest.raises(ValueError, match="now"):
        batch.step()
    while batch.step():
        pass
    assert [output.tokens for output in batch.outputs] == [whole[0].tokens[:1], whole[1].tokens, whole[2].tokens]


# --- contexts: short, long, full -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def cramped_pair(request: pytest.FixtureRequest) -> Pair:
    """A context of 12 tokens; learned positions (GPT-2) cannot even be asked for a thirteenth."""
    target = model(request.param, 10, seed=2, max_position_embeddings=12)
    return inline(target, resembling(target, 0.1))


@pytest.mark.parametrize("strategy", strategies(1, 3, 9), ids=str)
def test_the_context_is_filled_exactly_and_never_overrun(cramped_pair: Pair, strategy: DecodingStrategy) -> None:
    assert cramped_pair.context_limit == 12
    for length in (1, 2, 7, 10, 11):
        prompt = random_prompts(1, 10, 1, seed=length)[0] * length
        expected = greedy_tokens(cramped_pair.target, prompt, 12 - length)
        result = decode(cramped_pair, strategy, prompt, max_new_tokens=100, temperature=0)
        assert (result.tokens, result.finished_by) == (expected, "length")
        sampled = decode(cramped_pair, strategy, prompt, max_new_tokens=100, temperature=1, seed=length)
        assert (len(sampled.tokens), sampled.finished_by) == (12 - length, "length")


@pytest.mark.parametrize("name", ["speculative", "pearl"])
def test_the_measured_draft_length_works_where_vocabulary_and_context_are_small(cramped_pair: Pair, name: str) -> None:
    strategy = specdec.create(name, draft_length="auto")
    assert cramped_pair.speed_ratio() > 0
    result = decode(cramped_pair, strategy, [1, 2], max_new_tokens=100, temperature=0)
    length = max(1, round(cramped_pair.speed_ratio()))
    assert result.strategy == strategy.resolved(cramped_pair) == specdec.create(name, draft_length=length)
    assert result.tokens == greedy_tokens(cramped_pair.target, [1, 2], 10)


def test_the_context_limit_is_the_targets(greedy_pair: Pair) -> None:
    draft = model("llama", GREEDY_VOCABULARY, seed=9, max_position_embeddings=9)
    pair = inline(greedy_pair.target, draft)
    expected = greedy_tokens(pair.target, [1, 2, 3], 12)
    for strategy in strategies(4):
        assert decode(pair, strategy, [1, 2, 3], max_new_tokens=12, temperature=0).tokens == expected


@pytest.mark.parametrize("length", [12, 13, 50])
def test_a_prompt_that_fills_the_context_is_refused(cramped_pair: Pair, length: int) -> None:
    with pytest.raises(InputError, match=f"prompt has {length} tokens and the context holds 12"):
        decode(cramped_pair, strategies(2)[0], [1] * length)


@pytest.mark.parametrize("strategy", strategies(3), ids=str)
def test_prompts_longer_than_a_prefill_chunk(strategy: DecodingStrategy) -> None:
    target = minuscule(16, seed=8, max_position_embeddings=4096)
    pair = inline(target, resembling(target, 0.2))
    length = 2 * runner.PREFILL_CHUNK + 77
    prompt = tuple(np.random.default_rng(0).integers(0, 16, length).tolist())
    result = decode(pair, strategy, prompt, max_new_tokens=6, temperature=0)
    assert result.tokens == generated(target, prompt, 6)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "the prompt is empty"),
        ("", {}, "the prompt is empty"),
        ([0, 24], {}, "outside 0 .. 23"),
        ([0, -1], {}, "outside 0 .. 23"),
        ("text", {}, "no tokenizer"),
        ([0], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([0], {"max_new_tokens": True}, "max_new_tokens True"),
        ([0], {"max_new_tokens": "8"}, "max_new_tokens '8'"),
        ([0], {"temprature": 1.0}, "unknown option 'temprature'"),
        ([0], {"temperature": -1.0}, "temperature -1.0"),
        ([0], {"stop_strings": ["x"]}, "need a tokenizer"),
        ([0], {"verification": "tokens"}, "unknown verification 'tokens'"),
    ],
)
def test_bad_input_is_refused_by_name(greedy_pair: Pair, prompt: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(greedy_pair, strategies(2)[1], prompt, **options)


def test_an_empty_stop_string_is_refused(agreeing_pair: Pair) -> None:
    with pytest.raises(InputError, match="a stop string is empty"):
        decode(agreeing_pair, strategies(2)[0], [0], stop_strings=[""])


def test_a_strategy_that_drafts_needs_a_draft(greedy_pair: Pair, greedy_references: dict[Tokens, Tokens]) -> None:
    alone = Pair(greedy_pair.target)
    prompt, expected = next(iter(greedy_references.items()))
    for strategy in strategies(2):
        if strategy.drafts:
            with pytest.raises(PairError, match="no draft model was given"):
                decode(alone, strategy, prompt)
        else:
            assert decode(alone, strategy, prompt, max_new_tokens=GREEDY_TOKENS, temperature=0).tokens == expected
