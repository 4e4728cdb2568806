"""Latency computed from a GPU's data sheet: the roofline model of Williams, Waterman and Patterson (2009).

A forward takes the longer of two times: moving bytes (the weights once, and each sequence's keys and values) and arithmetic (2
operations for each parameter and scored position). Real kernels reach a part of either peak, the `efficiency`. Measure a pair
where you can. Peaks are those of the vendors' data sheets, for dense 16-bit arithmetic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from specdec import InputError
from specdec.inputs import at_least_one, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU: memory `bandwidth` in bytes per second, dense bf16 `operations` per second."""

    bandwidth: float
    operations: float


GPUS = {
    "A10": Gpu(600e9, 125e12),
    "A100": Gpu(2039e9, 312e12),  # SXM, 80 GB
    "B200": Gpu(8000e9, 2250e12),
    "H100": Gpu(3350e9, 989e12),  # SXM
    "H200": Gpu(4800e9, 989e12),
    "L4": Gpu(300e9, 121e12),
    "L40S": Gpu(864e9, 362e12),
    "MI300X": Gpu(5300e9, 1307e12),
    "RTX 4090": Gpu(1008e9, 165e12),
}


@dataclass(frozen=True)
class ModelSize:
    """What decides how long a model's forward takes.

    `parameters`              how many
    `cache_bytes_per_token`   bytes of keys and values that a token adds to the cache
    `bytes_per_parameter`     2 for 16-bit weights
    """

    parameters: float
    cache_bytes_per_token: float
    bytes_per_parameter: float = 2.0


def read_model(path: str | Path) -> ModelSize:
    """The size of a dense decoder from its Hugging Face `config.json`, or from the folder that holds it.

    Keys and values are counted with 2 bytes each. Raises `InputError` for a file that cannot be read, or is not such a config.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text())
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        inner, vocabulary = config["intermediate_size"], config["vocab_size"]
    except OSError as error:
        raise InputError(f"model config {path} cannot be read ({error.strerror}): give a config.json or its folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"model config {path} is not one of a dense decoder ({type(error).__name__} {error})") from error
    key_heads = config.get("num_key_value_heads") or heads
    dimension = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * dimension * (heads + key_heads)
    tables = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return ModelSize(layers * (attention + 3 * hidden * inner) + tables, 4 * layers * key_heads * dimension)


@dataclass(frozen=True)
class Roofline:
    """Latency of a pair on GPUs of one kind.

    `gpu`                         name of the GPU, such as `H100`
    `target`, `draft`             sizes of the models
    `target_gpus`, `draft_gpus`   GPUs that each model is spread over; its time is divided by them, without loss
    `efficiency`                  share of the peaks that real kernels reach, above 0 and up to 1

    Raises `InputError` for an unknown GPU, and for other values than these.
    """

    gpu: str
    target: ModelSize
    draft: ModelSize
    target_gpus: int = 1
    draft_gpus: int = 1
    efficiency: float = 0.7

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise InputError(f"unknown GPU {self.gpu!r}: {did_you_mean(self.gpu, GPUS) or 'known are ' + ', '.join(GPUS)}")
        at_least_one(target_gpus=self.target_gpus, draft_gpus=self.draft_gpus)
        if not 0 < self.efficiency <= 1:
            raise InputError(f"efficiency {self.efficiency} is not possible: give a share above 0 and up to 1")

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.asarray(tokens, float) * self._forward(self.draft, self.draft_gpus, 1, batch, context)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        seconds = self._forward(self.target, self.target_gpus, width, batch, context)
        return np.where(np.asarray(width) > 0, seconds, 0.0)

    def _forward(self, model: ModelSize, gpus: int, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        gpu, sequences = GPUS[self.gpu], np.asarray(batch, float)
        positions, cached = np.asarray(width, float) * sequences, np.asarray(context, float) * sequences
        moved = model.parameters * model.bytes_per_parameter + model.cache_bytes_per_token * cached
        return np.maximum(moved / gpu.bandwidth, 2 * model.parameters * positions / gpu.operations) / (gpus * self.efficiency)
