"""`specdec strategies`: lists the installed strategies."""

from __future__ import annotations

from specdec.cli import options
from specdec.cli.console import Terminal


def strategies(json: options.Json = None) -> None:
    """List the installed strategies and verification rules, and their parameters.

    Lossless: it claims that the output has the target's own law, which `specdec prove` checks exactly. Packages bring more by
    the entry-point groups specdec.strategies and specdec.rules. A strategy that cannot be used is listed with the reason.

    Examples:
      specdec strategies
      specdec strategies --json -
    """
    from specdec.installed import installed

    terminal = Terminal(json)
    found = installed()
    terminal.report(found)
