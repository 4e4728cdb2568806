"""The maps of the page *Which strategy for me*: drawn by the code of `specdec map`."""

from __future__ import annotations

from functools import cache
from typing import Any

from sim.pictures.best_map import map_chart
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.model_size import read_model
from sim.setup.roofline import Roofline
from sim.setup.system import System
from sim.study.best_map import Per, StrategyMap, strategy_map
from specdec.pictures import Theme

NAMES = ("speculative", "pearl")
ACCEPTANCE = Rate(0.8)
MAPS: dict[str, tuple[int, Per]] = {"one": (1, "sequence"), "batch": (64, "sequence"), "device": (64, "device")}


@cache
def found(name: str) -> StrategyMap:
    """For one sequence, by flat steps at a speed ratio of 5; for a batch, by the roofline of an H200."""
    batch, per = MAPS[name]
    flat = System(Constant(1e-3, 5e-3))
    full = System(Roofline("H200", read_model("qwen3-32b"), read_model("qwen3-0.6b")), context=1024)
    return strategy_map(ACCEPTANCE, flat if batch == 1 else full, NAMES, batch=batch, per=per)


def map_of(name: str, theme: Theme) -> Any:
    """A map as a chart of the width of a phone."""
    return map_chart(found(name), theme, width=330, height=260)
