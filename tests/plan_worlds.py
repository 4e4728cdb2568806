"""A small deployment for tests of curves and of the report: a target of 10 ms a step, with a draft of 1 ms and without."""

from functools import cache

from sim.planning.curves import Curves, curves
from sim.planning.methods import Method, Place, apart
from sim.planning.objectives import Objective
from sim.planning.report import Plan
from sim.planning.study import Decided, Limits, decide, reported
from sim.planning.trials import Trials
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic

SYSTEM = System(Constant(0.001, 0.010, batches_are_free=True), shared=True)
AR = Method("ar", (Place("shared", SYSTEM, kv_tokens=640),), tags={"step": "measured"})
DRAFT = Method(
    "draft_model",
    (Place("shared", SYSTEM, kv_tokens=480), *apart(SYSTEM, 640, 1, 1)[:1]),
    Rate(0.8),
    3,
    "a <draft>",
    {"step": "measured", "acceptance": "fitted"},
)
OBJECTIVES = (Objective("ttft", "p90", 0.2), Objective("e2e", "p90", 0.9))


def decided(
    methods: tuple[Method, ...] = (AR, DRAFT), *, objectives: tuple[Objective, ...] = OBJECTIVES, gpus: int = 16
) -> Decided:
    traffic = Traffic(Arrivals(18.0), Lengths(20), Lengths(60), 300)
    trials = Trials(traffic, objectives, Server())
    return decide(trials, methods, Limits(gpus, 2.5), batches=(4,))


@cache
def world() -> tuple[Decided, Plan, Curves]:
    """What was decided, its plan, and its curves."""
    found = decided()
    plan = reported(found, "a target", {"step times": "a stop-watch", "acceptance": "counted", "traffic": "imagined"})
    return found, plan, curves(found)
