"""`--help` in a person's words: what a value is, not its Python type; and `-h`, which leaves panels of special options out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from typer.core import TyperCommand

from specdec.errors import InputError

SHORT = "specdec.short_help"
WORDS = {int: "N", float: "NUMBER", str: "TEXT"}


class Command(TyperCommand):
    """A command whose options are described in words, and given once."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, with words for their values."""
        return described(super().get_params(ctx))

    def make_parser(self, ctx: Any) -> Any:
        """A parser that refuses an option that is given twice where one value counts: the first would be dropped in silence."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parsed(args: list[str]) -> Any:
            found = parse(args)
            for param, times in Counter(found[2]).items():
                if times > 1 and param.param_type_name == "option" and not param.multiple:
                    raise InputError(f"{param.opts[0]} is given {times} times, and takes one value: give it once")
            return found

        parser.parse_args = parsed
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note which help was asked for, before it is shown."""
        ctx.meta[SHORT] = "-h" in args and "--help" not in args
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help; with `-h`, the options outside panels and no examples."""
        special = [param for param in self.params if getattr(param, "rich_help_panel", None)]
        panels = list(dict.fromkeys(param.rich_help_panel.partition(" (")[0] for param in special))  # type: ignore[attr-defined]
        if not (ctx.meta.get(SHORT) and panels):
            super().format_help(ctx, formatter)
            return
        hidden, epilog = [(param, param.hidden) for param in special], self.epilog  # type: ignore[attr-defined]
        self.epilog = f"More options: {', '.join(panels)}. See {ctx.command_path} --help."
        try:
            for param in special:
                param.hidden = True  # type: ignore[attr-defined]
            super().format_help(ctx, formatter)
        finally:
            self.epilog = epilog
            for param, before in hidden:
                param.hidden = before  # type: ignore[attr-defined]


def described(params: Sequence[Any]) -> list[Any]:
    """The parameters, with a word for the value of each option, and its range in words."""
    for param in params:
        if param.param_type_name != "option":
            param.display_type_rich = _nothing
            continue
        if param.metavar is None:
            param.metavar = _word(param)
        if param.min is not None or param.max is not None:
            param._get_number_range_help_str = _range(param.min, param.max)
        if "--help" in param.opts and "-h" in param.opts:
            param.help = "Show all options and exit; -h leaves out special ones."
    return list(params)


def _word(param: Any) -> str:
    kind = param.type_descriptor
    if param.is_flag:
        return ""
    if kind.is_choice:
        return "|".join(str(getattr(choice, "value", choice)) for choice in kind.choices)
    if kind.is_path or kind.is_file:
        return "FILE"
    name = kind.ranged_type_name if kind.is_ranged else param.bare_type()
    return next((word for known, word in WORDS.items() if known.__name__ in name), "TEXT")


def _nothing(ctx: Any) -> None:
    """The name of an argument says what it is."""


def _range(least: float | None, most: float | None) -> Callable[[], str]:
    if least is None or most is None:
        text = f"at most {most:,}" if least is None else f"at least {least:,}"
    else:
        text = f"{least:,} to {most:,}"
    return lambda: text
