"""Speed and memory of the serving simulation: requests simulated per second of one core, PEARL.

The pair is Qwen3-8B with Qwen3-0.6B on H100s, by the roofline. A trace is stretched until the replicas carry 70 % of what they
can finish. `original` is the trace's own rate, at which many replicas serve one request at a time each. Times are processor
times, the best of several. `others_share` is what other processes took of the cores meanwhile, which makes a run slower.

How to run
    python benchmarks/serving.py                             10,000 drawn requests
    python benchmarks/serving.py --trace TRACE               a trace, such as Azure's conversations (19,366 requests)
    python benchmarks/serving.py --trace TRACE --json FILE   written down, and with the long runs: a million requests, a day
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.setup.acceptance import Rate
from sim.setup.model_size import read_model
from sim.setup.roofline import Roofline
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.study.load import simulate_traffic
from sim.traffic.metrics import measure
from sim.traffic.record import Server
from sim.traffic.serving import capacity_per_second, simulate_serving
from sim.traffic.trace import read_trace
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec.machine import OtherWork, available_cores, cpu_name, versions
from strategies import Autoregressive, Pearl, Speculative

REPEATS = 5
RHO = 0.7
LONG = 1024
REPLICAS = (1, 2, 4, 8, 16)
ACCEPTANCE = Rate(0.8)
SYSTEM = System(Roofline("H100", read_model("qwen3-8b"), read_model("qwen3-0.6b")))


def seconds_of(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def speed(workload: Workload, replicas: int, stretched: bool) -> dict[str, Any]:
    """Requests a second of one core, all of it: draws, iterations, metrics."""
    server, compiled = Server(replicas=replicas), compile_strategy(Pearl(5), SYSTEM)
    if stretched:
        can = RHO * capacity_per_second(compiled, ACCEPTANCE, SYSTEM, workload, server)
        own = workload.rate_per_second or 1.0
        workload = replace(workload, arrival_seconds=workload.arrival_seconds * own / can)

    def run() -> None:
        measure(simulate_serving(compiled, ACCEPTANCE, SYSTEM, workload, server))

    best = min(seconds_of(run) for _ in range(REPEATS))
    done = simulate_serving(compiled, ACCEPTANCE, SYSTEM, workload, server).iterations
    return {
        "replicas": replicas,
        "load": RHO if stretched else "original",
        "answer_tokens": round(float(workload.output_tokens.mean())),
        "running": round(float(done.running.mean()), 1),
        "iterations_per_request": round(len(done.seconds) * done.each / len(workload), 1),
        "requests_per_second": round(len(workload) / best),
    }


def million() -> dict[str, Any]:
    """A million requests with answers of 1,000 tokens, at 70 % of what a replica can finish."""
    compiled, drawn = compile_strategy(Pearl(5), SYSTEM), Traffic(Arrivals(1.0), Lengths(512), Lengths(1000), 20_000)
    can = capacity_per_second(compiled, ACCEPTANCE, SYSTEM, drawn.workload(np.random.SeedSequence(0)), Server())
    traffic = replace(drawn, arrivals=Arrivals(RHO * can), requests=1_000_000)
    taken = seconds_of(lambda: simulate_traffic(Pearl(5), ACCEPTANCE, SYSTEM, traffic))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "requests": 1_000_000,
        "answer_tokens": 1000,
        "seconds": round(taken, 1),
        "peak_gigabytes": round(kilobytes / 1e6, 2),
    }


def day() -> dict[str, Any]:
    """A day of 100,000 requests: four methods, one after another."""
    traffic = Traffic(Arrivals(100_000 / 86_400), Lengths(1000, 1.0), Lengths(200, 1.0), 100_000)
    methods = (Autoregressive(), Speculative(3), Speculative(5), Pearl(5))
    taken = [seconds_of(lambda one=one: simulate_traffic(one, ACCEPTANCE, SYSTEM, traffic)) for one in methods]  # type: ignore[misc]
    return {"requests": 100_000, "methods": len(methods), "seconds": round(sum(taken), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    drawn = Traffic(Arrivals(5.0), Lengths(1000, 1.0), Lengths(200, 1.0), 10_000)
    own = read_trace(given.trace) if given.trace else drawn.workload(np.random.SeedSequence(0))
    one = Workload(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
    first = seconds_of(lambda: simulate_serving(compile_strategy(Pearl(5), SYSTEM), ACCEPTANCE, SYSTEM, one))
    others = OtherWork(available_cores())
    hardware = {"cpu": cpu_name(), "cores": available_cores(), **versions()}
    found: dict[str, Any] = {
        "hardware": hardware,
        "source": Path(own.source).name,
        "first_call_seconds": round(first, 2),
        "speed": [],
    }
    for workload in (own, replace(own, output_tokens=np.full(len(own), LONG))):
        for stretched in (True, False):
            for replicas in REPLICAS:
                row = speed(workload, replicas, stretched)
                found["speed"].append(row)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if given.json is not None:
        found |= {"million": million(), "day": day(), "others_share": round(others.share(), 2)}
        print(found["million"], found["day"], found["others_share"])
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
