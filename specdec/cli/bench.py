"""`specdec bench`: strategies side by side on one pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specdec.cli import options
from specdec.cli.console import Output, share
from specdec.errors import InputError
from specdec.synthetic import rule_of, synthetic

if TYPE_CHECKING:
    from rich.table import Table

FULL_REPEATS, REPEATS = 5, 3
SECONDS = 200.0
WIDE = 100
"""Columns of a terminal from which on the table shows overhead and prediction too."""
MORE_COLUMNS = {
    "over\nhead": "Overhead: share of the time in which neither model works. ",
    "pre-\ndicted": "Predicted: tok/s by what was measured beforehand. ",
}
BUNDLED_PROMPTS = 6
"""Two of each kind: three repeats with them take minutes, not a quarter of an hour."""


class Against(StrEnum):
    hf = "hf"


def bench(
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy to measure; may be repeated. All installed ones unless given.")
    ] = None,
    draft_lengths: Annotated[
        str | None, typer.Option(metavar="LIST", help="Draft lengths of every strategy that has one, such as 1,2,4 or 1-8.")
    ] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(help="0 is greedy; may be repeated. Both 0 and 1 unless given.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts: text, or JSON lines as in HumanEval, GSM8K or MT-bench.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of the made-up prompts of shapes, which read no text; 128 unless given.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only the first prompts; 6 of the 12 bundled ones unless given.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate for each prompt.")] = 64,
    repeats: Annotated[int | None, typer.Option(min=1, help="Repeats; 3, or 5 with --full, unless given.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop decoding after this long; 200, or never with --full, unless given.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Draft lengths 1 to 8, all bundled prompts; takes many minutes.")
    ] = False,
    against: Annotated[
        Against | None,
        typer.Option(help="Measure peers too, in the same run: hf is transformers' generate, plain and with assistant_model."),
    ] = None,
    pictures: options.Pictures = None,
    theme: options.ThemeOption = options.Theme.light,
    target: options.Target = None,
    draft: options.Draft = None,
    device: options.Device = None,
    draft_device: options.DraftDevice = None,
    dtype: options.DTypeOption = None,
    lane: options.LaneOption = options.Lane.auto,
    eager: options.Eager = False,
    verification: options.VerificationOption = "token",
    seed: options.Seed = 0,
    json: options.Json = None,
) -> None:
    """Measure strategies side by side.

    Shows tokens per second, speed-up over autoregressive decoding, acceptance and idle time. Every strategy decodes the same
    prompts, in turn and repeatedly, on the same cores. Takes a few minutes; Ctrl-C ends it early and shows what was measured
    by then.

    Examples:
      specdec bench
      specdec bench --strategy pearl --strategy speculative --draft-lengths 1-8
      specdec bench --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --temperature 0
      specdec bench --prompts HumanEval.jsonl.gz --limit 20 --json results.json
      specdec bench --target shape:llama-8b --draft shape:llama-1b --verification synthetic:0.8
      specdec bench --against hf --json results.json --output results.png
    """
    output = Output(json)
    paths = options.picture_paths(pictures)
    lengths = parsed_lengths(draft_lengths)
    rule_of(verification)  # refuse what is unknown before the models are loaded
    shapes = options.shapes_in(target, draft)
    if shapes and not synthetic(verification):
        raise InputError(f"{shapes}: drafts of random weights are accepted by accident: give --verification synthetic:0.8")
    if against and synthetic(verification):
        raise InputError(f"--against {against.value}: a peer verifies by itself, and {verification} cannot be forced on it")
    texts, source = chosen_prompts(prompts, prompt_tokens, limit, bool(shapes), full)
    from specdec.sampling import Sampling
    from specdec.strategy import create

    temperatures = tuple(temperature) if temperature else (0.0, 1.0)
    for value in temperatures:
        Sampling(value)
    for name in strategy or ():
        create(name)
    from specdec.bench import Benchmark, hugging_face, line_up, report

    with options.load_pair(target, draft, device, draft_device, dtype, lane, eager) as pair:
        benchmark = Benchmark(
            pair,
            line_up(pair, strategy or (), lengths, full=full),
            texts,
            temperatures,
            max_new_tokens,
            repeats or (FULL_REPEATS if full else REPEATS),
            seconds if seconds is not None else float("inf") if full else SECONDS,
            verification,
            seed,
            peers=hugging_face(pair, lengths, full=full) if against else (),
        )
        interrupted = False
        try:
            for _ in output.follow(benchmark, len(benchmark)):
                pass
        except KeyboardInterrupt:
            interrupted = True
        measurement = report(benchmark)
    measurement["settings"] |= {"prompts_file": source, "interrupted": interrupted}
    show(output, measurement)
    output.write(measurement)
    if paths and measurement["results"]:
        from specdec.bench.chart import speedup_chart
        from specdec.pictures import save

        for path in paths:
            save(speedup_chart(measurement, theme.value), path)
    if interrupted:
        raise KeyboardInterrupt


def chosen_prompts(
    file: str | None, tokens: int | None, limit: int | None, shapes: bool, full: bool
) -> tuple[Sequence[str | Sequence[int]], str]:
    """The prompts to decode and what they are called: those of a file, the bundled ones, or made-up ones for shapes."""
    from specdec.prompts import bundled, load

    if shapes and file:
        raise InputError(f"--prompts {file}: shapes have no tokenizer to read it with: give --prompt-tokens instead")
    if tokens is not None and not shapes:
        raise InputError("--prompt-tokens is for shapes, and these models read text: give --prompts instead")
    if shapes:
        from specdec.runtime.timing import CONTEXT_TOKENS, made_up_context

        length = tokens or CONTEXT_TOKENS
        return [made_up_context(length)] * (limit or BUNDLED_PROMPTS), f"made up, {length} tokens each"
    if file:
        return load(file)[:limit], file
    return bundled()[: limit or (None if full else BUNDLED_PROMPTS)], "bundled"


def parsed_lengths(text: str | None) -> list[int]:
    """`"1,2,4-6"` as `[1, 2, 4, 5, 6]`."""
    lengths: list[int] = []
    for part in text.split(",") if text is not None else ():
        first, dash, last = part.strip().partition("-")
        possible = first.isdecimal() and (last.isdecimal() or not dash)
        if not possible or not 1 <= int(first) <= int(last or first):
            raise InputError(f"draft length {part!r} is not possible: give integers of at least 1, such as 1,2,4 or 1-8")
        lengths += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(lengths))


def show(output: Output, report: dict[str, Any]) -> None:
    """Print a report for people."""
    console = output.console
    pair, hardware, settings = report["pair"], report["hardware"], report["settings"]
    console.print(f"[bold]Pair[/]      {pair['target']} + {pair.get('draft', 'no draft')}, {pair['dtype']}")
    console.print(f"[bold]Machine[/]   {hardware['cpu']}, {hardware['cores']} cores, torch {hardware['torch']}")
    console.print(f"[bold]Measured[/]  {_measured(report['measured'], settings['synthetic'])}")
    if not report["results"]:
        console.print("Nothing was measured to the end: no table.")
        return
    console.print(
        f"[bold]Settings[/]  {settings['prompts']} prompts, up to {settings['max_new_tokens']} tokens each, "
        f"{settings['repeats']} of {settings['repeats_planned']} repeats; {settings['target_threads']} target thread(s), "
        f"draft lane: {settings['draft_lane'] or 'none'}{'; eager forwards' if any(settings['why_eager'].values()) else ''}\n"
    )
    more = more_columns(report["results"]) if console.width >= WIDE else []
    for ranking in report["ranking"]:
        console.print(table(report["results"], ranking, more), "")
        console.print(
            verdict(ranking), *_against(report["against"], ranking["temperature"]), sep="\n", end="\n\n", style="bold"
        )
    console.print(_greedy(report["greedy_check"]), end="")
    console.print(
        "tok/s: output tokens a second, median of the repeats. Speed-up: over autoregressive in the same repeat, with a 95 % "
        "interval. Accept length: mean acceptance length, 1 + accepted tokens a round (a PEARL round has no bonus token, so it "
        "commits fewer). Accept rate: share of all drafted tokens. Idle: share of the time in which a model waits. "
        f"{''.join(MORE_COLUMNS[heading] for heading in more)}* best setting of its strategy.",
        style="dim",
    )


def more_columns(results: Sequence[dict[str, Any]]) -> list[str]:
    """The headings of a wide table beside the usual ones; without predictions, none is shown."""
    predicted = any(result.get("predicted_tokens_per_second") for result in results)
    return list(MORE_COLUMNS)[: 1 + predicted]


def _measured(measured: dict[str, Any], synthetic: str) -> str:
    if not measured:
        return "nothing yet"
    text = f"target step {1000 * measured['target_step_seconds']:.2f} ms"
    if measured["draft_step_seconds"] is None:
        return text
    accepted = synthetic or f"acceptance {share(measured['acceptance_rate'])} (temperature 1)"
    return f"{text}, draft step {1000 * measured['draft_step_seconds']:.2f} ms, ratio {measured['speed_ratio']:.1f}, {accepted}"


def table(results: Sequence[dict[str, Any]], ranking: dict[str, Any], more: Sequence[str]) -> Table:
    """The results at one temperature, with `more` of the last columns."""
    from rich import box
    from rich.table import Table

    temperature = ranking["temperature"]
    title = "Greedy (temperature 0)" if temperature == 0 else f"Sampled (temperature {temperature:g})"
    title += "".join({f", {result['synthetic']}" for result in results if result["synthetic"]})
    rows = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    rows.add_column("strategy", no_wrap=True)
    for heading in (
        "draft\nlength",
        "tok/s",
        "speed\n-up",
        "interval",
        "accept\nlength",
        "accept\nrate",
        "target\nidle",
        "draft\nidle",
        *more,
    ):
        rows.add_column(heading, justify="right", no_wrap=True)
    leaders = [ranking["fastest"], *ranking["against"]]
    best = [(leader["strategy"], leader["parameters"]) for leader in leaders]
    for result in results:
        if result["temperature"] == temperature:
            marked = (result["strategy"], result["parameters"]) in best and result["strategy"] != "autoregressive"
            fastest = result["strategy"] == best[0][0] and result["parameters"] == best[0][1]
            rows.add_row(
                *_cells(result, marked)[: len(rows.columns)], style="bold green" if fastest else "bold" if marked else ""
            )
    return rows


def _cells(result: dict[str, Any], marked: bool) -> list[str]:
    from specdec.bench.report import length

    low, high = result["speedup_over_ar_interval"]
    drafts = any(key != "0" for key in result["acceptance_histogram"]) or result["draft_acceptance_rate"] > 0
    works = result["draft_idle_share"] < 1
    baseline, predicted = result["strategy"] == "autoregressive", result.get("predicted_tokens_per_second")
    return [
        f"{result['strategy']}{'' if result['lossless_claimed'] else ' (lossy)'}{' *' if marked else ''}",
        length(result),
        _speed(result["tokens_per_second"]),
        f"{result['speedup_over_ar']:.2f}x",
        "" if baseline else f"{low:.2f}-{high:.2f}",
        f"{result['mean_acceptance_length']:.2f}",
        share(result["draft_acceptance_rate"]) if drafts else "-",
        share(result["target_idle_share"]),
        share(result["draft_idle_share"]) if works else "-",
        share(result["overhead_share"]),
        _speed(predicted) if predicted else "-",
    ]


def _speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f}" if tokens_per_second < 1000 else f"{tokens_per_second:.0f}"


def verdict(ranking: dict[str, Any]) -> str:
    """One sentence: which strategy is the fastest, and by how much."""
    against = ranking["against"]
    how = "greedily" if ranking["temperature"] == 0 else f"at temperature {ranking['temperature']:g}"
    name = _with_length(ranking["fastest"])
    if not against:
        return f"Only {name} was measured {how}."
    if ranking["fastest"]["strategy"] == "autoregressive":
        return f"Nothing beats autoregressive decoding {how}: it is {_list(against)}."
    doubt = [_with_length(other) for other in against if other["interval"][0] <= 1]
    unsure = f" (within the noise: {', '.join(doubt)})" if doubt else ""
    return f"{name} is the fastest {how}: {_list(against)}{unsure}."


def _against(entries: Sequence[dict[str, Any]], temperature: float) -> Iterator[str]:
    """A sentence for each peer."""
    for entry in entries:
        if entry["temperature"] == temperature:
            ours = _with_length({"strategy": entry["ours"], "parameters": entry["parameters"]})
            peer = _with_length({"strategy": entry["peer"], "parameters": entry["peer_parameters"]})
            low, high = entry["interval"]
            yield f"Our {ours} is {entry['times_as_fast']:.2f}x (interval {low:.2f}-{high:.2f}) {peer}."


def _list(against: Sequence[dict[str, Any]]) -> str:
    parts = [f"{other['times_as_fast']:.2f}x {_with_length(other)}" for other in against]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _with_length(named: dict[str, Any]) -> str:
    drafted = named["parameters"].get("draft_length")
    return named["strategy"] if drafted is None else f"{named['strategy']} (draft length {drafted})"


def _greedy(check: dict[str, Any] | None) -> str:
    if check is None:
        return ""
    if check["equal"]:
        return (
            f"Greedy outputs of all strategies equal autoregressive decoding token for token on {check['prompts']} prompts.\n"
        )
    differences = check["differences"]
    ties = sum(difference["tie"] for difference in differences)
    names = ", ".join(sorted({_with_length(difference) for difference in differences}))
    return (
        f"Greedy outputs differ from autoregressive decoding in {len(differences)} case(s), of which {ties} begin at a tie "
        f"of two logits: {names}.\n"
    )
