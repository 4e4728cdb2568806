"""Docstrings on the site: lines such as "`name`   what it is" become a table; everything else is Markdown as it stands."""

import re
from typing import Any

from griffe import Extension, Object

ROW = re.compile(r"^(`[^`]+`(?:, `[^`]+`)*)( +)(?=\S)(.*)$")


def tables(text: str) -> str:
    """`text` with each paragraph that is all rows, and has two or more of them, as a table."""
    return "\n\n".join(_table(rows(paragraph)) or paragraph for paragraph in text.split("\n\n"))


def rows(paragraph: str) -> list[tuple[str, str]]:
    """Names and meanings, from a paragraph in two columns; of any other paragraph nothing."""
    found: list[tuple[str, str]] = []
    columns = False  # a sentence may begin with a name too, but leaves no gap behind it
    for line in paragraph.splitlines():
        if row := ROW.match(line):
            found.append((row[1], row[3]))
            columns |= len(row[2]) > 1
        elif found and line.startswith(" "):
            names, meaning = found[-1]
            found[-1] = names, f"{meaning} {line.strip()}"
        else:
            return []
    return found if columns else []


def table(headings: list[str], cells: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "&#124;") for cell in row] for row in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(found: list[tuple[str, str]]) -> str | None:
    return table(["", ""], list(found)) if len(found) > 1 else None


class Columns(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = tables(obj.docstring.value)
