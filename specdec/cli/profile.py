"""`specdec profile`: measure a pair, for the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specdec.cli import options
from specdec.cli.console import Output, share
from specdec.errors import InputError


def profile(
    prompts: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Prompts to measure acceptance on; may be repeated. The bundled ones unless given."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Take only the first prompts of each file.")] = 24,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to sample behind each prompt.")] = 64,
    repeats: Annotated[int, typer.Option(min=2, help="Repeats of each timing.")] = 20,
    target: options.Target = None,
    draft: options.Draft = None,
    device: options.Device = None,
    draft_device: options.DraftDevice = None,
    dtype: options.DTypeOption = None,
    lane: options.LaneOption = options.Lane.auto,
    json: options.Json = None,
) -> None:
    """Measure what a pair costs and how well it agrees: steps, windows, batches, contexts, company, jitter, acceptance.

    The file that --json writes is what the simulator's commands take as --profile. Shapes of random weights are timed only:
    the simulator then needs --acceptance too.

    Examples:
      specdec profile --json profile.json
      specdec profile --prompts gsm8k.jsonl --prompts humaneval.jsonl.gz --json profile.json
      specdec profile --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --json qwen3.json
    """
    output = Output(json)
    from specdec.prompts import bundled, load

    shapes = options.shapes_in(target, draft)
    if shapes and prompts:
        raise InputError(f"{shapes}: random weights have no acceptance to measure on prompts: leave --prompts out")
    texts = {Path(name).name: load(name)[:limit] for name in prompts or ()}
    if not shapes and not prompts:
        texts = {"bundled": bundled()[:limit]}

    from specdec.measure import profile as measure
    from specdec.text import prompt_tokens

    with options.load_pair(target, draft, device, draft_device, dtype, lane) as pair:
        if pair.draft is None:
            raise InputError("a profile needs a draft model too: give --draft")
        tokens = {name: [prompt_tokens(pair, text) for text in of_file] for name, of_file in texts.items()}
        output.errors.print("measuring: a minute or so", style="dim")
        measured = measure(pair, tokens, repeats=repeats, new_tokens=max_new_tokens).to_dict()
    show(output, measured)
    output.write(measured)


def _factors(found: dict[str, float]) -> str:
    return f"target {found['target_factor']:.2f}x and draft {found['draft_factor']:.2f}x their seconds alone"


def show(output: Output, measured: dict[str, Any]) -> None:
    """Print a profile for people."""
    from rich import box
    from rich.table import Table

    console = output.console
    console.print(f"[bold]Pair[/]        {measured['pair']['target']} + {measured['pair']['draft']}")
    console.print(f"[bold]Machine[/]     {measured['hardware']['cpu']}, {measured['hardware']['cores']} cores")
    if (found := measured["acceptance"])["rate"] is not None:
        console.print(
            f"[bold]Acceptance[/]  {share(found['rate'])} of drafted tokens (temperature 1): "
            + ", ".join(f"{name} {share(row['rate'])}" for name, row in found["by_file"].items())
        )
    console.print(
        f"[bold]In turn[/]     {_factors(measured['in_turn'])}; "
        f"a draft takes {1000 * measured['draft_start_seconds']:.2f} ms beside its tokens"
    )
    together = "only one works at a time" if measured["together"] is None else _factors(measured["together"])
    console.print(f"[bold]Together[/]    {together}")
    console.print(
        f"[bold]Rounds[/]      {1e6 * measured['round_overhead_seconds']:.0f} us beside the models without a draft, "
        f"{1e6 * measured['drafting_overhead_seconds']:.0f} us with one\n"
    )
    for title, rows, columns in (
        ("Target forwards", measured["target_seconds"], ("width", "batch", "context")),
        ("Draft steps", measured["draft_seconds"], ("batch", "context")),
    ):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
        for heading in (*columns, "ms", "varies by"):
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*(str(row[column]) for column in columns), f"{1000 * row['mean']:.2f}", share(row["cv"]))
        console.print(table)
