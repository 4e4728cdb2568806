"""`specdec strategies`: what is installed."""

from __future__ import annotations

from dataclasses import MISSING, fields
from inspect import getdoc
from typing import Any

from specdec.cli import options
from specdec.cli.console import Terminal
from specdec.strategy import DecodingStrategy, available


def strategies(json: options.Json = None) -> None:
    """List the installed strategies and their parameters.

    Lossless: the law of the output is the target's own, which `specdec prove` checks exactly. Packages may bring more
    strategies through the entry-point group specdec.strategies.

    Examples:
      specdec strategies
      specdec strategies --json -
    """
    from rich import box
    from rich.table import Table

    output = Terminal(json)
    found = [described(strategy) for strategy in available().values()]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("strategy", "lossless", "parameters", "description"):
        table.add_column(heading, no_wrap=heading != "description")
    for item in found:
        parameters = "\n".join(f"{name} = {value}" for name, value in item["parameters"].items())
        table.add_row(item["name"], "yes" if item["lossless"] else "NO", parameters or "-", item["description"])
    output.console.print(table)
    output.write(found)


def described(strategy: type[DecodingStrategy]) -> dict[str, Any]:
    """A strategy's name, claim, parameters with their defaults, and the first line of its docstring."""
    return {
        "name": strategy.name,
        "lossless": strategy.lossless,
        "parameters": {field.name: _default(field) for field in fields(strategy)},  # type: ignore[arg-type]
        "description": (getdoc(strategy) or "").partition("\n")[0],
    }


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return str(field.default_factory())
    if field.default is MISSING:
        return "required"
    return field.default if isinstance(field.default, (int, float, str)) else str(field.default)
