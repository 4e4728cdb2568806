"""Whether models fit their GPUs, and how many tokens of keys and values fit beside them.

Engines take 90 % of a GPU's memory by default. Of that, weights, and what kernels and graphs need, are used up; the rest is the
pool. The overhead is assumed: engines measure it when they start, and print their pool (`GPU KV cache size`). Prefer theirs.
"""

from __future__ import annotations

from math import ceil, floor

from sim.setup.gpus import gpu_memory, gpu_name
from sim.setup.model_size import ModelSize
from specdec import InputError
from specdec.inputs import at_least_one

USABLE_SHARE = 0.9
OVERHEAD_BYTES = 4e9
"""Of each GPU: activations, graphs, the workspace of kernels."""
OVERHEAD_OF_A_DRAFT = 2e9
"""Of each GPU in addition, for each further model."""


def kv_tokens(gpu: str, *models: ModelSize, gpus: int = 1) -> int:
    """Tokens of text that the cache of `models`, which share `gpus` GPUs, holds: the pool of a target alone, or with a draft.

    Each model is split over all of the GPUs. Raises `InputError` where the weights, or not even one token, fit, and says how
    many GPUs are needed.
    """
    at_least_one(gpus=gpus)
    tokens = _tokens(gpu, models, gpus)
    if tokens < 1:
        name = gpu_name(gpu)
        weights, room = sum(model.weight_bytes for model in models) / 1e9, _free(gpu, models) / 1e9
        raise InputError(
            f"weights of {weights:.0f} GB do not fit {gpus} {name}, of which each has {room:.0f} GB for them: "
            f"give {gpus_needed(gpu, *models)} GPUs, a larger GPU, or a quantised model"
        )
    return tokens


def gpus_needed(gpu: str, *models: ModelSize) -> int:
    """The least number of GPUs that hold `models` and at least one token: 1, 2, 4 and so on, as engines split models."""
    gpus = 1 << max(0, ceil(sum(model.weight_bytes for model in models) / _free(gpu, models)) - 1).bit_length()
    return gpus if _tokens(gpu, models, gpus) >= 1 else 2 * gpus


def _free(gpu: str, models: tuple[ModelSize, ...]) -> float:
    """Bytes of each GPU for weights and cache."""
    return gpu_memory(gpu) * USABLE_SHARE - OVERHEAD_BYTES - OVERHEAD_OF_A_DRAFT * (len(models) - 1)


def _tokens(gpu: str, models: tuple[ModelSize, ...], gpus: int) -> int:
    free = _free(gpu, models) - sum(model.weight_bytes for model in models) / gpus
    return max(0, floor(free / max(1.0, sum(model.cache_bytes_on_each(gpus) for model in models))))
