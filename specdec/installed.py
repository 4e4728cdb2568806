"""Lists the installed strategies, and those that are installed but cannot be used."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from inspect import getdoc
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.report import Report, table
from specdec.strategy import STRATEGIES, DecodingStrategy

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class InstalledStrategy(Report):
    """One strategy.

    `name`          its name on the command line
    `lossless`      whether it claims that its output has the target's own law; `specdec prove` checks the claim
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
    """

    format: ClassVar[str] = "specdec.strategies/1"

    strategies: tuple[InstalledStrategy, ...]
    broken: dict[str, str] = field(default_factory=dict[str, str])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        made = table("strategy", "lossless", "parameters", "description")
        for column in made.columns[:-1]:
            column.no_wrap = True
        for found in self.strategies:
            parameters = "\n".join(f"{name} = {value}" for name, value in found.parameters.items())
            made.add_row(found.name, "yes" if found.lossless else "NO", parameters or "-", found.description)
        return Group(made, *(Text(f"Left out: {fault}", style="bold red") for fault in dict.fromkeys(self.broken.values())))


def installed() -> Strategies:
    """Every installed strategy, with its claim, its parameters and what it does; and those that cannot be used."""
    found, faults = STRATEGIES.sorted_out()
    return Strategies(tuple(_described(cls) for cls in found.values()), faults)


def _described(cls: type[DecodingStrategy]) -> InstalledStrategy:
    parameters = {parameter.name: _default(parameter) for parameter in fields(cls)}  # type: ignore[arg-type]
    return InstalledStrategy(cls.name, cls.lossless, parameters, (getdoc(cls) or "").partition("\n")[0])


def _default(parameter: Any) -> Any:
    if parameter.default_factory is not MISSING:
        return str(parameter.default_factory())
    if parameter.default is MISSING:
        return "required"
    return parameter.default if isinstance(parameter.default, (int, float, str)) else str(parameter.default)
