"""`specdec map`: the best strategy at each acceptance rate and speed ratio, and where your pair is on that map."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sim.cli.options import SystemOptions
from specdec.cli.completion import strategy_names
from specdec.cli.console import Terminal
from specdec.cli.options import Json, PictureOptions
from specdec.cli.parsing import parsed_lengths, several

LENGTHS = "1-24"


def map_command(
    setup: SystemOptions,
    pictures: PictureOptions,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Strategies to compare, such as pearl,speculative; those that draft unless given.",
            autocompletion=strategy_names,
        ),
    ] = None,
    draft_lengths: Annotated[str, typer.Option(metavar="LIST", help="Draft lengths to try, such as 1,2,4 or 1-8.")] = LENGTHS,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Sequences that run at once.")] = 1,
    per: Annotated[
        Literal["sequence", "device"],
        typer.Option(help="Compare the speed of a sequence, or that speed over the devices that a strategy keeps busy."),
    ] = "sequence",
    json: Json = None,
) -> None:
    """Draw which strategy is the best at each acceptance rate and speed ratio, with your own pair on the map.

    All other things stay as you give them. Every point is exact, by the compiled chain; under load, waiting is left out.

    Examples:
      specdec map --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec map --profile profile.json --output map.svg
      specdec map --gpu H200 --target-config qwen3-32b --draft-config qwen3-0.6b --acceptance 0.7 --batch 64 --per device
    """
    terminal = Terminal(json)
    from sim.study.best_map import strategy_map

    paths, lengths = pictures.paths(), parsed_lengths(draft_lengths)
    system, acceptance = setup.system(), setup.acceptance_model()
    compared = several(strategy) or None
    found = strategy_map(acceptance, system, compared, lengths, batch=batch, per=per, progress=terminal.follow)
    terminal.report(found)
    setup.remark(terminal.errors)
    if paths:
        from sim.pictures.best_map import map_chart
        from specdec.pictures import save

        save(map_chart(found, pictures.theme), *paths)
