"""Reads a table of published runs, one run a row: the columns of `vllm_h100_draft_eagle3_by_concurrency.csv`.

Lines that begin with `#` say what the table is, and are skipped. `acceptance_by_position_pct` holds percentages with spaces
between them. `request_rate` says how many requests arrive per second, `inf` or nothing for a closed loop. The published table
has no such column: its benchmark ran at `max_concurrency` requests per second and at most so many at once. A table without the
column is taken to be like it, and the rate is listed as assumed. `max_num_seqs` is how many requests the engine decodes at once
at most; a table may leave it out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping

from sim.engines.files import Found, column_names
from sim.engines.run import AR, EngineRun, Times, far_above
from sim.engines.stated import Stated, method_name
from specdec.errors import InputError

COLUMNS = (
    "target",
    "draft",
    "method",
    "k",
    "dataset",
    "max_concurrency",
    "requests",
    "duration_s",
    "output_tok_s",
    "itl_mean_ms",
)
ENOUGH = 3
"""So many of these columns show that a table with a wrong or a missing one is meant to be of runs."""

FAR = 3.0
"""How many times numbers of one run differ if they are of other units, or of other runs."""


def is_table(text: str) -> bool:
    """Whether the first line that is no remark names some of these columns, beside those of the models."""
    return len(set(COLUMNS[2:]).intersection(column_names(text))) >= ENOUGH


def read_table(text: str, source: str, stated: Stated) -> Iterator[EngineRun]:
    """The runs. Raises `InputError` that names the row and the line of the first one that is wrong."""
    lines = [
        (number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip() and not line.startswith("#")
    ]
    rows = csv.reader(line for _, line in lines)
    head = [name.strip() for name in next(rows)]
    missing = [column for column in COLUMNS if column not in head]
    if missing:
        raise InputError(f"{source} has no column {missing[0]}: a table of runs needs {', '.join(COLUMNS)}")
    if len(set(head)) < len(head):
        raise InputError(f"{source} names a column twice: {', '.join(sorted({name for name in head if head.count(name) > 1}))}")
    if len(lines) == 1:
        raise InputError(f"{source} has no row: give at least one run")
    for number, (row, (line, _)) in enumerate(zip(rows, lines[1:], strict=False), start=1):
        where = f"{source} row {number} (line {line})"
        if len(row) != len(head):
            raise InputError(f"{where} has {len(row)} cells, and the head {len(head)}: complete it, or take it out")
        yield _run(Found(where, dict(zip(head, (cell.strip() for cell in row), strict=True))), stated)


def _run(row: Found, stated: Stated) -> EngineRun:
    k = row.count("k")
    method = method_name(row.text("method") or ("?" if k != 0 else AR))
    if (method == AR) != (not k) or "?" in method:
        raise InputError(
            f"{row.source}: method {row.text('method')!r} with k {row.text('k')!r}: a run of ar has k 0, others at least 1"
        )
    clients = row.count("max_concurrency")
    if not clients:
        raise InputError(f"{row.source}: max_concurrency is {row.text('max_concurrency')!r}, and must be at least 1")
    seconds, requests = row.number("duration_s"), row.count("requests")
    output, token = row.count("output_tokens"), row.number("tpot_mean_ms")
    speed = row.number("output_tok_s")
    if speed and output and seconds and _apart(speed, output / seconds):
        raise InputError(
            f"{row.source}: output_tok_s is {speed:g}, and output_tokens over duration_s are {output / seconds:.4g}: correct "
            "one of the three, or leave it empty"
        )
    if output is None and speed is not None and seconds is not None:
        output = round(speed * seconds)
    if seconds is None and speed and output:
        seconds = output / speed
    whole = None not in (output, token, seconds, requests) and seconds
    length = _length(row)
    run = stated.run(
        row.source,
        method != AR,
        target=row.text("target"),
        draft=row.text("draft"),
        method=method,
        draft_length=k or None,
        dataset=row.text("dataset"),
        gpu=row.text("gpu"),
        gpus=row.count("tp"),
        clients=clients,
        rate=_rate(row, clients),
        assumed=() if "request_rate" in row.values else ("rate",),
        running=token * 1e-3 * max(0, output - requests) / seconds
        if whole and token and output and requests and seconds
        else None,
        requests=requests,
        seconds=seconds,
        input_tokens=row.count("input_tokens"),
        output_tokens=output,
        ttft=_times(row, "ttft"),
        tpot=_times(row, "tpot"),
        itl=_times(row, "itl"),
        acceptance_length=length,
        by_position=tuple(share / 100 for share in _shares(row, length)),
        rounds=row.count("drafts"),
        kv_tokens=row.count("kv_pool_tokens"),
        max_batch=row.count("max_num_seqs"),
    )
    _check_times(run)
    _check_load(run)
    return run


def _apart(one: float, other: float) -> bool:
    return not other / FAR <= one <= other * FAR


def _check_times(run: EngineRun) -> None:
    """Refuse an ITL that is no time of a round of 1 to k + 1 tokens of this TPOT."""
    token, chunk, most = run.tpot.mean, run.itl.mean, run.draft_length + 1
    if token and chunk and not token / FAR <= chunk <= FAR * most * token:
        raise InputError(
            f"{run.source}: itl_mean_ms is {1e3 * chunk:g} and tpot_mean_ms {1e3 * token:g}, and a round has 1 to {most} "
            "tokens: write both in milliseconds, the first as the time of a chunk"
        )


def _check_load(run: EngineRun) -> None:
    """Refuse a duration that latencies, clients and arrivals do not explain.

    The clients open one request after the other, and the last answers take as long as any. Without a TTFT requests may have
    waited for any time.
    """
    first, token, seconds = run.ttft.mean, run.tpot.mean, run.seconds
    if not (token and seconds and run.requests and run.output_tokens and run.clients):
        return
    each = (first or 0.0) + token * max(0.0, run.output_tokens / run.requests - 1)
    least = run.requests * each / run.clients
    most = least + each + (run.requests / run.rate if run.rate else 0.0)
    if least > FAR * seconds or (first is not None and FAR * most < seconds):
        raise InputError(
            f"{run.source}: {run.requests} requests of {each:.3g} s each, by ttft_mean_ms and tpot_mean_ms, do not take "
            f"{seconds:.4g} s with {run.clients} clients (duration_s, or output_tokens over output_tok_s): check the units"
            + (", or fill in request_rate" if "rate" in run.assumed else "")
        )


def _rate(row: Found, clients: int) -> float | None:
    """Requests that arrive per second: as the row says, else as many as there are clients."""
    return row.request_rate() if "request_rate" in row.values else float(clients)


def _times(row: Found, name: str) -> Times:
    mean, median, p99 = (row.number(f"{name}_{what}_ms") for what in ("mean", "median", "p99"))
    return row.times(mean, median, p99, 1e-3, name)


def _length(row: Found) -> float | None:
    """The acceptance length: as counted, else as it is written."""
    rounds, accepted, written = row.count("drafts"), row.count("accepted_tokens"), row.number("acceptance_length")
    if not rounds or accepted is None:
        return written
    counted = 1 + accepted / rounds
    if written is not None and (far_above(written, counted) or far_above(counted, written)):
        raise InputError(
            f"{row.source}: accepted_tokens over drafts give {counted:.3g} tokens a round, and acceptance_length is "
            f"{written:g}: drafts counts rounds, and the length counts the bonus token"
        )
    return counted


def _shares(row: Found, length: float | None) -> list[float]:
    """Percentages by position. Raises `InputError` for shares from 0 to 1, which the acceptance length gives away."""
    written = row.text("acceptance_by_position_pct")
    cells: Mapping[str, object] = {"acceptance_by_position_pct": written.split()}
    found = Found(row.source, cells).numbers("acceptance_by_position_pct")
    if found and max(found) <= 1 and length is not None and length - 1 > sum(found) / 10:
        raise InputError(
            f"{row.source}: acceptance_by_position_pct {written!r} cannot give {length:g} tokens a round: write "
            "percentages, not shares"
        )
    return found
