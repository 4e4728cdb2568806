"""Latency from the measured kernels of NVIDIA's aiconfigurator: an optional package, for Linux on x86-64.

Its tables hold kernels, not engines, so steps are too short on most systems; anchor them. A forward is one curve of rows, from
its decode steps at a context of one token, and a slope for the tokens of context. The package answers for one width only: more
rows stand for wider windows, and for prompts. Source: aiconfigurator-core 0.12, backend vLLM; its interface moves with every
release.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import inf
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from sim.setup.latency import forked
from sim.setup.rows import RowsCurve
from specdec import InputError
from specdec.acceptance import Tag
from specdec.inputs import at_least_one

INSTALL = "pip install 'pearl-specdec[aiconfigurator]'"
PACKAGE = "aiconfigurator_core"
ROWS = [2**power for power in range(13)]
FAR_CONTEXT, MANY = 4096, 64
"""Where the slope of context is taken: tokens, and sequences."""


class Aiconfigurator:
    """Latency of a pair on GPUs that aiconfigurator has tables of.

    `system` is its name of the GPU, such as `h100_sxm`. `target` and `draft` are names of the hub that it knows. Raises
    `InputError` where the package is missing, or has no table.
    """

    tag: ClassVar[Tag] = "table"
    fork_reach: ClassVar[float] = inf

    def __init__(self, system: str, target: str, draft: str, target_gpus: int = 1, draft_gpus: int = 1) -> None:
        at_least_one(target_gpus=target_gpus, draft_gpus=draft_gpus)
        self._target = _Steps(system, target, target_gpus)
        self._draft = _Steps(system, draft, draft_gpus)

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.asarray(tokens, float) * self._draft(1, batch, context)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        return forked(partial(self._draft, batch=batch, context=context), rows, branches, steps)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.where(np.asarray(width) > 0, self._target(width, batch, context), 0.0)


class _Steps:
    """Seconds of a model's forwards."""

    def __init__(self, system: str, model: str, gpus: int) -> None:
        asked = _compiled(system, model, gpus)
        try:
            steps = [1e-3 * asked(rows, 1, 2) for rows in ROWS]
            long = 1e-3 * asked(MANY, FAR_CONTEXT, 2)
        except Exception as error:  # of another package, whose errors have no common kind
            raise _no_table(system, model, gpus, error) from error
        self._curve = RowsCurve.fitted(ROWS, steps)
        self._token_seconds = max(0.0, (long - steps[ROWS.index(MANY)]) / (MANY * (FAR_CONTEXT - 1)))

    def __call__(self, width: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Floats:
        batch = np.asarray(batch, float)
        return self._curve(np.asarray(width, float) * batch) + self._token_seconds * batch * np.asarray(context, float)


def _compiled(system: str, model: str, gpus: int) -> Callable[[int, int, int], float]:
    """Milliseconds of a decode step by batch, context and tokens of the answer."""
    try:
        engine: Any = import_module(f"{PACKAGE}.sdk.engine")
    except ImportError as error:
        raise InputError(f"--latency aiconfigurator needs a package that is not installed: {INSTALL}") from error
    logging.getLogger(PACKAGE).setLevel(logging.CRITICAL)  # it tells of every table that it did not find
    try:
        return engine.EngineHandle.compile(model, system, "vllm", tp_size=gpus).predict_decode_latency
    except Exception as error:  # of another package, whose errors have no common kind
        raise _no_table(system, model, gpus, error) from error


def _no_table(system: str, model: str, gpus: int, error: Exception) -> InputError:
    said = " ".join(str(error).split())[:160]
    return InputError(
        f"aiconfigurator has no table of {model} on {gpus} {system} ({said}): "
        "give a system such as h100_sxm, and the model's hub name"
    )
