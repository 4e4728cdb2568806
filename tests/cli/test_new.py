"""`specdec new`: a package that works as it is, and what is refused."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, assert_one_line
from processes import SPECDEC, run

from specdec.testing.package import KINDS, new_package


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("kind", "thing"), [("strategy", "MyIdea"), ("rule", "my_idea"), ("length", "MyIdea")])
def test_a_new_package_is_proved_and_simulated_by_its_own_commands(kind: str, thing: str, tmp_path: Path) -> None:
    made = new_package("my_idea", kind, tmp_path)
    folder = tmp_path / "my_idea"
    assert sorted(made.files) == sorted(path.name for path in folder.iterdir())
    prove, simulate, generate, test = made.commands
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{command}`" in readme for command in (prove, simulate, generate, test))
    assert f"./my_idea.py:{thing}" in prove
    assert f"./my_idea.py:{thing}" in generate
    for command, more in ((prove, ["--pairs", "2"]), (simulate, [])):
        done = run([*SPECDEC, *command.split()[1:], *more], folder)
        assert done.returncode == 0, done.stderr
    [entry] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"].items()
    assert entry == (KINDS[kind].group.group, {"my_idea": f"my_idea:{thing}"})


@pytest.mark.parametrize("kind", ["rule"])
def test_the_test_of_a_new_package_can_pass_and_fail(kind: str, tmp_path: Path) -> None:
    new_package("my_rule", kind, tmp_path)
    module = tmp_path / "my_rule/my_rule.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q"]
    right = module.read_text()
    module.write_text(right.replace("residual(window.p(accepted), window.q(accepted))", "window.p(accepted)"))
    assert module.read_text() != right
    failed = run(command, module.parent)
    assert failed.returncode == 1
    assert "my_rule rule is not lossless" in failed.stdout


def test_it_says_what_to_do_next(run: Callable[..., Ran], here: Path) -> None:
    ran = run("new", "my_idea")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "A strategy to edit: my_idea/my_idea.py"
    assert "specdec prove ./my_idea.py:MyIdea --set draft_length=2" in ran.out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("my-idea",), ("'my-idea' is no name for a module", "my_idea")),
        (("_x",), ("no name for a module",)),
        (("../x",), ("no name for a module",)),
        (("class",), ("no name for a module",)),
        (("pearl",), ("pearl is the name of a strategy that is installed",)),
        (("block", "--kind", "rule"), ("block is the name of a verification rule that is installed",)),
        (("confident", "--kind", "length"), ("confident is the name of a draft-length policy that is installed",)),
        (("residual", "--kind", "rule"), ("residual is a name that residual.py imports",)),
        (("score",), ("Score is a name that score.py imports",)),
        (("pearl", "--kind", "length"), ("Pearl is a name that test_pearl.py imports",)),
        (("json",), ("json is the name of a module that is installed",)),
        (("specdec",), ("specdec is the name of a module that is installed",)),
        (("there",), ("there exists already", "another name")),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    run: Callable[..., Ran], here: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    (here / "there").mkdir()
    assert_one_line(run("new", *arguments), *parts)
    assert [path.name for path in here.iterdir()] == ["there"]


def test_a_folder_that_cannot_be_written_is_named(run: Callable[..., Ran], here: Path) -> None:
    (here / "file").write_text("")
    with pytest.raises(Exception, match="file/my_idea cannot be written"):
        new_package("my_idea", parent=here / "file")
