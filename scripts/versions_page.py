"""Writes the page of versions: those that are allowed and pinned, and how the tests ended with the oldest and the newest ones.

    python scripts/versions_page.py bounds                  # print the oldest allowed versions, as constraints for pip
    python scripts/versions_page.py oldest TESTS.xml        # or newest: write the column and the line of these versions

It is run in the environment of the oldest or newest versions, after its tests (`make check-oldest`, `make check-latest`). What
the page says of the others stays. Ends with 1 if a test failed, so that the target fails too.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/versions.md"
HEAD = """# Versions

Allowed are the ranges of `pyproject.toml`. Pinned are the versions of `constraints.txt`, which every `make` target installs and
the tests run with. `make check-latest` installs the newest allowed versions into an environment of its own, runs all tests
there, and writes this page. `make check-oldest` does the same with the lowest versions that the ranges name.

"""
KINDS = ("oldest", "newest")


def requirements(*, test: bool = False) -> dict[str, str]:
    """The allowed range of each direct dependency, by name; of those of a `test`, too."""
    written = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    texts = written["project"]["dependencies"] + (written["dependency-groups"]["test"] if test else [])
    found = (re.fullmatch(r"([\w-]+)(.*)", text) for text in texts)
    return {match[1]: match[2] for match in found if match}


def bounds() -> list[str]:
    """The oldest allowed version of each, as constraints for pip."""
    return [f"{name}=={allowed.split(',')[0].removeprefix('>=')}" for name, allowed in requirements(test=True).items()]


def pinned() -> dict[str, str]:
    """The pinned version of each package, by name."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def outcome(results: Path) -> tuple[str, list[str]]:
    """The counts of the tests as a sentence, and the names of those that failed."""
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return f"{passed} tests passed, {len(failed)} failed, {counts['skipped']} were skipped", failed


def tested(text: str) -> dict[str, tuple[str, str]]:
    """What a page says of the oldest and the newest version of each package, by name."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {cells[1]: (cells[4], cells[5]) for cells in rows}


def page(kind: str, results: Path, before: str) -> tuple[str, bool]:
    """The page as text, and whether all tests passed. `before` is the page as it was."""
    pins, known = pinned(), tested(before)
    lines = [HEAD + "| package | allowed | pinned | oldest that was tested | newest that was tested |", "|---|---|---|---|---|"]
    for name, allowed in requirements().items():
        versions = dict(zip(KINDS, known.get(name, ("-", "-")), strict=True)) | {kind: version(name)}
        lines.append(f"| {name} | `{allowed}` | {pins.get(name, '-')} | {versions['oldest']} | {versions['newest']} |")
    sentence, failed = outcome(results)
    for one in KINDS:
        begins = f"With the {one} ones, "
        said = next((line for line in before.splitlines() if line.startswith(begins)), None)
        if one == kind:
            said = f"{begins}on Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}: {sentence}."
        lines += ["", said] if said else []
    lines += ["", *(f"- `{name}`" for name in failed)] if failed else []
    return "\n".join(lines) + "\n", not failed


def main() -> int:
    """Write the page, or print the bounds; returns the exit code."""
    if sys.argv[1:] == ["bounds"]:
        print("\n".join(bounds()))
        return 0
    kind, results = sys.argv[1:]
    text, passed = page(kind, Path(results), PAGE.read_text("utf-8"))
    PAGE.write_text(text, "utf-8")
    print(next(line for line in text.splitlines() if line.startswith(f"With the {kind} ones")))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
