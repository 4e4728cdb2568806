"""Where a model lies whose layers accelerate has spread over devices (`device_map`), the CPU's memory and the disk included."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel


def device_of(model: PreTrainedModel) -> torch.device:
    """Where the model takes its inputs and gives its logits. Its first weights may lie elsewhere, or nowhere yet."""
    hooked = [module for module in model.modules() if hasattr(module, "_hf_hook")] if hasattr(model, "_hf_hook") else []
    devices: list[Any] = [getattr(module._hf_hook, "execution_device", None) for module in hooked]
    device = next((device for device in devices if device is not None), None)  # cpu_offload tells the layers alone
    return model.device if device is None else torch.device(device)


def several_devices(model: PreTrainedModel) -> str | None:
    """That layers lie on several devices, or on the disk, in words that follow "because"; `None` for a model on one device."""
    devices: dict[str, Any] = getattr(model, "hf_device_map", None) or {}
    places = sorted({str(place) for place in devices.values()})
    return f"its layers lie on several devices ({', '.join(places)})" if len(places) > 1 or "disk" in places else None
