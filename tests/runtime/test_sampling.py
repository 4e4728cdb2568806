"""From logits to probabilities: as transformers does it, alike for the target's windows and the draft's single rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import Broken
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specdec import ModelError, Sampling, SamplingError
from specdec.runtime.messages import DraftRequest, ScoreRequest
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler
from specdec.testing.models import fresh_logits, model

VOCABULARY = 12


class Favour:
    """A processor that looks at the newest token and at how many there are."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores * (1 + 0.1 * input_ids.shape[1])
        scores[:, (input_ids[0, -1] + 1) % scores.shape[1]] += 3
        return scores


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 4},
    {"top_k": 99},
    {"top_p": 0.6},
    {"top_p": 1.0},
    {"min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
    {"logits_processor": [NoRepeatNGramLogitsProcessor(2)]},
    {"logits_processor": [Favour()], "temperature": 0.5},
    {"logits_processor": [Favour()], "repetition_penalty": 1.5, "top_k": 5},
]


def named(options: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value if isinstance(value, (int, float)) else type(value[0]).__name__}" for name, value in options.items()
    )


CONTEXT = [3, 5, 3, 7, 3]


def logits(rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(rows), dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return model("llama", VOCABULARY, seed=1)


def generates_own_chain(of: Any, options: dict[str, Any]) -> LogitsProcessorList:
    """What `generate` itself would build from these options, in its order."""
    custom = LogitsProcessorList(options.get("logits_processor", ()))
    plain = {name: value for name, value in options.items() if name != "logits_processor"}
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **plain})
    of._prepare_special_tokens(config, device="cpu")
    return of._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(CONTEXT), logits_processor=custom, device="cpu"
    )


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_probabilities_are_those_of_generate(tiny: Any, options: dict[str, Any]) -> None:
    raw = logits(1)
    chain: Any = generates_own_chain(tiny, options)
    expected = chain(torch.tensor([CONTEXT]), raw.clone()).softmax(-1)
    torch.testing.assert_close(Sampler(Sampling(**options)).probabilities(raw, CONTEXT), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_the_chain_is_that_of_generate(tiny: Any, options: dict[str, Any]) -> None:
    """Also where the order happens not to matter for one row of logits."""
    ours = [type(processor) for processor in Sampling(**options).processors()]
    theirs = [type(processor) for processor in generates_own_chain(tiny, options)]
    assert [kind for kind in ours if not (kind is TopPLogitsWarper and options.get("top_p") == 1.0)] == theirs


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_rows_of_a_window_are_the_rows_one_by_one(options: dict[str, Any]) -> None:
    """Row `i` of a window is processed with the tokens before it: what the draft saw when it sampled there."""
    raw, sampler = logits(4), Sampler(Sampling(**options))
    window = sampler.probabilities(raw, CONTEXT)
    for i in range(4):
        alone = sampler.probabilities(raw[i : i + 1], CONTEXT[: len(CONTEXT) - 3 + i])
        torch.testing.assert_close(window[i : i + 1], alone, rtol=0, atol=1e-15)
    greedy = Sampler(replace(Sampling(**options), temperature=0))
    best = greedy.best(raw, CONTEXT)
    assert best.tolist() == [greedy.best(raw[i : i + 1], CONTEXT[: len(CONTEXT) - 3 + i])[0] for i in range(4)]


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_p_and_q_of_one_model_are_the_same_rows(tiny: Any, options: dict[str, Any]) -> None:
    """A model that verifies its own draft must find p = q, or the same setting means two things."""
    drafts, scores = Worker(tiny, VOCABULARY), Worker(tiny, VOCABULARY)
    for worker in (drafts, scores):
        worker.begin(Sampling(**options), CONTEXT)
    [drafting] = drafts.draft([DraftRequest(0, CONTEXT, 3, [0.2, 0.7, 0.4])])
    [scoring] = scores.score([ScoreRequest(0, [*CONTEXT, *drafting.tokens], 4)])
    assert drafting.q is not None
    assert scoring.p is not None
    torch.testing.assert_close(drafting.q, scoring.p[:3], rtol=0, atol=1e-5)
    assert all(row[token] > 0 for row, token in zip(drafting.q, drafting.tokens, strict=True))


def test_processors_leave_the_logits_alone() -> None:
    raw = logits(3)
    kept = raw.clone()
    for options in OPTIONS:
        Sampler(Sampling(**options)).probabilities(raw, CONTEXT)
        Sampler(replace(Sampling(**options), temperature=0)).best(raw, CONTEXT)
    assert torch.equal(raw, kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_half_precision_logits_become_float32_before_anything_else(options: dict[str, Any], dtype: torch.dtype) -> None:
    raw = logits(2, dtype)
    rows = Sampler(Sampling(**options)).probabilities(raw, CONTEXT)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, Sampler(Sampling(**options)).probabilities(raw.float(), CONTEXT))
    assert (rows.sum(-1) - 1).abs().max() < 1e-6


def test_float64_logits_stay_float64() -> None:
    assert Sampler(Sampling(temperature=0.7)).probabilities(logits(1), CONTEXT).dtype == torch.float64


def test_temperature_one_is_the_model_itself(tiny: Any) -> None:
    raw = fresh_logits(tiny, CONTEXT)
    assert torch.equal(Sampler(Sampling()).probabilities(raw, CONTEXT), raw.softmax(-1))
    assert not Sampling().processors()


def test_temperature_tends_to_greedy() -> None:
    raw = logits(3)
    cold = Sampler(Sampling(temperature=1e-3)).probabilities(raw, CONTEXT)
    assert cold.argmax(-1).tolist() == Sampler(Sampling(temperature=0)).best(raw, CONTEXT).tolist()
    torch.testing.assert_close(cold.max(-1).values, torch.ones(3, dtype=torch.float64))


def test_greedy_takes_penalties_but_no_warpers() -> None:
    raw = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    raw[0, 3], raw[0, 4] = 2.0, 1.5
    assert Sampler(Sampling(temperature=0)).best(raw, [3]).tolist() == [3]
    assert Sampler(Sampling(temperature=0, repetition_penalty=2.0)).best(raw, [3]).tolist() == [4]
    assert Sampler(Sampling(temperature=0, logits_processor=[Favour()])).best(raw, [6]).tolist() == [7]
    chain = Sampling(temperature=0, top_k=2, top_p=0.5, min_p=0.1, repetition_penalty=1.1).processors()
    assert [type(processor) for processor in chain] == [RepetitionPenaltyLogitsProcessor]


def test_the_warpers_come_in_the_order_of_generate() -> None:
    chain = Sampling(temperature=0.5, top_k=5, top_p=0.9, min_p=0.1).processors()
    kinds = [type(processor) for processor in chain]
    assert kinds == [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is not possible: give 0"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": 0}, "top_k 0 is not possible: give an integer of at least 1"),
        ({"top_k": -3}, "top_k -3"),
        ({"top_k": 2.5}, "top_k 2.5"),
        ({"top_p": 0.0}, r"top_p 0.0 is not possible: give a number in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"top_p": math.nan}, "top_p nan"),
        ({"min_p": -0.5}, r"min_p -0.5 is not possible: give a number in \[0, 1\]"),
        ({"min_p": 2}, "min_p 2"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 is not possible: give a positive number"),
        ({"repetition_penalty": -1.0}, "repetition_penalty -1.0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty nan"),
        ({"repetition_penalty": math.inf}, "repetition_penalty inf"),
        ({"temperature": "hot"}, "temperature 'hot'"),
        ({"top_p": "high"}, "top_p 'high'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_their_name_and_a_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SamplingError, match=message) as refused:
        Sampling(**options)
    assert "\n" not in str(refused.value)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "bad", [[NAN] * VOCABULARY, [0.0] * (VOCABULARY - 1) + [NAN], [-INFINITE] * VOCABULARY, [INFINITE] * 12]
)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_k": 3}, {"repetition_penalty": 1.1}], ids=str)
def test_logits_that_are_no_distribution_are_a_model_error(options: dict[str, Any], bad: Sequence[float], rows: int) -> None:
    raw = logits(rows)
    raw[-1] = torch.tensor(bad)
    with pytest.raises(ModelError, match="NaN or without any finite value: check its weights and dtype"):
        Sampler(Sampling(**options)).probabilities(raw, CONTEXT)
    greedy = Sampler(replace(Sampling(**options), temperature=0))
    if bad[0] == INFINITE:  # generate's argmax takes them
        assert greedy.best(raw, CONTEXT)[-1] == 0
        return
    with pytest.raises(ModelError, match="NaN or without any finite value: check its weights and dtype"):
        greedy.best(raw, CONTEXT)


class Forcing:
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, torch.tensor([3]), INFINITE)


def test_scores_that_processors_make_infinite_are_taken_greedily_and_else_refused_by_their_names() -> None:
    assert Sampler(Sampling(temperature=0, logits_processor=[Forcing()])).best(logits(2), CONTEXT).tolist() == [3, 3]
    with pytest.raises(ModelError, match=r"no token can be drawn after the logits processors \(Forcing\)"):
        Sampler(Sampling(logits_processor=[Forcing()])).probabilities(logits(2), CONTEXT)


def test_a_processor_that_answers_nan_is_a_model_error_by_its_name() -> None:
    with pytest.raises(ModelError, match=r"logits processors \(Broken\)"):
        Sampler(Sampling(logits_processor=[Broken()])).probabilities(logits(2), CONTEXT)


def test_greedy_ties_are_those_of_float32_as_in_generate() -> None:
    raw = torch.zeros(1, VOCABULARY, dtype=torch.float64)
    raw[0, 2], raw[0, 5] = 1.0, 1.0 + 1e-12
    assert Sampler(Sampling(temperature=0)).best(raw, CONTEXT).tolist() == [2]


def test_some_infinite_logits_are_just_impossible_tokens() -> None:
    raw = logits(1)
    raw[0, 1:] = -INFINITE
    assert Sampler(Sampling()).probabilities(raw, CONTEXT)[0].tolist() == [1.0] + [0.0] * (VOCABULARY - 1)
    assert Sampler(Sampling(temperature=0)).best(raw, CONTEXT).tolist() == [0]


class Cooler(TemperatureLogitsWarper):
    """Looks at the text, which its class does not."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores / (self.temperature if input_ids.shape[-1] > 2 else 1.0)


def test_a_warper_of_a_users_own_gets_the_text() -> None:
    sampler = Sampler(Sampling(logits_processor=[Cooler(0.5)]))
    raw = torch.randn(2, VOCABULARY, dtype=torch.float64)
    assert not sampler.context_free
    expected = torch.stack([raw[0], raw[1] / 0.5]).softmax(-1)
    torch.testing.assert_close(sampler.probabilities(raw, [1, 2, 3]), expected)
