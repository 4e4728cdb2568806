"""What becomes of the keywords of `generate`: `<!-- keywords TABLE -->` on a page, a table of `specdec.huggingface.options`.

A hook of mkdocs. The tests try every row of these tables.
"""

import re
from typing import Any

from columns import table

from specdec.huggingface import options

MARKER = re.compile(r"^<!-- keywords (\w+) -->$", flags=re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for each page before it is rendered."""
    return MARKER.sub(lambda found: shown(getattr(options, found[1])), markdown)


def shown(treated: dict[str, options.Option]) -> str:
    """A table with a row for all keywords of which the same is said."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, option in treated.items():
        rows.setdefault((option.how, option.note), []).append(f"`{name}`")
    return table(["keyword", "", ""], [(", ".join(names), how, note) for (how, note), names in rows.items()])
