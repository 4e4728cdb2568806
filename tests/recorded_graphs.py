"""CUDA graphs on a CPU: work is recorded with the tensors that it read and wrote, and done again on these."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from specdec.runtime.cache import LENGTH
from specdec.runtime.graph import WARM_UPS, Capture, DeviceWork, Graphs
from specdec.runtime.runner import Forward
from specdec.runtime.sequences import StaticRunner
from specdec.sampling import Sampler


class Recorder(TorchDispatchMode):
    """Records operations with the very tensors they took and gave, and repeats them on these: a CUDA graph, on a CPU.

    As a graph does, it keeps what the operations gave, and nothing that they took from elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any]] = []
        self._given: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function._overloadpacket not in READ_BY_THE_HOST, "a capture cannot wait for the device"
        out = function(*args, **(kwargs or {}))
        taken = tree_map_only(torch.Tensor, self._weakly, (args, kwargs or {}))
        self._given.update(map(id, tree_leaves(out)))
        self._done.append((function, taken, out))
        return out

    def _weakly(self, tensor: torch.Tensor) -> Any:
        return tensor if id(tensor) in self._given else weakref.ref(tensor)

    def replay(self) -> None:
        with torch.inference_mode():
            for function, taken, out in self._done:
                args, kwargs = tree_map_only(weakref.ref, living, taken)
                for old, new in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                    if old is not new:
                        old.copy_(new)


def living(reference: weakref.ref[torch.Tensor]) -> torch.Tensor:
    tensor = reference()
    assert tensor is not None, "a graph reads the memory of a tensor that is gone"
    return tensor


READ_BY_THE_HOST = {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero, torch.ops.aten.is_nonzero}


def recorded(work: DeviceWork) -> DeviceWork:
    """What `CudaCapture` does: runs the work before it counts, and once more to record it, on tensors it must not change."""
    for _ in range(WARM_UPS):
        work()
    with Recorder() as recorder:
        work()
    return recorder.replay


class OneSequence(StaticRunner):
    """A runner with graphs for a single sequence."""

    def __init__(self, model: Any, vocabulary: int, capture: Capture | None = None, length: int = LENGTH) -> None:
        super().__init__(model, vocabulary, 1, Forward(model), Graphs(capture), length)

    def of(self, context: Sequence[int], positions: int) -> torch.Tensor:
        return self.logits([(0, context, positions)])[0]

    def drafted(self, context: Sequence[int], length: int, sampler: Sampler, uniforms: Sequence[float]) -> Any:
        return self.draft(0, context, length, None, sampler, uniforms)
