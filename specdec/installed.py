"""Which strategies are installed, as a report."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from inspect import getdoc
from typing import TYPE_CHECKING, Any, ClassVar

from specdec.report import Report, table
from specdec.strategy import DecodingStrategy, available

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class InstalledStrategy(Report):
    """One strategy.

    `name`          what it is called on the command line
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

    `strategies`   every installed one, in order of names
    """

    format: ClassVar[str] = "specdec.strategies/1"

    strategies: tuple[InstalledStrategy, ...]

    def __rich__(self) -> RenderableType:
        made = table("strategy", "lossless", "parameters", "description")
        for column in made.columns[:-1]:
            column.no_wrap = True
        for found in self.strategies:
            parameters = "\n".join(f"{name} = {value}" for name, value in found.parameters.items())
            made.add_row(found.name, "yes" if found.lossless else "NO", parameters or "-", found.description)
        return made


def installed() -> Strategies:
    """Every installed strategy, with its claim, its parameters and what it does."""
    return Strategies(tuple(_described(cls) for cls in available().values()))


def _described(cls: type[DecodingStrategy]) -> InstalledStrategy:
    parameters = {field.name: _default(field) for field in fields(cls)}  # type: ignore[arg-type]
    return InstalledStrategy(cls.name, cls.lossless, parameters, (getdoc(cls) or "").partition("\n")[0])


def _default(field: Any) -> Any:
    if field.default_factory is not MISSING:
        return str(field.default_factory())
    if field.default is MISSING:
        return "required"
    return field.default if isinstance(field.default, (int, float, str)) else str(field.default)
