"""Writes docs/reference/validation.md: what was predicted, what was measured, and how far apart both are.

    python scripts/validation_page.py FOLDER

FOLDER holds published tables. Those whose licence lets nobody bundle them are read from there; only errors are written.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from sim import Constant, Rate, System, compile_strategy, long_run_speed, read_runs
from sim.study.engine_table import EngineValidation, PredictedCell, PredictedChoice, predict_table
from sim.study.validate_load import LoadValidation
from strategies import Pearl

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/reference/validation.md"
RUNS = "vllm_h100_draft_eagle3_by_concurrency.csv"
NANO_PEARL = "nano_pearl_h200_bs1_8_16.csv"
LOAD = "*_validate_load.json"

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
EAGLE-3 head; k 1 to 6, 1 to 256 clients, two data sets. The table cannot be bundled; its errors are here.

**In the fit:** {fitted} runs: those with 1, 8 and 32 clients, and of each method k = 2 and 5. They give round times (median
ITL), acceptance by position, the way of a request, and the engine's lag. The sizes of model and GPU come from data sheets.
**Held out:** everything else. Of a held-out run only its conditions are used: requests, tokens, clients, arrivals, and the
size of the cache.

| quantity | clients | mean error | signed | worst | bar |
|---|---|---|---|---|---|"""
    for quantity, name in NAMES.items():
        for band, (low, high) in BANDS.items():
            errors = [cell.error for cell in held_out if cell.quantity == quantity and low <= cell.concurrency <= high]
            if errors:
                bar = BARS.get((quantity, band))
                worst = max(errors, key=abs)
                mean = f"{100 * fmean(map(abs, errors)):.1f} % | {signed(fmean(errors))}"
                yield f"| {name} | {band} | {mean} | {signed(worst)} | {f'{bar} %' if bar else ''} |"
    yield "\nThe ten worst cells:\n\n| quantity | method | data set | k | clients | error |\n|---|---|---|---|---|---|"
    for cell in sorted(held_out, key=lambda cell: -abs(cell.error))[:10]:
        where = f"{cell.method} | {cell.dataset} | {cell.k} | {cell.concurrency}"
        yield f"| {NAMES[cell.quantity]} | {where} | {signed(cell.error)} |"
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
    """PEARL of nano-PEARL in batches: a task is predicted from the other three of its pair and batch."""
    yield """## PEARL in batches

nano-PEARL's own benchmark on three H200 (MIT): six pairs, four tasks, batches of 1, 8 and 16. One task at a time is left
out. From the other three come the draft length and the time of a round over a target's step. Predicted is the speed-up of
the task that was left out, from the mean run length that was published with it. Reading the prompts is taken out.

| batch | cases | mean error | signed | worst | bar |
|---|---|---|---|---|---|"""
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    groups: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for row in csv.DictReader(lines):
        batch = int(row["batch"])
        runs = float(row["requests"]) / batch
        groups[row["draft"], row["target"], batch].append(
            {
                "ar": float(row["ar_s"]) / runs,
                "pearl": float(row["pearl_s"]) / runs,
                "acceptance": 1 - 1 / float(row["mean_run_length"]),
                "tokens": float(row["tokens_per_round_derived"]),
                "speedup": float(row["speedup"]),
            }
        )
    errors: dict[int, list[float]] = defaultdict(list)
    tokens = tokens_of_a_round()
    for (_, _, batch), tasks in groups.items():
        step = min(task["ar"] for task in tasks) / 200
        for task in tasks:
            others = [one for one in tasks if one is not task]
            prompt = {id(one): one["ar"] - 200 * step for one in tasks}
            length = min(
                range(2, 17), key=lambda g: sum((tokens(g, one["acceptance"]) / one["tokens"] - 1) ** 2 for one in others)
            )
            a_round = fmean((one["pearl"] - prompt[id(one)]) / 100 for one in others)
            pearl = 100 * tokens(length, task["acceptance"]) / (prompt[id(task)] + 100 * a_round)
            errors[batch].append(pearl * task["ar"] / 200 / task["speedup"] - 1)
    for batch, found in sorted(errors.items()):
        worst = max(found, key=abs)
        mean = f"{100 * fmean(map(abs, found)):.1f} % | {signed(fmean(found))}"
        yield f"| {batch} | {len(found)} | {mean} | {signed(worst)} | 4 % |"
    yield """
The worst cells are Llama-3.2-1B with the 70B: its runs of accepted tokens are far from independent. At batch 16, round times
of one pair differ by task by up to 18 %, which nothing in the table explains."""


def tokens_of_a_round() -> Callable[[int, float], float]:
    """Tokens of a round of PEARL by draft length and acceptance rate, from its chain."""
    system, known = System(Constant(1e-3, 1.0)), dict[tuple[int, float], float]()

    def tokens(length: int, rate: float) -> float:
        if (length, rate) not in known:
            chain = compile_strategy(Pearl(length), system)
            known[length, rate] = float(long_run_speed(chain, Rate(rate), system).tokens_per_round)
        return known[length, rate]

    return tokens


def load_section() -> Iterator[str]:
    """What `specdec validate --load` measured last, from the results in the repository."""
    found = sorted((ROOT / "benchmarks/results").glob(LOAD))
    if not found:
        return
    report = LoadValidation.read(found[-1])
    yield f"""## Our own runtime under load

`specdec validate --load` on the bundled pair (`benchmarks/results/{found[-1].name}`). Requests arrive
at random at 30, 60 and 85 % of capacity; the same arrivals are simulated from profiles that were taken in the same run.

```text
{report}
```"""


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

- One sequence of the bundled pair: `specdec validate`, and its [results](results.md).
- PEARL's published speed-ups at batch 1: `specdec validate --no-measure`.
- Step times from data sheets: [by hardware](../how-to/hardware.md).
- Your own engine: `specdec validate --published FILE`, for a table of runs by concurrency.
"""
    ]
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
