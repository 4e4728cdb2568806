"""What becomes of one type of model: equal to `generate`, refused, or wrong.

A tiny model of the type decodes greedily by every strategy, alone and in a batch, with a noisy copy of itself as draft. What
`model.generate(do_sample=False)` says is right, by definition.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from sweep.models import VOCABULARY, build

from specdec import DecodingStrategy, Pair, decode
from specdec.errors import PairError
from specdec.testing.models import greedy_tokens, resembling
from strategies import Autoregressive, Pearl, Speculative

STRATEGIES = (Autoregressive(), Speculative(draft_length=3), Pearl(draft_length=3))
LENGTHS = (5, 12, 19)
"""Tokens of the prompts: the first is shorter than a sliding window, the last longer than two."""
NEW_TOKENS = 24


@dataclass(frozen=True)
class Verdict:
    """How one type fared.

    `outcome`  `equal`, `refused`, `not built`, or what must not be: `WRONG` for other tokens, `CRASH` for any other end
    `why`      the refusal, the failure, or the first place that differs
    `notes`    what else is worth knowing, such as a `generate` that differs from forwards without a cache
    """

    model_type: str
    outcome: str
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.outcome not in ("WRONG", "CRASH")


def judge(
    model_type: str,
    *,
    image_text: bool = False,
    lengths: Sequence[int] = LENGTHS,
    new_tokens: int = NEW_TOKENS,
    strategies: Sequence[DecodingStrategy] = STRATEGIES,
    thorough: bool = True,
    device: str = "cpu",
) -> Verdict:
    """The verdict on one type; with notes if it is to be `thorough`."""
    verdict = partial(Verdict, model_type)
    try:
        with warnings.catch_warnings(action="ignore"):
            target = build(model_type, image_text=image_text)
            draft = resembling(target, noise=0.15).to(device)
            target.to(device)
            prompts = [made_up(length) for length in lengths]
    except Exception as error:
        return verdict("not built", told(error))
    wanted, notes = said_by_generate(target, prompts, new_tokens, thorough)
    try:
        with warnings.catch_warnings(action="ignore"):
            for which, found in decoded(target, draft, prompts, new_tokens, strategies):
                if (difference := first_difference(found, wanted)) is not None:
                    return verdict("WRONG", f"{which}: {difference}", notes)
    except PairError as error:
        lines = str(error).splitlines()
        return verdict("refused" if len(lines) == 1 else "CRASH", " ".join(lines), notes)
    except Exception as error:
        return verdict("CRASH", told(error), notes)
    return verdict("equal", notes=notes)


Tokens = tuple[int, ...]


def made_up(length: int) -> Tokens:
    """A prompt without special tokens."""
    return tuple(4 + (7 * i * i + 11 * i) % (VOCABULARY - 4) for i in range(length))


def said_by_generate(
    model: Any, prompts: Sequence[Tokens], new_tokens: int, thorough: bool
) -> tuple[list[Tokens] | None, tuple[str, ...]]:
    """What `generate` says, or `None` where it fails; and notes on it."""
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
            wanted = [generated(model, prompt, new_tokens) for prompt in prompts]
    except Exception as error:
        return None, (f"generate itself fails: {told(error)}",)
    notes: list[str] = []
    if not thorough:
        return wanted, ()
    try:
        with warnings.catch_warnings(action="ignore"):
            plain = [greedy_tokens(model, prompt, new_tokens) for prompt in prompts]
            blind = [greedy_tokens(model, prompt[-1:], new_tokens) for prompt in prompts]
        if plain != wanted:
            notes.append("generate differs from forwards without a cache")
        if blind == wanted:
            notes.append("weak: the context does not matter")
    except Exception as error:
        notes.append(f"no forward without a cache: {told(error)}")
    return wanted, tuple(notes)


def generated(model: Any, prompt: Tokens, new_tokens: int) -> Tokens:
    ids = torch.tensor([prompt], device=model.device)
    said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens)
    return tuple(said[0, len(prompt) :].tolist())


def decoded(
    target: Any, draft: Any, prompts: Sequence[Tokens], new_tokens: int, strategies: Sequence[DecodingStrategy]
) -> Iterator[tuple[str, list[Tokens]]]:
    """What each strategy says, alone and in a batch."""
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "temperature": 0, "eos": ()}
    with Pair(target, draft, lane="inline") as pair:
        for strategy in strategies:
            alone = [decode(pair, strategy, prompt, **options) for prompt in prompts]
            together = decode(pair, strategy, prompts, batch_size=len(prompts), **options)
            for which, results in (("alone", alone), ("in a batch", together)):
                failure = next((it.statistics.draft_failure for it in results if it.statistics.draft_failure), None)
                if failure is not None:
                    raise RuntimeError(f"{strategy.name} {which}: the draft failed: {failure}")
                yield f"{strategy.name} {which}", [it.tokens for it in results]


def first_difference(found: Sequence[Tokens], wanted: Sequence[Tokens] | None) -> str | None:
    """Where two sets of outputs part; `None` where they are equal."""
    if wanted is None:
        return "tokens where generate fails"
    for number, (ours, right) in enumerate(zip(found, wanted, strict=True)):
        if ours != right:
            at = next((i for i, (a, b) in enumerate(zip(ours, right, strict=False)) if a != b), min(len(ours), len(right)))
            return f"prompt {number + 1} differs from token {at + 1} on"
    return None


def told(error: BaseException) -> str:
    """An error in one line: its kind, its message and its place."""
    place = extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:160]} ({Path(place.filename).name}:{place.lineno})"
