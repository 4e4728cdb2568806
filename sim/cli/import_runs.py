"""`specdec import`: what serving engines and benchmark tools reported, as one table and one file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from specdec.cli.console import Terminal
from specdec.cli.options import Json

known_option = partial(typer.Option, rich_help_panel="What the files do not say")


def import_runs(
    paths: Annotated[list[Path], typer.Argument(metavar="PATHS...", help="Files, or folders of files.", show_default=False)],
    method: Annotated[
        str | None, known_option(help="How runs that draft do it: draft_model, eagle3, mtp, ngram, ...; ar for none.")
    ] = None,
    draft_length: Annotated[int | None, known_option(min=1, max=1000, help="Tokens that are drafted in a round.")] = None,
    target: Annotated[str | None, known_option(help="Name of the target.")] = None,
    draft: Annotated[str | None, known_option(help="Name of the draft.")] = None,
    dataset: Annotated[str | None, known_option(help="Where the prompts come from.")] = None,
    gpu: Annotated[str | None, known_option(help="Name of the GPU.")] = None,
    gpus: Annotated[int | None, known_option(min=1, help="GPUs that hold the target.")] = None,
    clients: Annotated[int | None, known_option(min=1, help="Requests that clients keep open.")] = None,
    rate: Annotated[float | None, known_option(help="Requests per second.")] = None,
    seconds: Annotated[float | None, known_option(help="Between two scrapes of metrics.")] = None,
    kv_tokens: Annotated[
        int | None, known_option(min=1, help="Tokens that the KV cache holds: the log's GPU KV cache size.")
    ] = None,
    json: Json = None,
) -> None:
    """Read what serving engines and benchmark tools wrote: latencies, throughput and acceptance of each run.

    Reads vllm bench serve and vllm bench sweep, two scrapes of vLLM's or SGLang's metrics (the earlier first), per-request
    acceptance, logs, GuideLLM, SGLang's bench_serving, and CSV tables of runs. The format is found from the content. What a
    file does not say is asked for, never guessed.

    Examples:
      specdec import results/ --method eagle3 --gpu "H100 80GB" --json runs.json
      specdec import before.prom after.prom --method draft_model --seconds 60
      specdec import guidellm.json --method mtp --draft-length 3
    """
    terminal = Terminal(json)
    from sim.engines.reading import read_runs
    from sim.engines.run import EngineRuns

    models = {"method": method, "draft_length": draft_length, "target": target, "draft": draft, "dataset": dataset}
    known = {"gpu": gpu, "gpus": gpus, "clients": clients, "rate": rate, "seconds": seconds, "kv_tokens": kv_tokens}
    result = EngineRuns(read_runs(paths, **models, **known))
    terminal.report(result)
