"""Writes the page of versions: those that are allowed, those that are pinned, and how the tests ended with the newest ones.

    python scripts/versions_page.py TESTS.xml

It is run in the environment of the newest versions, after its tests (`make check-latest`). Ends with 1 if a test failed, so
that the target fails too.
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
there, and writes this page.

"""


def requirements() -> dict[str, str]:
    """The allowed range of each direct dependency, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found = (re.fullmatch(r"([\w-]+)(.*)", text) for text in project["dependencies"])
    return {match[1]: match[2] for match in found if match}


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


def page(results: Path) -> tuple[str, bool]:
    """The page as text, and whether all tests passed."""
    pins = pinned()
    rows = [f"| {name} | `{allowed}` | {pins.get(name, '-')} | {version(name)} |" for name, allowed in requirements().items()]
    sentence, failed = outcome(results)
    lines = [
        "| package | allowed | pinned | newest that was tested |",
        "|---|---|---|---|",
        *rows,
        "",
        f"With the newest ones, on Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}: {sentence}.",
        *(["", *(f"- `{name}`" for name in failed)] if failed else []),
    ]
    return HEAD + "\n".join(lines) + "\n", not failed


def main() -> int:
    """Write the page; returns the exit code."""
    text, passed = page(Path(sys.argv[1]))
    PAGE.write_text(text, "utf-8")
    print(text.splitlines()[-1])
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
