"""The command line `specdec`: finds commands, prints errors in one line, and sets exit codes.

Commands are plain functions in the entry-point group `specdec.commands`; a package that brings one needs no change here. The
part of a docstring from `Examples:` on is shown at the end of its `--help`. A command is imported when it is named or listed,
and imports what is heavy when it runs.

Exit codes

    0     done
    1     a claim was refuted (`prove`), or the reader of standard output went away (a broken pipe)
    2     something that was typed, pointed to or loaded is wrong
    130   interrupted
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from inspect import getdoc
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from specdec.clashes import ours_first
from specdec.cli.edges import (
    TRACEBACK,
    abandon,
    check_arguments,
    check_streams,
    is_interrupt,
    quiet_libraries,
    remark,
    unforeseen,
)
from specdec.cli.grouped import with_grouped_options
from specdec.cli.help import Command, described
from specdec.errors import InputError, SpecdecError
from specdec.inputs import did_you_mean
from specdec.plugins import Plugins

COMMANDS: Plugins[Callable[..., Any]] = Plugins(
    "specdec.commands",
    "command",
    "function",
    lambda _, it: callable(it),
    first=("generate", "bench", "prove", "strategies"),
)
INTERRUPTED = 130


class Commands(TyperGroup):
    """Sub-commands from entry points, imported when they are asked for."""

    def get_params(self, ctx: Any) -> list[Any]:
        return described(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return COMMANDS.names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        names = COMMANDS.names()
        if cmd_name in names and cmd_name not in self.commands:
            self.commands[cmd_name] = command(cmd_name)
        if cmd_name not in names and not ctx.resilient_parsing:
            raise InputError(f"unknown command {cmd_name!r}: {did_you_mean(cmd_name, names) or 'see specdec --help'}")
        return self.commands.get(cmd_name)


def command(name: str) -> Any:
    """The installed command of that name; one that cannot be used says so when it is run."""
    settings: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
    try:
        function = COMMANDS.find(name)
    except InputError as error:
        function = broken(error)
        settings["ignore_unknown_options"] = True
    text, heading, examples = (getdoc(function) or "").partition("Examples:")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(
        name,
        cls=Command,
        help="\n\n".join(paragraphs).strip(),
        epilog=heading + examples.rstrip(),
        context_settings=settings,
    )(with_grouped_options(function))
    return get_command(app)


def broken(error: InputError) -> Callable[..., None]:
    """Stands for a command that cannot be used, so that all others work."""

    def stand_in(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """(cannot be used; run it to see why)"""
        raise error

    return stand_in


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if os.environ.get("RANK", "0") != "0":  # torchrun started several of us, and the first one reads and writes
        sys.stdin, sys.stdout = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    try:
        check_streams()
        check_arguments(typed)
        quiet_libraries()
        for found in ours_first():
            remark(found)
        with warnings.catch_warnings():
            warnings.showwarning = _once()
            warnings.filterwarnings("ignore", r".* encountered in ", RuntimeWarning)  # numpy's; results are checked
            code = get_command(app)(args=typed, prog_name="specdec", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except SpecdecError as error:
        return _complain(str(error))
    except typer.TyperException as error:
        if not error.format_message():  # the help page was shown, since nothing was typed
            return 0
        return _complain(f"{error.format_message().rstrip('.')}: {_remedy(error)}")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        abandon(sys.stdout)
        return 1
    except Exception as error:
        return _caught(error, typed)


def _caught(error: Exception, typed: Sequence[str]) -> int:
    """The exit code for an error that no command foresaw, after its line."""
    if is_interrupt(error):
        return INTERRUPTED
    if os.environ.get(TRACEBACK):
        raise error
    try:
        sys.stdout.flush()
    except OSError:
        abandon(sys.stdout)
    return _complain(unforeseen(error, typed))


def _remedy(error: typer.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    return f"see {context.command_path if context else 'specdec'} --help"


def _once() -> Callable[..., None]:
    """Shows a warning as one line, and each only once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            remark(message)

    return show


def _complain(message: str) -> int:
    remark(message)
    return 2
