"""GPUs by name, with the numbers of their data sheets.

Memory is what the driver reports, which is a little less than the data sheet's on cards that correct errors. Links are those of
the usual board: NVLink where there is a switch, else PCIe. A bridge between two cards is not assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from specdec import InputError
from specdec.inputs import did_you_mean

MIB = 2.0**20
NVLINK_SECONDS, PCIE_SECONDS = 12e-6, 30e-6
"""Of an all-reduce of nothing: assumed, since no data sheet says it."""


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU.

    `bandwidth`        bytes of memory per second
    `operations`       dense bf16 operations per second
    `memory`           bytes
    `link_bandwidth`   bytes per second that it sends to other GPUs
    `link_seconds`     of the smallest all-reduce
    """

    bandwidth: float
    operations: float
    memory: float
    link_bandwidth: float
    link_seconds: float = NVLINK_SECONDS


def _pcie(bandwidth: float, operations: float, memory: float, generation: int = 4) -> Gpu:
    return Gpu(bandwidth, operations, memory, {4: 32e9, 5: 64e9}[generation], PCIE_SECONDS)


GPUS = {
    "A10": _pcie(600e9, 125e12, 23028 * MIB),
    "A100": Gpu(2039e9, 312e12, 81920 * MIB, 300e9),  # SXM, 80 GB
    "A100 40GB": Gpu(1555e9, 312e12, 40960 * MIB, 300e9),
    "B200": Gpu(8000e9, 2250e12, 183359 * MIB, 900e9),
    "B300": Gpu(8000e9, 2250e12, 275040 * MIB, 900e9),
    "GB200": Gpu(8000e9, 2500e12, 189471 * MIB, 900e9),
    "H100": Gpu(3350e9, 989e12, 81559 * MIB, 450e9),  # SXM
    "H100 NVL": _pcie(3900e9, 835e12, 95830 * MIB, 5),
    "H100 PCIe": _pcie(2000e9, 756e12, 81559 * MIB, 5),
    "H200": Gpu(4800e9, 989e12, 143771 * MIB, 450e9),
    "L4": _pcie(300e9, 121e12, 23034 * MIB),
    "L40S": _pcie(864e9, 362e12, 46068 * MIB),
    "MI300X": Gpu(5300e9, 1307e12, 196592 * MIB, 448e9),
    "RTX 4090": _pcie(1008e9, 165e12, 24564 * MIB),
    "RTX 5090": _pcie(1792e9, 209.5e12, 32607 * MIB, 5),
}

_SAME = {"4090": "RTX 4090", "5090": "RTX 5090", "h10094gb": "H100 NVL", "a100pcie40gb": "A100 40GB"}
_COUNT = re.compile(r"^\s*\d+\s*x\s+")
_MAKERS = {"nvidia", "amd", "geforce", "instinct", "tesla"}
_BOARD = re.compile(r"sxm\d?|hbm\d?e?")
_MEMORY = re.compile(r"(\d+)gi?b")


def gpu_name(written: str) -> str:
    """The name in `GPUS` of what a person or a benchmark calls a GPU, such as `h100 sxm`, `1x H100 96GB` or `NVIDIA L40S`.

    The board with the given memory is taken where there are several. Raises `InputError` for an unknown GPU.
    """
    known = {"".join(_words(name)): name for name in GPUS} | _SAME
    words = [word for word in _words(_COUNT.sub("", written)) if word not in _MAKERS and not _BOARD.fullmatch(word)]
    name = known.get("".join(words)) or known.get("".join(word for word in words if not _MEMORY.fullmatch(word)))
    if name is None:
        near = did_you_mean(written.upper(), GPUS)
        raise InputError(f"unknown GPU {written!r}: {near or 'known are ' + ', '.join(GPUS)}")
    return name


def gpu_memory(written: str) -> float:
    """Bytes of a GPU: its data sheet's, or what the written name says if that is more, as on boards that are not in `GPUS`."""
    said = (_MEMORY.fullmatch(word) for word in _words(re.sub(r"(\d)\s+(?=gi?b\b)", r"\1", written.lower())))
    return max(GPUS[gpu_name(written)].memory, *(1e9 * float(found[1]) for found in said if found), 0.0)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
