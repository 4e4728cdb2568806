"""What the shell offers after Tab: names of strategies and rules, and parameters of the chosen strategy."""

from __future__ import annotations

from dataclasses import fields

import typer

from specdec.errors import InputError
from specdec.lengths import POLICIES
from specdec.strategy import STRATEGIES
from specdec.verification import RULES


def strategy_names(incomplete: str) -> list[str]:
    """Names of installed strategies; in a list with commas, of its last one."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in STRATEGIES.names() if name.startswith(last)]


def rule_names(incomplete: str) -> list[str]:
    """Names of installed verification rules."""
    return [name for name in RULES.names() if name.startswith(incomplete)]


def draft_lengths(incomplete: str) -> list[str]:
    """`auto`, and names of installed draft-length policies."""
    return [name for name in ("auto", *POLICIES.names()) if name.startswith(incomplete)]


def parameter_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Parameters of the strategies that are typed already, of all installed ones before one is: `NAME=`."""
    given = ctx.params.get("strategy") or ()
    names = [part for value in ([given] if isinstance(given, str) else given) for part in value.split(",")]
    found: dict[str, None] = {}
    for name in names or STRATEGIES.names():
        try:
            found |= {f"{field.name}=": None for field in fields(STRATEGIES.find(name))}  # type: ignore[arg-type]
        except InputError:  # an unknown name, or a plug-in that cannot be used
            continue
    return [name for name in found if name.startswith(incomplete)]
