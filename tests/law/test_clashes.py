"""Modules and distributions that stand in the place of ours: each is named in one line, and the commands go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from specdec.clashes import clash, ours_first

OTHER_METADATA = "Metadata-Version: 2.1\nName: specdec\nVersion: 0.2.0\n"


@pytest.fixture
def other_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution `specdec` of the package index, as its metadata lie in an environment."""
    folder = tmp_path / "specdec-0.2.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(OTHER_METADATA)
    monkeypatch.syspath_prepend(tmp_path)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose path begins with `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def test_nothing_is_in_the_place_of_ours_here() -> None:
    assert ours_first() == []
    assert clash("specdec") == ""


@pytest.mark.parametrize("name", ["strategies.py", "strategies/__init__.py", "sim.py"])
def test_a_module_with_the_name_of_ours_is_named_once_and_commands_go_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x = 1")
    stranger = tmp_path / name.removesuffix("/__init__.py")
    tune = "['tune', '--acceptance', '0.8', '--draft-step', '1ms', '--target-step', '5ms', '--tokens', '0']"
    ran = run(tmp_path, f"from specdec.cli import main; assert main({tune}) == 0")
    assert ran.returncode == 0, ran
    assert "pearl" in ran.stdout
    assert ran.stderr.splitlines() == [
        f"specdec: {stranger} has the name of a package of pearl-specdec, and Python finds it first: "
        "rename it, or work in another folder"
    ]


def test_a_module_with_the_name_of_ours_is_named_once_in_python(tmp_path: Path) -> None:
    (tmp_path / "strategies.py").write_text("x = 1")
    ran = run(tmp_path, "import specdec; print(specdec.available())")
    assert ran.stdout == "{}\n"
    [line] = [line for line in ran.stderr.splitlines() if "RuntimeWarning" in line]
    assert f"{tmp_path}/strategies.py has the name of a package of pearl-specdec" in line


def test_the_other_distribution_is_named(other_distribution: None) -> None:
    [line] = ours_first()
    assert line.startswith("the distribution specdec 0.2.0 is another project, and overwrites files of pearl-specdec")
    assert clash() == line


def test_what_the_other_distribution_deleted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["specdec"], "__file__", None)
    assert ours_first() == [
        "the file specdec/__init__.py of pearl-specdec is missing: pip install --force-reinstall --no-deps pearl-specdec"
    ]
