"""JSON formats from the classes of reports: `<!-- format specdec.NAME/VERSION -->` on a page. A hook of mkdocs.

Shows the shape, then a table of keys, types and meanings for the class that has this format, and one for each of its parts.
Types are those of the dataclass, meanings the lines "`name`   meaning" of its docstring.
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from inspect import cleandoc
from itertools import chain
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from columns import rows, table

import sim
import specdec
from specdec.report import Report

MARKER = re.compile(r"^<!-- format (\S+) -->$", flags=re.MULTILINE)
NAMES = {float: "number", int: "integer", str: "text", bool: "true or false", NoneType: "null", Any: "anything"}
EMPTY = {float: 0.0, int: 0, str: "...", bool: True, NoneType: None, Any: "..."}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called for each page before it is rendered."""
    return MARKER.sub(lambda found: shown(found[1]), markdown)


def shown(name: str) -> str:
    """Shape and tables of a format; a `ValueError` if no class has it."""
    classes = [cls for cls in reports() if cls.format == name]
    if not classes:
        raise ValueError(f"a page shows the format {name}, which no report has")
    return "\n\n".join(section for cls in classes for section in described(cls))


def reports() -> list[type[Report]]:
    """Every class of a report in our packages."""
    for package in (specdec, sim):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".cli" not in module.name:  # commands hold no reports
                importlib.import_module(module.name)
    return list(below(Report))


def below(cls: type[Report]) -> Iterator[type[Report]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from below(sub)


def described(cls: type[Report]) -> Iterator[str]:
    """The sections of a class that is written as a whole."""
    yield f"```json\n{json.dumps({'format': cls.format, **shape(cls)}, indent=2)}\n```"
    yield from tables_of(cls, cls)
    for part in parts(cls):
        yield f"### {part.__name__} {{ #{anchor(cls, part)} }}"
        yield from tables_of(part, cls)


def anchor(cls: type[Report], part: type[Report]) -> str:
    return f"{cls.__name__}-{part.__name__}".lower()


def tables_of(cls: type[Report], of: type[Report]) -> Iterator[str]:
    """What the docstring says in sentences, then the fields, with the meanings that the bases give them too."""
    documented = [base.__doc__ for base in reversed(cls.__mro__) if base is not Report and issubclass(base, Report)]
    paragraphs = [cleandoc(text or "").split("\n\n") for text in documented]
    yield from (paragraph for paragraph in paragraphs[-1] if not rows(paragraph))
    meanings = {
        name: meaning
        for paragraph in chain.from_iterable(paragraphs)
        for names, meaning in rows(paragraph)
        for name in re.findall(r"`([^`]+)`", names)
    }
    cells = [(f"`{key}`", written(kind, of), meanings.get(name, "")) for name, key, kind in keys(cls)]
    yield table(["key", "type", "meaning"], cells)


def keys(cls: type[Report]) -> Iterator[tuple[str, str, Any]]:
    """The name, the key in JSON and the type of each field."""
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):  # type: ignore[arg-type]
        kind = hints[field.name]
        marks = getattr(kind, "__metadata__", ())
        key = next((mark.alias for mark in marks if getattr(mark, "alias", None)), field.name)
        yield field.name, key, get_args(kind)[0] if marks else kind


def parts(cls: type[Report]) -> list[type[Report]]:
    """The classes of reports inside a class, in the order in which they are met, each once."""
    found: dict[type[Report], None] = {}

    def look(kind: Any) -> None:
        for argument in get_args(kind):
            look(argument)
        if isinstance(kind, type) and issubclass(kind, Report) and kind is not cls and kind not in found:
            found[kind] = None
            inside(kind)

    def inside(report: type[Report]) -> None:
        for _, _, kind in keys(report):
            look(kind)

    inside(cls)
    return list(found)


def written(kind: Any, of: type[Report]) -> str:
    """A type in the words of JSON, in the format of a class."""
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    match get_origin(kind):
        case None if isinstance(kind, type) and issubclass(kind, Report):
            return f"[{kind.__name__}](#{anchor(of, kind)})"
        case None:
            return NAMES[kind]
        case origin if origin is Literal:
            return ", ".join(f'`"{value}"`' for value in arguments)
        case origin if origin in (Union, UnionType):
            kinds = [argument for argument in arguments if argument is not int or float not in arguments]
            return " or ".join(written(argument, of) for argument in kinds)
        case origin if issubclass(origin, Mapping):
            return f"object: {written(arguments[1], of)} by {'number' if arguments[0] in (int, float) else 'name'}"
        case origin if issubclass(origin, Sequence):
            return "list of " + " and ".join(dict.fromkeys(written(argument, of) for argument in arguments))
        case _:
            raise ValueError(f"a report has a field of type {kind}, for which JSON has no word")


def shape(kind: Any, above: tuple[Any, ...] = ()) -> Any:
    """A value of that type with nothing in it, to show how it nests; `...` for a class inside itself."""
    arguments = [argument for argument in get_args(kind) if argument is not Ellipsis]
    match get_origin(kind):
        case None if isinstance(kind, type) and issubclass(kind, Report):
            return "..." if kind in above else {key: shape(part, (*above, kind)) for _, key, part in keys(kind)}
        case None:
            return EMPTY[kind]
        case origin if origin in (Literal, Union, UnionType):
            return arguments[0] if origin is Literal else shape(arguments[0], above)
        case origin if issubclass(origin, Mapping):
            return {"0" if arguments[0] in (int, float) else "...": shape(arguments[1], above)}
        case _:
            return [shape(argument, above) for argument in arguments]
