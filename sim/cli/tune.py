"""`specdec tune`: which strategy, at which draft length, and where that answer changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import MOST_TOKENS, Seed, SystemOptions
from specdec.cli.completion import parameter_names, strategy_names
from specdec.cli.console import Terminal
from specdec.cli.options import Json, PictureOptions
from specdec.cli.parsing import parsed_grid, parsed_lengths, several
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.study.search import Choice

LENGTHS = "1-12"


def tune(
    setup: SystemOptions,
    pictures: PictureOptions,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Strategies to compare, such as pearl,speculative or ./file.py:Class; those that draft unless given.",
            autocompletion=strategy_names,
        ),
    ] = None,
    draft_lengths: Annotated[
        str | None, typer.Option(metavar="LIST", help=f"Draft lengths to try, such as 1,2,4 or 1-8; {LENGTHS} unless given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUES",
            help="Values of a parameter to try, such as few=1-3 or many=4,6; may be repeated.",
            autocompletion=parameter_names,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=0, max=MOST_TOKENS, help="Tokens to simulate for each dot; 0 for none.")] = 20_000,
    seed: Seed = 0,
    measured: Annotated[
        str | None, typer.Option(metavar="FILE", help="With --output: what specdec bench measured, drawn as crosses.")
    ] = None,
    json: Json = None,
) -> None:
    """Find the best strategy and draft length, and the acceptance or speed ratio at which the best strategy changes.

    Every strategy is compiled to its exact long-run speed at each draft length (lines); the simulation checks it (dots). If
    acceptance depends on position or text, the change is given as a mean rate: the odds of every guess are multiplied by one
    factor until the best strategy changes.

    Examples:
      specdec tune --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec tune --strategy ./mine.py:Mine --set few=1-3 --set many=4,6 --profile profile.json
      specdec tune --profile profile.json --output tune.svg --output tune.html
      specdec tune --profile profile.json --measured bench.json --output tune.png --theme dark
    """
    terminal = Terminal(json)
    from sim.study.tune import tune as compare
    from sim.study.tune import variants
    from specdec.strategy import DraftingStrategy, create

    names, grid = several(strategy), parsed_grid(settings)
    paths, lengths = pictures.paths(), parsed_lengths(draft_lengths or LENGTHS)
    if measured is not None and not paths:
        raise InputError(f"--measured {measured} is only drawn: give --output FILE too, or leave it out")
    if draft_lengths is not None and names and not any(isinstance(create(name), DraftingStrategy) for name in names):
        raise InputError(
            f"--draft-lengths {draft_lengths} is for strategies with a draft length, and none is compared: leave it out"
        )
    crosses = [] if measured is None else read_bench(measured)
    system, acceptance = setup.system(), setup.acceptance_model()
    chosen = variants(names, grid) if grid else names or None
    result = compare(acceptance, system, chosen, lengths, tokens=tokens, seed=seed, progress=terminal.follow)
    terminal.report(result)
    setup.remark(terminal.errors)
    if paths:
        from sim.pictures.speed import speed_chart
        from specdec.pictures import save

        save(speed_chart(result, crosses, pictures.theme), *paths)


def read_bench(path: str) -> list[Choice]:
    """Measured speed-ups by strategy and draft length, from what `specdec bench --json` wrote."""
    from sim.study.search import Choice
    from specdec.bench import BenchReport

    found = BenchReport.read(path)
    return [Choice(result.strategy, result.drafted_at_once, result.speedup_over_ar) for result in found.results]
