"""The checkpoint's own settings: what `generate` does with them is done, or refused by name; what the caller says wins."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from decodes import Tokens, inline
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerFast, TopKLogitsWarper, WatermarkingConfig

import specdec
from specdec import InputError, Pair, decode
from specdec.inputs import plain as as_plain
from specdec.sampling import Sampler, Sampling, own_copy
from specdec.settings import ASSISTED, NAMED, REFUSED, SAMPLED, Options, Settings, resolve
from specdec.testing.models import byte_tokenizer, model, resembling

VOCABULARY, NEW_TOKENS = 48, 14
PROMPT = (3, 5, 7, 2, 5, 7, 9)
STRATEGIES = [
    specdec.create("autoregressive"),
    specdec.create("speculative", draft_length=3),
    specdec.create("pearl", draft_length=3),
]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    target = model("llama", VOCABULARY, seed=8)
    with inline(target, resembling(target, 0.15)) as made:
        yield made


def asked(pair: Pair, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    """The target, with these settings in its generation configuration."""
    monkeypatch.setattr(pair.target, "generation_config", GenerationConfig(**settings))
    return pair.target


def generated(target: Any, prompt: Sequence[int] = PROMPT, /, **options: Any) -> Tokens:
    ids = torch.tensor([list(prompt)])
    output = target.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return tuple(output[0, len(prompt) :].tolist())


def plain(pair: Pair, monkeypatch: pytest.MonkeyPatch, prompt: Sequence[int] = PROMPT) -> Tokens:
    return generated(asked(pair, monkeypatch), prompt, max_new_tokens=NEW_TOKENS)


# --- greedy: token for token

CHANGING: dict[str, Any] = {
    "eos_token_id": lambda first: {"eos_token_id": [first[6], first[4]]},
    "repetition_penalty": lambda first: {"repetition_penalty": 1.8},
    "encoder_repetition_penalty": lambda first: {"encoder_repetition_penalty": 2.5},
    "no_repeat_ngram_size": lambda first: {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": lambda first: {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": lambda first: {"bad_words_ids": [[first[3]], [first[5], first[6]]]},
    "sequence_bias": lambda first: {"sequence_bias": [[[first[2]], -30.0], [[first[0], 1], 30.0]]},
    "suppress_tokens": lambda first: {"suppress_tokens": [first[1]]},
    "begin_suppress_tokens": lambda first: {"begin_suppress_tokens": [first[0]]},
    "forced_eos_token_id": lambda first: {"forced_eos_token_id": 2},
    "min_length": lambda first: {"eos_token_id": first[2], "min_length": len(PROMPT) + 6},
    "min_new_tokens": lambda first: {"eos_token_id": first[2], "min_new_tokens": 6},
    "exponential_decay_length_penalty": lambda first: {"eos_token_id": 11, "exponential_decay_length_penalty": [3, 9.0]},
    "watermarking_config": lambda first: {"watermarking_config": WatermarkingConfig(bias=6.0)},
    "watermark of itself": lambda first: {"watermarking_config": {"bias": 30.0, "seeding_scheme": "selfhash"}},
    "max_new_tokens": lambda first: {"max_new_tokens": 5},
    "max_length": lambda first: {"max_length": len(PROMPT) + 4},
    "both budgets": lambda first: {"max_length": len(PROMPT) + 4, "max_new_tokens": 6},
}
"""Each of them changes what `generate` says on this pair."""

KEEPING: dict[str, dict[str, Any]] = {
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "warpers": {"temperature": 0.3, "top_k": 3, "top_p": 0.4, "min_p": 0.2, "typical_p": 0.3},
    "harmless": {"use_cache": False, "cache_implementation": "static", "length_penalty": 3.0, "a_new_key": 1},
}


def five(first: Sequence[int]) -> dict[str, Any]:
    """Five settings and a list of ends."""
    penalties = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "exponential_decay_length_penalty": (5, 1.5)}
    return {**penalties, "suppress_tokens": [first[1]], "min_new_tokens": 9, "eos_token_id": [4, 11]}


@pytest.mark.parametrize("name", [*CHANGING, *KEEPING, "five at once"])
def test_greedy_outputs_are_those_of_generate(pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    first = plain(pair, monkeypatch)
    settings = {**CHANGING, "five at once": five}[name](first) if name not in KEEPING else KEEPING[name]
    target = asked(pair, monkeypatch, **settings)
    budget = {} if "max_new_tokens" in settings or "max_length" in settings else {"max_new_tokens": NEW_TOKENS}
    expected = generated(target, **budget)
    assert (expected != first) == (name not in KEEPING)
    for strategy in STRATEGIES:
        result = decode(pair, strategy, PROMPT, **budget)
        assert result.tokens == expected, strategy
        assert (result.finished_by == "eos") == (expected[-1] in pair.eos)


def test_a_forced_beginning_is_forced(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    target = asked(pair, monkeypatch, forced_bos_token_id=9)
    expected = generated(target, [3], max_new_tokens=5)
    assert expected[0] == 9 != plain(pair, monkeypatch, [3])[0]
    asked(pair, monkeypatch, forced_bos_token_id=9)
    assert decode(pair, STRATEGIES[2], [3], max_new_tokens=5).tokens == expected


def test_a_forced_beginning_beyond_the_vocabulary_matters_where_it_is_forced(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode(pair, STRATEGIES[0], PROMPT, max_new_tokens=5).tokens
    asked(pair, monkeypatch, forced_bos_token_id=500)
    assert decode(pair, STRATEGIES[0], PROMPT, max_new_tokens=5).tokens == expected
    with pytest.raises(InputError, match=r"forced_bos_token_id names \[500\]"):
        decode(pair, STRATEGIES[0], PROMPT[:1], max_new_tokens=5)


def test_every_prompt_of_a_batch_has_settings_of_its_own(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may depend on a prompt's length and on its tokens."""
    first = plain(pair, monkeypatch)
    prompts = [PROMPT, PROMPT[:3], (1,), PROMPT * 2]
    settings = {"begin_suppress_tokens": [first[0]], "encoder_no_repeat_ngram_size": 1, "min_new_tokens": 4, "eos_token_id": 9}
    target = asked(pair, monkeypatch, max_length=20, **settings)
    results = decode(pair, STRATEGIES[1], prompts, batch_size=3)
    assert [result.tokens for result in results] == [generated(target, prompt) for prompt in prompts]


# --- sampled: the distribution at every position

SAMPLING: dict[str, dict[str, Any]] = {
    "do_sample": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 3},
    "top_k off": {"top_k": 0},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "top_h": {"top_h": 0.5},
    "typical_p": {"typical_p": 0.6},
    "epsilon_cutoff": {"epsilon_cutoff": 0.05},
    "eta_cutoff": {"eta_cutoff": 0.3},
    "as Qwen2.5": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
    **{
        name: CHANGING[name](list(range(9)))
        for name in CHANGING
        if name not in ("max_new_tokens", "max_length", "both budgets")
    },
    "renormalize_logits": {"renormalize_logits": True, "top_k": 4},
    "five at once": {**five(range(9)), "temperature": 0.8, "typical_p": 0.9, "top_p": 0.95},
}


def own_chain(target: Any, **options: Any) -> LogitsProcessorList:
    """The processors that `generate` itself prepares for the prompt."""
    prepared: dict[str, Any] = {}

    def keep(model: Any, input_ids: Tensor, **more: Any) -> Tensor:
        prepared.update(more)
        return input_ids

    ids = torch.tensor([list(PROMPT)])
    target.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=keep, **options)
    return prepared["logits_processor"]


@pytest.mark.parametrize("name", SAMPLING)
def test_every_row_is_what_generates_own_processors_make_of_the_logits(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rows of `p` and of `q`, exactly, through all strategies; contexts as they are when `generate` is there."""
    target = asked(pair, monkeypatch, do_sample=True, **SAMPLING[name])
    chain: Any = own_chain(target, max_new_tokens=NEW_TOKENS)
    found, rows = Sampler.probabilities, 0

    def checked(self: Sampler, logits: Tensor, context: Sequence[int]) -> Tensor:
        nonlocal rows
        answer = found(self, logits, context)
        for i, row in enumerate(logits):
            ids = torch.tensor([list(context[: len(context) - len(logits) + 1 + i])])
            assert torch.equal(answer[i], chain(ids, row[None].clone()).softmax(-1)[0])
            rows += 1
        return answer

    monkeypatch.setattr(Sampler, "probabilities", checked)
    for strategy in STRATEGIES:
        rows = 0
        result = decode(pair, strategy, PROMPT, max_new_tokens=NEW_TOKENS, seed=3)
        assert rows >= len(result.tokens) + result.statistics.drafted_tokens > 0


# --- what the caller says wins


def test_explicit_arguments_win(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
    ends = {"eos_token_id": [4, 5], "max_length": 40, "max_time": 9.0, "stop_strings": ["a"]}
    target = asked(pair, monkeypatch, **own, **ends)

    def found(**options: Any) -> Settings:
        return resolve(target, PROMPT, Options.of(options))

    assert found().named == {**{name: own[name] for name in own if name != "do_sample"}, "max_time": 9.0, "stop_strings": ["a"]}
    assert (found().eos, found().max_new_tokens, found().stop_strings, found().max_time) == ({4, 5}, 33, ("a",), 9.0)
    quiet = found(eos=7, max_new_tokens=50, stop_strings=(), max_time=math.inf, repetition_penalty=1)
    assert (quiet.eos, quiet.max_new_tokens, quiet.stop_strings, quiet.max_time) == ({7}, 50, (), None)
    assert quiet.sampling == Sampling(0.7, 20, 0.8)
    assert found(eos=()).eos == frozenset()
    assert found(temperature=0, repetition_penalty=1).sampling == Sampling(0)
    assert found(temperature=2, top_k=0, top_p=1, repetition_penalty=1).sampling == Sampling(2)
    assert found(min_p=0.1, top_k=5, repetition_penalty=1).sampling == Sampling(0.7, 5, 0.8, 0.1)


def test_a_temperature_alone_is_the_models_own_law_and_a_checkpoint_that_samples_has_generates_top_k(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = asked(pair, monkeypatch)
    assert resolve(target, PROMPT, Options()).sampling == Sampling(0)
    assert resolve(target, PROMPT, Options(temperature=1)).sampling == Sampling(1)
    assert resolve(target, PROMPT, Options()).max_new_tokens == 128
    sampling = asked(pair, monkeypatch, do_sample=True)
    assert resolve(sampling, PROMPT, Options()).sampling == Sampling(1, 50)
    assert resolve(sampling, PROMPT, Options(temperature=2)).sampling == Sampling(2, 50)
    named = asked(pair, monkeypatch, top_k=7, top_p=0.9)
    assert resolve(named, PROMPT, Options()).sampling == Sampling(0)
    assert resolve(named, PROMPT, Options(temperature=1)).sampling == Sampling(1, 7, 0.9)


def test_custom_processors_come_where_generate_puts_them(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    target = asked(pair, monkeypatch, do_sample=True, repetition_penalty=1.2, top_p=0.9, renormalize_logits=True)
    custom = [Favour()]
    ours = resolve(target, PROMPT, Options(logits_processor=custom)).sampling.processors()
    theirs = own_chain(target, max_new_tokens=1, logits_processor=LogitsProcessorList(custom))
    assert list(map(type, ours)) == list(map(type, theirs))
    assert custom[0] in ours
    plain_kind = resolve(asked(pair, monkeypatch), PROMPT, Options(temperature=1, logits_processor=[TopKLogitsWarper(3)]))
    assert [type(processor) for processor in plain_kind.sampling.processors()] == [TopKLogitsWarper]


class Favour:
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 1


def test_complete_settings_leave_the_checkpoint_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plain(pair, monkeypatch)
    asked(pair, monkeypatch, suppress_tokens=[first[0]], eos_token_id=first[3])
    settings = Settings(Sampling(0), max_new_tokens=NEW_TOKENS)
    assert decode(pair, STRATEGIES[1], PROMPT, settings=settings).tokens == first
    with pytest.raises(InputError, match="settings are complete, and temperature would be ignored"):
        decode(pair, STRATEGIES[1], PROMPT, settings=settings, temperature=1)


# --- refused, or reported, by name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"guidance_scale": 1.5},
            r"names guidance_scale=1\.5, which changes outputs .*generation_config.guidance_scale = None",
        ),
        ({"num_beams": 4}, "num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.1}, "num_beams=4"),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences=2"),
        ({"token_healing": True}, "token_healing=True"),
        ({"cache_implementation": "quantized"}, "cache_implementation='quantized'"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"penalty_alpha": 0.6}, "penalty_alpha=0.6"),
        ({"dola_layers": "low"}, "dola_layers='low'"),
        ({"force_words_ids": [[3]]}, r"force_words_ids=\[\[3\]\]"),
        ({"is_assistant": True}, "is_assistant"),
        ({"prompt_lookup_num_tokens": 3, "assistant_ensemble_weight": 0.5}, "assistant_ensemble_weight"),
        ({"do_sample": True, "temperature": 0.0}, "generation settings that generate refuses .*temperature"),
        ({"do_sample": True, "top_p": -0.5}, "generation settings that generate refuses .*top_p"),
        ({"exponential_decay_length_penalty": (3, 1.2)}, "generation settings that generate refuses"),
        ({"bad_words_ids": []}, "generation settings that generate refuses .*bad_words_ids"),
        ({"bad_words_ids": [[4, 500]]}, r"generation settings that generate refuses \(bad_words_ids names \[500\]"),
        ({"sequence_bias": [[[500], 1.0]]}, r"generation settings that generate refuses \(sequence_bias names \[500\]"),
        ({"forced_eos_token_id": 500}, r"generation settings that generate refuses \(forced_eos_token_id names \[500\]"),
        ({"max_length": 7}, "the prompt has 7 tokens and the checkpoint's max_length is 7: give max_new_tokens"),
        ({"stop_strings": "x"}, "stop strings need a tokenizer"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    asked(pair, monkeypatch, **settings)
    with pytest.raises(InputError, match=message) as refused:
        decode(pair, STRATEGIES[0], PROMPT)
    assert "\n" not in str(refused.value)


def test_a_model_without_a_configuration_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.target, "generation_config", None)
    with pytest.raises(InputError, match="the target has no generation_config: set"):
        decode(pair, STRATEGIES[0], PROMPT)


def test_options_may_be_numbers_of_numpy(pair: Pair) -> None:
    options: dict[str, Any] = {"max_new_tokens": 9, "top_k": 5, "temperature": 0.5, "top_p": 0.75, "eos": 3, "seed": 4}
    kinds = {int: np.int64, float: np.float32}
    of_numpy = {name: kinds[type(value)](value) for name, value in options.items()}
    strategy = specdec.create("speculative", draft_length=np.int64(3))
    assert strategy == specdec.create("speculative", draft_length=3)
    for name, parameter in {"elastic": "most_drafted", "hedged": "fan_out"}.items():
        made = specdec.create(name, **{parameter: np.int64(2)})
        assert json.dumps(made.parameters) == json.dumps(specdec.create(name, **{parameter: 2}).parameters)
    assert isinstance(as_plain(Fraction(1, 2)), Fraction)  # a number of the exact law stays exact
    found = [decode(pair, strategy, PROMPT, **said).tokens for said in (options, of_numpy)]
    assert found[0] == found[1]
    json.dumps(Options.of({name: number for name, number in of_numpy.items() if name != "seed"}).overlay(GenerationConfig()))
    given: dict[str, Any] = {"temperature": np.float32(0.5), "top_k": np.int32(5)}
    assert Sampling(**given) == Sampling(0.5, top_k=5)
    with pytest.raises(InputError, match="max_new_tokens True"):
        decode(pair, strategy, PROMPT, max_new_tokens=True)
    with pytest.raises(InputError, match=r"max_new_tokens .*2"):
        decode(pair, strategy, PROMPT, max_new_tokens=np.float64(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "top_k 5 does nothing without sampling: give a temperature"),
        ({"top_p": 0.5}, r"top_p 0\.5 does nothing"),
        ({"eos": True}, "eos True"),
        ({"eos": "end"}, "eos 'end' is not possible: give a token id"),
        ({"eos": [1, 2.0]}, r"eos \[1, 2\.0\]"),
        ({"stop_strings": [3]}, r"stop_strings \[3\]"),
        ({"max_time": 0}, "max_time 0 is not possible"),
        ({"no_repeat_ngram_size": 2}, "unknown option 'no_repeat_ngram_size'"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_by_name(pair: Pair, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(pair, STRATEGIES[0], PROMPT, **options)


def test_what_says_how_transformers_drafts_is_left_out_with_a_word(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plain(pair, monkeypatch)
    asked(pair, monkeypatch, prompt_lookup_num_tokens=3)
    with pytest.warns(RuntimeWarning, match="prompt_lookup_num_tokens of the checkpoint's generation_config is left out"):
        assert decode(pair, STRATEGIES[1], PROMPT, max_new_tokens=NEW_TOKENS).tokens == first


def test_unknown_keys_are_named_where_the_models_own_generate_may_read_them(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(pair, monkeypatch, steps=4)
    decode(pair, STRATEGIES[0], PROMPT, max_new_tokens=1)  # transformers' own generate does not read it
    monkeypatch.setattr(type(pair.target), "generate", lambda self: None)  # of this module
    with pytest.warns(RuntimeWarning, match="LlamaForCausalLM has a generate of its own, which may read steps"):
        decode(pair, STRATEGIES[0], PROMPT, max_new_tokens=1)


WITHOUT_EFFECT = {
    *("transformers_version", "_from_model_config", "compile_config", "disable_compile", "continuous_batching_config"),
    *("use_cache", "cache_config", "max_cache_len", "prefill_chunk_size", "low_memory"),
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict_in_generate"),
    *("early_stopping", "length_penalty", "diversity_penalty"),  # of beams, which are refused
    *("assistant_confidence_threshold", "assistant_lookbehind", "max_matching_ngram_size", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "target_lookbehind", "speculation_type"),  # of assistants, which are left out
    *("bos_token_id", "pad_token_id", "decoder_start_token_id"),  # of prompts that are empty, padded, or of encoders
}
HONOURED = {*SAMPLED, *NAMED, "do_sample", "eos_token_id", "max_length", "max_new_tokens"}


def test_every_setting_of_transformers_is_known() -> None:
    """A new one must be looked at: is it honoured by `_get_logits_processor`, refused, or without effect?"""
    groups = [HONOURED, {*REFUSED}, {*ASSISTED}, WITHOUT_EFFECT]
    assert set(vars(GenerationConfig())) == set.union(*groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


# --- ends


def words(*special: str) -> Any:
    made: Any = byte_tokenizer([chr(97 + i) for i in range(VOCABULARY - len(special))])
    assert isinstance(made, PreTrainedTokenizerFast)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_stop_strings_end_where_generate_ends(pair: Pair, monkeypatch: pytest.MonkeyPatch, from_checkpoint: bool) -> None:
    """Also special tokens, and texts that begin in the prompt; each alone and all together."""
    first = plain(pair, monkeypatch)
    tokenizer = words("<|im_end|>", "</s>")
    spoken = [*PROMPT, *first]
    special = next((i for i, token in enumerate(first) if token >= VOCABULARY - 2), None)
    stops = [
        tokenizer.decode(spoken[i : i + size]) for i in (len(PROMPT) - 1, len(PROMPT) + 4, len(spoken) - 3) for size in (1, 2)
    ]
    stops += ["zzz", *(["<|im_end|>", "im_e"] if special is not None else [])]
    told = Pair(pair.target, pair.draft, tokenizer, lane="inline")
    ends = set()
    for chosen in [[stop] for stop in stops if set(stop) <= set("".join(tokenizer.get_vocab()))] + [stops]:
        target = asked(pair, monkeypatch, **({"stop_strings": chosen} if from_checkpoint else {}))
        options = {} if from_checkpoint else {"stop_strings": chosen}
        expected = generated(target, tokenizer=tokenizer, max_new_tokens=NEW_TOKENS, **options)
        result = decode(told, STRATEGIES[2], PROMPT, max_new_tokens=NEW_TOKENS, **options)
        assert result.tokens == expected, chosen
        assert (result.finished_by == "stop") == (len(expected) < NEW_TOKENS)
        ends.add(len(expected))
    assert len(ends) > 2


def test_a_special_token_ends_the_output() -> None:
    tokenizer = words("<|im_end|>")
    target = model("llama", VOCABULARY, seed=8)
    with torch.no_grad():
        target.lm_head.weight[VOCABULARY - 1] = target.lm_head.weight[plain_first(target)] * 2  # says it where it said that
    pair = inline(target, resembling(target, 0.1), tokenizer=tokenizer)
    expected = generated(target, max_new_tokens=NEW_TOKENS, stop_strings=["<|im_end|>"], tokenizer=tokenizer)
    assert len(expected) < NEW_TOKENS
    for strategy in STRATEGIES:
        result = decode(pair, strategy, PROMPT, stop_strings="<|im_end|>", max_new_tokens=NEW_TOKENS)
        assert (result.tokens, result.finished_by) == (expected, "stop")


def plain_first(target: Any) -> int:
    return generated(target, max_new_tokens=1)[0]


def test_a_stop_string_that_no_token_ends_is_refused(pair: Pair) -> None:
    told = Pair(pair.target, pair.draft, words(), lane="inline")
    with pytest.raises(InputError, match="stop strings '#' cannot be made of this tokenizer's tokens"):
        decode(told, STRATEGIES[0], PROMPT, stop_strings="#")


def test_a_token_may_be_given_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plain(pair, monkeypatch)
    end = first.index(first[4]) + 1
    result = decode(pair, STRATEGIES[1], PROMPT, eos=first[4])
    assert (result.tokens, result.finished_by) == (first[:end], "eos")


def test_the_checkpoints_time_is_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second for each look at it: the first look starts the time, each token looks once."""
    first, now = plain(pair, monkeypatch), iter(range(100))
    asked(pair, monkeypatch, max_time=3.5)
    monkeypatch.setattr("specdec.ending.time", SimpleNamespace(monotonic=lambda: next(now)))
    result = decode(pair, STRATEGIES[0], PROMPT)
    assert (result.tokens, result.finished_by) == (first[:4], "time")


# --- values that travel


def test_settings_survive_pickling(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    target = asked(pair, monkeypatch, **SAMPLING["five at once"], do_sample=True, watermarking_config={"bias": 3.0})
    settings = resolve(target, PROMPT, Options(max_new_tokens=4))
    again = pickle.loads(pickle.dumps(settings))
    assert (again.eos, again.max_new_tokens, again.named) == (settings.eos, settings.max_new_tokens, settings.named)
    row = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(Sampler(one.sampling).probabilities(row, PROMPT) for one in (settings, again)))


def test_a_draft_in_its_own_process_honours_them_too(process_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "suppress_tokens": [1],
        "bad_words_ids": [[2, 3]],
        "begin_suppress_tokens": [4],
        "watermarking_config": {"bias": 2.0},
    }
    asked(process_pair, monkeypatch, **own, eos_token_id=[11], min_new_tokens=8)
    here = inline(process_pair.target, process_pair.draft)
    for temperature in (0.0, 1.0):
        options: dict[str, Any] = {"temperature": temperature, "seed": 2, "max_new_tokens": 12}
        found, expected = (decode(one, STRATEGIES[2], [1, 2, 1], **options) for one in (process_pair, here))
        assert found.tokens == expected.tokens
        assert found.statistics.accepted_in_round == expected.statistics.accepted_in_round


def test_each_model_has_processors_of_its_own(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    target = asked(pair, monkeypatch, suppress_tokens=[1], watermarking_config={"bias": 2.0})
    for processor in resolve(target, PROMPT, Options()).sampling.logits_processor:
        twin = own_copy(processor, torch.device("meta" if type(processor).__name__.startswith("Suppress") else "cpu"))
        assert twin is not processor
        assert all(
            value is not getattr(processor, name) for name, value in vars(twin).items() if isinstance(value, torch.Generator)
        )
        if hasattr(twin, "suppress_tokens"):
            assert (twin.suppress_tokens.device.type, processor.suppress_tokens.device.type) == ("meta", "cpu")
