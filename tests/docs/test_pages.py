"""The pages are true: their Python runs, prints what they say, and their commands succeed.

Every Python block runs, in order, in one namespace a page; every `specdec` command in a `bash` block runs; an `output` block is
what the block before printed (of `bash`, its last command). What takes too long, or needs a hub, stands in a `text` block.
"""

import io
import re
import shlex
import sys
import textwrap
from codeop import Compile
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from processes import SPECDEC, run

import specdec

ROOT = Path(__file__).resolve().parents[2]

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
    printed, before = "", ""
    try:
        for block in blocks(page):
            if block.language == "python":
                code = compiled("\n" * block.lines_before + block.text, name, "exec")
                with redirect_stdout(io.StringIO()) as out:
                    exec(code, vars(module))
                printed = out.getvalue()
            elif block.language == "output" and before != "bash":
                assert printed.strip() == block.text.strip(), f"{name}, line {block.lines_before}"
            before = block.language
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


NOT_RUN = {"cd", "git", "make"}
"""What a `bash` block may hold besides `specdec` commands."""


def lines_of_bash(page: str) -> list[str]:
    text = "\n".join(block.text.replace("\\\n", "") for block in blocks(page) if block.language == "bash")
    return [line for line in text.splitlines() if line]


def commands(page: str) -> list[str]:
    return [line for line in lines_of_bash(page) if line.startswith("specdec ")]


def printed_by_commands(page: str) -> dict[str, str]:
    """What a page says that commands print: an `output` block behind a `bash` block, by its last command."""
    return {
        lines_of_bash(f"```bash\n{block.text}```")[-1]: after.text
        for block, after in pairwise(blocks(page))
        if (block.language, after.language) == ("bash", "output")
    }


def told(text: str) -> list[str]:
    """Its lines without blanks at their ends, and without empty lines."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def not_checked(page: str) -> list[str]:
    """Lines of `bash` blocks that look checked and are not."""
    return [line for line in lines_of_bash(page) if line.split()[0] not in {"specdec", *NOT_RUN}]


PRINTED = {command: said for page in PAGES for command, said in printed_by_commands(page.read_text(encoding="utf-8")).items()}


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))])
def test_command_on_a_page(command: str, tmp_path: Path) -> None:
    done = run([*SPECDEC, *shlex.split(command)[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    if command in PRINTED:
        assert told(done.stdout) == told(PRINTED[command])


def test_output_behind_a_command_is_compared() -> None:
    page = "```bash\nspecdec strategies\nspecdec map \\\n  --batch 2\n```\n\n```output\n a\n```\n"
    assert printed_by_commands(page) == {"specdec map   --batch 2": "a\n"}
    assert set(PRINTED) <= {command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_bash_blocks_hold_commands_that_are_run(page: Path) -> None:
    assert not not_checked(page.read_text(encoding="utf-8"))


def test_a_command_that_is_not_run_is_seen() -> None:
    page = "```bash\nmake demo\n.venv/bin/specdec prove \\\n  --all\n```\n"
    assert not_checked(page) == [".venv/bin/specdec prove   --all"]


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
