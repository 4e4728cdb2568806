"""The simulator: a strategy's exact speed, its timeline, its latency under load, its best draft length; no model is run.

    from sim import Constant, Rate, System, tune

    print(tune(Rate(0.8), System(Constant(draft_step=1e-3, target_step=5e-3))))

Everything that a user needs is imported from here. The folders are rooms, and each may import the rooms above it:

    setup      what is assumed of a pair and its devices: acceptance, latency, system
    engines    what engines and benchmark tools report, read and identified as profiles
    stream     one sequence: the compiled chain and its exact speed, the simulation by events, the timeline
    traffic    many sequences: requests, replicas, costs, metrics
    study      questions: how fast, under which load, which length and strategy, how far off
    planning   the question of a deployment: which method, which length, where, how many GPUs
    pictures   studies and timelines as charts
    cli        the commands: parse, call, print, write

`checks`, for `specdec.testing`, imports setup and stream. The simulator imports `specdec` and no strategy: strategies are
passed in as objects. A name is imported when it is first used, so `import sim` imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.engines.golden import golden, golden_lengths
    from sim.engines.reading import read_runs
    from sim.engines.run import EngineRun, EngineRuns, Times
    from sim.pictures.best_map import map_chart
    from sim.pictures.speed import speed_chart
    from sim.pictures.timeline import timeline_chart
    from sim.pictures.trace import chrome_trace
    from sim.planning.from_runs import methods_from_runs
    from sim.planning.methods import Method, Place, methods_of, methods_of_systems, methods_on_gpu
    from sim.planning.report import Plan
    from sim.planning.study import plan
    from sim.setup.acceptance import (
        Acceptance,
        Hidden,
        PerPosition,
        Rate,
        histogram,
        marginal,
        markov,
        mean_length,
        recorded,
    )
    from sim.setup.aiconfigurator import Aiconfigurator
    from sim.setup.anchored import Anchor, Anchored
    from sim.setup.latency import Constant, Latency
    from sim.setup.measured import Measured
    from sim.setup.memory import gpus_needed, kv_tokens
    from sim.setup.model_size import ModelSize, read_model
    from sim.setup.profiles import measured_acceptance, measured_system
    from sim.setup.roofline import Roofline
    from sim.setup.segments import Segments
    from sim.setup.system import Jitter, System
    from sim.stream.chain import Compiled, compile_strategy
    from sim.stream.events import run_stream
    from sim.stream.run import Run, paired_interval
    from sim.stream.speed import Speed, expected_seconds, long_run_speed, plain_tokens_per_second
    from sim.stream.stage import Outcome, Stage
    from sim.stream.timeline import Timeline, timeline
    from sim.study.best_map import Spot, StrategyMap, strategy_map
    from sim.study.load import Load, simulate_traffic
    from sim.study.load_report import LoadValidation
    from sim.study.one import Simulation, simulate
    from sim.study.predict import predict
    from sim.study.search import Choice, Flip
    from sim.study.sweep import Sweep, sweep
    from sim.study.sweep_point import Point, Refused, Swept, grid
    from sim.study.tune import Tuning, tune
    from sim.study.validate import Validation, validate
    from sim.study.validate_load import validate_load
    from sim.traffic.metrics import Metrics, Objectives, Summary, measure
    from sim.traffic.record import Served, Server
    from sim.traffic.schedule import AdaptiveSchedule, Schedule
    from sim.traffic.serving import simulate_serving
    from sim.traffic.trace import read_trace
    from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
    from specdec.profile import Slowdown

_NAMES = {
    "engines.golden": "golden golden_lengths",
    "engines.reading": "read_runs",
    "engines.run": "EngineRun EngineRuns Times",
    "pictures.best_map": "map_chart",
    "pictures.speed": "speed_chart",
    "pictures.timeline": "timeline_chart",
    "pictures.trace": "chrome_trace",
    "planning.from_runs": "methods_from_runs",
    "planning.methods": "Method Place methods_of methods_of_systems methods_on_gpu",
    "planning.report": "Plan",
    "planning.study": "plan",
    "setup.acceptance": "Acceptance Hidden PerPosition Rate histogram marginal markov mean_length recorded",
    "setup.aiconfigurator": "Aiconfigurator",
    "setup.anchored": "Anchor Anchored",
    "setup.latency": "Constant Latency",
    "setup.measured": "Measured",
    "setup.memory": "gpus_needed kv_tokens",
    "setup.model_size": "ModelSize read_model",
    "setup.profiles": "measured_acceptance measured_system",
    "setup.roofline": "Roofline",
    "setup.segments": "Segments",
    "setup.system": "Jitter System",
    "stream.chain": "Compiled compile_strategy",
    "stream.events": "run_stream",
    "stream.speed": "Speed expected_seconds long_run_speed plain_tokens_per_second",
    "stream.run": "Run paired_interval",
    "stream.stage": "Outcome Stage",
    "stream.timeline": "Timeline timeline",
    "study.best_map": "Spot StrategyMap strategy_map",
    "study.load": "Load simulate_traffic",
    "study.load_report": "LoadValidation",
    "study.one": "Simulation simulate",
    "study.predict": "predict",
    "study.search": "Choice Flip",
    "study.sweep": "Sweep sweep",
    "study.sweep_point": "Point Refused Swept grid",
    "study.tune": "Tuning tune",
    "study.validate": "Validation validate",
    "study.validate_load": "validate_load",
    "traffic.metrics": "Metrics Objectives Summary measure",
    "traffic.record": "Served Server",
    "traffic.schedule": "AdaptiveSchedule Schedule",
    "traffic.serving": "simulate_serving",
    "traffic.trace": "read_trace",
    "traffic.workload": "Arrivals Lengths Traffic Workload",
}
_MODULES = {name: f"sim.{module}" for module, names in _NAMES.items() for name in names.split()} | {
    "Slowdown": "specdec.profile"
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


__all__ = [
    "Acceptance",
    "AdaptiveSchedule",
    "Aiconfigurator",
    "Anchor",
    "Anchored",
    "Arrivals",
    "Choice",
    "Compiled",
    "Constant",
    "EngineRun",
    "EngineRuns",
    "Flip",
    "Hidden",
    "Jitter",
    "Latency",
    "Lengths",
    "Load",
    "LoadValidation",
    "Measured",
    "Method",
    "Metrics",
    "ModelSize",
    "Objectives",
    "Outcome",
    "PerPosition",
    "Place",
    "Plan",
    "Point",
    "Rate",
    "Refused",
    "Roofline",
    "Run",
    "Schedule",
    "Segments",
    "Served",
    "Server",
    "Simulation",
    "Slowdown",
    "Speed",
    "Spot",
    "Stage",
    "StrategyMap",
    "Summary",
    "Sweep",
    "Swept",
    "System",
    "Timeline",
    "Times",
    "Traffic",
    "Tuning",
    "Validation",
    "Workload",
    "chrome_trace",
    "compile_strategy",
    "expected_seconds",
    "golden",
    "golden_lengths",
    "gpus_needed",
    "grid",
    "histogram",
    "kv_tokens",
    "long_run_speed",
    "map_chart",
    "marginal",
    "markov",
    "mean_length",
    "measure",
    "measured_acceptance",
    "measured_system",
    "methods_from_runs",
    "methods_of",
    "methods_of_systems",
    "methods_on_gpu",
    "paired_interval",
    "plain_tokens_per_second",
    "plan",
    "predict",
    "read_model",
    "read_runs",
    "read_trace",
    "recorded",
    "run_stream",
    "simulate",
    "simulate_serving",
    "simulate_traffic",
    "speed_chart",
    "strategy_map",
    "sweep",
    "timeline",
    "timeline_chart",
    "tune",
    "validate",
    "validate_load",
]
