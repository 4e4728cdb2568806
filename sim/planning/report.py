"""The plan as a report: the verdict, the best plans, what was rejected and why, where the verdict flips, and from what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from sim.planning.candidates import Tier
from sim.planning.objectives import Objective
from sim.planning.sensitivity import Sensitivity
from sim.planning.trials import NEGLIGIBLE
from specdec.acceptance import Tag
from specdec.report import Report, share, table, three_digits

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

SHOWN = 8
GOODPUT = "goodput, req/s"


@dataclass(frozen=True)
class Planned(Report):
    """A deployment that meets all objectives, with the fewest replicas that do.

    `name`            short name
    `method`          how guesses are made, as engines call it; `ar` for none
    `draft`           name of the draft; empty for `ar`
    `strategy`        name of the strategy
    `draft_length`    guesses of a round; 0 for `ar`; the longest of a schedule
    `schedule`        lengths by running batch; empty for one length
    `placement`       where the draft runs: `shared` with the target, on its `own device`, or `as measured`
    `max_batch`       sequences that a replica runs at once
    `acceptance`      share of all rounds in which each guess is accepted; the acceptance length is 1 + their sum
    `replicas`        how many
    `target_gpus`, `draft_gpus`   of one replica; the draft has none of its own where it shares the target's
    `gpus`            of all replicas
    `cost_per_hour`   of all GPUs; `None` (null) without a price
    `ttft_ms`, `tpot_ms`, `e2e_ms`   the statistic that has an objective, else P99, in milliseconds; of TPOT `None` (null)
                      where all answers are one token
    `goodput`         requests per second that meet all limits
    `requests_per_second`            finished requests
    `output_tokens_per_second`       tokens of finished answers
    `utilisation`     share of time in which the target's device works
    `kv_tokens`       tokens that the cache of a replica holds; `None` (null) without a limit
    `kv_share`        share of it in use, the mean over time; `None` (null) without a limit
    `binding`         name of the objective nearest to its limit; `load` without objectives
    `headroom`        1 - its statistic over its limit
    `load`            rho: requests that arrive over those that can be finished
    `extrapolated_share`   share of the time in forwards beyond the rows, sequences or context that were measured
    `short`           whether arrivals span less than ten mean answers: its run has not settled
    `share`           share of the requests that it serves
    `parts`           two deployments that share the requests; this entry is then both, and names the first
    `tags`            how the numbers behind it came about: `step`, `acceptance`, `foresight`, `exchange`,
                      `kv_tokens`, `traffic`
    """

    name: str
    method: str
    draft: str
    strategy: str
    draft_length: int
    schedule: tuple[Tier, ...]
    placement: str
    max_batch: int
    acceptance: tuple[float, ...]
    replicas: int
    target_gpus: int
    draft_gpus: int
    gpus: int
    cost_per_hour: float | None
    ttft_ms: float
    tpot_ms: float | None
    e2e_ms: float
    goodput: float
    requests_per_second: float
    output_tokens_per_second: float
    utilisation: float
    kv_tokens: int | None
    kv_share: float | None
    binding: str
    headroom: float
    load: float
    extrapolated_share: float
    tags: Mapping[str, Tag]
    short: bool = False
    share: float = 1.0
    parts: tuple[Planned, ...] = ()


@dataclass(frozen=True)
class Rejected(Report):
    """A candidate that is no plan.

    `plan`   its name
    `gate`   what rejected it, and by how much
    """

    plan: str
    gate: str


@dataclass(frozen=True)
class PlanFlip(Report):
    """Where another plan becomes the best, if one thing changes and all else stays.

    `parameter`   `load` (requests per second) or `acceptance` (of the first guess)
    `at`          its value there
    `to`          name of the plan that is best beyond it
    `beyond`      on which side: `above` or `below`
    """

    parameter: Literal["load", "acceptance"]
    at: float
    to: str
    beyond: Literal["above", "below"]

    def __str__(self) -> str:
        unit = " req/s" if self.parameter == "load" else ""
        return f"{self.to} {self.beyond} {self.parameter} {three_digits(self.at)}{unit}"


@dataclass(frozen=True)
class Length(Report):
    """What another draft length than the best would sustain.

    `draft_length`          guesses of a round
    `requests_per_second`   that the plan's replicas serve at this length with all objectives met
    `regret`                share of the best length's that is lost
    """

    draft_length: int
    requests_per_second: float
    regret: float


@dataclass(frozen=True)
class Plan(Report):
    """A plan; what `specdec plan --json` writes, and `--save`.

    `verdict`      one sentence for each thing to know
    `plans`        deployments that meet all objectives, the cheapest first, then those with the most headroom
    `rejected`     other candidates, with the gate that rejected each
    `flips`        where another plan becomes the best; these four are of the best single deployment
    `lengths`      what its other draft lengths would sustain
    `sensitivity`  which of its inputs it hangs on; `None` (null) without a plan
    `sustained`    requests per second up to which it meets its objectives; `None` (null) without one
    `objectives`   what must be met
    `rate`         requests per second that were planned for
    `input_tokens`, `output_tokens`   of the mean request
    `target`       name of the target
    `iteration_tokens`   tokens of an iteration of the engine, prompts included
    `kv_pools`     tokens that the cache of a replica holds, by method
    `price`        of a GPU in an hour; `None` (null) without one
    `provenance`   where everything comes from, in words, by what it is
    `command`      the arguments of `specdec plan` that make it again; empty for a plan that was made in Python
    `files`        SHA-256 of the files that the command reads, by path
    """

    format: ClassVar[str] = "specdec.plan/1"

    verdict: str
    plans: tuple[Planned, ...]
    rejected: tuple[Rejected, ...]
    flips: tuple[PlanFlip, ...]
    lengths: tuple[Length, ...]
    sustained: float | None
    objectives: tuple[Objective, ...]
    rate: float
    input_tokens: float
    output_tokens: float
    target: str
    iteration_tokens: int
    kv_pools: Mapping[str, int | None]
    price: float | None
    provenance: Mapping[str, str]
    sensitivity: Sensitivity | None = None
    command: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [Text(self.verdict, style="bold"), ""]
        if self.plans:
            parts += [self._table(), *self._lines()]
        if self.rejected:
            parts += ["", "Rejected", *self._gates()]
        parts += ["", "From", *(f"  {what}: {whence}" for what, whence in self.provenance.items())]
        return Group(*parts)

    def _gates(self) -> Iterator[str]:
        """Each gate with the plans that it rejected; those that were screened by their number."""
        simulated = [one for one in self.rejected if not one.gate.startswith("screened")]
        stopped: dict[str, list[str]] = {}
        for one in simulated:
            stopped.setdefault(one.gate, []).append(one.plan)
        for gate, (first, *others) in list(stopped.items())[:SHOWN]:
            yield f"  {first}{f', and {len(others)} more' if others else ''}: {gate}"
        if len(stopped) > SHOWN:
            yield f"  and {sum(map(len, list(stopped.values())[SHOWN:]))} more (--json holds all)"
        screened = len(self.rejected) - len(simulated)
        if screened:
            yield f"  {screened} others of the same kinds whose replicas serve fewer requests, by their exact chains"

    def numbers(self, one: Planned) -> dict[str, str]:
        """The numbers of a deployment in a table, by their headings."""
        named = {objective.quantity: objective.statistic for objective in reversed(self.objectives)}
        statistics = {quantity: named.get(quantity, "p99").replace("p", "P") for quantity in ("ttft", "tpot", "e2e")}
        headings = [f"{quantity.upper()} {statistic}, ms" for quantity, statistic in statistics.items()]
        times = ["-" if value is None else three_digits(value) for value in (one.ttft_ms, one.tpot_ms, one.e2e_ms)]
        return {
            "replicas": str(one.replicas),
            "GPUs": str(one.gpus),
            **({} if one.cost_per_hour is None else {"$/h": three_digits(one.cost_per_hour)}),
            **dict(zip(headings, times, strict=True)),
            "headroom": share(one.headroom),
            GOODPUT: three_digits(one.goodput),
            "load": share(one.load),
            "busy": share(one.utilisation),
            "KV in use": "-" if one.kv_share is None else share(one.kv_share),
        }

    def _table(self) -> Table:
        """The best plans, by all numbers but the goodput, for which a terminal has no room."""
        shown = [(one, self.numbers(one)) for one in self.plans[:SHOWN]]
        headings = [heading for heading in shown[0][1] if heading != GOODPUT]
        made = table("plan", numbers=[heading.replace(", ", "\n") for heading in headings], collapse_padding=True)
        for one, numbers in shown:
            mark = " *" if one.extrapolated_share > NEGLIGIBLE else ""
            made.add_row(one.name + mark, *(numbers[heading] for heading in headings))
        return made

    def _lines(self) -> Iterator[str]:
        best = self.plans[0]
        if any(one.extrapolated_share > NEGLIGIBLE for one in self.plans[:SHOWN]):
            beyond = share(best.extrapolated_share)
            yield f"  * extrapolated: {beyond} of the best plan's time is in forwards beyond what was measured"
        if self.lengths:
            held = ", ".join(f"{one.draft_length}: {three_digits(one.requests_per_second)}" for one in self.lengths)
            yield f"  Requests/s that these replicas sustain, by draft length: {held}"
        pools = {name: tokens for name, tokens in self.kv_pools.items() if tokens is not None}
        if pools:
            yield "  KV cache of a replica: " + ", ".join(f"{name} {tokens:,} tokens" for name, tokens in pools.items())
        for flip in self.flips:
            yield f"  Flips to {flip}"
        if self.sensitivity is not None:
            yield f"  {self.sensitivity}"
