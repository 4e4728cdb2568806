"""`specdec new`: writes a plug-in package that works, to be edited."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from specdec.cli import options
from specdec.cli.console import Terminal


def new(
    name: Annotated[str, typer.Argument(help="Name of the package, such as my_idea.")],
    kind: Annotated[
        Literal["strategy", "rule", "length"],
        typer.Option(help="What it brings: a strategy, a verification rule or a draft-length policy."),
    ] = "strategy",
    json: options.Json = None,
) -> None:
    """Write a package of your own into a new folder: a strategy, a rule or a draft-length policy, to be edited.

    It works as it is. Its place, ./NAME.py:Class, is taken by all commands at once; `pip install -e .` in the folder makes its
    name known. Its test is one line, and its README says how to prove, simulate, run and test it.

    Examples:
      specdec new my_idea
      specdec new my_rule --kind rule
    """
    from specdec.testing.package import new_package

    terminal = Terminal(json)
    made = new_package(name, kind)
    terminal.report(made)
