"""What a model is loaded from: a name, where to put it, its number format, and options of `from_pretrained`. Loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from specdec.errors import InputError, PairError
from specdec.inputs import did_you_mean
from specdec.own_layers import is_self_draft
from specdec.shapes import is_shape

OF_ONE = (
    "revision",
    "subfolder",
    "variant",
    "gguf_file",
    "quantization_config",
    "device_map",
    "max_memory",
    "offload_folder",
    "distributed_config",
)
"""Options of one checkpoint. Plain, they are the target's; with `draft_` before them, the draft's."""

OF_BOTH = ("trust_remote_code", "attn_implementation", "experts_implementation", "token", "cache_dir")
"""Options of both checkpoints, as `device` is. With `draft_` before them, they are the draft's alone."""

DRAFT = "draft_"

DTYPES = ("float64", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Source:
    """One model to load.

    `device`    where to put it, unless `options` say that
    `dtype`     its number format; `None` for the checkpoint's
    `options`   what `from_pretrained` is given besides; none of them is `None`
    """

    name: str
    device: str
    dtype: torch.dtype | None
    options: Mapping[str, Any]

    @property
    def folder(self) -> Path | None:
        """Where its files lie, which is the hub's cache for a name of the hub; `None` where nothing is there."""
        folder = Path(self.name)
        if not folder.is_dir():
            try:
                cached = try_to_load_from_cache(self.name, "config.json", **self.some("cache_dir", "revision"))
            except HFValidationError:  # no name that the hub could have
                return None
            if not isinstance(cached, str):
                return None
            folder = Path(cached).parent
        folder /= self.options.get("subfolder", "")
        return folder if folder.is_dir() else None

    def some(self, *names: str) -> dict[str, Any]:
        """The options among `names` that were given."""
        return {name: self.options[name] for name in names if name in self.options}


def sources(
    target: str | Path,
    draft: str | Path | None,
    *,
    device: str | torch.device | None,
    draft_device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    options: Mapping[str, Any],
) -> list[Source]:
    """The models of a pair that are loaded, the target first. A draft of the target's own layers is not among them.

    Raises `InputError` for options that are unknown or make no sense.
    """
    device, draft_device = (None if one is None else str(one) for one in (device, draft_device))
    given = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name.removeprefix(DRAFT) not in (*OF_ONE, *OF_BOTH):
            known = [*OF_ONE, *OF_BOTH, *(DRAFT + one for one in (*OF_ONE, *OF_BOTH))]
            raise InputError(
                f"unknown option {name!r}: {did_you_mean(name, known) or 'there are ' + ', '.join(OF_ONE + OF_BOTH)}"
            )
    for_draft = [*(name for name in given if name.startswith(DRAFT)), *(["draft_device"] if draft_device else [])]
    if draft is None and for_draft:
        raise InputError(f"{for_draft[0]} is for a draft, and there is none: give a draft too")
    if is_self_draft(target):
        raise InputError(f"{target} names layers of a target, and stands for the target: give it as the draft")
    if is_self_draft(draft) and for_draft:
        raise InputError(f"{for_draft[0]} is for a draft that is loaded, and {draft} is made of the target: leave it out")
    targets = {name: value for name, value in given.items() if not name.startswith(DRAFT)}
    drafts = {name.removeprefix(DRAFT): value for name, value in given.items() if name.startswith(DRAFT)}
    _check(str(target), device, targets)
    usual, number_format = device or ("cuda" if torch.cuda.is_available() else "cpu"), _dtype(dtype)
    found = [Source(str(target), usual, number_format, targets)]
    if draft is not None and not is_self_draft(draft):
        _check(str(draft), draft_device, drafts, prefix=DRAFT)
        shared = {} if is_shape(draft) else {name: targets[name] for name in OF_BOTH if name in targets}
        found.append(Source(str(draft), draft_device or usual, number_format, shared | drafts))
    return found


def _check(name: str, device: str | None, options: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse options that mean nothing for a model of this kind."""
    if options and is_shape(name):
        raise InputError(
            f"{prefix}{next(iter(options))} is for checkpoints, and {name} has random weights: leave the option out"
        )
    if "revision" in options and Path(name).is_dir():
        raise InputError(f"{prefix}revision is for names of the hub, and {name!r} is a directory: leave the option out")
    for placing in ("device_map", "distributed_config"):
        if device is not None and placing in options:
            raise InputError(f"{prefix}{placing} says where the model lies, and so does {prefix}device: give one of them")
    for limit in ("max_memory", "offload_folder"):
        if limit in options and "device_map" not in options:
            spread = f"{prefix}device_map spreads, and there is none: give {prefix}device_map='auto', or leave the option out"
            raise InputError(f"{prefix}{limit} is for a model that {spread}")


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
    if name in (None, "auto"):
        return None
    if name not in DTYPES:
        raise PairError(
            f"a pair cannot have dtype {name!r}: choose one of {', '.join(DTYPES)}, or auto for the checkpoint's own"
        )
    return getattr(torch, name)
