"""`specdec validate`: the simulator's predictions, compared with published and with measured speeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specdec.cli.console import Terminal
from specdec.cli.options import Json, ModelOptions
from specdec.cli.parsing import refuse

if TYPE_CHECKING:
    from sim.study.table_report import EngineValidation

TOKENS, REPEATS = 64, 3
LOAD_TOKENS, LOAD_REPEATS, BATCH, REQUESTS = 48, 2, 4, 60


def validate(
    models: ModelOptions,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV table: draft, target, task, mean_run_length, speedup_over_ar; nano-PEARL's runs in batches; or runs of "
            "an engine by concurrency.",
        ),
    ] = None,
    fitted_task: Annotated[
        list[str] | None,
        typer.Option(help="Task to fit draft lengths on; may be repeated. The table's first two unless given."),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="Time the pair; takes some minutes.")] = True,
    load: Annotated[
        bool, typer.Option("--load", help="Serve requests at 30, 60 and 85 % of capacity instead; takes some minutes.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"With --load: sequences that run at once; {BATCH} unless given.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=2, help=f"With --load: requests of each run; {REQUESTS} unless given.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=8, help=f"Tokens of each answer, {TOKENS} unless given; with --load their mean, {LOAD_TOKENS}."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(min=1, help=f"Repeats of the timing, {REPEATS} unless given; with --load {LOAD_REPEATS}."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same tokens; 0 unless given.")] = None,
    json: Json = None,
) -> None:
    """Compare what the simulator predicts with what is measured.

    On a real pair, strategies are timed, and predicted from profiles taken in the same run. For a published table (nano-PEARL's
    on H200 unless another is given), a draft length is fitted for each pair on two tasks, or on those given. All other tasks
    are predicted with that length. For a table of an engine's runs (columns as in specdec import), 1, 8 and 32 clients and two
    draft lengths of each method are calibrated on, all other runs are predicted, and no pair is timed. Of nano-PEARL's runs in
    batches, each task of a pair is predicted from the others. Runs that cannot be predicted are left out, with the reason.

    With --load, requests arrive at random at shares of the capacity, and are served by autoregressive and speculative decoding
    and by PEARL in running batches. The same arrivals are simulated from profiles taken in the same run. Errors in brackets are
    those at the speed that the machine had in each run. Ctrl-C ends it early and keeps whole repeats.

    Examples:
      specdec validate
      specdec validate --load --json load.json
      specdec validate --no-measure --published my_cells.csv
      specdec validate --published runs_by_concurrency.csv --json -
      specdec validate --target Qwen/Qwen3-8B --draft Qwen/Qwen3-0.6B --json validation.json
    """
    terminal = Terminal(json)
    if load:
        unused = {"--published": published, "--fitted-task": fitted_task, "--no-measure": None if measure else True}
        refuse(unused, "has no effect with --load: leave one of the two out")
        from sim.study.validate_load import validate_load

        with models.load() as pair:
            served = validate_load(
                pair,
                batch_size=batch_size or BATCH,
                requests=requests or REQUESTS,
                tokens=max_new_tokens or LOAD_TOKENS,
                repeats=repeats or LOAD_REPEATS,
                seed=seed or 0,
                progress=terminal.follow,
            )
        terminal.report(served)
        if served.interrupted:
            raise KeyboardInterrupt
        return
    refuse({"--batch-size": batch_size, "--requests": requests}, "is for --load: give --load too, or leave it out")
    timing = {"--max-new-tokens": max_new_tokens, "--repeats": repeats, "--seed": seed}
    named = {"--target": models.target, "--draft": models.draft, "--device": models.device}
    more = {"--draft-device": models.draft_device, "--dtype": models.dtype}
    lane = {"--lane": None if models.lane == "auto" else models.lane}
    of_pair = {**named, **more, **lane, **timing}
    predicted = None if published is None else _of_runs(published, terminal)
    if predicted is not None:
        refuse({**of_pair, "--fitted-task": fitted_task}, f"has no effect on the runs in {published}: leave it out")
        terminal.report(predicted())
        return
    from sim.study.published import bundled_table, read_cells
    from sim.study.validate import validate as compare

    cells, tasks = read_cells(published or bundled_table()), fitted_task or ()
    if not measure:
        refuse(of_pair, "has no effect with --no-measure: leave one of the two out")
        result = compare(cells=cells, fitted_tasks=tasks)
    else:
        with models.load() as pair:
            result = compare(
                pair,
                cells=cells,
                fitted_tasks=tasks,
                tokens=TOKENS if max_new_tokens is None else max_new_tokens,
                repeats=REPEATS if repeats is None else repeats,
                seed=seed or 0,
                progress=terminal.follow,
            )
    terminal.report(result)


def _of_runs(path: Path, terminal: Terminal) -> Callable[[], EngineValidation] | None:
    """What predicts a table of an engine's runs, or of PEARL's in batches; `None` for any other file."""
    from sim.engines.files import text_of
    from sim.engines.reading import read_runs
    from sim.engines.table import is_table
    from sim.study.engine_table import predict_table
    from sim.study.pearl_batches import is_batch_table, predict_batches, read_tasks

    text = text_of(path) if path.is_file() else ""
    if is_table(text):
        return lambda: predict_table(read_runs([path]), terminal.follow)
    return (lambda: predict_batches(read_tasks(path))) if is_batch_table(text) else None
