"""Every type of model: its tokens are those of `generate`, or it is refused in one line.

`make test` tries a sample of types. `make sweep` tries all of them, which takes some ten minutes on two cores, and writes the
page `docs/reference/models.md`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import ClassVar

import pytest
import torch
from sweep.every import causal_types, image_text_types, in_a_process, sweep
from sweep.models import build
from sweep.page import PAGE, page
from sweep.verdict import Verdict, first_difference, judge

from specdec import Committed, DecodingStrategy, Draft, Program, Score, State, Verify

EQUAL = (
    *("llama", "qwen3", "mistral", "gemma2", "gemma4_text", "gpt2", "gptj", "opt", "bloom", "falcon", "phi3", "bart"),
    *("roberta", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text", "cohere2"),
)
"""One of each kind of attention, of positions, of windows and of experts."""
HYBRID = ("qwen3_next", "lfm2")
"""Recurrent layers, or convolutions, beside attention."""
REFUSED = ("mamba", "rwkv", "openai-gpt", "prophetnet")
"""Types that are right for one token at a time only, that keep no cache, or whose cache is wrong."""


def short(model_type: str) -> Verdict:
    return judge(model_type, lengths=(5, 12), new_tokens=10, thorough=False)


@pytest.mark.parametrize("model_type", EQUAL + HYBRID)
def test_tokens_are_those_of_generate(model_type: str) -> None:
    assert short(model_type) == Verdict(model_type, "equal")


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_right_is_refused_by_name(model_type: str) -> None:
    verdict = short(model_type)
    assert verdict.outcome == "refused", verdict
    assert verdict.why.startswith(model_type)


@dataclass(frozen=True)
class AcceptsAll(DecodingStrategy):
    """Commits every guess, as if verification had accepted it."""

    name: ClassVar[str] = "accepts_all"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, state.pending, 3)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(replace(verdict, tokens=Committed(guess.tokens + verdict.tokens.tokens[-1:])))


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gpt2"])
def test_wrong_tokens_are_seen(model_type: str) -> None:
    verdict = judge(model_type, lengths=(5, 12), strategies=[AcceptsAll()])
    assert verdict.outcome == "WRONG"
    assert "accepts_all alone: prompt" in verdict.why


def test_a_type_that_cannot_be_made_is_no_success() -> None:
    assert judge("no such type").outcome == "not built"


def test_the_first_difference_is_named() -> None:
    assert first_difference([(1, 2, 3)], [(1, 2, 3)]) is None
    assert first_difference([(1, 2, 3), (4, 5)], [(1, 2, 3), (4, 6)]) == "prompt 2 differs from token 2 on"
    assert first_difference([(1, 2)], [(1, 2, 3)]) == "prompt 1 differs from token 3 on"
    assert first_difference([(1, 2)], None) == "tokens where generate fails"


def test_a_hybrid_has_layers_of_both_kinds() -> None:
    assert {*build("qwen3_next").config.layer_types} == {"linear_attention", "full_attention"}
    assert {*build("gemma3_text").config.layer_types} == {"sliding_attention", "full_attention"}


def die(answer: Connection, model_type: str, image_text: bool, device: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_a_crash() -> None:
    verdict = in_a_process(multiprocessing.get_context("spawn"), "llama", False, work=die)
    assert verdict == Verdict("llama", "CRASH", "the process died (-9)")


def test_page() -> None:
    text = page(
        [Verdict("a", "equal"), Verdict("b", "WRONG", "x | y", ("odd_note",))], [Verdict("c", "refused", "why")], "a CPU"
    )
    assert "| causal language models (2) | 1 | 0 | 1 |" in text
    assert ", a CPU)" in text
    assert "**Equal:** `a`." in text
    assert "**Equal:** none." in text
    assert text.index("| `b` | WRONG | x \\| y; odd\\_note |") < text.index("| `c` | refused | why |")
    text = page([Verdict("a", "equal", notes=("odd",)), Verdict("b", "CRASH")], [], "a CPU")
    assert text.index("| `b` | CRASH |") < text.index("| `a` | equal | odd |")


@pytest.mark.sweep
@pytest.mark.timeout(4 * 3600)
def test_every_type() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    causal = list(sweep(causal_types(), device=device))
    image_text = list(sweep(image_text_types(), image_text=True, device=device))
    PAGE.write_text(page(causal, image_text, torch.cuda.get_device_name() if device == "cuda" else "a CPU"))
    bad = [f"{it.model_type}: {it.outcome}, {it.why}" for it in (*causal, *image_text) if not it.good]
    assert not bad, "\n".join(bad)
