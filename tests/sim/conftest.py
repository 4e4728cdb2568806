"""What several files of this room ask for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.stream.speed import long_run_speed
from specdec import DecodingStrategy


@pytest.fixture(scope="session")
def speed() -> Callable[[DecodingStrategy, Acceptance, System], float]:
    """Tokens per second of a strategy in the long run, by its chain."""

    def tokens_per_second(strategy: DecodingStrategy, acceptance: Acceptance, system: System) -> float:
        return float(long_run_speed(compile_strategy(strategy, system), acceptance, system).tokens_per_second)

    return tokens_per_second
