"""What tests of decoding share: every strategy, pairs that work inline, prompts, and transformers' own output."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import torch

import specdec
from specdec import DecodingStrategy, Pair, Program
from specdec.effects import drive
from specdec.runtime.engine import Engine
from specdec.runtime.slot import Slot
from strategies.lengths import Confident

Tokens = tuple[int, ...]

GREEDY_VOCABULARY, GREEDY_TOKENS, GREEDY_PROMPTS = 24, 8, 100

WORDS = ["a", "b", "c", "d", "e", "f", "Ġ", "Ã", "©", "ab", "cd", "Ġe", "bc", "!", "?", "Ċ", "â", "Ĥ", "¬", "xyz"]
"""Tokens of one to three bytes; `Ã©` is é in two tokens, `âĤ¬` the euro sign in three."""


def strategies(*lengths: int) -> list[DecodingStrategy]:
    """Every installed strategy with these draft lengths, and one that stops on confidence; none that chooses among others."""
    chosen: list[DecodingStrategy] = []
    for name, cls in specdec.available().items():
        if name == "adaptive":
            continue
        bound = {"autoregressive": None, "elastic": "most_drafted"}.get(name, "draft_length")
        chosen += [cls(**{bound: length}) for length in lengths] if bound else [cls()]
    return [*chosen, specdec.create("speculative", draft_length=Confident(max(lengths), 0.5))]


def inline(target: Any, draft: Any, **more: Any) -> Pair:
    return Pair(target, draft, lane="inline", **more)


def random_prompts(count: int, vocabulary: int, longest: int, seed: int = 0) -> list[Tokens]:
    source = random.Random(seed)
    return [tuple(source.randrange(vocabulary) for _ in range(source.randint(1, longest))) for _ in range(count)]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Prompts over a vocabulary of 12, of which some are much longer than others."""
    source = random.Random(seed)
    return [[source.randrange(12) for _ in range(source.choice([1, 2, 5, 30]))] for _ in range(count)]


def generated(target: Any, prompt: Tokens, new_tokens: int) -> Tokens:
    """What transformers makes of it."""
    ids = torch.tensor([prompt])
    output = target.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0, use_cache=True
    )
    return tuple(output[0, len(prompt) :].tolist())


def one_round(engine: Engine, slot: Slot, program: Program[Any]) -> Any:
    """What a round of one sequence returns, which has both lanes to itself."""
    waiting = drive(program, partial(engine.answer, slot))
    while True:
        try:
            engine.work([next(waiting)])
        except StopIteration as finished:
            return finished.value
