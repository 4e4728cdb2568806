"""`specdec timeline`: when each model works and waits in the first rounds of a decode."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from typing import Annotated

import typer

from sim.cli.options import Seed, SystemOptions
from specdec.cli.console import Terminal
from specdec.cli.options import Json, PictureOptions, StrategyOptions


@dataclass(frozen=True)
class TimelineFiles(PictureOptions):
    """Pictures to draw, and traces to write."""

    files: Annotated[
        list[str] | None,
        typer.Option(
            "--output", metavar="FILE", help="A picture (.svg, .png, .html) or a trace for Perfetto (.json); may be repeated."
        ),
    ] = None


def timeline(
    chosen: StrategyOptions,
    setup: SystemOptions,
    pictures: TimelineFiles,
    rounds: Annotated[int, typer.Option(min=1, max=200, help="Rounds to show.")] = 10,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Show who works when: a few rounds of a strategy, and what became of every drafted token.

    Prints bars as text; --output draws them, or writes a trace that https://ui.perfetto.dev opens.

    Examples:
      specdec timeline --strategy pearl --draft-length 5 --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec timeline --strategy speculative --profile profile.json --output timeline.svg --output trace.json
    """
    terminal = Terminal(json)
    from sim.stream.timeline import timeline as simulate

    paths, strategy = pictures.paths(".json"), chosen.create()
    result = simulate(strategy, setup.acceptance_model(), setup.system(), rounds=rounds, seed=seed)
    terminal.report(result)
    setup.remark(terminal.errors)
    traces = [path for path in paths if path.suffix == ".json"]
    drawings = [path for path in paths if path not in traces]
    if traces:
        from sim.pictures.trace import chrome_trace
        from specdec.pictures import writing

        for path in traces:
            with writing(path):
                path.write_text(jsonlib.dumps(chrome_trace(result)))
    if drawings:
        from sim.pictures.timeline import timeline_chart
        from specdec.pictures import save

        save(timeline_chart(result, pictures.theme), *drawings)
