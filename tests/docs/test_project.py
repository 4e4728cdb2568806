"""The project as a whole: who may import whom, what is exported, that the pages are true, and a stranger's strategy."""

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from codeop import Compile
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

import pytest

import specdec
import strategies

ROOT = Path(__file__).resolve().parents[2]

# --- arrows: strategies -> specdec <- sim, and no other

MAY_IMPORT = {"specdec": set[str](), "strategies": {"specdec"}, "sim": {"specdec"}}
OUTSIDE = {"tests", "benchmarks", "examples"}


def forbidden_imports(package: str, source: str) -> list[str]:
    """Modules of other packages that `source`, a file of `package`, imports or names as text, anywhere in it."""
    forbidden = (MAY_IMPORT.keys() | OUTSIDE) - MAY_IMPORT[package] - {package}
    return [module for module in imported_modules(source) if module.partition(".")[0] in forbidden]


def imported_modules(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(module)), *_]):
                yield module
            case ast.Constant(value=str(text)) if re.fullmatch(r"\w+(\.\w+)+", text):
                yield text  # a module path in a table that is imported from later
            case _:
                pass


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows(package: str) -> None:
    assert files_of(package)
    found = {
        str(path.relative_to(ROOT)): modules
        for path in files_of(package)
        if (modules := forbidden_imports(package, path.read_text(encoding="utf-8")))
    }
    assert not found, f"{package} may import of ours only {sorted(MAY_IMPORT[package]) or 'itself'}"


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("specdec", "import sim"),
        ("specdec", "from strategies.pearl import Pearl"),
        ("specdec", "def later():\n    import strategies"),
        ("specdec", "import_module('sim')"),
        ("specdec", "LATER = {'Pearl': 'strategies.pearl'}"),
        ("specdec", "import tests.test_law"),
        ("sim", "import specdec, strategies"),
        ("sim", "def later():\n    from strategies import Pearl"),
        ("strategies", "from sim.stream.chain import compiled"),
    ],
)
def test_arrows_against_the_direction_are_seen(package: str, source: str) -> None:
    assert forbidden_imports(package, source)


def test_arrows_in_the_direction_are_allowed() -> None:
    assert not forbidden_imports("sim", "import specdec\nfrom sim import metrics\nfrom . import paths\nimport simpy")
    assert not forbidden_imports("strategies", "from specdec import State")


# --- exports: `__all__` is what the package offers, sorted, and all of it is documented


def exported_names(source: str) -> set[str]:
    """Names that an `__init__` re-exports: imported ones and those in its table of later imports."""
    names = set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases) if module.partition(".")[0] in MAY_IMPORT:
                names |= {alias.asname or alias.name for alias in aliases}
            case ast.Assign(targets=[ast.Name(id="_LATER")], value=ast.Dict(keys=keys)):
                names |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            case _:
                pass
    return names


def undocumented(module: ModuleType, name: str) -> bool:
    thing = getattr(module, name)
    if isinstance(thing, type | FunctionType):
        documentation = thing.__doc__ or ""
        return not documentation or documentation.startswith(f"{name}(")  # what dataclass writes by itself
    return not any(f"`{name}`" in page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md"))


@pytest.mark.parametrize("package", [specdec, strategies], ids=lambda package: package.__name__)
def test_exports(package: ModuleType) -> None:
    offered = list(package.__all__)
    assert offered == sorted(offered)
    assert set(offered) == exported_names(Path(str(package.__file__)).read_text(encoding="utf-8"))
    assert not [name for name in offered if undocumented(package, name)]


def test_exports_are_seen() -> None:
    assert exported_names("from specdec.pair import Pair\n_LATER = {'decode': 'specdec.decoding'}\nimport torch") == {
        "Pair",
        "decode",
    }


def test_exports_hold_the_built_in_strategies() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["entry-points"]["specdec.strategies"]
    classes = {entry.name: entry.load() for entry in entry_points(group="specdec.strategies") if entry.name in declared}
    assert classes.keys() == declared.keys()
    assert {cls.__name__ for cls in classes.values()} == set(strategies.__all__)


# --- pages: every python block runs, in order, in one namespace a page; an `output` block is what the block before printed;
# --- every `specdec` command in a bash block runs (what is too long, or needs models from a hub, stands in a text block)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page and the number of lines before its text."""

    language: str
    text: str
    lines_before: int


def blocks(page: str) -> list[Block]:
    return [
        Block(found["language"], textwrap.dedent(found["text"]), page.count("\n", 0, found.start("text")))
        for found in FENCE.finditer(page)
    ]


def run_blocks(page: str, name: str) -> None:
    module = ModuleType("page")
    sys.modules["page"] = module
    compiled = Compile()  # remembers `from __future__` from block to block, as a prompt does
    printed = ""
    try:
        for block in blocks(page):
            if block.language == "python":
                code = compiled("\n" * block.lines_before + block.text, name, "exec")
                with redirect_stdout(io.StringIO()) as out:
                    exec(code, vars(module))
                printed = out.getvalue()
            elif block.language == "output":
                assert printed.strip() == block.text.strip(), f"{name}, line {block.lines_before}"
    finally:
        del sys.modules["page"]
        for value in vars(module).values():
            if isinstance(value, specdec.Pair):
                value.close()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.is_file() and "```python" in page.read_text(encoding="utf-8")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_blocks_of(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_blocks(page.read_text(encoding="utf-8"), str(page.relative_to(ROOT)))


SPECDEC = [sys.executable, "-c", "import sys; from specdec.cli import main; sys.exit(main())"]


def commands(page: str) -> list[str]:
    lines = (line for block in blocks(page) if block.language == "bash" for line in block.text.replace("\\\n", "").splitlines())
    return [line for line in lines if line.startswith("specdec ")]


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))])
def test_command_on_a_page(command: str, tmp_path: Path) -> None:
    done = run([*SPECDEC, *shlex.split(command)[1:]], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
        ("- item\n\n    ```python\n    undefined\n    ```\n", NameError),
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", AssertionError),
    ],
)
def test_blocks_that_fail_are_seen(page: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run_blocks(page, "page")


# --- the example: a strategy in a distribution of its own

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


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees the packages of `folder` besides the installed ones."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)


def run_python(code: str, folder: Path) -> str:
    done = run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
