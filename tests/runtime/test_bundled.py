"""The bundled pair: an ordinary checkpoint, stored in few bytes."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import specdec

ROOT = Path(specdec.__file__).parents[1]
PACKAGES = ("specdec", "strategies", "sim")
LARGEST_WHEEL = 25_000_000


@pytest.mark.parametrize("name", ["target", "draft"])
def test_transformers_widens_what_is_stored(name: str) -> None:
    folder = ROOT / "specdec" / "bundled" / name
    stored = load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)

    assert {str(weight.dtype).removeprefix("torch.") for weight in stored.values()} == {"float8_e4m3fn", "bfloat16"}
    for key, weight in model.named_parameters():
        assert torch.equal(weight, stored[key].bfloat16()), key


def test_a_wheel_with_the_pair_is_small() -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                packed.write(path, path.relative_to(ROOT))
    assert len(wheel.getvalue()) < LARGEST_WHEEL
