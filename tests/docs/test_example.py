"""The example: a strategy in a distribution of its own."""

import sys
from pathlib import Path

import pytest
from processes import SPECDEC, run, run_python

import specdec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples/backoff"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the example was installed as its own distribution."""
    folder = tmp_path_factory.mktemp("stranger")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "specdec_backoff.py"):
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    done = run([*pip, "--no-build-isolation", "--target", str(folder / "site"), str(source)], folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_a_strangers_strategy_is_not_known_before_it_is_installed() -> None:
    assert "backoff" not in specdec.available()


def test_a_strangers_strategy_is_found_without_torch(stranger: Path) -> None:
    code = """
        import sys, specdec
        strategy = specdec.create("backoff", first=2)
        print(sorted(specdec.available()), strategy, "torch" in sys.modules)
    """
    names = sorted([*specdec.available(), "backoff"])
    assert run_python(code, stranger) == f"{names} backoff first=2 most=16 False"


def test_a_strangers_strategy_is_proved_by_its_own_test(stranger: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(EXAMPLE)]
    done = run(command, stranger)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_a_strangers_strategy_is_proved_by_the_command_line(stranger: Path) -> None:
    done = run([*SPECDEC, "prove", "backoff", "--json", "-"], stranger)
    assert done.returncode == 0, done.stderr
    assert '"backoff"' in done.stdout
    assert '"exact": true' in done.stdout


def test_a_strangers_strategy_decodes(stranger: Path) -> None:
    code = """
        import torch, specdec, strategies
        from transformers import LlamaConfig, LlamaForCausalLM

        def model(layers, seed):
            torch.manual_seed(seed)
            sizes = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, vocab_size=40)
            return LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes)).double()

        with specdec.Pair(model(2, 0), model(1, 1), lane="inline") as pair:
            options = dict(max_new_tokens=24, temperature=0, eos=())
            ours = specdec.decode(pair, specdec.create("backoff"), [1, 2, 3], **options)
            targets = specdec.decode(pair, strategies.Autoregressive(), [1, 2, 3], **options)
        print(ours.tokens == targets.tokens, len(ours.tokens), ours.statistics.drafted_tokens > 0)
    """
    assert run_python(code, stranger) == "True 24 True"
