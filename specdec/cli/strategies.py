"""`specdec strategies`: what is installed."""

from __future__ import annotations

from specdec.cli import options
from specdec.cli.console import Terminal


def strategies(json: options.Json = None) -> None:
    """List the installed strategies and their parameters.

    Lossless: the law of the output is the target's own, which `specdec prove` checks exactly. Packages may bring more
    strategies through the entry-point group specdec.strategies.

    Examples:
      specdec strategies
      specdec strategies --json -
    """
    from specdec.installed import installed

    terminal = Terminal(json)
    found = installed()
    terminal.console.print(found)
    terminal.write(found.to_dict())
