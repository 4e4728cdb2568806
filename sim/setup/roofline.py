"""Latency computed from a GPU's data sheet: the roofline model of Williams, Waterman and Patterson (2009), launches and links.

A forward takes the longer of two times: moving bytes (the weights once, and each sequence's keys and values) and arithmetic (2
operations for each parameter and scored position). Near the knee both count. Real kernels reach a part of either peak. Each
layer takes `LAUNCH_SECONDS` besides, however small it is, and two all-reduces where a model lies on several GPUs.

The arithmetic of attention itself is not counted: it matters for prompts of tens of thousands of tokens. The constants were
chosen by two steps of bf16 models on one H100; docs/how-to/hardware.md says how far off others are. Measure a step, and
anchor on it (`sim.setup.anchored`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from sim.setup.gpus import GPUS, Gpu, gpu_name
from sim.setup.latency import forked
from sim.setup.model_size import BYTES, ModelSize
from specdec import InputError
from specdec.acceptance import Tag
from specdec.inputs import at_least_one

LAUNCH_SECONDS = 40e-6
KNEE = 4.0
"""How sharp the knee is: the time is the norm of this order of both times, at most 19 % above the longer."""


@dataclass(frozen=True)
class Roofline:
    """Latency of a pair on GPUs of one kind.

    `gpu`                         name of the GPU, such as `H100`
    `target`, `draft`             sizes of the models
    `target_gpus`, `draft_gpus`   GPUs that each model is spread over, by tensor parallelism
    `efficiency`                  share of the peak bandwidth that real kernels reach, above 0 and up to 1
    `arithmetic_efficiency`       the same of the peak of operations

    Raises `InputError` for an unknown GPU, and for other values than these.
    """

    gpu: str
    target: ModelSize
    draft: ModelSize
    target_gpus: int = 1
    draft_gpus: int = 1
    efficiency: float = 0.9
    arithmetic_efficiency: float = 0.7
    tag: ClassVar[Tag] = "table"
    fork_reach: ClassVar[float] = inf

    def __post_init__(self) -> None:
        gpu_name(self.gpu)
        at_least_one(target_gpus=self.target_gpus, draft_gpus=self.draft_gpus)
        for share in (self.efficiency, self.arithmetic_efficiency):
            if not 0 < share <= 1:
                raise InputError(f"efficiency {share} is not possible: give a share above 0 and up to 1")

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.asarray(tokens, float) * self._forward(self.draft, self.draft_gpus, 1, batch, context)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        """All branches of a sequence read the same cache."""
        forward = partial(self._forward, self.draft, self.draft_gpus, batch=batch, context=context)
        return forked(forward, rows, branches, steps)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        seconds = self._forward(self.target, self.target_gpus, width, batch, context)
        return np.where(np.asarray(width) > 0, seconds, 0.0)

    def _forward(self, model: ModelSize, gpus: int, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        gpu, sequences = GPUS[gpu_name(self.gpu)], np.asarray(batch, float)
        rows = np.asarray(width, float) * sequences
        cached = sequences * model.cached_bytes(context) * model.cache_bytes_on_each(gpus) / max(model.cache_bytes_per_token, 1)
        moving = (model.read_bytes(rows) / gpus + cached) / (gpu.bandwidth * self.efficiency)
        arithmetic = 2 * model.parameters_per_token * rows / (gpus * gpu.operations * self.arithmetic_efficiency)
        both = (moving**KNEE + arithmetic**KNEE) ** (1 / KNEE)
        return both + model.layers * (LAUNCH_SECONDS + _links(gpu, gpus, rows * model.hidden * BYTES))


def _links(gpu: Gpu, gpus: int, message: Floats) -> Floats | float:
    """Seconds of the two all-reduces of a layer, of `message` bytes each."""
    if gpus == 1:
        return 0.0
    return 2 * (gpu.link_seconds + 2 * (gpus - 1) / gpus * message / gpu.link_bandwidth)
