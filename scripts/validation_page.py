"""Writes docs/reference/validation.md: what was predicted, what was measured, and how far apart both are.

    python scripts/validation_page.py FOLDER

FOLDER holds published tables. Those whose licence lets nobody bundle them are read from there; only errors are written.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from sim import read_runs
from sim.study.engine_table import predict_table
from sim.study.load_report import BAR, LoadValidation
from sim.study.pace import WINDOW
from sim.study.pearl_batches import Task, predicted_tasks, read_tasks
from sim.study.table_report import EngineValidation, PredictedCell, PredictedChoice
from specdec.profile import busy_sentence

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/validation.md"
RUNS = "vllm_h100_draft_eagle3_by_concurrency.csv"
NANO_PEARL = "nano_pearl_h200_bs1_8_16.csv"
LOAD, BUSY_LOAD = "*_validate_load.json", "*_validate_load_busy.json"

BARS = {
    ("tpot", "2 to 8"): 2,
    ("tpot", "16 to 64"): 3,
    ("tpot", "128"): 8,
    ("tpot", "256"): 10,
    ("throughput", "2 to 8"): 3,
    ("throughput", "16 to 64"): 5,
    ("throughput", "128"): 8,
    ("throughput", "256"): 10,
    ("ttft", "2 to 8"): 15,
    ("ttft", "16 to 64"): 25,
}
BANDS = {"2 to 8": (2, 8), "16 to 64": (16, 64), "80": (80, 80), "128": (128, 128), "256": (256, 256)}
NAMES = {"tpot": "TPOT", "throughput": "throughput", "ttft": "TTFT", "acceptance_length": "acceptance length"}


def signed(share: float) -> str:
    return f"{100 * share:+.1f} %"


def runs_section(found: EngineValidation) -> Iterator[str]:
    held_out = [cell for cell in found.published if cell.held_out]
    fitted = len({(cell.method, cell.k, cell.dataset, cell.concurrency) for cell in found.published if not cell.held_out})
    every = len({(cell.method, cell.k, cell.dataset, cell.concurrency) for cell in found.published})
    yield f"""## An engine under load

{every} runs of vLLM that Tomas Ruiz published (January 2026): Qwen3-32B on one H100 alone, with a 1.7B draft, and with an
EAGLE-3 head; draft lengths (k) 1 to 6, 1 to 256 clients, two data sets. The table cannot be bundled; its errors are here. No
run has PEARL.

**In the fit:** {fitted} runs: those with 1, 8 and 32 clients, and of each method k = 2 and 5. They give round times (median
ITL), acceptance by position, how long a request is on its way to the engine, and the engine's
[lag](glossary.md#serving). The sizes of model and GPU come from data sheets. **Held out:** the {every - fitted} others. Of a
held-out run only its conditions are used: requests, tokens, clients, arrivals, and the size of the cache.

| quantity | clients | mean error | signed | worst | bar |
|---|---|---|---|---|---|"""
    for quantity, name in NAMES.items():
        for band, (low, high) in BANDS.items():
            errors = [cell.error for cell in held_out if cell.quantity == quantity and low <= cell.concurrency <= high]
            if errors:
                bar = BARS.get((quantity, band))
                worst = max(errors, key=abs)
                mean = f"{mean_of(errors)} | {signed(fmean(errors))}"
                yield f"| {name} | {band} | {mean} | {signed(worst)} | {f'{bar} %' if bar else ''} |"
    yield '\n??? note "The ten worst cells"\n'
    yield "    | quantity | method | data set | k | clients | error |\n    |---|---|---|---|---|---|"
    for cell in sorted(held_out, key=lambda cell: -abs(cell.error))[:10]:
        where = f"{cell.method} | {cell.dataset} | {cell.k} | {cell.concurrency}"
        yield f"    | {NAMES[cell.quantity]} | {where} | {signed(cell.error)} |"
    yield "\n" + choices(found.published, found.choices)


def choices(cells: Sequence[PredictedCell], found: Sequence[PredictedChoice]) -> str:
    """What choosing by prediction loses, of draft lengths within a method, and of methods and lengths together."""
    regrets: list[float] = []
    groups: dict[Any, list[PredictedCell]] = defaultdict(list)
    for cell in cells:
        if cell.quantity == "throughput" and cell.k:
            groups[cell.method, cell.dataset, cell.concurrency].append(cell)
    for group in groups.values():
        chosen = max(group, key=lambda cell: cell.predicted)
        regrets.append(1 - chosen.measured / max(cell.measured for cell in group))
    methods = [one.regret for one in found]
    wrong = sum(one.chosen.partition(" ")[0] != one.best.partition(" ")[0] for one in found)

    def row(what: str, lost: Sequence[float], bar: str) -> str:
        return f"| {what} | {len(lost)} | {100 * fmean(lost):.1f} % | {100 * max(lost):.1f} % | {bar} |\n"

    return (
        "Choosing by prediction, by throughput:\n\n"
        "| choice | cases | loses on average | at most | bar |\n|---|---|---|---|---|\n"
        f"{row('draft length of a method', regrets, '1.0 / 5 %')}{row('method and length', methods, '1.0 / 4 %')}\n"
        f"The method itself was not the best one in {wrong} of {len(methods)} cases."
    )


def pearl_section(path: Path) -> Iterator[str]:
    """PEARL of nano-PEARL in batches: a task is predicted from the others at its batch."""
    yield """## PEARL in batches

nano-PEARL's own benchmark on three H200 (MIT): six pairs of three targets, four tasks, batches of 1, 8 and 16. One task of a
pair at a time is left out, and its speed-up is predicted from the mean run length that was published with it. The draft length
comes from the pair's three other tasks. The time of a round, over a target's step, is fitted to all other rows of the batch: a
time for each pair, and two for each target, for each token that a round gives and for reading a prompt.

| batch | cases | mean error | signed | worst | bar | with the measured tokens of a round | with the task unknown |
|---|---|---|---|---|---|---|---|"""
    tasks = read_tasks(path)
    for batch in sorted({task.batch for task in tasks}):
        rows = [task for task in tasks if task.batch == batch]
        found, known = left_out(rows)
        unknown, _ = left_out(rows, everywhere=True)
        mean = f"{mean_of(found)} | {signed(fmean(found))} | {signed(max(found, key=abs))}"
        yield f"| {batch} | {len(found)} | {mean} | 4 % | {mean_of(known)} | {mean_of(unknown)} |"
    together, _ = left_out([task for task in tasks if task.batch == 16], by_target=False)
    yield f"""
The last column but one is the mean error if the tokens of a round are measured, and only its time is predicted. The last one is
that if the task is left out of the other pairs too.

The times are a fit, not a law. Which of them a target has of its own was chosen with these errors in view: with two for all
pairs together, the mean error at batch 16 is {mean_of(together)}.

At batch 1 and 8 the worst cells are Llama-3.2-1B with the 70B: its acceptance depends on the tokens before, which one rate does
not know."""


def left_out(rows: Sequence[Task], **how: bool) -> tuple[list[float], list[float]]:
    """Errors of the speed-up of every task, predicted from the others; then those with the measured tokens of a round."""
    found = predicted_tasks(rows, **how)
    return [one.speedup / one.task.speedup - 1 for one in found], [one.with_its_tokens / one.task.speedup - 1 for one in found]


def mean_of(errors: Iterable[float]) -> str:
    """Their mean without signs."""
    return f"{100 * fmean(map(abs, errors)):.1f} %"


def load_section() -> Iterator[str]:
    """What `specdec validate --load` measured last, from the results in the repository."""
    found = sorted((ROOT / "benchmarks/results").glob(LOAD))
    if not found:
        return
    report = LoadValidation.read(found[-1])
    yield f"""## Our own runtime under load

`specdec validate --load` on the bundled pair (`benchmarks/results/{found[-1].name}`). Requests arrive
at random at 30, 60 and 85 % of capacity, {report.requests} in each of {report.repeats} repeats. The same arrivals are
simulated from profiles that were taken in the same run.

| strategy | load | TTFT mean, P90 | TPOT mean, P90 | E2E mean, P90 | tok/s |
|---|---|---|---|---|---|"""
    for point in report.points:
        errors = {one.quantity: f"{round(100 * one.error):+d}" for one in point.compared}
        yield f"| `{point.strategy}` | {100 * point.load:.0f} % | {cells(errors)} |"
    mean, worst = fmean(map(abs, report.errors)), max(report.errors, key=abs)
    yield f"\nMean error {100 * mean:.1f} %, largest {signed(worst)}. Predictions and times are in the file."
    yield """
The scheduling is exact: on a clock that only forwards move, by known seconds, this runtime and the simulator agree on every
request to 1e-9 s (`tests/sim/test_validate_load.py`). What is left is how long forwards take."""
    for path in sorted((ROOT / "benchmarks/results").glob(BUSY_LOAD)):
        yield from at_pace(path)


def at_pace(path: Path) -> Iterator[str]:
    """How far repeats are apart on a machine that changes its speed, and the errors that remain at the pace of each run."""
    report = LoadValidation.read(path)
    waits = [(point, one.repeats) for point in report.points for one in point.compared if one.quantity == "ttft_mean"]
    point, repeats = max(waits, key=lambda wait: max(wait[1]) / min(wait[1]))
    ttft = f"{1000 * min(repeats):.0f} to {1000 * max(repeats):.0f}"
    fastest, slowest = signed(min(report.paces) - 1), signed(max(report.paces) - 1)
    varied = [100 * one for point in report.points for one in point.pace_variation]
    least, most = f"{min(varied):.0f}", f"{max(varied):.0f}"
    grown, grown_p90 = (f"{report.elasticities[name]:.0f} %" for name in ("ttft_mean", "ttft_p90"))
    yield f"""
### On a machine that changes its speed

`{path.name}`: {report.repeats} repeats. The command said:
*{busy_sentence(report.busy)}*
Equal arrivals gave a mean TTFT of {ttft} ms ({point.strategy} at {100 * point.load:.0f} %), so no prediction is
within 10 % of all of them. Seconds of work were off the prediction by {fastest} to {slowest}, and within a run the
machine's speed varied by {least} to {most} % (standard deviation). Queues multiply that: if all work takes 1 % longer, the
mean TTFT grows by up to {grown} and its P90 by up to {grown_p90}, as simulated. Hence each run is simulated once more
at its own *pace*: how much longer each {WINDOW} steps took than others that are alike, and how long the run worked in all.
An error that all costs share is not seen then. Nothing else is taken from the run. What remains:

| strategy | load | pace | TTFT mean, P90 | TPOT mean, P90 | E2E mean, P90 | tok/s |
|---|---|---|---|---|---|---|"""
    for point in report.points:
        errors = {one.quantity: f"{round(100 * (one.error_at_pace or 0.0)):+d}" for one in point.compared}
        pace = f"{signed(min(point.pace) - 1)} to {signed(max(point.pace) - 1)}"
        yield f"| `{point.strategy}` | {100 * point.load:.0f} % | {pace} | {cells(errors)} |"
    mean, worst = fmean(map(abs, report.errors_at_pace)), max(report.errors_at_pace, key=abs)
    without, chance = fmean(map(abs, report.errors)), max(one.chance for point in report.points for one in point.compared)
    of_one, of_all = (f"{report.beyond_by_chance(BAR, repeats):.1f}" for repeats in (1, report.repeats))
    all_of_them = len(report.latencies)
    first = signed(fmean(one.error_at_pace or 0.0 for one in report.latencies if one.quantity == "ttft_mean"))
    within = sum(abs(one.error_at_pace or 0.0) <= BAR for one in report.latencies)
    yield f"""
Mean error {100 * mean:.1f} %, largest {signed(worst)}; {within} of {all_of_them} latencies are within {100 * BAR:.0f} %.
With its sign, the error of the mean TTFT is {first} on average.
At the pace of the profiles, the mean error is {100 * without:.1f} %.

Chance remains, since other guesses are accepted in each run: TTFT P90 deviates by up to {100 * chance:.0f} % from run to run.
At a constant speed, {of_one} of the {all_of_them} latencies of a perfect simulator would be off by more than
{100 * BAR:.0f} % in one run, and {of_all} in {report.repeats}."""


def cells(errors: Mapping[str, str]) -> str:
    """The errors of a point by quantity, as cells of a row."""
    pairs = [f"{errors[f'{name}_mean']}, {errors[f'{name}_p90']} %" for name in ("ttft", "tpot", "e2e")]
    return " | ".join([*pairs, f"{errors['output_tokens_per_second']} %"])


def main() -> None:
    folder = Path(sys.argv[1])
    parts = [
        f"""# How far off predictions are

Written on {date.today().isoformat()} by `make validation TABLES=FOLDER`. Errors are predicted over measured, minus 1. The
mean error is without signs. The bar was set before anything was measured.
"""
    ]
    parts += [*runs_section(predict_table(read_runs([folder / RUNS]))), ""]
    parts += [*pearl_section(folder / NANO_PEARL), "", *load_section()]
    parts += [
        """
## Elsewhere

- One sequence of the bundled pair: `specdec validate`. Its errors in `cpu_amd_epyc_2_cores_2026-11-24_validate.json` are
  -4 to +8 %.
- PEARL's published speed-ups at batch 1: `specdec validate --no-measure`.
- Step times from data sheets: [by hardware](../how-to/hardware.md).
- Your own engine: `specdec validate --published FILE`, for a table of runs by concurrency, or of PEARL in batches.
"""
    ]
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
