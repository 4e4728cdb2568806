"""A check of a strategy for `specdec.testing`: its compiled chain and its simulation agree, and it is not too fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.events import run_stream
from sim.stream.speed import long_run_speed
from specdec.errors import StrategyError
from specdec.strategy import DecodingStrategy

T = TypeVar("T")

SETUPS = {
    "two devices": (System(Constant(1e-3, 5e-3, {8: 6e-3}), overhead_seconds=1e-4), Rate(0.8)),
    "one device": (System(Constant(1e-3, 3e-3), shared=True), Rate(0.4)),
}
TOKENS = 8000
CONFIDENCE = 1 - 1e-7
FASTEST = 1.1
"""Times the bound, which is one of the long run."""
ROUNDS = 2
"""A run begins and ends somewhere in the chain, so its tokens may be off by those of this many rounds."""


def simulates(strategy: DecodingStrategy) -> None:
    """Compare the exact speed of the compiled chain with a simulated run; an `AssertionError` says where they differ.

    The bound is the run's own interval, at a confidence of 1 - 1e-7. A strategy may refuse to be compiled by a `StrategyError`
    that says why, one whose memory does not repeat, for example; the run is then judged alone. It may refuse to be run too, one
    whose stop rule asks for probabilities, for example. At an acceptance rate of `a`, no forward of the target commits more
    than 1 / (1 - a) tokens in the long run, which bounds every speed.
    """
    for name, (system, acceptance) in SETUPS.items():
        where = f"{strategy} at acceptance {acceptance.rate} on {name}"
        exact = _unless_refused(strategy, lambda: _compiled_speed(strategy, acceptance, system))  # noqa: B023  # called at once
        run = _unless_refused(strategy, lambda: run_stream(strategy, acceptance, system, tokens=TOKENS))  # noqa: B023
        if run is None:
            continue
        speed = run.tokens_per_second
        most = 1 / ((1 - acceptance.rate) * float(system.latency.target_seconds(1)))
        if speed > most * FASTEST:
            raise AssertionError(
                f"{where}: {speed:.4g} simulated tok/s are more than the bound, {most:.4g}: verify each guess once, and commit "
                "none that is not verified"
            )
        if exact is None:
            continue
        low, high = run.interval(CONFIDENCE) or (speed, speed)
        slack = exact * ROUNDS / run.rounds
        if not low - slack <= exact <= high + slack:
            raise AssertionError(
                f"{where}: its chain says {exact:.4g} tok/s, but {run.rounds} simulated rounds {speed:.4g} tok/s "
                f"({low:.4g} to {high:.4g}): let step() depend on nothing but its state"
            )


def _compiled_speed(strategy: DecodingStrategy, acceptance: Rate, system: System) -> float:
    return float(long_run_speed(compile_strategy(strategy, system), acceptance, system).tokens_per_second)


def _unless_refused(strategy: DecodingStrategy, ask: Callable[[], T]) -> T | None:
    """The answer; `None` where it is refused with a reason."""
    try:
        return ask()
    except StrategyError as refused:
        if str(refused):
            return None
        raise AssertionError(f"{strategy} cannot be simulated and does not say why: give the error a text") from refused
