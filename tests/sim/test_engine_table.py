"""A table of runs that our own simulator made is predicted from a few of its rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.engines.identify import Drafting, Forward, Identified, as_profile
from sim.engines.run import EngineRun, Times
from sim.setup.acceptance import PerPosition, Rate
from sim.setup.profiles import measured_system
from sim.stream.chain import compile_strategy
from sim.study.engine_table import calibrated, predict_table
from sim.traffic.metrics import measure
from sim.traffic.record import Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Lengths, Traffic
from specdec import InputError
from strategies import Autoregressive, Speculative

CHANCES = (0.8, 0.7, 0.6, 0.5)
TRUTH = Identified(Forward(0.020, 2e10 / 989e12 / 0.7, 2e-5, 1e-7, 1e9, 1e9), {"eagle3": Drafting(0.001, 0.0, 0.0005)}, 0.0)
POOL = 30_000


def table(lengths: Sequence[int] = (0, 1, 2, 3, 4), clients: Sequence[int] = (1, 4, 8, 32, 64)) -> list[EngineRun]:
    """What a benchmark tool would report of a simulated engine: 40 requests a client, closed loop."""
    return [row(length, many) for length in lengths for many in clients]


def row(length: int, clients: int) -> EngineRun:
    method, count = ("eagle3", "ar")[not length], max(100, 4 * clients)
    shares = tuple(map(float, np.cumprod(CHANCES[:length])))
    named: dict[str, Any] = {"target": "some/model-10B", "gpu": "H100", "method": method, "draft_length": length}
    told: dict[str, Any] = {"clients": clients, "kv_tokens": POOL, "rounds": 100, "by_position": shares, "dataset": "chat"}
    if length:
        told |= {"draft": "head", "acceptance_length": 1 + sum(shares)}
    blank = EngineRun("truth", **named, **told)
    system = measured_system(as_profile(TRUTH, [blank]))
    strategy = Speculative(draft_length=length) if length else Autoregressive()
    traffic = Traffic(None, Lengths(300, 0.5), Lengths(150), count).workload(np.random.SeedSequence(9))
    server = Server(kv_tokens=POOL, clients=clients, client_seconds=0.02, lag_iterations=1)
    acceptance = PerPosition(CHANCES) if length else Rate(0.0)
    served = simulate_serving(compile_strategy(strategy, system), acceptance, system, traffic, server, seed=5)
    found = measure(served, warm_up=0.0)
    return EngineRun(
        f"row k={length} x{clients}",
        **named,
        **told,
        requests=count,
        seconds=float(served.finish_seconds.max()),
        input_tokens=int(traffic.input_tokens.sum()),
        output_tokens=int(traffic.output_tokens.sum()),
        ttft=Times(found.ttft.mean),
        tpot=Times(found.tpot.mean),
        itl=Times(found.itl.mean, found.itl.p50),
    )


def test_rows_that_were_held_out_are_predicted() -> None:
    found = predict_table(table())
    held_out = [cell for cell in found.published if cell.held_out]
    assert {(cell.k, cell.concurrency) for cell in found.published if not cell.held_out} == {
        (k, clients) for k in (0, 2, 3) for clients in (1, 8, 32)
    }
    for quantity, bar in {"tpot": 0.06, "throughput": 0.06, "ttft": 0.25, "acceptance_length": 0.01}.items():
        cells = [cell for cell in held_out if cell.quantity == quantity and cell.k <= 3]  # no rate of position 4 was seen
        assert np.mean([abs(cell.error) for cell in cells]) < bar, quantity
    assert all(choice.regret < 0.1 for choice in found.choices)
    assert np.mean([choice.regret for choice in found.choices]) < 0.02
    assert "held out" in str(found)


def test_nothing_of_a_row_that_is_held_out_changes_its_prediction() -> None:
    rows = table(lengths=(0, 2, 3), clients=(1, 8, 64))
    spoilt = [replace(one, tpot=Times(9.0), itl=Times(9.0, 9.0), ttft=Times(9.0)) if one.clients == 64 else one for one in rows]
    first, second = (
        {(cell.k, cell.quantity): cell.predicted for cell in predict_table(found).published if cell.held_out}
        for found in (rows, spoilt)
    )
    assert first == second


def test_lengths_to_calibrate_on() -> None:
    def chosen(*lengths: int) -> set[int]:
        return {run.draft_length for run in calibrated([row(length, 1) for length in lengths])}

    assert chosen(1, 2, 3, 4) == {2, 3}
    assert chosen(1, 3) == {3}
    assert chosen(1) == {1}


def test_a_table_without_the_calibrated_clients_is_refused() -> None:
    with pytest.raises(InputError, match="no run of ar with 1, 8 or 32 clients"):
        predict_table([row(0, 4)])
