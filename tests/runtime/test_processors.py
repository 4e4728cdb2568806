"""Logits processors that keep a state are found before the first token, and refused by name; all others are let through."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from decodes import inline, strategies
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, SynthIDTextWatermarkingConfig

import specdec
from specdec import DecodingStrategy, InputError, Pair, decode
from specdec.processors import STATELESS, memory, require_no_memory
from specdec.runtime.cache import cache_name
from specdec.settings import Options, resolve
from specdec.testing.models import model, resembling

VOCABULARY = 48
PROMPT = (3, 5, 7, 2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pair() -> Pair:
    target = model("llama", VOCABULARY, seed=8)
    return inline(target, resembling(target, 0.2))


def without(scores: Tensor, token: int) -> Tensor:
    scores[:, token % VOCABULARY] = -float("inf")
    return scores


class Counting:
    """Forbids another token in each step, as a grammar does that advances with every call."""

    def __init__(self, period: int = 7) -> None:
        self.period, self.step = period, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.step += 1
        return without(scores, self.step % self.period)


class Budget:
    """Forces an end after a thousand calls: its answers are the same for long."""

    calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        return without(scores, 1) if self.calls < 1000 else scores


class Grammar:
    """Reads the newest token of every call, as a matcher of a grammar does."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.read.append(int(input_ids[0, -1]))
        return without(scores, sum(self.read))


class Seen:
    """Forbids what it has ever read. A repeated call changes nothing."""

    def __init__(self) -> None:
        self.tokens: set[int] = set()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.tokens.add(int(input_ids[0, -1]))
        scores[:, list(self.tokens)] = -float("inf")
        return scores


class Locked(Counting):
    """The same, and it cannot be copied."""

    def __init__(self) -> None:
        super().__init__(2)
        self.lock = threading.Lock()


class Guided:
    """Runs a model with a cache of its own, which it must not have copied to be tested."""

    def __init__(self, of: Any) -> None:
        self.model, self.cache = of, None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with torch.inference_mode():
            name = cache_name(self.model) or ""
            output = self.model(input_ids[:, -1:], **{name: self.cache}, use_cache=True)
        self.cache = getattr(output, name)
        return scores + output.logits[:, -1]

    def __deepcopy__(self, memo: dict[int, Any]) -> Guided:
        assert id(self.model) in memo
        twin = Guided(self.model)
        twin.cache = self.cache
        return twin


def counting_closure() -> Callable[[Tensor, Tensor], Tensor]:
    calls = 0

    def process(input_ids: Tensor, scores: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return without(scores, calls % 2)

    return process


def noisy(input_ids: Tensor, scores: Tensor) -> Tensor:
    return scores + random.random()


STATEFUL: dict[str, Callable[[Pair], Any]] = {
    "counting": lambda pair: Counting(),
    "counting to two": lambda pair: Counting(2),
    "budget": lambda pair: Budget(),
    "grammar": lambda pair: Grammar(),
    "seen": lambda pair: Seen(),
    "locked": lambda pair: Locked(),
    "guided": lambda pair: Guided(pair.target),
    "closure": lambda pair: counting_closure(),
    "noisy": lambda pair: noisy,
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_processor_that_keeps_a_state_is_refused_by_name(pair: Pair, name: str) -> None:
    made = STATEFUL[name](pair)
    for strategy in ("autoregressive", "speculative"):
        with pytest.raises(InputError, match=f"logits processor {type(made).__name__} keeps a state") as refused:
            decode(pair, specdec.create(strategy), PROMPT, logits_processor=[made], temperature=0)
        assert "\n" not in str(refused.value)
    if name in ("counting", "grammar"):
        assert vars(made) == vars(STATEFUL[name](pair))  # copies were tested


# --- what only looks like a state


class Lock:
    """Cannot be copied, and keeps nothing."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        with self.lock:
            return without(scores, int(input_ids.sum()))


class Remembering:
    """A cache of answers, which changes none."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], int] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        key = tuple(input_ids[0].tolist())
        return without(scores, self.known.setdefault(key, sum(key)))


class Following:
    """Goes on from the context that it saw last if that was the beginning of this one, and begins again otherwise."""

    def __init__(self) -> None:
        self.seen, self.total = [0], 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens = input_ids[0].tolist()
        if tokens[: len(self.seen)] != self.seen:
            self.seen, self.total = [], 0
        self.total += sum(tokens[len(self.seen) :])
        self.seen = tokens
        return without(scores, self.total)


class Trie:
    """Knows only contexts that it allows itself: any other is a `KeyError`."""

    def __init__(self) -> None:
        self.me = self

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if any(token % 2 for token in input_ids[0, len(PROMPT) :].tolist()):
            raise KeyError
        scores[:, 1::2] = -float("inf")
        return scores


def forbidding(input_ids: Tensor, scores: Tensor) -> Tensor:
    return without(scores, 4)


@pytest.mark.parametrize("kind", [Lock, Remembering, Following, Trie, lambda: forbidding], ids=lambda kind: kind.__name__)
def test_a_processor_whose_answer_depends_on_its_arguments_alone_is_let_through(pair: Pair, kind: Callable[[], Any]) -> None:
    made = kind()
    ids = torch.tensor([PROMPT])
    target: Any = pair.target
    options = {"max_new_tokens": 12, "logits_processor": LogitsProcessorList([made])}
    expected = target.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)[0, len(PROMPT) :]
    for strategy in ("speculative", "pearl"):
        found = decode(pair, specdec.create(strategy, draft_length=3), PROMPT, temperature=0, **options)
        assert found.tokens == tuple(expected.tolist())


# --- processors of transformers

EVERYTHING: dict[str, Any] = {
    "eos_token_id": 5,
    "encoder_repetition_penalty": 1.1,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 9,
    "bad_words_ids": [[7, 8]],
    "sequence_bias": [[[1], 2.0]],
    "min_length": 9,
    "min_new_tokens": 3,
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 5,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (2, 1.2),
    "suppress_tokens": [6],
    "begin_suppress_tokens": [9],
    "do_sample": True,
    "temperature": 0.8,
    "top_h": 0.9,
    "top_k": 30,
    "top_p": 0.9,
    "min_p": 0.01,
    "typical_p": 0.95,
    "epsilon_cutoff": 0.001,
    "eta_cutoff": 0.001,
    "watermarking_config": {"bias": 2.0},
    "renormalize_logits": True,
}


def test_processors_that_are_not_tested_keep_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each processor that the configuration can make; so a list of their names may save the test."""
    monkeypatch.setattr(pair.target, "generation_config", GenerationConfig(**EVERYTHING))
    chain = resolve(pair.target, PROMPT, Options()).sampling.logits_processor
    assert {type(processor) for processor in chain} == STATELESS
    for processor in chain:
        assert memory(processor, PROMPT, VOCABULARY, CPU) is None, processor
    monkeypatch.setattr("specdec.processors.memory", lambda *_: "tested")
    require_no_memory(chain, PROMPT, VOCABULARY, CPU)


@pytest.mark.parametrize("option", ["guidance_scale", "watermarking_config"])
def test_those_that_keep_a_state_are_refused_with_the_setting_that_makes_them(pair: Pair, option: str) -> None:
    value = 1.5 if option == "guidance_scale" else SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)
    target: Any = pair.target
    ids = torch.tensor([PROMPT])
    with pytest.raises(InputError, match=f"{option}.* leave it out|keeps a state between its calls .*leave {option} out"):
        target.generate(
            ids, max_new_tokens=4, custom_generate=specdec.create("pearl", draft_length=2), draft=pair, **{option: value}
        )


def test_a_watermark_of_the_checkpoint_that_keeps_a_state_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    own = GenerationConfig(watermarking_config=SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3))
    monkeypatch.setattr(pair.target, "generation_config", own)
    with pytest.raises(InputError, match="SynthIDTextWatermarkLogitsProcessor keeps a state"):
        decode(pair, specdec.create("autoregressive"), PROMPT)


def test_attributes_that_lead_back_are_compared_all_the_same() -> None:
    ring: Any = SimpleNamespace()
    ring.next = ring

    class Round:
        def __init__(self) -> None:
            self.ring, self.calls = ring, [0]

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            self.calls[0] += 1
            return scores

    assert memory(Round(), PROMPT, VOCABULARY, CPU) == "each call changes its calls"


class Forcing:
    """Forces the token that follows from the newest one, by a score of +inf."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(1, (5 * input_ids[0, -1:] + 3) % VOCABULARY, torch.inf)


@pytest.mark.parametrize("strategy", strategies(4), ids=str)
def test_a_token_that_is_forced_by_an_infinite_score_is_drafted_and_foreseen(strategy: DecodingStrategy, pair: Pair) -> None:
    target: Any = pair.target
    ids, forcing = torch.tensor([PROMPT]), [Forcing()]
    options: dict[str, Any] = {"max_new_tokens": 12, "logits_processor": LogitsProcessorList(forcing)}  # type: ignore[arg-type]
    theirs = target.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, **options)
    found = decode(pair, strategy, PROMPT, max_new_tokens=12, temperature=0, eos=(), logits_processor=forcing)
    assert found.tokens == tuple(theirs[0, len(PROMPT) :].tolist())
    assert not strategy.drafts or found.statistics.accepted_tokens > 0
