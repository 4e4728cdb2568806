"""Shows code on a page: `<!-- source NAME -->` becomes the source of what that dotted name is. A hook of mkdocs."""

import inspect
import re
import textwrap
from pathlib import Path
from pydoc import locate
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for each page before it is rendered."""
    return re.sub(r"^<!-- source (\S+) -->$", lambda found: shown(found[1]), markdown, flags=re.MULTILINE)


def shown(name: str) -> str:
    """A fenced block with the source of `name`, and its file as title."""
    thing: Any = locate(name)
    if thing is None:
        raise ValueError(f"a page shows the source of {name}, which does not exist")
    file = Path(inspect.getfile(thing)).relative_to(ROOT).as_posix()
    return f'```python title="{file}"\n{textwrap.dedent(inspect.getsource(thing)).rstrip()}\n```'
