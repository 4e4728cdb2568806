"""The page of versions: what is allowed, pinned and tested, and that a failed test is not hidden."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("versions_page", ROOT / "scripts/versions_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(folder: Path, failure: str) -> Path:
    """What pytest writes of two tests; `failure` stands inside of the second."""
    path = folder / "tests.xml"
    cases = f'<testcase classname="tests.a" name="one"/><testcase classname="tests.a" name="two">{failure}</testcase>'
    counted = 'tests="2" failures="1"' if failure else 'tests="2" failures="0"'
    path.write_text(f'<testsuites><testsuite {counted} errors="0" skipped="0">{cases}</testsuite></testsuites>')
    return path


def test_the_page_names_every_dependency_with_its_range_and_its_versions(script: Any, tmp_path: Path) -> None:
    text, passed = script.page("newest", results(tmp_path, ""), "")
    assert passed
    assert "With the newest ones" in text
    assert "2 tests passed, 0 failed" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(script.requirements()) > 10
    assert any(row.startswith("| transformers | `>=5.23,<6` | 5.") for row in rows)
    assert all(row.count("|") == 6 for row in rows)


def test_what_is_known_of_other_versions_stays(script: Any, tmp_path: Path) -> None:
    newest, _ = script.page("newest", results(tmp_path, ""), "")
    both, _ = script.page("oldest", results(tmp_path, ""), newest.replace("| numpy | `>=2.3`", "| numpy | `>=1.0`"))
    assert both.index("With the oldest ones") < both.index("With the newest ones")
    for name in ("numpy", "torch"):
        oldest_version, newest_version = script.tested(both)[name]
        assert oldest_version == newest_version != "-"
        assert script.tested(newest)[name] == ("-", newest_version)
    assert "| numpy | `>=2.3`" in both


def test_the_oldest_versions_are_the_bounds_of_the_ranges(script: Any) -> None:
    found = script.bounds()
    assert {"transformers==5.23", "simpy==4.1", "hypothesis==6.120"} <= {*found}
    assert len(found) == len(script.requirements(test=True)) > len(script.requirements())


def test_a_test_that_failed_is_on_the_page(script: Any, tmp_path: Path) -> None:
    text, passed = script.page("oldest", results(tmp_path, "<failure/>"), "")
    assert not passed
    assert "1 tests passed, 1 failed" in text
    assert text.endswith("- `tests.a::two`\n")


def test_the_page_of_the_site_has_the_ranges_of_today(script: Any) -> None:
    page = (ROOT / "docs/reference/versions.md").read_text("utf-8")
    for name, allowed in script.requirements().items():
        assert f"| {name} | `{allowed}` |" in page, f"write the page again: make check-latest ({name})"
