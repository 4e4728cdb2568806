"""What a predicted table of an engine's runs found: every number with its prediction, and choices of method and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from specdec.report import Report, table

if TYPE_CHECKING:
    from rich.console import RenderableType

WORST = 10
"""Cells, and reasons, that are printed."""

Quantity: TypeAlias = Literal["tpot", "throughput", "ttft", "acceptance_length", "speedup"]
UNITS: Mapping[Quantity, str] = {
    "tpot": "ms",
    "throughput": "tok/s",
    "ttft": "ms",
    "acceptance_length": "tokens",
    "speedup": "x",
}


@dataclass(frozen=True)
class PredictedCell(Report):
    """A number of a table and its prediction.

    `target`, `draft`, `method`, `k`, `dataset`, `concurrency`   which run; `k` is its draft length, fitted if untold
    `quantity`    `tpot` and `ttft` (means over requests) in milliseconds as tables have them, `throughput` in output tokens per
                  second, `acceptance_length` in tokens of a round, or `speedup` over autoregressive decoding
    `predicted`   by the simulation
    `measured`    as the table has it
    `error`       predicted over measured, minus 1
    `held_out`    whether this run was left out of the calibration
    """

    target: str
    draft: str
    method: str
    k: int
    dataset: str
    concurrency: int
    quantity: Quantity
    predicted: float
    measured: float
    error: float
    held_out: bool


@dataclass(frozen=True)
class PredictedChoice(Report):
    """Which method and draft length has the most throughput at one concurrency, and what a wrong prediction costs.

    `target`, `dataset`, `concurrency`   where
    `chosen`   the best by prediction, such as `eagle3 k=2`
    `best`     the best as measured
    `regret`   share of the measured throughput that is lost by the choice; 0 if it is right
    """

    target: str
    dataset: str
    concurrency: int
    chosen: str
    best: str
    regret: float


@dataclass(frozen=True)
class EngineValidation(Report):
    """A table of an engine's runs, predicted; what `specdec validate --published FILE --json` writes for such a table.

    `published`   every number with its prediction
    `choices`     every choice of method and draft length
    `left_out`    why numbers are missing in `published`: a sentence for each run, or group of runs, that cannot be predicted
    `assumed`     what stands for conditions that the table does not say
    """

    format: ClassVar[str] = "specdec.validate-engine/1"

    published: tuple[PredictedCell, ...]
    choices: tuple[PredictedChoice, ...]
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.markup import escape

        bands = ((1, 1), (2, 8), (9, 64), (65, inf))
        made = table("quantity", numbers=["1 client", "2 to 8 clients", "9 to 64 clients", "more clients"])
        held_out = [cell for cell in self.published if cell.held_out]
        for quantity in UNITS:
            cells = [cell for cell in held_out if cell.quantity == quantity]
            if not cells:
                continue
            means = [[abs(cell.error) for cell in cells if a <= cell.concurrency <= b] for a, b in bands]
            made.add_row(quantity, *(f"{100 * fmean(found):.1f} %" if found else "-" for found in means))
        worst = table("quantity", "method", "data set", numbers=("k", "clients", "measured", "predicted", "error"))
        for cell in sorted(held_out, key=lambda cell: -abs(cell.error))[:WORST]:
            values = (f"{value:.4g} {UNITS[cell.quantity]}" for value in (cell.measured, cell.predicted))
            error = f"{100 * cell.error:+.1f} %"
            worst.add_row(cell.quantity, cell.method, cell.dataset, str(cell.k), str(cell.concurrency), *values, error)
        return Group(
            "[bold]Mean error of runs that were held out[/], without signs",
            made,
            "[bold]The worst of them[/]",
            worst,
            *self._choices(),
            *(f"[bold]Assumed:[/] {escape(line)}" for line in self.assumed),
            *(f"[bold]Left out:[/] {escape(line)}" for line in self.left_out[:WORST]),
            *([f"[bold]Left out:[/] {len(self.left_out) - WORST} more, see the JSON"] if len(self.left_out) > WORST else []),
        )

    def _choices(self) -> Iterator[str]:
        if not self.choices:
            return
        regrets = [choice.regret for choice in self.choices]
        wrong = sum(regret > 0 for regret in regrets)
        worst = max(self.choices, key=lambda choice: choice.regret)
        yield (
            f"[bold]Choice of method and draft length[/] by predicted throughput: {wrong} of {len(regrets)} are not the best; "
            f"they lose {100 * fmean(regrets):.1f} % on average over all"
        )
        if worst.regret:
            yield (
                f"  and at most {100 * worst.regret:.1f} %: {worst.chosen} instead of {worst.best}, {worst.dataset}, "
                f"{worst.concurrency} clients"
            )
