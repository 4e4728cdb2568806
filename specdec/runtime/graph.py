"""CUDA graphs of a model's forwards, and a whole draft in one go.

A forward of a small model is hundreds of kernels, each shorter than its launch. A graph launches all of them at once, as long
as shapes and addresses stay the same. Hence:

- the cache is static;
- a window is padded up to one of a few widths;
- inputs and outputs have tensors of their own.

A draft stays on the device: each forward is fed the token that was sampled just before, and the host waits once, at the end.
The target scores a window in one forward, so the host waits once there too: the softmax of the rows is launched while the
forward still runs.

Only `CudaCapture` needs CUDA. Without it the same functions run uncaptured, and so they are tested. Source: "CUDA Graphs" in
torch's notes on CUDA semantics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.runtime.cache import CachePlan, why_not_plain, why_not_static
from specdec.runtime.watch import hides_changes
from specdec.sampling import Sampler, greedy_choice, picked

WIDTHS = (1, 2, 4, 8, 16, 32)
"""Widths that have a graph, captured when first needed. Wider windows are prompts, and run without one."""

WARM_UPS = 3
"""Runs before a capture, as torch asks, for libraries to set themselves up."""

DeviceWork: TypeAlias = Callable[[], None]
"""Launches the same kernels on the same tensors in every call. A capture calls it a few times, before its results are used."""


class CudaCapture:
    """Turns work on a device into CUDA graphs. All graphs share memory: they run one after another and keep nothing in it."""

    _one_at_a_time = threading.Lock()  # a process may capture once at a time, and lanes have threads

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: DeviceWork) -> DeviceWork:
        """The same work, by replaying a graph."""
        with self._one_at_a_time, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            self._stream.wait_stream(caller)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):  # `torch.cuda.graph` does not leave it when a capture fails
                for _ in range(WARM_UPS):
                    work()
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    work()
            caller.wait_stream(self._stream)
        return graph.replay


@dataclass(frozen=True)
class Replay:
    """What a capture made of `work`. It keeps the work, since a graph reads tensors by their addresses and keeps none alive."""

    work: DeviceWork
    replayed: DeviceWork

    def __call__(self) -> None:
        self.replayed()


Capture: TypeAlias = Callable[[DeviceWork], DeviceWork]
"""Turns work into a graph that does the same, as long as the tensors of the work live. `CudaCapture` is one."""


class Graphs:
    """Makes graphs by a `capture`. Without one, or after one that failed, work runs as it is, and `why_eager` says why."""

    def __init__(self, capture: Capture | None) -> None:
        self._capture = capture
        self.why_eager = None if capture else "no capture was given"

    def captured(self, work: DeviceWork) -> DeviceWork:
        """What does the same as `work`."""
        if self._capture is None:
            return work
        try:
            return Replay(work, self._capture(work))
        except RuntimeError as error:
            self._capture = None
            self.why_eager = f"a CUDA graph could not be captured ({str(error).partition(chr(10))[0]})"
            return work


@dataclass
class CapturedForward:
    """A forward that feeds as many tokens to every slot.

    `inputs`   ids of the tokens of each slot, then the position of the first: shape (slots, width + 1)
    `logits`   after each token, shape (slots, width, vocabulary)
    """

    inputs: Tensor
    logits: Tensor
    run: DeviceWork


@dataclass
class CapturedBranches:
    """A forward that feeds one token to every branch of every slot (`specdec.runtime.branches`).

    `ids`, `positions`   of the tokens, shape (slots, branches)
    `first`              the cell of the first of them, shape (1,)
    `mask`               of all steps, shape (slots, 1, branches, cells); cells that are not written yet are hidden beside it
    `logits`             after each token, shape (slots, branches, vocabulary)
    """

    ids: Tensor
    positions: Tensor
    first: Tensor
    mask: Tensor
    logits: Tensor
    run: DeviceWork

    def __call__(self, ids: Tensor, positions: Tensor, first: int) -> Tensor:
        """Logits after these tokens, until the next call."""
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.first.fill_(first)
        self.run()
        return self.logits


class DeviceDraft:
    """Draws up to `room` tokens by `sampler`, and feeds each to `forward`, which has one slot and is one token wide.

    The host waits once, at the end.
    """

    def __init__(self, sampler: Sampler, forward: CapturedForward, room: int, graphs: Graphs) -> None:
        self.sampler, self.room, self._forward = sampler, room, forward
        device, dtype = forward.logits.device, torch.promote_types(forward.logits.dtype, torch.float32)
        self._uniforms = torch.zeros(room, dtype=torch.float64, device=device)
        self._tokens = torch.zeros(room, dtype=torch.long, device=device)
        rows = 0 if sampler.greedy else room
        self._q = torch.zeros(rows, forward.logits.shape[-1], dtype=dtype, device=device)
        self._drafted = torch.zeros(1, dtype=torch.long, device=device)
        self._pick = graphs.captured(self._picked)

    def _picked(self) -> None:
        """Sample one token more, from the logits of the forward."""
        scores = self.sampler.processed(self._forward.logits[0], ())
        if self.sampler.greedy:
            token = greedy_choice(scores)
        else:
            row = scores.softmax(-1)
            token = picked(row, self._uniforms.index_select(0, self._drafted))
            self._q.index_copy_(0, self._drafted, row)
        self._tokens.index_copy_(0, self._drafted, token)
        self._forward.inputs[0, :1].copy_(token.clamp(min=0))
        self._forward.inputs[0, 1:].add_(1)
        self._drafted.add_(1)

    def __call__(self, position: int, length: int, uniforms: Sequence[float]) -> tuple[list[int], Tensor]:
        """`length` tokens, after the token at `position`, behind which the forward has logits; and their rows.

        A row that is no distribution gives `NOT_A_TOKEN`.
        """
        self._forward.inputs.fill_(position)  # a pick sets the token and moves on from this position
        self._uniforms[: len(uniforms)].copy_(torch.tensor(uniforms, dtype=torch.float64), non_blocking=True)
        self._drafted.zero_()
        for number in range(length):
            if number:
                self._forward.run()
            self._pick()
        self._wait()  # here, and nowhere else
        return self._tokens[:length].tolist(), self._q[:length]

    def _wait(self) -> None:
        """Wait for what was launched.

        A copy to the host would wait too, but copies of other threads seem to wait for it then: on an H100, a target's greedy
        answer came only when the whole draft was there (`benchmarks/results/gpu_nvidia_h100_80gb_hbm3_2026-11-27.json`).
        """
        if self._tokens.device.type == "cuda":
            torch.cuda.current_stream(self._tokens.device).synchronize()


def graph_width(tokens: int) -> int | None:
    """The width of the graph that feeds so many tokens; `None` where none is wide enough."""
    return next((width for width in WIDTHS if width >= tokens), None)


def why_no_graphs(model: PreTrainedModel, plan: CachePlan | None = None) -> str | None:
    """Why `model` cannot run under CUDA graphs, in words that follow "because"; `None` when it can."""
    if model.device.type != "cuda":
        return f"{model.device.type} has no CUDA graphs"
    failed = plan is not None and not plan.batched
    probed = f"{model.config.model_type} was probed on a cache of static shapes, and failed" if failed else None
    hides = (
        "it has hooks, or modules of one's own, which a graph would not call again"
        if hides_changes([*model.modules()])
        else None
    )
    return why_not_plain(model) or why_not_static(model) or probed or hides


def why_stepwise(sampler: Sampler, stop: StopRule | None) -> str | None:
    """Why a draft must come to the host after each token, in words that follow "because"; `None` when it need not."""
    if stop is not None:
        return "its stop rule looks at each token"
    if not sampler.context_free:
        return "a logits processor looks at the tokens before"
    return None
