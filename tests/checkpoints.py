"""Tiny checkpoints on disk, and ways to change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import specdec
from specdec import Pair
from specdec.loading import quiet_transformers
from specdec.testing.models import byte_tokenizer, model

WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstu"]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4bb3783693d0a435\nsize 52283111\n"
UP = "model.layers.1.mlp.up_proj.weight"
PROMPT = [3, 4, 5]

Change = Callable[[Path], object]


def saved(made: Any, folder: Path, **options: Any) -> Path:
    """The folder, with a model in it and the tokenizer of `WORDS`."""
    with quiet_transformers():
        made.save_pretrained(folder, **options)
        byte_tokenizer(WORDS).save_pretrained(folder)
    return folder


def tiny_checkpoint(folder: Path) -> Path:
    """The folder, with a tiny target in float32 and its tokenizer."""
    return saved(model("llama", len(WORDS), seed=1, dtype=torch.float32), folder)


def decoded(pair: Pair, strategy: str = "speculative") -> tuple[int, ...]:
    """Six tokens at temperature 0; without a draft, whatever the strategy, one by one."""
    options: dict[str, Any] = {"draft_length": 2} if pair.draft is not None else {}
    chosen = specdec.create(strategy if pair.draft is not None else "autoregressive", **options)
    return specdec.decode(pair, chosen, PROMPT, max_new_tokens=6, temperature=0, eos=()).tokens


def settings(file: str = "config.json", **changed: Any) -> Change:
    """Other values in a file of JSON."""

    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def weights(edit: Callable[[dict[str, Any]], object], file: str = "model.safetensors") -> Change:
    """Other tensors in a file."""

    def change(folder: Path) -> None:
        held = load_file(folder / file)
        edit(held)
        save_file(held, folder / file, metadata={"format": "pt"})

    return change


def cut(to: int) -> Change:
    """The first bytes of the weights; all but the last ones where `to` is negative."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:to])

    return change


def written(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)
