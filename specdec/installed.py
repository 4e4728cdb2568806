"""Lists the installed strategies and verification rules, and those that are installed but cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from inspect import getdoc
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.report import Report, table
from specdec.strategy import STRATEGIES, DecodingStrategy
from specdec.verification import description_of, is_lossless, rules

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


@dataclass(frozen=True)
class Installed(Report):
    """One strategy, or one verification rule.

    `name`          its name on the command line
    `lossless`      whether it claims that outputs have the target's own law; `specdec prove` checks the claim
    `parameters`    its parameters with their defaults; `"required"` for one that has none
    `description`   first line of its docstring
    """

    name: str
    lossless: bool
    parameters: dict[str, Any]
    description: str


@dataclass(frozen=True)
class Strategies(Report):
    """What `specdec strategies` writes.

    `strategies`   every installed one that can be used, in order of names
    `broken`       what is wrong with those that were left out, by name
    `rules`        every installed verification rule that can be used
    """

    format: ClassVar[str] = "specdec.strategies/1"

    strategies: tuple[Installed, ...]
    broken: dict[str, str] = field(default_factory=dict[str, str])
    rules: tuple[Installed, ...] = ()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        tables = [_table("strategy", self.strategies), _table("verification rule", self.rules)]
        return Group(*tables, *(Text(f"Left out: {fault}", style="bold red") for fault in dict.fromkeys(self.broken.values())))


def _table(kind: str, listed: Sequence[Installed]) -> Table:
    from rich.markup import escape

    made = table(kind, "lossless", "parameters", "description")
    for column in made.columns[:-1]:
        column.no_wrap = True
    for found in listed:
        parameters = "\n".join(f"{name} = {value}" for name, value in found.parameters.items())
        made.add_row(found.name, "yes" if found.lossless else "NO", parameters or "-", escape(found.description))
    return made


def installed() -> Strategies:
    """Every installed strategy and rule, with its claim, its parameters and what it does; and those that cannot be used."""
    found, faults = STRATEGIES.sorted_out()
    listed = [Installed(name, is_lossless(it), *description_of(it)) for name, it in rules(lossy=True).items()]
    return Strategies(tuple(_described(cls) for cls in found.values()), faults, tuple(listed))


def _described(cls: type[DecodingStrategy]) -> Installed:
    parameters = {parameter.name: _default(parameter) for parameter in fields(cls)}  # type: ignore[arg-type]
    return Installed(cls.name, cls.lossless, parameters, (getdoc(cls) or "").partition("\n")[0])


def _default(parameter: Any) -> Any:
    if parameter.default_factory is not MISSING:
        return str(parameter.default_factory())
    if parameter.default is MISSING:
        return "required"
    return parameter.default if isinstance(parameter.default, (int, float, str)) else str(parameter.default)
