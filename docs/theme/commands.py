"""Shows `--help` of every installed command where a page says `<!-- commands -->`. A hook of mkdocs."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

from specdec.cli import COMMANDS

RUN = "import sys; from specdec.cli import main; sys.exit(main())"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for each page before it is rendered."""
    marker = "<!-- commands -->"
    return markdown.replace(marker, "\n\n".join(section(name) for name in names())) if marker in markdown else markdown


def names() -> list[str]:
    """Commands of this distribution, in the order of `specdec --help`."""
    found = entry_points(group="specdec.commands")
    ours = {entry.name for entry in found if entry.dist is not None and entry.dist.name == "pearl-specdec"}
    return [name for name in COMMANDS.names() if name in ours]


def section(name: str) -> str:
    """A heading and the help text of a command."""
    environment = {**os.environ, "COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-c", RUN, name, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n")
    return f"## specdec {name}\n\n```text\n{lines}\n```"
