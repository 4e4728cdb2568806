"""`Report`, the base of results that print and become JSON, and how numbers and tables are written for people.

A study is a function of values that returns a `Report`. A command parses its options, calls the study, prints the report and
writes it. So the JSON of a command and `to_dict()` of the result in Python are the same, and the fields of the report's class
document both. Knows no study; conversion and checks are pydantic's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from specdec.errors import InputError
from specdec.inputs import did_you_mean

if TYPE_CHECKING:
    from typing import Self

    from pydantic import TypeAdapter, ValidationError
    from rich.console import RenderableType
    from rich.table import Table

T = TypeVar("T")

WIDTH = 110
"""Columns of a printed report where there is no terminal."""

Progress: TypeAlias = Callable[[Iterable[Any], int], Iterable[Any]]
"""`progress(steps, total)` yields every item of `steps`, and may show it. `str(item)` says what is done next."""

Parameter: TypeAlias = bool | int | float | str
"""A parameter of a strategy, as reports hold it."""


def no_progress(steps: Iterable[T], total: int) -> Iterator[T]:
    """Yields every step and shows nothing."""
    yield from steps


def named(strategy: str, parameters: Mapping[str, Any]) -> str:
    """A strategy with its draft length, for sentences: `pearl (draft length 4)`."""
    drafted = parameters.get("draft_length")
    return strategy if drafted is None else f"{strategy} (draft length {drafted})"


def spelled(strategy: str, parameters: Mapping[str, Any]) -> str:
    """A strategy with all its parameters: `pearl draft_length=4`."""
    return " ".join([strategy, *(f"{name}={value}" for name, value in parameters.items())])


def share(value: float) -> str:
    """A share as a percentage: `0.213` as `21 %`."""
    return f"{100 * value:.0f} %"


def three_digits(value: float) -> str:
    """A number with three significant digits and no exponent: `0.213`, `11.6`, `1234`."""
    rounded = float(f"{value:.2e}")
    decimals = 2 - floor(log10(abs(rounded))) if rounded else 0
    return f"{value:.{max(0, decimals)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, for people: `11.6 ms`."""
    return f"{three_digits(1000 * seconds)} ms"


def table(*texts: str, numbers: Sequence[str] = (), title: str | None = None, **look: Any) -> Table:
    """An empty table with the headings of columns of text, then of numbers; `look` is passed to `rich.table.Table`."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, **look)
    for heading in texts:
        made.add_column(heading)
    for heading in numbers:
        made.add_column(heading, justify="right")
    return made


class Report:
    """Base of results: frozen dataclasses of plain values. Times are in seconds, lengths in tokens, shares between 0 and 1.

    `format` is `"specdec.NAME/VERSION"` for a result that a command writes, and stands first in its JSON. Keys may be added to
    a version; its keys keep their names and meanings.
    """

    format: ClassVar[str] = ""
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as `json` takes them."""
        found = _adapter(type(self)).dump_python(self, mode="json", by_alias=True)
        return {"format": self.format, **found} if self.format else found

    @classmethod
    def from_dict(cls, found: Any, source: str) -> Self:
        """The report from what `to_dict` returned. Raises `InputError` with `source`, the key and the fault.

        A missing `format` is accepted, since old files have none; that of another class is refused.
        """
        from pydantic import ValidationError

        if not isinstance(found, dict):
            raise InputError(f"{source} holds no JSON object: give what `to_dict` or --json wrote")
        other = found.get("format", cls.format)
        if other != cls.format:
            raise InputError(f"{source} is of format {other!r}, and {cls.format!r} is needed here: give a file of that kind")
        try:
            return _adapter(cls).validate_python({key: value for key, value in found.items() if key != "format"})
        except ValidationError as error:
            raise InputError(f"{source}: {_reason(cls, error)}") from error

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The report in a JSON file. Raises `InputError` with the path, the key and the fault."""
        command = cls.format.partition("/")[0].replace(".", " ")
        try:
            found = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): give what {command} --json writes") from error
        except ValueError as error:
            raise InputError(f"{path} is no JSON ({error}): give what {command} --json writes") from error
        return cls.from_dict(found, str(path))

    def __rich__(self) -> RenderableType:
        """What a terminal shows: the fields, for a part of a report that has no table or sentence of its own."""
        from rich.text import Text

        return Text(repr(self))

    def __str__(self) -> str:
        """What `print` shows: the same, without colours."""
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=WIDTH, highlight=False, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@cache
def _adapter(cls: type[Report]) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _reason(cls: type[Report], error: ValidationError) -> str:
    """The first fault, in one line, and what to do."""
    first, *_ = error.errors(include_url=False, include_context=False)
    *above, last = [str(part) for part in first["loc"]] or ["the file"]
    where = ".".join([*above, last])
    match first["type"]:
        case "unexpected_keyword_argument":
            known = [] if above else [field.name for field in fields(cls)]  # type: ignore[arg-type]
            return f"{where} is not a key of {cls.format}: {did_you_mean(last, known) or 'remove it'}"
        case "missing" | "missing_argument":
            return f"{where} is missing: write the file again"
        case "value_error":
            return f"{where}: {first['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where} is {str(first['input'])[:40]!r} ({first['msg'].lower()}): correct it, or write the file again"
