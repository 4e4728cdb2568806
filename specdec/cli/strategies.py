"""`specdec strategies`: lists the installed strategies."""

from __future__ import annotations

from specdec.cli import options
from specdec.cli.console import Terminal


def strategies(json: options.Json = None) -> None:
    """List the installed strategies and their parameters.

    Lossless: the strategy claims that its output has the target's own law, which `specdec prove` checks exactly. Packages bring
    more strategies by the entry-point group specdec.strategies. One that cannot be used is listed with the reason.

    Examples:
      specdec strategies
      specdec strategies --json -
    """
    from specdec.installed import installed

    terminal = Terminal(json)
    found = installed()
    terminal.console.print(found)
    terminal.write(found.to_dict())
