"""Writes a new plug-in package: a strategy, a rule or a draft-length policy that works, to be edited."""

from __future__ import annotations

import ast
import keyword
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.errors import InputError
from specdec.lengths import POLICIES
from specdec.plugins import Plugins
from specdec.report import Report
from specdec.strategy import STRATEGIES
from specdec.verification import RULES

if TYPE_CHECKING:
    from rich.console import RenderableType

TIMES = "--acceptance 80% --draft-step 1ms --target-step 5ms"
TEXT = '--max-new-tokens 64 "ROMEO:"'


@dataclass(frozen=True)
class Kind:
    """What a package may bring.

    `said`      what it is called in sentences
    `group`     its plug-ins, whose names are taken
    `option`    how a command is given one, `{}` being its place
    `commands`  what is put before it: to prove, to simulate and to run; `{}` is the option with the place
    """

    said: str
    group: Plugins[Any]
    option: str
    commands: tuple[str, str, str]

    def lines(self, place: str) -> tuple[str, str, str]:
        """The three commands for the thing at `place`."""
        given = self.option.format(place)
        prove, simulate, run = (line.format(given, place=place) for line in self.commands)
        return prove, simulate, run


KINDS = {
    "strategy": Kind(
        "a strategy",
        STRATEGIES,
        "--strategy {}",
        ("specdec prove {place} --set draft_length=2", f"specdec simulate {{}} {TIMES}", f"specdec generate {{}} {TEXT}"),
    ),
    "rule": Kind(
        "a verification rule",
        RULES,
        "--verification {}",
        (
            "specdec prove speculative {}",
            f"specdec simulate --strategy speculative {TIMES}",
            f"specdec generate --strategy speculative {{}} {TEXT}",
        ),
    ),
    "length": Kind(
        "a draft-length policy",
        POLICIES,
        "--draft-length {}",
        (
            "specdec prove pearl --set draft_length={place}:most=3",
            f"specdec simulate {{}} {TIMES}",
            f"specdec generate {{}} {TEXT}",
        ),
    ),
}


@dataclass(frozen=True)
class NewPackage(Report):
    """What `specdec new` wrote.

    `name`       of the module, and of what it registers
    `kind`       `strategy`, `rule` or `length`
    `folder`     where it is
    `files`      its files
    `commands`   what to say in the folder, in turn: to prove it, to simulate it, to run it, to test it
    """

    format: ClassVar[str] = "specdec.new/1"

    name: str
    kind: str
    folder: str
    files: tuple[str, ...]
    commands: tuple[str, ...]

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        edit = f"{self.folder}/{self.name}.py"
        lines = [f"{KINDS[self.kind].said} to edit: {edit}", "", f"cd {self.folder}", *self.commands]
        return Text("\n".join([lines[0][0].upper() + lines[0][1:], *lines[1:]]), no_wrap=True, overflow="ignore")


def new_package(name: str, kind: str = "strategy", parent: str | Path = ".") -> NewPackage:
    """Write the package `name` of that kind into a new folder in `parent`.

    It works as it is: it is proved, simulated, run and tested at once, by its place, and is known by its name when it is
    installed. An `InputError` refuses a name that is no identifier, or is taken, and a folder that is there already.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not possible: give one of {', '.join(KINDS)}")
    _require_free(name, KINDS[kind])
    folder = Path(parent) / name
    module, lines = f"{name}.py", KINDS[kind].lines(f"./{name}.py:{_thing(name, kind)}")
    texts = {
        "pyproject.toml": "pyproject.toml",
        module: f"{kind}.py",
        f"test_{name}.py": f"{kind}.test",
        "README.md": "README.md",
    }
    words = _words(name, kind, lines)
    templates = files("specdec.testing") / "templates"
    written = {
        file: Template((templates / f"{template}.in").read_text(encoding="utf-8")).substitute(words)
        for file, template in texts.items()
    }
    for file, text in written.items():
        if file.endswith(".py") and words["thing"] in _imported(text, but=name):
            raise InputError(f"{words['thing']} is a name that {file} imports: choose another name than {name}")
    try:
        folder.mkdir()
        for file, text in written.items():
            (folder / file).write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{folder} exists already: choose another name, or remove it") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    return NewPackage(name, kind, str(folder), tuple(texts), (*lines, "python -m pytest"))


def _imported(source: str, but: str) -> set[str]:
    """The names that a module imports from other modules than `but`."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    others = [node for node in imports if not (isinstance(node, ast.ImportFrom) and node.module == but)]
    return {alias.asname or alias.name for node in others for alias in node.names}


def _words(name: str, kind: str, lines: tuple[str, str, str]) -> dict[str, str]:
    """What stands for the names in the templates."""
    said, thing = KINDS[kind].said, _thing(name, kind)
    return {
        "name": name,
        "project": name.replace("_", "-"),
        "title": name.replace("_", " ").capitalize(),
        "thing": thing,
        "place": f"./{name}.py:{thing}",
        "kind": said,
        "kind_title": said.capitalize(),
        "group": KINDS[kind].group.group.removeprefix("specdec."),
        **dict(zip(("prove", "simulate", "run"), lines, strict=True)),
    }


def _thing(name: str, kind: str) -> str:
    """The class or function in the module: `MyIdea`, or `my_idea` for a rule."""
    return name if kind == "rule" else "".join(part.capitalize() for part in name.split("_"))


def _require_free(name: str, kind: Kind) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise InputError(f"{name!r} is no name for a module: give lower-case letters, digits and single underscores: my_idea")
    if name in kind.group.names():
        raise InputError(f"{name} is the name of {kind.said} that is installed: choose another name")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise InputError(f"{name} is the name of a module that is installed: choose another name")
