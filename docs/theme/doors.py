"""The reference of a door: `<!-- door PACKAGE.ROOM -->` becomes an entry for each name that the package offers from that room.

A hook of mkdocs. Nothing that `__all__` offers can be left out, if a page has all rooms.
"""

import importlib
import re
from typing import Any

MARKER = re.compile(r"^<!-- door (\w+)\.(\w+) -->$", flags=re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for each page before it is rendered."""
    return MARKER.sub(lambda found: entries(found[1], found[2]), markdown)


def entries(package: str, room: str) -> str:
    """What mkdocstrings renders, in the order of the door."""
    door: Any = importlib.import_module(package)
    names = [name for name in door.__all__ if getattr(door, name).__module__.startswith(f"{package}.{room}.")]
    if not names:
        raise ValueError(f"a page shows what {package} offers from {room}, and that is nothing")
    return "\n\n".join(f"::: {package}.{name}\n    options: {{ heading_level: 3 }}" for name in names)
