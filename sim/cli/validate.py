"""`specdec validate`: predicted against measured, here and in print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from specdec.cli import options
from specdec.cli.console import Terminal

LENGTHS = (1, 2, 4, 6)


def validate(
    models: options.ModelOptions,
    published: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A CSV table: draft, target, task, mean_run_length, speedup_over_ar."),
    ] = None,
    fitted_task: Annotated[
        list[str] | None,
        typer.Option(help="Task to fit draft lengths on; may be repeated. The table's first two unless given."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Time the pair; takes some minutes.")] = True,
    max_new_tokens: Annotated[int, typer.Option(min=8, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of the timing.")] = 3,
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Compare what the simulator predicts with what is measured.

    On a real pair, strategies are timed and predicted from a profile taken in the same run. Of a published table (nano-PEARL's
    on H200 unless another is given), two tasks a pair fit a draft length and the other tasks are predicted with it.

    Examples:
      specdec validate
      specdec validate --no-measure --published my_cells.csv
      specdec validate --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --json validation.json
    """
    output = Terminal(json)
    from sim.study.validate import Comparison, bundled_table, read_cells
    from sim.study.validate import published as predicted_cells

    cells = list(predicted_cells(read_cells(published or bundled_table()), fitted_task or ()))
    rows: list[dict[str, Any]] = []
    if measure:
        from specdec import create
        from specdec.prompts import bundled
        from specdec.text import prompt_tokens

        with models.load() as pair:
            makers = [create(name, draft_length=length) for name in ("speculative", "pearl") for length in LENGTHS]
            prompts = [prompt_tokens(pair, text) for text in bundled()]
            comparison = Comparison(pair, [create("autoregressive"), *makers], prompts, max_new_tokens, repeats, seed)
            for _ in output.follow(comparison, len(comparison)):
                pass
            rows = comparison.report()
    show(output, rows, cells)
    output.write({"bundled": rows, "published": cells})


def show(output: Terminal, rows: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> None:
    """Print both comparisons, with signed errors."""
    from rich import box
    from rich.table import Table

    from sim.study.validate import mean_error

    if rows:
        table = Table(title="Measured here (temperature 1)", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for heading in ("strategy", "draft length", "measured tok/s", "predicted tok/s", "error"):
            table.add_column(heading, justify="left" if heading == "strategy" else "right")
        for row in rows:
            speeds = (f"{row[f'{side}_tokens_per_second']:.1f}" for side in ("measured", "predicted"))
            length = str(row["parameters"].get("draft_length", "-"))
            table.add_row(row["strategy"], length, *speeds, f"{100 * row['error']:+.1f} %")
        output.console.print(table)
        largest = max(abs(row["error"]) for row in rows)
        output.console.print(f"Mean error {100 * mean_error(rows):.1f} %, largest {100 * largest:.1f} %.\n")
    table = Table(title="Published", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in ("draft", "target", "task", "reported", "predicted", "error", ""):
        table.add_column(heading, justify="right" if heading in ("reported", "predicted", "error") else "left")
    for cell in cells:
        names = (cell[name].rpartition("/")[2] for name in ("draft", "target"))
        speeds = (f"{cell[f'{side}_speedup']:.2f}x" for side in ("reported", "predicted"))
        held = "held out" if cell["held_out"] else f"fitted: length {cell['fitted_draft_length']}"
        table.add_row(*names, cell["task"], *speeds, f"{100 * cell['error']:+.1f} %", held)
    output.console.print(table)
    held_out = [cell for cell in cells if cell["held_out"]]
    if held_out:
        output.console.print(f"Mean error of the {len(held_out)} held-out cells: {100 * mean_error(held_out):.1f} %.")
