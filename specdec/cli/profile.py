"""`specdec profile`: measure the costs and the acceptance of a pair, for the simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli.console import LOADING, Terminal
from specdec.cli.options import Json, ModelOptions
from specdec.cli.parsing import refuse
from specdec.errors import InputError

if TYPE_CHECKING:
    from specdec.text import Prompt

LIMIT, NEW_TOKENS = 24, 64


def profile(
    models: ModelOptions,
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Prompts to measure acceptance on; may be repeated. The bundled ones unless given."),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Take each prompt as a user's message, by the target's chat template; first turns only."),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Take only the first prompts of each file; {LIMIT} unless given.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help=f"Tokens to sample after each prompt; {NEW_TOKENS} unless given.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Repeats of each timing.")] = 20,
    json: Json = None,
) -> None:
    """Measure what a pair costs and how well it agrees.

    Times steps, windows, batches and contexts of each model alone, and the slowdown of both together. Acceptance is measured on
    text that the target samples. The simulator's commands take the file that --json writes as --profile. Shapes of random
    weights are timed only: the simulator then needs --acceptance too.

    Examples:
      specdec profile --json profile.json
      specdec profile --prompts gsm8k.jsonl --prompts humaneval.jsonl.gz --json profile.json
      specdec profile --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --json qwen3.json
    """
    terminal = Terminal(json)
    models.check()
    if not models.drafts:
        raise InputError(f"--target {models.target}: a profile needs a draft model too: give --draft")
    if models.shapes:
        given = {"--prompts": prompts, "--chat": chat or None, "--limit": limit, "--max-new-tokens": max_new_tokens}
        refuse(given, f"is for acceptance, which {models.shapes} (random weights) do not have: leave it out")
    texts = {} if models.shapes else chosen_prompts(prompts or (), limit or LIMIT, chat=chat)
    with terminal.doing(LOADING):
        from specdec.measure import profile as measure
        from specdec.text import prompt_tokens

        loaded = models.load()
    with loaded as pair:
        tokens = {name: [prompt_tokens(pair, text) for text in of_file] for name, of_file in texts.items()}
        new_tokens = max_new_tokens or NEW_TOKENS
        measured = measure(pair, tokens, repeats=repeats, new_tokens=new_tokens, progress=terminal.follow)
    terminal.report(measured)


def chosen_prompts(files: Sequence[str], limit: int, *, chat: bool) -> Mapping[str, Sequence[Prompt]]:
    """The first prompts of each file, by its name, or its path where two have one name; the bundled ones without a file."""
    from specdec.prompts import bundled, bundled_chats, load, load_chats

    last = [Path(name).name for name in files]
    names = {name if last.count(short) > 1 else short: name for name, short in zip(files, last, strict=True)}
    if chat:
        chats = {short: load_chats(name) for short, name in names.items()} or {"bundled": bundled_chats()}
        return {name: [prompt.messages for prompt in of_file[:limit]] for name, of_file in chats.items()}
    texts = {short: load(name) for short, name in names.items()} or {"bundled": bundled()}
    return {name: of_file[:limit] for name, of_file in texts.items()}
