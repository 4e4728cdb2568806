"""Sizes of models: what decides how long a forward takes, and how much memory a model and its cache need.

A size comes from the `config.json` of a model, or from a catalogue of well-known ones (`sim/data/models.json`), whose sizes
were computed from their configs in the same way. Keys and values are counted with 2 bytes each.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from specdec import InputError
from specdec.inputs import did_you_mean

BYTES = 2.0


@dataclass(frozen=True)
class ModelSize:
    """What decides how long a model's forward takes.

    `parameters`                   how many
    `cache_bytes_per_token`        bytes of keys and values that a token adds to the cache
    `bytes_per_parameter`          mean bytes of a stored weight: 2 for 16 bits
    `layers`, `hidden`             layers, and the numbers between two of them
    `lookup_parameters`            tables of which a forward reads one row for each token, not all
    `experts`                      routed experts of a layer; 1 for a dense model
    `experts_per_token`            how many of them a token uses
    `expert_parameters`            those of `parameters` that are in routed experts
    `expert_bytes_per_parameter`   mean bytes of their weights
    `key_heads`                    heads of keys and values: the cache is split over at most as many GPUs, then copied
    `window`                       tokens that layers with a sliding window read; 0: there are none
    `window_bytes_per_token`       share of `cache_bytes_per_token` that is in these layers
    """

    parameters: float
    cache_bytes_per_token: float
    bytes_per_parameter: float = BYTES
    layers: int = 0
    hidden: int = 0
    lookup_parameters: float = 0.0
    experts: int = 1
    experts_per_token: int = 1
    expert_parameters: float = 0.0
    expert_bytes_per_parameter: float = BYTES
    key_heads: int | None = None
    window: int = 0
    window_bytes_per_token: float = 0.0

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.parameters * self.bytes_per_parameter

    @property
    def parameters_per_token(self) -> float:
        """Parameters that a token is multiplied with: without tables of rows, and of the experts those in use."""
        unused = self.expert_parameters * (1 - self.experts_per_token / self.experts)
        return self.parameters - self.lookup_parameters - unused

    def read_bytes(self, tokens: ArrayLike) -> Floats:
        """Bytes of weights that a forward over `tokens` positions reads, if tokens choose experts independently."""
        routed = self.expert_parameters * self.expert_bytes_per_parameter
        always = self.weight_bytes - self.lookup_parameters * BYTES - routed
        return always + routed * self.distinct_experts(tokens) / self.experts

    def distinct_experts(self, tokens: ArrayLike) -> Floats:
        """Expected number of different experts of a layer that `tokens` positions use."""
        missed = (1 - self.experts_per_token / self.experts) ** np.asarray(tokens, float)
        return self.experts * (1 - missed)

    def cached_bytes(self, context: ArrayLike) -> Floats:
        """Bytes of keys and values that a forward reads of a sequence with `context` tokens."""
        context = np.asarray(context, float)
        full = self.cache_bytes_per_token - self.window_bytes_per_token
        return full * context + self.window_bytes_per_token * np.minimum(context, self.window or np.inf)

    def cache_bytes_on_each(self, gpus: int) -> float:
        """Bytes that a token takes on each of `gpus` GPUs."""
        return self.cache_bytes_per_token / min(gpus, self.key_heads or gpus)


def read_model(source: str | Path) -> ModelSize:
    """The size of a decoder: from its Hugging Face `config.json` or the folder that holds it, or by the name of a known model.

    `Qwen/Qwen3-32B`, `qwen3-32b` and `Qwen3-32B-Instruct` are one name. Raises `InputError` for an unknown name, a file that
    cannot be read, and a model that cannot be weighed.
    """
    if os.path.exists(source):
        from specdec.measure.size import model_facts  # builds the model by transformers

        return size_of(model_facts(Path(source)))
    known = catalogue()
    name = short_name(str(source))
    if name not in known:
        if str(source).endswith(".json"):
            raise InputError(f"model config {source} cannot be read (no such file): give a config.json or its folder")
        hint = did_you_mean(name, known) or "see `specdec simulate --help`"
        raise InputError(f"unknown model {str(source)!r}: {hint} Or give its config.json, or the folder that holds it")
    return known[name]


def size_of(facts: dict[str, Any]) -> ModelSize:
    """A size from its fields, as `specdec.measure.size` counts them and the catalogue holds them."""
    whole = ("layers", "hidden", "experts", "experts_per_token", "key_heads", "window")
    return ModelSize(**{name: int(value) if name in whole else value for name, value in facts.items()})


def short_name(name: str) -> str:
    """A model's name without its owner, case, and endings that leave the size as it is."""
    short = re.sub(r"[\s_]+", "-", name.rstrip("/").rpartition("/")[2].lower()).removeprefix("meta-")
    short = re.sub(r"^llama-?(\d)", r"llama-\1", short)
    while (shorter := re.sub(r"-(instruct|it|chat|hf|base|pt|bf16|\d{4}|v0\.\d)$", "", short)) != short:
        short = shorter
    return short


@cache
def catalogue() -> dict[str, ModelSize]:
    """Sizes of well-known models by `short_name`."""
    written = json.loads(files("sim").joinpath("data/models.json").read_text(encoding="utf-8"))
    return {short_name(name): size_of(model["size"]) for name, model in written.items()}
