"""The command line in this process, and model directories for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from command_line import Ran
from tiny_models import minuscule

from specdec.cli import main
from specdec.testing.models import byte_tokenizer, resembling

ALPHABET = [chr(byte) for byte in range(33, 127)] + ["Ġ", "Ċ"]
"""ASCII in GPT-2's byte alphabet: a token is a character."""


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Run the command line here, as the console script does."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()

    def run_here(*arguments: object) -> Ran:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run_here
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model directories: a target, drafts that fit, draws of other kinds that do not."""
    folder = tmp_path_factory.mktemp("models")
    target = minuscule(len(ALPHABET), seed=3, max_position_embeddings=40_000)
    broken = minuscule(len(ALPHABET), seed=3)
    with torch.no_grad():
        broken.get_output_embeddings().weight.fill_(torch.nan)
    small = minuscule(len(ALPHABET), seed=3, max_position_embeddings=32)
    kinds = {"target": target, "draft": resembling(target), "broken": broken, "small": small, "foreign": target}
    for name, model in kinds.items():
        model.save_pretrained(folder / name)
        words = ALPHABET[::-1] if name == "foreign" else ALPHABET
        byte_tokenizer(words).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def pair(models: Path) -> list[str]:
    return ["--target", str(models / "target"), "--draft", str(models / "draft")]


@pytest.fixture
def inline(pair: list[str]) -> list[str]:
    return [*pair, "--lane", "inline"]
