"""The study of one strategy on one sequence: its speed simulated by events, and its exact speed by the compiled chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from sim.setup.acceptance import Acceptance, beyond_measured
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed, plain_tokens_per_second
from sim.study.load import Load
from specdec.errors import StrategyError
from specdec.report import Report, share, spelled, three_digits
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy

if TYPE_CHECKING:
    from typing import Self

    from rich.console import RenderableType


@dataclass(frozen=True)
class Simulation(Report):
    """How fast a strategy decodes one sequence, and how it serves many; what `specdec simulate --json` writes.

    `strategy`                     name of the strategy
    `parameters`                   its parameters by name
    `tokens_per_second`            simulated
    `tokens_per_second_interval`   95 % interval of the long-run speed; `None` (null) where there are too few rounds
    `speedup_over_ar`              simulated speed over autoregressive decoding on the same system
    `target_idle_share`            share of time in which the target does nothing
    `draft_idle_share`             the same of the draft
    `rounds`                       simulated rounds
    `chain_tokens_per_second`      exact long-run speed; `None` (null) where the strategy cannot be compiled
    `load`                         the same strategy under load; in JSON its keys follow these ones, or are absent
    `remarks`                      what is extrapolated, in sentences
    """

    format: ClassVar[str] = "specdec.simulate/1"

    strategy: str
    parameters: Mapping[str, Any]
    tokens_per_second: float
    tokens_per_second_interval: tuple[float, float] | None
    speedup_over_ar: float
    target_idle_share: float
    draft_idle_share: float
    rounds: int
    chain_tokens_per_second: float | None
    load: Load | None = None
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        load = found.pop("load")
        return {**found, **(load or {})}

    @classmethod
    def from_dict(cls, found: Any, source: str) -> Self:
        names = {field.name for field in fields(Load)}
        if isinstance(found, dict) and not names.isdisjoint(found):
            load = {name: value for name, value in found.items() if name in names}
            found = {name: value for name, value in found.items() if name not in names} | {"load": load}
        return super().from_dict(found, source)

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        interval, exact = self.tokens_per_second_interval, self.chain_tokens_per_second
        between = f"95 % interval {' to '.join(map(three_digits, interval))}" if interval else "too few rounds for an interval"
        chain = f"{three_digits(exact)} tok/s by the compiled chain" if exact else "not compiled: its memory does not repeat"
        return Group(
            f"[bold]{spelled(self.strategy, self.parameters)}[/], one sequence alone",
            f"  simulated   {three_digits(self.tokens_per_second)} tok/s ({between})",
            f"  exact       {chain}",
            f"  speed-up    {three_digits(self.speedup_over_ar)}x over autoregressive decoding",
            f"  idle        target {share(self.target_idle_share)}, draft {share(self.draft_idle_share)} of the time",
            f"  rounds      {self.rounds:,}",
            *(f"  [bold]remark[/]      {remark}" for remark in self.remarks),
            *([] if self.load is None else ["", self.load]),
        )


def simulate(
    strategy: DecodingStrategy, acceptance: Acceptance, system: System, *, tokens: int = 20_000, seed: int = 0
) -> Simulation:
    """Simulate one sequence of `tokens` tokens, and compute the exact speed. Equal seeds give equal acceptance draws.

    The compiled chain is exact, except where a draft races the target under jitter: there it takes mean times. Raises
    `InputError` for less than 1 token, `StrategyError` for a strategy that cannot be timed.
    """
    strategy = strategy.resolved(KnownFacts(system.speed_ratio_for(strategy)))
    run = run_stream(strategy, acceptance, system, tokens=tokens, seed=seed)
    try:
        exact = float(long_run_speed(compile_strategy(strategy, system), acceptance, system).tokens_per_second)
    except StrategyError:  # a memory that does not repeat: simulated, but not compiled
        exact = None
    return Simulation(
        strategy=strategy.name,
        parameters=strategy.parameters,
        tokens_per_second=run.tokens_per_second,
        tokens_per_second_interval=run.interval(),
        speedup_over_ar=run.tokens_per_second / float(plain_tokens_per_second(system)),
        target_idle_share=run.target_idle_share,
        draft_idle_share=run.draft_idle_share,
        rounds=run.rounds,
        chain_tokens_per_second=exact,
        remarks=beyond_measured(acceptance, run.most_tested),
    )
