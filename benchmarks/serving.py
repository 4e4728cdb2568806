"""Speed of the serving simulation: requests simulated per second of processor time, PEARL on one replica.

How to run
    python benchmarks/serving.py                  10,000 drawn requests
    python benchmarks/serving.py TRACE            those of a trace file, such as Azure's conversations (19,366 requests)
"""

from __future__ import annotations

import sys
import time

import numpy as np

from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.chain import compile_strategy
from sim.traffic.metrics import measure
from sim.traffic.serving import simulate_serving
from sim.traffic.trace import read_trace
from sim.traffic.workload import Arrivals, Lengths, Traffic
from strategies import Pearl

REPEATS = 5


def main() -> None:
    drawn = Traffic(Arrivals(5.0), Lengths(1000, 1.0), Lengths(200, 1.0), 10_000)
    workload = read_trace(sys.argv[1]) if len(sys.argv) > 1 else drawn.workload(np.random.SeedSequence(0))
    system = System(Constant(1e-3, 5e-3, {8: 6e-3}, batches_are_free=True))
    compiled = compile_strategy(Pearl(5), system)
    for _ in range(REPEATS):
        start = time.process_time()
        found = measure(simulate_serving(compiled, Rate(0.8), system, workload))
        speed = len(workload) / (time.process_time() - start)
        print(f"{speed:,.0f} requests/s ({len(workload):,} requests, {found.saturation})")


if __name__ == "__main__":
    main()
