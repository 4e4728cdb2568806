"""The prompts of a call of `generate`, from the inputs that it prepared. What is no plain prompt is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from specdec.errors import InputError
from specdec.runtime.cache import CACHE_NAMES, stretched_beyond
from specdec.runtime.probe import difference_in_generate

ATTENTION_MASK, POSITION_IDS = "attention_mask", "position_ids"


@dataclass(frozen=True)
class Prompts:
    """Rows of `input_ids`, shape (rows, width), each with so many tokens of padding on its left."""

    input_ids: Tensor
    padding: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.padding)

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return self.input_ids.shape[1]

    def row(self, i: int) -> list[int]:
        """The tokens of a prompt, without padding."""
        return self.input_ids[i, self.padding[i] :].tolist()

    def hidden(self, i: int) -> tuple[int, ...]:
        """The padding of a prompt: logits processors of transformers see it."""
        return tuple(self.input_ids[i, : self.padding[i]].tolist())


def prompts_of(input_ids: Tensor, inputs: dict[str, Any]) -> Prompts:
    """The prompts, if the mask hides nothing but padding on the left, positions count tokens, and no cache is given."""
    for name in CACHE_NAMES:
        cache = inputs.get(name)
        if cache is not None and (getattr(cache, "_is_user_defined", False) or _tokens_held(cache)):
            raise InputError(
                f"{name} cannot be used with a strategy as custom_generate: leave it out, and give the whole prompt"
            )
    mask = inputs.get(ATTENTION_MASK)
    visible = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask != 0
    if visible.shape != input_ids.shape:
        raise InputError(
            f"attention_mask has shape {tuple(visible.shape)} and input_ids {tuple(input_ids.shape)}: give them the same shape"
        )
    padding = (~visible).sum(1)
    if not torch.equal(visible, torch.arange(visible.shape[1], device=visible.device) >= padding.unsqueeze(1)):
        raise InputError(
            "attention_mask hides tokens after the first visible one: pad on the left, and where the pad token stands in a "
            "prompt give a mask of ones for it"
        )
    if not bool(visible.any(1).all()):
        raise InputError("attention_mask hides a whole prompt: leave that prompt out")
    _require_plain_positions(inputs.get(POSITION_IDS), visible)
    return Prompts(input_ids, tuple(padding.tolist()))


def require_own_inputs(model: Any) -> None:
    """Refuse a model whose inputs another prepares, as PEFT does for soft prompts: a strategy feeds tokens alone."""
    prepare = vars(model).get("prepare_inputs_for_generation")
    if prepare is not None:
        other = type(getattr(prepare, "__self__", prepare)).__name__
        raise InputError(
            f"{other} prepares the inputs of this {type(model).__name__}, as for a soft prompt, and a strategy feeds "
            "tokens alone: call generate without custom_generate"
        )


def require_one_border(model: Any, prompts: Prompts, max_new_tokens: int | None) -> None:
    """Refuse padded rows that cross longrope's border: `generate` turns all of them by the angles of the longest."""
    border, shortest = stretched_beyond(model), prompts.width - max(prompts.padding)
    if border is None or not any(prompts.padding) or shortest > border:
        return
    room = border - prompts.width + 1  # the last token is not read
    if max_new_tokens is None or max_new_tokens > room:
        raise InputError(
            f"{model.config.model_type} with longrope turns keys by other angles after {border} tokens, and in a padded batch "
            "by the longest row: decode prompts one at a time, without padding"
        )


def _tokens_held(cache: Any) -> int:
    held = getattr(cache, "get_seq_length", None)
    try:
        return 0 if held is None else int(held())
    except ValueError:  # a cache of recurrent layers alone counts no tokens; here generate has just made it
        return 0


def _require_plain_positions(positions: Tensor | None, visible: Tensor) -> None:
    """Positions must be 0, 1, 2, ... from the first visible token on. Models with several axes count the same on each."""
    plain = visible.long().cumsum(-1) - 1
    if positions is None or (
        positions.shape[-1] == plain.shape[-1] and bool(((positions.to(plain.device) == plain) | ~visible).all())
    ):
        return
    raise InputError(
        "position_ids cannot be used with a strategy as custom_generate, unless they count the tokens of each prompt from 0: "
        "leave it out"
    )


def require_plain_rows(model: Any, prompts: Prompts) -> None:
    """Refuse padding that a model reads, although the mask hides it. Asked once of a model, by a few tokens.

    What `generate` prepares without padding was compared when the pair was made (`specdec.runtime.admission`).
    """
    row = max(range(len(prompts)), key=lambda i: prompts.padding[i])
    padding = prompts.hidden(row)[-3:]
    if not padding:
        return
    found = _DIFFERENCES.setdefault(model, {})
    if len(padding) not in found:
        found[len(padding)] = difference_in_generate(model, (prompts.row(row) * 4)[:4], padding)
    if difference := found[len(padding)]:
        off = "are NaN" if math.isnan(difference) else f"differ by {difference:.2g} from those of the tokens alone"
        raise InputError(
            f"{model.config.model_type} reads padding: its logits {off}: decode prompts one at a time, without padding"
        )


_DIFFERENCES: WeakKeyDictionary[Any, dict[int, float]] = WeakKeyDictionary()
