"""Whether a model has changed since a lane was made for it, and evaluation mode while the lane works.

A lane keeps what it computed from a model: packed weights, a copy in another process, keys and values of the last texts. All
of it is wrong once the model has changed. Most changes leave a trace that is cheap to read: other modules, tensors, addresses
or hooks, a switch of an adapter, or torch's count of in-place changes (`Tensor._version`). An edit through `.data` leaves none,
so a few values of each tensor are compared too. Such an edit is missed only if it spares all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch
from transformers import PreTrainedConfig

SAMPLED = 16
"""Values of each tensor that are compared."""

SWITCHES = ("_disable_adapters", "_active_adapter", "merged_adapters", "scaling")
"""Attributes by which layers of PEFT switch and scale their adapters."""

PLAIN = (Tensor, nn.Parameter, nn.Buffer)
"""Types of tensors whose memory holds their values. Others wrap tensors of their own, as quantised ones do."""

NEAR = ("cpu", "meta")
"""Devices whose tensors are looked at in place, or hold no values."""

INTEGERS: dict[int, torch.dtype] = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types to compare values as, bit by bit, by their bytes."""


KNOWN = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "compressed_tensors", "gptqmodel", "hqq", "torchao")
"""Packages whose modules are taken to compute with nothing but what a `Watch` compares. No quantiser was tried."""


class Watch:
    """A model as it was when this was made.

    To ask `changed` takes 3 % of a step of each bundled model (0.14 of 5.4 ms with 257 tensors), and 4 % of a forward of
    transformers over 22 tiny layers (0.11 of 3 ms with 203 tensors). A decode asks once, when it starts.

    `modules`           all modules of the model
    `may_hide_changes`  whether the model may change unseen; see `hides_changes`
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(model.modules())
        self._own = own = [vars(module) for module in self.modules]
        self._children: list[dict[str, Any]] = [parts["_modules"] for parts in own]
        self._tensors: list[dict[str, Any]] = [parts[kind] for parts in own for kind in ("_parameters", "_buffers")]
        self._hooks = hooks_of(self.modules)
        self._adapters = [vars(module) for module in self.modules if hasattr(module, "_disable_adapters")]
        self._scales = [
            (parts, name)
            for parts in own
            for name, value in parts.items()
            if type(value) is float  # scales: `scaling`, `variance_epsilon`
        ]
        configs = [parts["config"] for parts in own if isinstance(parts.get("config"), PreTrainedConfig)]
        self._configs = [vars(config) for config in {id(config): config for config in configs}.values()]
        tensors = self._held()
        self._here = [sample for tensor in tensors if (sample := _sample_here(tensor)) is not None]
        self._elsewhere = [i for i, tensor in enumerate(tensors) if type(tensor) in PLAIN and tensor.device.type not in NEAR]
        self.may_hide_changes = hides_changes(self.modules)
        self._form, self._values = self._form_of(tensors), self._values_of(tensors)

    def changed(self) -> bool:
        """Whether the model would answer otherwise than it did, as far as can be seen."""
        tensors = self._held()
        return self._form_of(tensors) != self._form or self._values_of(tensors) != self._values

    def _held(self) -> list[Tensor]:
        return [tensor for tensor in chain.from_iterable(map(dict.values, self._tensors)) if tensor is not None]

    def _form_of(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Everything but the values: modules, forwards, hooks, adapters, scales, configuration, autocast, tensor addresses."""
        return (
            list(map(id, chain.from_iterable(map(dict.values, self._children)))),
            [parts.get("forward") for parts in self._own],
            list(chain.from_iterable(self._hooks)),
            [str([parts.get(name) for name in SWITCHES]) for parts in self._adapters],
            [parts.get(name) for parts, name in self._scales],
            [str([value for value in config.values() if not isinstance(value, PreTrainedConfig)]) for config in self._configs],
            autocast(tensors[0].device.type) if tensors else None,
            list(map(id, tensors)),
            _each(Tensor.data_ptr, tensors),
            _each(attrgetter("_version"), tensors),
        )

    def _values_of(self, tensors: Sequence[Tensor]) -> tuple[bytes, bytes]:
        """A sample of the values. Tensors must be where they were, since samples on a CPU are looked at in place."""
        here = np.concatenate(self._here).tobytes() if self._here else b""
        return here, _values_elsewhere([tensors[i] for i in self._elsewhere])


def autocast(device: str) -> torch.dtype | None:
    """The type that autocast now computes in on this kind of device; `None` where it is off."""
    known = torch.amp.is_autocast_available(device)  # not of weights that lie nowhere yet
    return torch.get_autocast_dtype(device) if known and torch.is_autocast_enabled(device) else None


def hides_changes(modules: Sequence[nn.Module]) -> bool:
    """Whether hooks, replaced forwards or modules of one's own may read values that no watch sees, as closures do."""
    return any(hooks_of(modules)) or any(
        type(module).__module__.partition(".")[0] not in KNOWN
        or ("forward" in vars(module) and not hasattr(module, "_hf_hook"))
        for module in modules
    )


def hooks_of(modules: Iterable[nn.Module]) -> list[dict[int, Any]]:
    """What holds the hooks that run around forwards, by numbers that are never given twice; torch's own for all modules too."""
    own = [vars(module)[kind] for module in modules for kind in ("_forward_hooks", "_forward_pre_hooks")]
    return [of_torch._global_forward_hooks, of_torch._global_forward_pre_hooks, *own]  # pyright: ignore[reportPrivateUsage]


def _each(read: Any, tensors: Sequence[Tensor]) -> list[Any]:
    """`read` of each tensor; `None` where it has no such thing, as inference tensors have no version."""
    try:
        return list(map(read, tensors))
    except RuntimeError:
        return [_or_none(read, tensor) for tensor in tensors]


def _or_none(read: Any, tensor: Tensor) -> Any:
    try:
        return read(tensor)
    except RuntimeError:
        return None


def _sample_here(tensor: Tensor) -> Any:
    """Values spread over a tensor on a CPU, as integers in place (a numpy array); `None` for a tensor that is elsewhere."""
    integer = INTEGERS.get(tensor.element_size())
    if type(tensor) not in PLAIN or tensor.device.type != "cpu" or tensor.layout != torch.strided or integer is None:
        return None
    start = tensor.storage_offset()
    room = min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size() - start)
    count = min(SAMPLED, room)
    if count < 1:
        return None
    return tensor.detach().as_strided((count,), (max(1, (room - 1) // count),), start).view(integer).numpy()


def _values_elsewhere(tensors: Sequence[Tensor]) -> bytes:
    """Neighbouring values from the middle of each tensor elsewhere, fetched from each device at once."""
    by_device: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            flat = tensor.reshape(-1) if tensor.is_contiguous() else tensor[:1].reshape(-1)
            part = flat[len(flat) // 2 :][:SAMPLED]
            by_device.setdefault(tensor.device, []).append(part.double() if part.is_complex() else part.float())
        return b"".join(torch.cat(parts).cpu().numpy().tobytes() for parts in by_device.values())


_LOCK = threading.Lock()
_ASKED: dict[int, int] = {}
"""How many evaluations of a model are open, by its id: two pairs may share one."""

_TRAINING: dict[int, list[nn.Module]] = {}
"""Its modules that were in training mode before."""


class Evaluation:
    """Models in evaluation mode. When the last who asked for it has left, each module is in the mode that it was in before.

    It sets the mode of each module without `Module.train`, which is slow and may be overridden.
    """

    def __init__(self, models: Iterable[Sequence[nn.Module]]) -> None:
        self._models = list(models)

    def __enter__(self) -> bool:
        """Returns whether any module was in training mode."""
        found = False
        for modules in self._models:
            with _LOCK:
                key = id(modules[0])
                training = [module for module in modules if module.training]
                _ASKED[key] = _ASKED.get(key, 0) + 1
                if training:
                    found = True
                    _TRAINING.setdefault(key, []).extend(training)
                    for module in training:
                        module.training = False
        return found

    def __exit__(self, *_: object) -> None:
        for modules in self._models:
            with _LOCK:
                key = id(modules[0])
                _ASKED[key] -= 1
                if not _ASKED[key]:
                    del _ASKED[key]
                    for module in _TRAINING.pop(key, ()):
                        module.training = True


def evaluation(*models: nn.Module | None) -> Evaluation:
    """These models in evaluation mode, for a block: `with evaluation(model):`."""
    return Evaluation([list(model.modules()) for model in models if model is not None])
