"""Docstrings on the site: lines such as "`name`   what it is" become a table; everything else is Markdown as it stands."""

import re
from typing import Any

from griffe import Extension, Object

ROW = re.compile(r"^(`[^`]+`(?:, `[^`]+`)*) +(?=\S)(.*)$")


def tables(text: str) -> str:
    """`text` with each paragraph whose lines all begin with names in backticks (or continue one) as a table."""
    return "\n\n".join(_table(paragraph.splitlines()) or paragraph for paragraph in text.split("\n\n"))


def _table(lines: list[str]) -> str | None:
    rows: list[list[str]] = []
    for line in lines:
        if found := ROW.match(line):
            rows.append([found[1], found[2]])
        elif rows and line.startswith(" "):
            rows[-1][1] += " " + line.strip()
        else:
            return None
    if len(rows) < 2:
        return None
    cells = [f"| {name} | {text.replace('|', '&#124;')} |" for name, text in rows]
    return "\n".join(["| | |", "|---|---|", *cells])


class Columns(Extension):
    """Rewrites every docstring before it is rendered."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = tables(obj.docstring.value)
