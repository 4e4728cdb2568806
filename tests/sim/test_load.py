"""Serving by options, as people type them: the numbers that others read, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.cli.traffic import Traffic, simulate_traffic
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.workload import streams
from specdec import InputError
from strategies import Autoregressive, Pearl

PLAIN = System(Constant(0.001, 0.005, {8: 0.006}))


def test_options_become_the_numbers_that_others_read() -> None:
    options = Traffic(arrivals="gamma:5/s,cv=2", requests=200, output_tokens="80,cv=1", replications=3, objective_ttft="500ms")
    found = json.loads(json.dumps(simulate_traffic(Pearl(5), PLAIN, Rate(0.8), options), allow_nan=False))
    for latency in ("ttft_seconds", "tpot_seconds", "e2e_seconds"):
        assert {"mean", "p50", "p90", "p99"} <= found[latency].keys()
        low, high = found[latency]["mean_interval"]
        assert low < found[latency]["mean"] < high
    assert found["requests"] == 200
    assert found["saturation"] == "stable"
    assert found["goodput"] == pytest.approx(5, rel=0.3)
    assert found["simulated_requests_per_wall_second"] > 0
    slower = simulate_traffic(Autoregressive(), PLAIN, Rate(0.8), options)
    assert slower["e2e_seconds"]["mean"] > 1.5 * found["e2e_seconds"]["mean"]


def test_answers_of_one_token_have_no_tpot_and_still_make_json() -> None:
    found = simulate_traffic(Pearl(5), PLAIN, Rate(0.8), Traffic(arrivals="poisson:5/s", requests=20, output_tokens="1"))
    assert json.loads(json.dumps(found, allow_nan=False))["tpot_seconds"]["mean"] is None


def test_time_scale_stretches_drawn_and_read_arrivals_alike(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("timestamp,input_length,output_length\n0,10,20\n4,10,20\n")
    seeds = streams(np.random.SeedSequence(0), 1)
    for options in ({"arrivals": "poisson:5/s", "requests": 2}, {"trace": path}):
        plain, slow = (Traffic(**options, time_scale=scale).workloads(seeds)[0] for scale in (1.0, 2.0))
        assert slow.arrival_seconds == pytest.approx(2 * plain.arrival_seconds)


BAD = {
    "neither": ({}, "--arrivals"),
    "both": ({"arrivals": "poisson:5/s", "trace": Path("x")}, "--arrivals"),
    "no such law": ({"arrivals": "weibull:5/s"}, "'weibull:5/s'"),
    "no rate": ({"arrivals": "poisson:many/s"}, "'many'"),
    "zero rate": ({"arrivals": "poisson:0/s"}, "rate 0"),
    "nan": ({"arrivals": "poisson:nan/s"}, "rate nan"),
    "negative cv": ({"arrivals": "gamma:5/s,cv=-1"}, "cv -1"),
    "no length": ({"arrivals": "poisson:5/s", "output_tokens": "few"}, "'few'"),
    "zero length": ({"arrivals": "poisson:5/s", "input_tokens": "0"}, "0 tokens"),
    "zero capacity": ({"arrivals": "poisson:5/s", "max_batch": 0}, "max_batch 0"),
    "no replica": ({"arrivals": "poisson:5/s", "replicas": 0}, "replicas 0"),
    "no memory": ({"arrivals": "poisson:5/s", "kv_tokens": 100}, "kv_tokens 100"),
    "no requests": ({"arrivals": "poisson:5/s", "requests": 0}, "--requests 0"),
    "no replication": ({"arrivals": "poisson:5/s", "replications": 0}, "--replications 0"),
    "no unit": ({"arrivals": "poisson:5/s", "objective_ttft": "500"}, "--objective-ttft '500'"),
    "negative objective": ({"arrivals": "poisson:5/s", "objective_tpot": "-5ms"}, "--objective-tpot '-5ms'"),
    "time scale": ({"arrivals": "poisson:5/s", "time_scale": 0}, "--time-scale 0"),
    "no file": ({"trace": Path("/nowhere/trace.csv")}, "/nowhere/trace.csv: No such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused_in_one_line(name: str) -> None:
    options, culprit = BAD[name]
    with pytest.raises(InputError) as refused:
        simulate_traffic(Pearl(5), PLAIN, Rate(0.8), Traffic(**options))
    assert culprit in str(refused.value)
    assert "\n" not in str(refused.value)
