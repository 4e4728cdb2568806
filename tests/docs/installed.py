"""What a stranger's type checker sees of an installed wheel. Run by `make check`, not by `make test`, which has no pyright."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STRANGER = Path(__file__).with_name("stranger.py")
PACKAGES = ("specdec", "strategies", "sim")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's folder with an environment in which the wheel is installed; what it depends on is seen from here."""
    folder = tmp_path_factory.mktemp("stranger")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "specdec_command.py"):
        shutil.copy(ROOT / name, source)
    venv.create(folder / ".venv", with_pip=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    succeed([*pip, "--no-build-isolation", "--target", str(site_of(folder)), str(source)])
    (site_of(folder) / "dependencies.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    shutil.rmtree(source)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "venvPath": ".", "venv": ".venv"}')
    return folder


def site_of(folder: Path) -> Path:
    environment = str(folder / ".venv")
    return Path(sysconfig.get_path("purelib", "venv", {"base": environment, "platbase": environment}))


def succeed(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def faults(folder: Path, text: str) -> list[str]:
    """What pyright says of a program in the folder."""
    program = folder / "program.py"
    program.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--project", str(folder), "--outputjson", str(program)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [f"line {fault['range']['start']['line'] + 1}: {fault['message']}" for fault in found]


def test_a_strangers_program_is_typed(project: Path) -> None:
    assert not faults(project, STRANGER.read_text(encoding="utf-8"))


MISTAKES = """\
from sim import Rate
from specdec import State
from specdec.testing import assert_lossless
from strategies import Pearl
Rate("0.8")
State(1)
assert_lossless("pearl")
Pearl(draft_length=b"4")
"""


def test_a_strangers_mistakes_are_seen(project: Path) -> None:
    found = faults(project, MISTAKES)
    assert [fault.partition(":")[0] for fault in found] == ["line 5", "line 6", "line 7", "line 8"]


def test_types_are_not_seen_without_the_marker(project: Path) -> None:
    """The control: were a `py.typed` missing from the wheel, the first test would fail."""
    for package in PACKAGES:
        (site_of(project) / package / "py.typed").unlink()
    found = faults(project, STRANGER.read_text(encoding="utf-8"))
    assert all(any(f'"{package}"' in fault for fault in found) for package in PACKAGES)
