"""`specdec tune`: which strategy, at which draft length, and where that answer changes."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli import options
from specdec.cli.bench import parsed_lengths
from specdec.cli.console import Output
from specdec.cli.options import Json, Pictures, Theme, ThemeOption, picture_paths
from specdec.errors import InputError

if TYPE_CHECKING:
    from sim.setup.acceptance import Acceptance
    from sim.setup.system import System
    from sim.study.search import Candidate


def tune(
    acceptance: options.AcceptanceOption = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy to compare; may be repeated. Those that use the draft unless given.")
    ] = None,
    draft_lengths: Annotated[str, typer.Option(metavar="LIST", help="Draft lengths to try, such as 1,2,4 or 1-8.")] = "1-12",
    tokens: Annotated[int, typer.Option(min=0, help="Tokens to simulate for each dot; 0 for none.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same luck.")] = 0,
    measured: Annotated[
        str | None, typer.Option(metavar="FILE", help="What specdec bench measured, to be drawn as crosses.")
    ] = None,
    pictures: Pictures = None,
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
    """Find the best strategy and draft length, and the acceptance or speed ratio at which the verdict flips.

    Every strategy is compiled to its exact long-run speed at each draft length (lines); the simulation checks it (dots). The
    acceptance at a flip is a mean: where it varies with the position or the text, the odds of all guesses are varied alike.

    Examples:
      specdec tune --acceptance 0.8 --draft-step 1ms --target-step 5ms
      specdec tune --profile profile.json --output tune.svg --output tune.html
      specdec tune --profile profile.json --measured bench.json --output tune.png --theme dark
    """
    output = Output(json)
    from sim.setup.acceptance import Rate

    paths = picture_paths(pictures)
    lengths = parsed_lengths(draft_lengths)
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
    crosses = read_bench(measured) if measured is not None else []
    found = _candidates(strategy, lengths, system)
    report = _report(output.follow(found, len(found)), accepting, system, tokens, seed)
    rate = {"acceptance": float(accepting.rate)} if isinstance(accepting, Rate) else {}
    show(output, report, {**rate, "speed_ratio": system.speed_ratio})
    output.write(report)
    for path in paths:
        _draw(path, report, crosses, system, theme)


def _candidates(names: list[str] | None, lengths: list[int], system: System) -> list[Candidate]:
    """Autoregressive decoding first, so that it wins ties; what finds its draft length itself last, so that it loses them."""
    from functools import partial

    from sim.study.search import candidates
    from specdec.strategy import DraftingStrategy, available, create

    classes = available()
    drafting = [name for name, cls in classes.items() if cls.drafts]
    chosen = names or sorted(drafting, key=lambda name: not issubclass(classes[name], DraftingStrategy))
    found: list[Candidate] = []
    for name in dict.fromkeys(("autoregressive", *chosen)):
        single = create(name)
        drafts = isinstance(single, DraftingStrategy)
        found += candidates(name, partial(create, name) if drafts else single, lengths, system)
    return found


def _report(steps: Iterable[Candidate], acceptance: Acceptance, system: System, tokens: int, seed: int) -> dict[str, Any]:
    from sim.stream.events import run_stream
    from sim.stream.rates import plain_tokens_per_second
    from sim.study.search import acceptance_flips, best_of, speed_ratio_flips

    curves: dict[str, list[dict[str, Any]]] = {}
    found: list[Candidate] = []
    for one in steps:
        found.append(one)
        simulated = None
        if tokens:
            run = run_stream(one.compiled.strategy, acceptance, system, tokens=tokens, seed=seed)
            simulated = run.tokens_per_second / float(plain_tokens_per_second(system))
        curves.setdefault(one.strategy, []).append(
            {
                "draft_length": one.draft_length,
                "speedup_over_ar": float(one.speedup(acceptance, system)),
                "simulated_speedup_over_ar": simulated,
            }
        )
    flips = acceptance_flips(found, acceptance, system) + speed_ratio_flips(found, acceptance, system)
    best = best_of(found, acceptance, system)
    return {
        "best": vars(best),
        "curves": curves,
        "flips": [
            {"parameter": flip.parameter, "at": flip.at, "below": vars(flip.below), "above": vars(flip.above)} for flip in flips
        ],
    }


def show(output: Output, report: dict[str, Any], here: dict[str, float]) -> None:
    """Print a report for people: a table of speed-ups, the verdict, and where next to `here` it flips."""
    from rich import box
    from rich.table import Table

    curves, best = report["curves"], report["best"]
    columns = [name for name in curves if curves[name][0]["draft_length"] is not None]
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rows.add_column("draft length", justify="right")
    for name in columns:
        rows.add_column(name, justify="right")
    for cells in zip(*(curves[name] for name in columns), strict=True):
        texts = [f"{cell['speedup_over_ar']:.3f}x" for cell in cells]
        marked = [
            f"[bold green]{text}[/]" if (name, cell["draft_length"]) == (best["strategy"], best["draft_length"]) else text
            for name, cell, text in zip(columns, cells, texts, strict=True)
        ]
        rows.add_row(str(cells[0]["draft_length"]), *marked)
    if columns:
        output.console.print(rows)
    single = [f"{name} {curve[0]['speedup_over_ar']:.3f}x" for name, curve in curves.items() if name not in columns]
    output.console.print(f"Without a draft length: {', '.join(single)}.")
    output.console.print(f"Best: [bold]{_named(best)}[/], {best['speedup_over_ar']:.2f}x autoregressive decoding.")
    for flip in _next_to(here, report["flips"]):
        what = "acceptance" if flip["parameter"] == "acceptance" else "a target / draft speed ratio of"
        output.console.print(
            f"The verdict flips at {what} {flip['at']:.3g}: {_named(flip['below'])} below, {_named(flip['above'])} above."
        )


def _next_to(here: dict[str, float], flips: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last flip below and the first one above: farther off, strategies that come close to each other take turns."""
    found: list[dict[str, Any]] = []
    for parameter, value in here.items():
        ours = [flip for flip in flips if flip["parameter"] == parameter]
        found += [flip for flip in ours if flip["at"] <= value][-1:] + [flip for flip in ours if flip["at"] > value][:1]
    return found


def _named(choice: dict[str, Any]) -> str:
    length = choice["draft_length"]
    return choice["strategy"] if length is None else f"{choice['strategy']} (draft length {length})"


def read_bench(path: str) -> list[dict[str, Any]]:
    """Measured speed-ups by strategy and draft length, from what `specdec bench --json` wrote."""
    try:
        results = jsonlib.loads(Path(path).read_text())["results"]
        return [
            {
                "strategy": row["strategy"],
                "draft_length": row.get("drafted_at_once", row["parameters"].get("draft_length")),
                "kind": "measured",
                "speedup_over_ar": float(row["speedup_over_ar"]),
            }
            for row in results
        ]
    except OSError as error:
        raise InputError(
            f"--measured {path} cannot be read ({error.strerror}): give what specdec bench --json wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--measured {path} is not what specdec bench --json writes ({type(error).__name__} {error})"
        ) from error


def _draw(path: Path, report: dict[str, Any], crosses: list[dict[str, Any]], system: System, theme: Theme) -> None:
    from sim.pictures.speed import speed_chart
    from specdec.pictures import save

    points = [
        {"strategy": name, "draft_length": point["draft_length"], "kind": kind, "speedup_over_ar": point[key]}
        for name, curve in report["curves"].items()
        for point in curve
        for kind, key in (("compiled", "speedup_over_ar"), ("simulated", "simulated_speedup_over_ar"))
        if point[key] is not None
    ]
    shown = {point["strategy"] for point in points}
    subtitle = f"Target / draft speed ratio {system.speed_ratio:.3g}. Line: exact. Dot: simulated." + (
        " Cross: measured." if crosses else ""
    )
    points += [cross for cross in crosses if cross["strategy"] in shown]
    save(speed_chart(points, f"Best: {_named(report['best'])}", subtitle, theme.value), path)
