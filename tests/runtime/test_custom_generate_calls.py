"""Calls of `generate` with a strategy: batches, streamers, scores, and what is refused because of its value."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from keywords_of_generate import (
    BATCH,
    DRAFT,
    ENDS,
    IDS,
    PADDED,
    SAMPLED,
    TARGET,
    TOKENIZER,
    Even,
    asked,
    difference,
    forced,
    generated,
)
from tiny_models import Broken, minuscule
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    WatermarkLogitsProcessor,
)

import specdec
from specdec import InputError, ModelError, Pair, handover
from specdec.huggingface import rows
from specdec.sampling import own_copy
from specdec.testing.models import resembling

SPECULATIVE = specdec.create("speculative", draft_length=3)
STRATEGIES = [SPECULATIVE, specdec.create("pearl", draft_length=3)]

both = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)


def listed(*processors: Any) -> dict[str, Any]:
    return {"logits_processor": LogitsProcessorList(processors)}


# --- batches


@dataclass
class Unhashable(Even):
    """An own processor that is equal to others, and cannot be hashed."""

    strength: float = 1.0


@both
@pytest.mark.parametrize(
    "keywords",
    [
        PADDED | ENDS,
        SAMPLED | PADDED | ENDS | {"repetition_penalty": 1.4, "min_new_tokens": 3, "temperature": 1.5},
        SAMPLED | ENDS | {"num_return_sequences": 4, "no_repeat_ngram_size": 2},
        PADDED | ENDS | {"tokenizer": TOKENIZER, "stop_strings": ["f", "ab"]},
        PADDED | listed(RepetitionPenaltyLogitsProcessor(1.9, prompt_ignore_length=5)),
        PADDED | listed(RepetitionPenaltyLogitsProcessor(1.9, prompt_ignore_length=torch.tensor([7, 4, 0]))),
        {"inputs": BATCH[:1], "attention_mask": PADDED["attention_mask"][:1]} | listed(Even()),
        {"inputs": BATCH[:1], "attention_mask": PADDED["attention_mask"][:1]} | listed(Unhashable()),
        {"inputs": BATCH[2:], "attention_mask": PADDED["attention_mask"][2:]} | listed(Unhashable()),
    ],
    ids=[
        "ends",
        "several",
        "samples",
        "strings",
        "whole prompts",
        "parts of prompts",
        "own processor",
        "unhashable",
        "unhashable, padded",
    ],
)
def test_rows_of_a_batch_have_the_law_of_generate(
    keywords: dict[str, Any], strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert difference(strategy, asked(**keywords), monkeypatch) is None


def test_samples_of_a_prompt_differ_and_a_seed_reproduces_them() -> None:
    keywords = asked(**SAMPLED, num_return_sequences=8)
    outputs: list[Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(generated(SPECULATIVE, keywords))
    assert len(outputs[0].unique(dim=0)) == 8
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_padding_of_a_row_is_seen_by_its_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "padded", lambda input_ids, _: input_ids)
    assert difference(SPECULATIVE, asked(**PADDED, **ENDS, min_length=13), monkeypatch) is not None


def test_rows_share_a_forward_unless_their_processors_differ() -> None:
    of: Any = TARGET
    widths: list[int] = []
    with_pads = asked(**PADDED, repetition_penalty=1.3, temperature=0.7, do_sample=True)
    pair = Pair(of, DRAFT, lane="inline", eager=True)
    handle = of.register_forward_pre_hook(lambda _, args, options: widths.append(len(options["input_ids"])), with_kwargs=True)
    try:
        generated(SPECULATIVE, with_pads | {"draft": pair})
    finally:
        handle.remove()
    assert max(widths) == 3


def test_dtype_and_device_are_those_of_generate() -> None:
    for dtype in (torch.int32, torch.int64):
        ours, theirs = (generated(strategy, asked(inputs=IDS.to(dtype))) for strategy in (SPECULATIVE, None))
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)


def test_processors_of_a_row_can_be_sent_to_a_process() -> None:
    alone = rows.InBatch(RepetitionPenaltyLogitsProcessor(1.9), 0, 1, (3, 4))
    assert pickle.loads(pickle.dumps(alone)).padding == (3, 4)


def test_each_model_has_a_copy_of_what_a_row_is_processed_by() -> None:
    device = torch.device("meta")
    tokens, dice = SuppressTokensAtBeginLogitsProcessor([1], 2), WatermarkLogitsProcessor(12, "cpu")
    own_tokens = own_copy(rows.InBatch(tokens, 0, 1, (3, 4)), device).processor
    assert (own_tokens.begin_suppress_tokens.device, tokens.begin_suppress_tokens.device) == (device, torch.device("cpu"))
    own_dice = own_copy(rows.InBatch(dice, 0, 1, (3, 4)), torch.device("cpu")).processor
    assert own_dice.rng is not dice.rng


def test_processors_that_lead_back_to_each_other_are_copied_once() -> None:
    first: Any = Even()
    second: Any = Even()
    first.other, second.other = second, first
    twin = own_copy(first, torch.device("cpu"))
    assert twin.other.other is twin is not first


# --- streamers


class Recorder:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[list[Any]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.got.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


@both
@pytest.mark.parametrize("keywords", [{}, ENDS, PADDED | ENDS], ids=["one", "one that ends", "batch"])
def test_a_streamer_gets_what_generate_gives_it(keywords: dict[str, Any], strategy: Any) -> None:
    ours, theirs = Recorder(), Recorder()
    generated(strategy, asked(**keywords, streamer=ours))
    generated(None, asked(**keywords, streamer=theirs))
    assert (ours.got, ours.ended) == (theirs.got, 1)


@pytest.mark.parametrize(
    ("keywords", "error"),
    [({"guidance_scale": 2.0}, InputError), ({"draft": "name"}, InputError), (listed(Broken()), ModelError)],
)
def test_a_streamer_is_ended_after_an_error(keywords: dict[str, Any], error: type[Exception]) -> None:
    streamer = Recorder()
    with pytest.raises(error):
        generated(specdec.create("autoregressive"), asked(**keywords, streamer=streamer))
    assert streamer.ended == 1


def test_what_generate_keeps_is_handed_over_when_transformers_is_imported_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "class GenerationMixin:\n"
        "    def _extract_generation_mode_kwargs(self, custom_generate, kwargs, streamer):\n"
        "        return {'draft': kwargs['draft']} if custom_generate else {'streamer': streamer}\n"
    )
    (tmp_path / "imported_later.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(handover, "MODULE", "imported_later")
    finders = list(sys.meta_path)
    handover.hand_over_to(Recorder)
    from imported_later import GenerationMixin  # type: ignore[import-not-found]

    collect = GenerationMixin()._extract_generation_mode_kwargs
    assert collect(Recorder(), {"draft": 1}, 2) == {"streamer": 2, "draft": 1}
    assert collect(len, {"draft": 1}, 2) == {"draft": 1}
    assert sys.meta_path == finders


# --- dictionaries


@both
@pytest.mark.parametrize("keywords", [{}, PADDED | ENDS | {"repetition_penalty": 1.4}], ids=["one", "batch"])
def test_scores_logits_and_the_cache_are_those_of_generate(
    keywords: dict[str, Any], strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = asked(**SAMPLED, **keywords, return_dict_in_generate=True, output_logits=True)
    ours = generated(strategy, shown | {"output_scores": True})
    theirs = forced(shown, ours.sequences[:, IDS.shape[1] :], monkeypatch)
    assert type(ours) is type(theirs)
    assert torch.equal(ours.sequences, theirs.sequences)
    for name in ("scores", "logits"):
        assert all(a.dtype == b.dtype for a, b in zip(ours[name], theirs[name], strict=True))
        torch.testing.assert_close(ours[name], theirs[name])
    for own, other in zip(ours.past_key_values.layers, theirs.past_key_values.layers, strict=True):
        torch.testing.assert_close((own.keys, own.values), (other.keys, other.values))


def test_a_dictionary_holds_what_is_asked_for() -> None:
    output = generated(SPECULATIVE, asked(return_dict_in_generate=True))
    assert torch.equal(output.sequences, generated(None, asked()))
    assert (output.scores, output.logits) == (None, None)
    assert torch.is_tensor(generated(SPECULATIVE, asked(output_logits=True)))


@pytest.mark.parametrize("lane", [None, "inline"])
def test_a_model_in_training_is_asked_in_evaluation_mode_and_left_in_training(lane: str | None) -> None:
    of = minuscule(20, seed=3, attention_dropout=0.9, num_hidden_layers=2, dtype=torch.float32)
    calm: Any = resembling(of, 0.0)
    draft = DRAFT if lane is None else Pair(of, DRAFT, lane=lane)
    ask = asked(**PADDED, return_dict_in_generate=True, output_logits=True)
    of.train()
    of.model.layers[1].eval()
    ours, theirs = of.generate(**ask, custom_generate=SPECULATIVE, draft=draft), calm.generate(**ask)
    torch.testing.assert_close(ours.logits, theirs.logits)
    assert [module.training for module in (of, *of.model.layers)] == [True, True, False]
