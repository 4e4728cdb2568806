"""Decoding real (tiny, random) torch models through the production loop: the law, greedy equality, ends, text, statistics.

What the output must be comes from outside: float64 forward passes without a cache, `transformers.generate`, and for the law
of a deliberately wrong rule, from `specdec.law` on the very same models.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, ncx2
from wrong_rules import plain_p_on_reject, reused_uniform

import specdec
from specdec import Confident, Decoding, DecodingStrategy, InputError, Pair, PairError, decode
from specdec.law import ExactLaw, ExactPair, law, target_law
from specdec.law.proof import Table
from specdec.runtime import runner
from specdec.sampling import Sampler, Sampling
from specdec.testing.models import Scripted, byte_tokenizer, fresh_logits, greedy_tokens, minuscule, model, resembling
from specdec.verification import RULES, Chance, Outcome, Rule, Window, match_rule, token_rule

Tokens = tuple[int, ...]


def strategies(*lengths: int) -> list[DecodingStrategy]:
    """Every installed strategy with these draft lengths, and one that stops on confidence."""
    chosen: list[DecodingStrategy] = []
    for name, cls in specdec.available().items():
        bound = {"autoregressive": None, "elastic": "most_drafted"}.get(name, "draft_length")
        chosen += [cls(**{bound: length}) for length in lengths] if bound else [cls()]
    return [*chosen, specdec.create("speculative", draft_length=Confident(max(lengths), 0.5))]


def inline(target: Any, draft: Any, **more: Any) -> Pair:
    return Pair(target, draft, lane="inline", **more)


# --- the joint law, by samples ---------------------------------------------------------------------------------------

VOCABULARY, EOS, PROMPT, NEW_TOKENS = 4, 3, (0, 1, 0), 3
SAMPLES = 300
SIGNIFICANCE = 1e-4
"""Seeds are fixed, so nothing here is flaky; over all seeds, one test in 10,000 would fail by chance."""


@pytest.fixture(scope="module")
def sampled_pair() -> Pair:
    return inline(minuscule(VOCABULARY, seed=0), minuscule(VOCABULARY, seed=51))


def exact_pair(pair: Pair, **sampling: Any) -> ExactPair:
    """The same two models as tables: float64 rows without a cache, rounded to a part in a million."""
    sampler = Sampler(Sampling(**sampling))

    def table(of: Any) -> Table:
        def row(context: Tokens) -> tuple[Fraction, ...]:
            weights = [round(float(x) * 10**6) for x in sampler.probabilities(fresh_logits(of, context), context)[0]]
            return tuple(Fraction(weight, sum(weights)) for weight in weights)

        return Table(row)

    return ExactPair(VOCABULARY, table(pair.target), table(pair.draft), EOS)


class ChiSquare:
    """Pearson's test of whole sequences against a law; cells expected fewer than five times are pooled."""

    def __init__(self, law: ExactLaw, samples: int) -> None:
        self._expected = {output: float(weight) * samples for output, weight in law.items()}
        self._rare = {output for output, count in self._expected.items() if count < 5}
        self._samples = samples
        self._cells = self._pooled(self._expected)
        self._freedom = len(self._cells) - 1

    def _pooled(self, counts: dict[Tokens, float]) -> dict[Any, float]:
        pooled: dict[Any, float] = {}
        for output, count in counts.items():
            cell = "rare" if output in self._rare or output not in self._expected else output
            pooled[cell] = pooled.get(cell, 0) + count
        return pooled

    def p_value(self, outputs: Sequence[Tokens]) -> float:
        seen = self._pooled(Counter(outputs))
        statistic = sum((seen.get(cell, 0) - expected) ** 2 / expected for cell, expected in self._cells.items())
        return float(chi2.sf(statistic, self._freedom))

    def power(self, other: ExactLaw, significance: float) -> float:
        """How probably outputs of the law `other` are rejected: the noncentral chi-square law."""
        shifted = self._pooled({output: float(weight) * self._samples for output, weight in other.items()})
        noncentrality = sum((shifted.get(cell, 0) - expected) ** 2 / expected for cell, expected in self._cells.items())
        return float(ncx2.sf(chi2.isf(significance, self._freedom), self._freedom, noncentrality))


def sampled(pair: Pair, strategy: DecodingStrategy, samples: int = SAMPLES, **options: Any) -> list[Tokens]:
    return [
        decode(pair, strategy, PROMPT, max_new_tokens=NEW_TOKENS, eos={EOS}, seed=seed, **options).tokens
        for seed in range(samples)
    ]


PROCESSED = {"temperature": 1.6, "top_k": 3, "repetition_penalty": 1.3}

SAMPLED = [
    *((strategy, "token", {}) for strategy in strategies(2)),
    (specdec.create("speculative", draft_length=2), "block", {}),
    (specdec.create("pearl", draft_length=2), "block", PROCESSED),
    (specdec.create("pearl", draft_length=1), "match", {}),
]


@pytest.mark.parametrize(("strategy", "verification", "options"), SAMPLED, ids=str)
def test_whole_sequences_have_the_target_law(
    sampled_pair: Pair, strategy: DecodingStrategy, verification: str, options: dict[str, Any]
) -> None:
    expected = target_law(exact_pair(sampled_pair, **options), PROMPT, NEW_TOKENS)
    outputs = sampled(sampled_pair, strategy, verification=verification, **options)
    assert all(output in expected for output in outputs)
    assert ChiSquare(expected, SAMPLES).p_value(outputs) > SIGNIFICANCE


def one_uniform(window: Window, bonus: bool, chance: Chance) -> Outcome:
    """The fault of the reference PEARL code: one uniform for the test and for the residual."""
    return token_rule(window, bonus, Scripted([chance.uniform()] * 9))  # type: ignore[attr-defined]


CONTROLS = [
    ("speculative", plain_p_on_reject, plain_p_on_reject),
    ("pearl", plain_p_on_reject, plain_p_on_reject),
    ("pearl", one_uniform, reused_uniform(token_rule, False)),
]


@pytest.mark.parametrize(("strategy", "wrong", "exactly_wrong"), CONTROLS, ids=["speculative", "pearl", "uniform"])
def test_the_same_test_rejects_a_wrong_rule_and_has_the_power_to(
    sampled_pair: Pair, strategy: str, wrong: Rule, exactly_wrong: Rule
) -> None:
    chosen, tables = specdec.create(strategy, draft_length=2), exact_pair(sampled_pair)
    right = ChiSquare(target_law(tables, PROMPT, NEW_TOKENS), SAMPLES)
    lossy = law(chosen, tables, PROMPT, NEW_TOKENS, exactly_wrong)
    assert right.power(lossy, SIGNIFICANCE) > 0.99
    outputs = sampled(sampled_pair, chosen, verification=wrong)
    assert right.p_value(outputs) < SIGNIFICANCE
    # and the loop does to a wrong rule exactly what the law says it does
    assert ChiSquare(lossy, SAMPLES).p_value(outputs) > SIGNIFICANCE


def test_power_grows_from_the_significance_with_the_effect() -> None:
    fair: ExactLaw = {(0,): Fraction(1, 2), (1,): Fraction(1, 2)}
    test = ChiSquare(fair, 400)
    assert test.power(fair, 0.05) == pytest.approx(0.05)
    powers = [test.power({(0,): Fraction(share, 100), (1,): Fraction(100 - share, 100)}, 0.05) for share in (52, 55, 60)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.95


# --- greedy ----------------------------------------------------------------------------------------------------------

GREEDY_VOCABULARY, GREEDY_TOKENS, GREEDY_PROMPTS = 24, 8, 100


def random_prompts(count: int, vocabulary: int, longest: int, seed: int = 0) -> list[Tokens]:
    source = random.Random(seed)
    return [tuple(source.randrange(vocabulary) for _ in range(source.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def greedy_pair() -> Pair:
    target = minuscule(GREEDY_VOCABULARY, seed=4, hidden_size=16)
    return inline(target, resembling(target, 0.3))


@pytest.fixture(scope="module")
def greedy_references(greedy_pair: Pair) -> dict[Tokens, Tokens]:
    """Argmax after argmax, without cache or loop of ours; each second prompt is one token or repeats itself."""
    prompts = {prompt if i % 4 else prompt * 3 for i, prompt in enumerate(random_prompts(130, GREEDY_VOCABULARY, 9))}
    chosen = sorted(prompts)[:GREEDY_PROMPTS]
    assert len(chosen) == GREEDY_PROMPTS
    return {prompt: greedy_tokens(greedy_pair.target, prompt, GREEDY_TOKENS) for prompt in chosen}


def test_greedy_reference_agrees_with_generate(greedy_pair: Pair, greedy_references: dict[Tokens, Tokens]) -> None:
    for prompt, expected in list(greedy_references.items())[::4]:
        assert generated(greedy_pair.target, prompt, GREEDY_TOKENS) == expected


def generated(target: Any, prompt: Tokens, new_tokens: int) -> Tokens:
    """What transformers makes of it."""
    ids = torch.tensor([prompt])
    output = target.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0, use_cache=True
    )
    return tuple(output[0, len(prompt) :].tolist())


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
    for strategy in strategies(3):
        output = greedy_pair.target.generate(
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

WORDS = ["a", "b", "c", "d", "e", "f", "Ġ", "Ã", "©", "ab", "cd", "Ġe", "bc", "!", "?", "Ċ", "â", "Ĥ", "¬", "xyz"]
"""Tokens of one to three bytes; `Ã©` is é in two tokens, `âĤ¬` the euro sign in three."""


@pytest.fixture(scope="module")
def agreeing_pair() -> Pair:
    """The draft is the target, so that blocks are as long as they can be."""
    target = model("llama", len(WORDS), seed=11)
    return inline(target, resembling(target, 0.0), tokenizer=byte_tokenizer(WORDS))


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
    texts = [agreeing_pair.tokenizer.decode(list(full[:n])) for n in range(LONG + 1)]
    stops = {texts[-1][i : i + size] for size in (1, 3) for i in range(len(texts[-1]) - size + 1)}
    stops = sorted(stop for stop in stops if "\ufffd" not in stop)
    assert len(stops) > 10
    for stop in stops:
        end = next(n for n, text in enumerate(texts) if stop in text)
        result = decode(agreeing_pair, strategy, prompt, max_new_tokens=LONG, temperature=0, stop_strings=["never there", stop])
        assert (result.tokens, result.text, result.finished_by) == (full[:end], texts[end], "stop"), stop


def test_stop_strings_in_the_prompt_do_not_count(agreeing_pair: Pair) -> None:
    prompt = (WORDS.index("xyz"), WORDS.index("xyz"), 0)
    expected = greedy_tokens(agreeing_pair.target, prompt, 6)
    text = agreeing_pair.tokenizer.decode(list(expected))
    assert "xyza" not in text
    result = decode(
        agreeing_pair, strategies(3)[1], prompt, max_new_tokens=6, temperature=0, stop_strings=["xyza", "zx", "xyzxyz"]
    )
    assert (result.tokens, result.finished_by) == (expected, "length")


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
    split = 0
    for seed in range(12):
        decoding = Decoding(agreeing_pair, strategy, [0, 6], max_new_tokens=20, temperature=1.5, seed=seed)
        rounds = list(decoding)
        result = decoding.result()
        assert "".join(part.text for part in rounds) == result.text
        assert sum((part.tokens for part in rounds), ()) == result.tokens
        assert result.text == agreeing_pair.tokenizer.decode(list(result.tokens))
        split += any(part.tokens and not part.text for part in rounds)
    if strategy.name == "autoregressive":
        assert split  # a character whose bytes came in two rounds was held back


def test_a_text_prompt_is_its_tokens(agreeing_pair: Pair) -> None:
    tokens = agreeing_pair.tokenizer("ab cd")["input_ids"]
    by_text, by_tokens = (
        decode(agreeing_pair, strategies(2)[1], prompt, max_new_tokens=5, seed=1) for prompt in ("ab cd", tokens)
    )
    assert by_text.tokens == by_tokens.tokens


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
    assert speculative.statistics.acceptance_histogram == {"4": 3}  # 4 drafted ones and a bonus, three times
    assert (speculative.statistics.drafted_tokens, speculative.statistics.tokens_per_target_forward) == (12, 5)
    pearl = decode(agreeing_pair, specdec.create("pearl", draft_length=4), prompt, max_new_tokens=13, temperature=0)
    assert pearl.statistics.acceptance_histogram == {"1": 1, "4": 3}  # pre-verify, then post-verify of 3 and the fresh one
    assert (pearl.statistics.drafted_tokens, pearl.statistics.draft_acceptance_rate) == (16, 13 / 16)
    plain = decode(agreeing_pair, specdec.create("autoregressive"), prompt, max_new_tokens=5, temperature=0)
    assert (plain.statistics.drafted_tokens, plain.statistics.acceptance_histogram) == (0, {"0": 5})


# --- seeds -----------------------------------------------------------------------------------------------------------


REPRODUCIBLE = [strategy for strategy in strategies(3) if strategy.name != "elastic"]
"""How far an elastic draft goes is the clock's affair, so that only its greedy outputs are decided by the seed."""


@pytest.mark.parametrize("verification", RULES)
@pytest.mark.parametrize("strategy", REPRODUCIBLE, ids=str)
def test_a_seed_decides_the_tokens_whatever_was_decoded_before(
    greedy_pair: Pair, strategy: DecodingStrategy, verification: str
) -> None:
    def run(seed: int) -> Tokens:
        return decode(greedy_pair, strategy, [1, 2, 3], max_new_tokens=8, seed=seed, verification=verification).tokens

    first = [run(seed) for seed in range(4)]
    decode(greedy_pair, strategy, [1, 2, 4, 5, 6], max_new_tokens=5, temperature=0)
    assert [run(seed) for seed in reversed(range(4))] == first[::-1]
    assert len(set(first)) > 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_rule_may_be_given_by_name_or_as_a_function(greedy_pair: Pair, batch_size: int) -> None:
    def run(verification: str | Rule) -> list[Tokens]:
        options: dict[str, Any] = {"max_new_tokens": 12, "seed": 2, "batch_size": batch_size, "verification": verification}
        return [result.tokens for result in decode(greedy_pair, REPRODUCIBLE[-1], [[1, 2, 3], [4], [5, 6]], **options)]

    assert run(token_rule) == run("token") != run(match_rule) == run("match")


def test_without_a_seed_outputs_vary(greedy_pair: Pair) -> None:
    assert len({decode(greedy_pair, strategies(2)[1], [1], max_new_tokens=8).tokens for _ in range(5)}) > 1


# --- interruptions ---------------------------------------------------------------------------------------------------


class Interrupting:
    """A logits processor that is interrupted at its `at`-th call."""

    def __init__(self, at: int) -> None:
        self._left = at

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return scores


@pytest.mark.parametrize("strategy", REPRODUCIBLE, ids=str)
def test_an_interrupted_decoding_keeps_what_was_committed(greedy_pair: Pair, strategy: DecodingStrategy) -> None:
    options: dict[str, Any] = {"max_new_tokens": 9, "seed": 3}
    whole = decode(greedy_pair, strategy, [5, 6, 5, 6], **options)
    kept = set()
    for at in (1, 4, 8):
        decoding = Decoding(greedy_pair, strategy, [5, 6, 5, 6], logits_processor=[Interrupting(at)], **options)
        with pytest.raises(KeyboardInterrupt):
            for _ in decoding:
                pass
        result = decoding.result()
        assert result.finished_by is None
        assert result.tokens == whole.tokens[: len(result.tokens)]
        assert result.statistics.new_tokens == len(result.tokens)
        assert decode(greedy_pair, strategy, [5, 6, 5, 6], **options).tokens == whole.tokens  # the pair is still good
        kept.add(len(result.tokens))
    assert len(kept) > 1
    assert Decoding(greedy_pair, strategy, [5], **options).result().tokens == ()


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
        sampled = decode(cramped_pair, strategy, prompt, max_new_tokens=100, seed=length)
        assert (len(sampled.tokens), sampled.finished_by) == (12 - length, "length")


@pytest.mark.parametrize("name", ["speculative", "pearl"])
def test_the_measured_draft_length_works_where_vocabulary_and_context_are_small(cramped_pair: Pair, name: str) -> None:
    strategy = specdec.create(name, draft_length="auto")
    assert cramped_pair.speed_ratio() > 0
    result = decode(cramped_pair, strategy, [1, 2], max_new_tokens=100, temperature=0)
    assert result.tokens == greedy_tokens(cramped_pair.target, [1, 2], 10)


def test_the_context_limit_is_the_smaller_of_both(greedy_pair: Pair) -> None:
    draft = model("llama", GREEDY_VOCABULARY, seed=9, max_position_embeddings=9)
    pair = inline(greedy_pair.target, draft)
    for strategy in strategies(4):
        result = decode(pair, strategy, [1, 2, 3], max_new_tokens=100, temperature=0)
        assert result.tokens == greedy_tokens(pair.target, [1, 2, 3], 6)


@pytest.mark.parametrize("length", [12, 13, 50])
def test_a_prompt_that_fills_the_context_is_refused(cramped_pair: Pair, length: int) -> None:
    with pytest.raises(InputError, match=f"prompt has {length} tokens and the context holds 12"):
        decode(cramped_pair, strategies(2)[0], [1] * length)


def test_the_law_holds_where_the_context_ends() -> None:
    """Two tokens before the end of the context, windows are cut short; the output law must not notice."""
    pair = inline(*(minuscule(VOCABULARY, seed, max_position_embeddings=len(PROMPT) + NEW_TOKENS) for seed in (0, 51)))
    expected = target_law(exact_pair(pair), PROMPT, NEW_TOKENS)
    pearl = specdec.create("pearl", draft_length=5)
    outputs = [decode(pair, pearl, PROMPT, eos={EOS}, seed=seed).tokens for seed in range(SAMPLES)]
    assert ChiSquare(expected, SAMPLES).p_value(outputs) > SIGNIFICANCE


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
        ("  ", {}, "the prompt is empty"),
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
