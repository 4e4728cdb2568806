"""Models and tokenizers from directories and hub names, or refused in one line.

Loads any causal language model of Hugging Face (safetensors only), and makes the models of `specdec.shapes`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from specdec.errors import PairError
from specdec.shapes import build, is_shape


def load_model(name: str | Path, device: str, dtype: str | torch.dtype | None) -> PreTrainedModel:
    """One model in evaluation mode: a shape, or a checkpoint of safetensors."""
    try:
        native = torch.bfloat16 if is_native(torch.bfloat16, device) else torch.float32
        model: Any = build(str(name), device, dtype or native) if is_shape(name) else _checkpoint(name, device, dtype)
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # torch, of a device that is missing or too small
        reason = str(error).partition("\n")[0][:120]
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise PairError(f"device {device} cannot be used ({reason}): available here are {there}") from error


def _checkpoint(name: str | Path, device: str, dtype: str | torch.dtype | None) -> Any:
    here = Path(name).is_dir()
    with quiet_transformers():
        try:
            stored: Any = AutoConfig.from_pretrained(name, local_files_only=here).dtype or torch.float32
            chosen = dtype or (stored if is_native(stored, device) else torch.float32)
            return AutoModelForCausalLM.from_pretrained(name, dtype=chosen, use_safetensors=True, local_files_only=here)
        except (OSError, ValueError, KeyError) as error:
            raise _cannot_load("model", name, error) from error


def is_native(dtype: torch.dtype, device: str) -> bool:
    """Whether the device multiplies the type as fast as float32, or faster."""
    if device.startswith("cpu") and dtype == torch.bfloat16:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return not device.startswith("cpu") or dtype != torch.float16


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """One tokenizer."""
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
        except (OSError, ValueError, KeyError) as error:
            raise _cannot_load("tokenizer", name, error) from error


def require_equal_tokenizers(
    target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase, target_name: str, draft_name: str
) -> None:
    """Refuse a draft whose tokenizer numbers ordinary tokens differently.

    Either may have tokens that the other lacks, and added ones, such as special tokens, may have other names: what the draft
    proposes is verified, whatever it means to the draft. A `RuntimeWarning` says so.
    """
    ours, theirs = ({number: token for token, number in tokenizer.get_vocab().items()} for tokenizer in (target, draft))
    if ours == theirs:
        return
    renamed = [number for number in sorted(ours.keys() & theirs.keys()) if ours[number] != theirs[number]]
    added = target.added_tokens_decoder.keys() & draft.added_tokens_decoder.keys()
    for number in renamed:
        if number not in added:
            raise PairError(
                f"{draft_name} has another tokenizer than {target_name} (they differ at token {ours[number]!r}): "
                "choose a draft of the target's own family"
            )
    differences = [
        *(f"token {number} is {ours[number]!r} in the target and {theirs[number]!r} in the draft" for number in renamed[:1]),
        *(_only("target", ours, theirs), _only("draft", theirs, ours)),
    ]
    warnings.warn(
        f"the tokenizers of {target_name} and {draft_name} differ ({'; '.join(filter(None, differences))}): "
        "the output stays the target's, and the draft never proposes what it lacks",
        RuntimeWarning,
        stacklevel=3,
    )


def _only(name: str, tokens: Mapping[int, str], others: Mapping[int, str]) -> str:
    """Words for the tokens that one tokenizer has alone; empty if there are none."""
    extra = sorted(tokens.keys() - others.keys())
    more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
    return f"only the {name} has {tokens[extra[0]]!r}{more}" if extra else ""


def _cannot_load(what: str, name: str | Path, error: Exception) -> PairError:
    if not Path(name).exists():
        return PairError(f"{what} {str(name)!r} is no directory here, and could not be had from the hub: check the name")
    reason = " ".join(str(error).split())[:200]
    return PairError(f"{what} {str(name)!r} could not be loaded ({reason}): it needs config.json, a tokenizer and safetensors")


class quiet_transformers:
    """No progress bars or warnings of transformers in the block."""

    def __enter__(self) -> None:
        self._bar = transformers_logging.is_progress_bar_enabled()
        self._level = transformers_logging.get_verbosity()
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        transformers_logging.set_verbosity(self._level)
        if self._bar:
            transformers_logging.enable_progress_bar()
