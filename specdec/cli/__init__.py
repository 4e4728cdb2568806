"""The command line `specdec`: found commands, one-line errors, exit codes.

Commands are plain functions in the entry-point group `specdec.commands`; a package that brings one needs no change here. The
part of a docstring from `Examples:` on is shown at the end of its `--help`. A command is imported only when it is named (or
listed), and imports what is heavy only when it runs.

Exit codes: 0 done, 1 a claim was refuted (`prove`), 2 something typed, pointed to or loaded is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from inspect import getdoc
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from specdec.errors import SpecdecError

GROUP = "specdec.commands"
FIRST = ("generate", "bench", "prove", "strategies")
"""The order of the help page; all others follow by name."""

INTERRUPTED = 130


class Commands(TyperGroup):
    """Sub-commands from entry points, imported when asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = entry_points(group=GROUP).names
        return [*(name for name in FIRST if name in names), *sorted(names - {*FIRST})]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in entry_points(group=GROUP).names:
            self.commands[cmd_name] = command(cmd_name)
        return self.commands.get(cmd_name)


def command(name: str) -> Any:
    """The installed command of that name."""
    (entry, *_) = entry_points(group=GROUP, name=name)
    function = entry.load()
    text, heading, examples = (getdoc(function) or "").partition("Examples:")
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(name, help=text.strip(), epilog=heading + examples.rstrip())(function)
    return get_command(app)


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"specdec {version('pearl-specdec')}")
        raise typer.Exit


@app.callback()
def specdec(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Speculative decoding: run it on real models, measure it, and prove that it changes nothing but the speed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        code = get_command(app)(args=arguments, prog_name="specdec", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except SpecdecError as error:
        return _complain(str(error))
    except typer.TyperException as error:
        return _complain(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: let the last flush succeed
        return 1


def _complain(message: str) -> int:
    print(f"specdec: {' '.join(message.split())}", file=sys.stderr)
    return 2
