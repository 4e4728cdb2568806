"""Lets a command take a dataclass of options: each field becomes an option of its own.

    @dataclass(frozen=True)
    class ModelOptions:
        target: Annotated[str | None, typer.Option(help="Target model.")] = None
        ...

    def bench(models: ModelOptions, seed: Annotated[int, typer.Option()] = 0) -> None: ...

On the command line, `bench` takes `--target` and `--seed`; in Python, `bench(ModelOptions(target="..."))`. So options that
several commands share are declared once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def with_grouped_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` in the form that typer takes: an option for each field of its parameters that are dataclasses."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    spread: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        kind = hints.get(name, Parameter.empty)
        if is_dataclass(kind):
            groups[name] = kind
            of_field = get_type_hints(kind, include_extras=True)
            spread += [_option(field.name, of_field[field.name], field.default) for field in fields(kind)]
        else:
            spread.append(_option(name, kind, parameter.default))

    @wraps(function)
    def command(**values: Any) -> Any:
        made = {name: kind(**{field.name: values.pop(field.name) for field in fields(kind)}) for name, kind in groups.items()}
        return function(**made, **values)

    command.__signature__ = Signature(spread)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return command


def _option(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=Parameter.empty if default is MISSING else default, annotation=annotation
    )
