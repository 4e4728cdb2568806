"""`specdec timeline`: a few rounds, who works when and who waits for whom."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from specdec.cli.console import Terminal
from specdec.cli.options import Json, Parameters, StrategyOptions, Theme, ThemeOption, picture_paths
from specdec.report import share

if TYPE_CHECKING:
    from sim.stream.timeline import Timeline
    from specdec.strategy import DecodingStrategy


def timeline(
    strategy: Annotated[str, typer.Option(help="Strategy, as specdec strategies lists them.")] = "pearl",
    draft_length: Annotated[str | None, typer.Option(metavar="N", help="Tokens to draft at once, or auto.")] = None,
    settings: Parameters = None,
    acceptance: options.AcceptanceOption = None,
    rounds: Annotated[int, typer.Option(min=1, max=200, help="Rounds to show.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same luck, whatever the strategy.")] = 0,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--output", metavar="FILE", help="A picture (.svg, .png, .html) or a trace for Perfetto (.json); repeatable."
        ),
    ] = None,
    theme: ThemeOption = Theme.light,
    draft_step: options.DraftStep = None,
    target_step: options.TargetStep = None,
    target_window: options.TargetWindow = None,
    profile: options.ProfileOption = None,
    gpu: options.Gpu = None,
    target_config: options.TargetConfig = None,
    draft_config: options.DraftConfig = None,
    placement: options.PlacementOption = options.Placement.two,
    together: options.TogetherOption = None,
    network: options.Network = "0s",
    overhead: options.Overhead = None,
    jitter: options.JitterOption = None,
    context: options.Context = 256,
    json: Json = None,
) -> None:
    """Show who works when: a few rounds of a strategy, with the fate of every drafted token.

    Prints bars as text; --output draws them, or writes a trace that https://ui.perfetto.dev opens.

    Examples:
      specdec timeline --strategy pearl --draft-length 5 --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec timeline --strategy speculative --profile profile.json --output timeline.svg --output trace.json
    """
    output = Terminal(json)
    paths = picture_paths(files, ".json")
    from sim.stream.timeline import chrome_trace, timeline_chart
    from sim.stream.timeline import timeline as simulate
    from specdec.pictures import save, writing

    chosen = StrategyOptions(strategy, draft_length, settings).create()
    system, accepting = options.Setup(
        acceptance,
        draft_step,
        target_step,
        target_window,
        profile,
        gpu,
        target_config,
        draft_config,
        placement,
        together,
        network,
        overhead,
        jitter,
        context,
    ).build()
    shown = simulate(chosen, accepting, system, rounds, seed)
    for path in paths:
        if path.suffix == ".json":
            with writing(path):
                path.write_text(jsonlib.dumps(chrome_trace(shown)))
        else:
            save(timeline_chart(shown, _title(chosen), theme.value), path)
    show(output, chosen, shown)
    output.write(_report(chosen, shown))


def _title(strategy: DecodingStrategy) -> str:
    return ", ".join([strategy.name, *(f"{name.replace('_', ' ')} {value}" for name, value in strategy.parameters.items())])


def _report(strategy: DecodingStrategy, shown: Timeline) -> dict[str, Any]:
    from sim.stream.timeline import pieces

    return {
        "strategy": strategy.name,
        "parameters": strategy.parameters,
        "seconds": shown.seconds,
        "round_end_seconds": list(shown.round_end_seconds),
        "round_tokens": list(shown.round_tokens),
        "target_idle_share": shown.idle_share("target"),
        "draft_idle_share": shown.idle_share("draft"),
        "work": [
            {
                "lane": piece["lane"],
                "kind": piece["kind"],
                "round": piece["round"],
                "start_seconds": piece["start"] / 1e3,
                "end_seconds": piece["end"] / 1e3,
                "rows": piece["rows"],
            }
            for piece in pieces(shown)
        ],
    }


def show(output: Terminal, strategy: DecodingStrategy, shown: Timeline) -> None:
    """Print the bars as text."""
    from sim.stream.timeline import text_bars

    console = output.console
    console.print(f"[bold]{_title(strategy)}[/]: {sum(shown.round_tokens)} tokens in {1e3 * shown.seconds:.1f} ms")
    for line in text_bars(shown, console.width):
        console.print(line, no_wrap=True, crop=True)
    console.print(f"idle: target {share(shown.idle_share('target'))}, draft {share(shown.idle_share('draft'))}")
