"""Greedy decoding gives the target's own tokens, and ends where it should, also inside a block.

What the output must be comes from outside: float64 forward passes without a cache, and `transformers.generate`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from decodes import (
    GREEDY_TOKENS,
    GREEDY_VOCABULARY,
    WORDS,
    Tokens,
    generated,
    inline,
    random_prompts,
    strategies,
)
from tiny_models import minuscule

import specdec
from specdec import Decoding, DecodingStrategy, Pair, decode
from specdec.testing.models import fresh_logits, greedy_tokens, resembling


def test_greedy_reference_agrees_with_generate(greedy_pair: Pair, greedy_references: dict[Tokens, Tokens]) -> None:
    for prompt, expected in list(greedy_references.items())[::4]:
        assert generated(greedy_pair.target, prompt, GREEDY_TOKENS) == expected


@pytest.mark.parametrize("strategy", [*strategies(4), specdec.create("pearl", draft_length=1)], ids=str)
def test_greedy_is_autoregressive_token_for_token(
    greedy_pair: Pair, greedy_references: dict[Tokens, Tokens], strategy: DecodingStrategy
) -> None:
    for prompt, expected in greedy_references.items():
        result = decode(greedy_pair, strategy, prompt, max_new_tokens=GREEDY_TOKENS, temperature=0)
        assert result.tokens == expected, prompt
        assert result.finished_by == "length"


def test_greedy_in_float32_is_equal_or_a_tie(
    greedy_references: dict[Tokens, Tokens], record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    target = minuscule(GREEDY_VOCABULARY, seed=4, hidden_size=16, dtype=torch.float32)
    pair, ties = inline(target, resembling(target, 0.3)), []
    for prompt in list(greedy_references)[::6]:
        expected = greedy_tokens(target, prompt, GREEDY_TOKENS)
        for strategy in strategies(4):
            tokens = decode(pair, strategy, prompt, max_new_tokens=GREEDY_TOKENS, temperature=0).tokens
            if tokens != expected:
                first = next(i for i, (ours, theirs) in enumerate(zip(tokens, expected, strict=True)) if ours != theirs)
                best = fresh_logits(target, prompt + expected[:first])[0].topk(2).values
                ties.append((str(strategy), prompt, first, float(best[0] - best[1])))
    record_property("ties", ties)
    assert all(margin < 1e-4 for *_, margin in ties), ties


def test_strategies_are_callables_for_generate(greedy_pair: Pair, greedy_references: dict[Tokens, Tokens]) -> None:
    prompt, expected = next(item for item in greedy_references.items() if len(item[0]) > 3)
    ids = torch.tensor([prompt])
    generate: Any = greedy_pair.target.generate
    for strategy in strategies(3):
        output = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=GREEDY_TOKENS,
            pad_token_id=0,
            custom_generate=strategy,
            draft=greedy_pair.draft,
        )
        assert tuple(output[0].tolist()) == prompt + expected


# --- ends inside a block ---------------------------------------------------------------------------------------------

LONG = 14


@pytest.fixture(scope="module")
def varied(agreeing_pair: Pair) -> tuple[Tokens, Tokens]:
    """A prompt whose greedy output has many different tokens, and that output."""
    prompts = random_prompts(40, len(WORDS), 6, seed=1)
    outputs = {prompt: greedy_tokens(agreeing_pair.target, prompt, LONG) for prompt in prompts}
    prompt = max(outputs, key=lambda prompt: len(set(outputs[prompt])))
    assert len(set(outputs[prompt])) >= 8
    return prompt, outputs[prompt]


def ends_of_rounds(pair: Pair, strategy: DecodingStrategy, prompt: Tokens) -> set[int]:
    decoding = Decoding(pair, strategy, prompt, max_new_tokens=LONG, temperature=0)
    return set(accumulate(len(part.tokens) for part in decoding))


@pytest.mark.parametrize("strategy", strategies(1, 4), ids=str)
def test_eos_ends_the_output_wherever_it_stands(
    agreeing_pair: Pair, varied: tuple[Tokens, Tokens], strategy: DecodingStrategy
) -> None:
    prompt, full = varied
    ends = [full.index(token) + 1 for token in set(full)]
    for end in ends:
        result = decode(agreeing_pair, strategy, prompt, max_new_tokens=LONG, temperature=0, eos={full[end - 1], 999})
        assert (result.tokens, result.finished_by) == (full[:end], "eos")
        assert result.statistics.new_tokens == end
    if strategy.name == "speculative" or strategy == specdec.create("pearl", draft_length=4):  # some ends were inside a block
        assert set(ends) - ends_of_rounds(agreeing_pair, strategy, prompt)


def test_eos_in_the_prompt_does_not_end_anything(agreeing_pair: Pair, varied: tuple[Tokens, Tokens]) -> None:
    prompt, full = varied
    unused = next(token for token in range(len(WORDS)) if token not in full)
    for strategy in strategies(3):
        tokens = greedy_tokens(agreeing_pair.target, (unused, *prompt), LONG)
        result = decode(agreeing_pair, strategy, (unused, *prompt), max_new_tokens=LONG, temperature=0, eos={unused})
        end = tokens.index(unused) + 1 if unused in tokens else LONG
        assert result.tokens == tokens[:end]


def test_eos_of_the_generation_configuration_is_the_default(agreeing_pair: Pair, varied: tuple[Tokens, Tokens]) -> None:
    prompt, full = varied
    target = resembling(agreeing_pair.target, 0.0)
    target.generation_config.eos_token_id = [full[3], full[5]]
    end = min(full.index(full[3]), full.index(full[5])) + 1
    result = decode(inline(target, agreeing_pair.draft), strategies(4)[1], prompt, temperature=0)
    assert (result.tokens, result.finished_by) == (full[:end], "eos")


@pytest.mark.parametrize("strategy", strategies(1, 4), ids=str)
def test_budget_is_exact(agreeing_pair: Pair, varied: tuple[Tokens, Tokens], strategy: DecodingStrategy) -> None:
    prompt, full = varied
    for budget in range(1, LONG + 1):
        result = decode(agreeing_pair, strategy, prompt, max_new_tokens=budget, temperature=0)
        assert (result.tokens, result.finished_by) == (full[:budget], "length")


@pytest.mark.parametrize("strategy", strategies(4), ids=str)
def test_stop_strings_end_with_the_token_that_completes_them(
    agreeing_pair: Pair, varied: tuple[Tokens, Tokens], strategy: DecodingStrategy
) -> None:
    prompt, full = varied
    tokenizer: Any = agreeing_pair.tokenizer
    texts: list[str] = [tokenizer.decode(list(full[:n])) for n in range(LONG + 1)]
    pieces = {texts[-1][i : i + size] for size in (1, 3) for i in range(len(texts[-1]) - size + 1)}
    stops = sorted(stop for stop in pieces if "\ufffd" not in stop)
    assert len(stops) > 10
    for stop in stops:
        end = next(n for n, text in enumerate(texts) if stop in text)
        result = decode(agreeing_pair, strategy, prompt, max_new_tokens=LONG, temperature=0, stop_strings=["never there", stop])
        assert (result.tokens, result.text, result.finished_by) == (full[:end], texts[end], "stop"), stop


def test_stop_strings_in_the_prompt_do_not_count(agreeing_pair: Pair) -> None:
    prompt = (WORDS.index("xyz"), WORDS.index("xyz"), 0)
    expected = greedy_tokens(agreeing_pair.target, prompt, 6)
    tokenizer: Any = agreeing_pair.tokenizer
    assert "xyza" not in tokenizer.decode(list(expected))
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0}
    result = decode(agreeing_pair, strategies(3)[1], prompt, stop_strings=["xyza", "zx", "xyzxyz"], **options)
    assert (result.tokens, result.finished_by) == (expected, "length")
    begun = "za" + tokenizer.decode([expected[0]])  # in the prompt, and ended by the first new token, as for `generate`
    result = decode(agreeing_pair, strategies(3)[1], prompt, stop_strings=begun, **options)
    assert (result.tokens, result.finished_by) == (expected[:1], "stop")


@pytest.mark.parametrize("strategy", strategies(4), ids=str)
def test_a_stop_function_sees_every_prefix_once_and_names_the_reason(
    agreeing_pair: Pair, varied: tuple[Tokens, Tokens], strategy: DecodingStrategy
) -> None:
    prompt, full = varied
    seen: list[Tokens] = []

    def stop(tokens: Tokens) -> str | None:
        seen.append(tokens)
        return "enough" if len(tokens) == len(prompt) + 6 else None

    result = decode(agreeing_pair, strategy, prompt, max_new_tokens=LONG, temperature=0, stop=stop)
    assert (result.tokens, result.finished_by) == (full[:6], "enough")
    assert seen == [prompt + full[:n] for n in range(1, 7)]


# --- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", strategies(3), ids=str)
def test_streamed_pieces_are_the_text(agreeing_pair: Pair, strategy: DecodingStrategy) -> None:
    tokenizer: Any = agreeing_pair.tokenizer
    split = 0
    for seed in range(12):
        decoding = Decoding(agreeing_pair, strategy, [0, 6], max_new_tokens=20, temperature=1.5, seed=seed)
        rounds = list(decoding)
        result = decoding.result()
        assert "".join(part.text for part in rounds) == result.text
        assert sum((part.tokens for part in rounds), ()) == result.tokens
        assert result.text == tokenizer.decode(list(result.tokens))
        split += any(part.tokens and not part.text for part in rounds)
    if strategy.name == "autoregressive":
        assert split  # a character whose bytes came in two rounds was held back


def test_a_text_prompt_is_its_tokens(agreeing_pair: Pair) -> None:
    tokenizer: Any = agreeing_pair.tokenizer
    tokens = tokenizer("ab cd")["input_ids"]
    by_text, by_tokens = (
        decode(agreeing_pair, strategies(2)[1], prompt, max_new_tokens=5, temperature=1, seed=1) for prompt in ("ab cd", tokens)
    )
    assert by_text.tokens == by_tokens.tokens
