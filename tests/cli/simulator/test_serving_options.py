"""Options of requests and servers: what they stand for, and refusals in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sim_commands import FREE

from sim import Rate, Traffic, Workload, simulate_traffic
from sim.cli.traffic import TrafficOptions
from specdec import InputError
from strategies import Pearl


def test_a_trace_of_other_names_is_read_by_its_columns_and_unit(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("when,asked,told\n0,3,4\n500,3,0\n1500,3,4\n")
    options = TrafficOptions(trace=path, columns="arrival=when, input=asked,output=told", time_unit="ms", drop_failed=True)
    read = options.traffic()
    assert isinstance(read, Workload)
    assert read.arrival_seconds.tolist() == [0.0, 1.5]
    for bad in ("when", "arrival=", "arrival=when,arrival=when"):
        with pytest.raises(InputError, match=r"--columns .* is not understood"):
            TrafficOptions(trace=path, columns=bad).traffic()


def test_time_scale_stretches_drawn_and_read_arrivals_alike(trace: Path) -> None:
    found = [TrafficOptions(arrivals="poisson:5/s", time_scale=scale).traffic() for scale in (None, 2.0)]
    assert all(isinstance(one, Traffic) for one in found)
    assert [one.arrivals.rate_per_second for one in found] == [5, 2.5]  # type: ignore[union-attr]
    plain, slow = (TrafficOptions(trace=trace, time_scale=scale).traffic() for scale in (None, 2.0))
    assert slow.arrival_seconds == pytest.approx(2 * plain.arrival_seconds)  # type: ignore[union-attr]


def test_no_requests_are_asked_for_by_nothing() -> None:
    assert TrafficOptions().traffic() is None


BAD_SERVING: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"arrivals": "poisson:5/s", "trace": Path("x")}, "--arrivals"),
    "no such law": ({"arrivals": "weibull:5/s"}, "'weibull:5/s'"),
    "no rate": ({"arrivals": "poisson:many/s"}, "'many'"),
    "zero rate": ({"arrivals": "poisson:0/s"}, "rate 0"),
    "nan": ({"arrivals": "poisson:nan/s"}, "rate nan"),
    "negative cv": ({"arrivals": "gamma:5/s,cv=-1"}, "cv -1"),
    "no length": ({"arrivals": "poisson:5/s", "output_tokens": "few"}, "'few'"),
    "empty length": ({"arrivals": "poisson:5/s", "output_tokens": ""}, "--output-tokens ''"),
    "zero length": ({"arrivals": "poisson:5/s", "input_tokens": "0"}, "0 tokens"),
    "zero capacity": ({"arrivals": "poisson:5/s", "max_batch": 0}, "max_batch 0"),
    "no replica": ({"arrivals": "poisson:5/s", "replicas": 0}, "replicas 0"),
    "no memory": ({"arrivals": "poisson:5/s", "kv_tokens": 100}, "kv_tokens 100"),
    "no requests": ({"arrivals": "poisson:5/s", "requests": 0}, "requests 0"),
    "no unit": ({"arrivals": "poisson:5/s", "objective_ttft": "500"}, "--objective-ttft '500'"),
    "negative objective": ({"arrivals": "poisson:5/s", "objective_tpot": "-5ms"}, "--objective-tpot '-5ms'"),
    "time scale": ({"arrivals": "poisson:5/s", "time_scale": 0}, "--time-scale 0"),
    "no file": ({"trace": Path("/nowhere/trace.csv")}, "/nowhere/trace.csv: No such file"),
}


@pytest.mark.parametrize("name", BAD_SERVING)
def test_bad_options_of_serving_are_refused_in_one_line(name: str) -> None:
    chosen, culprit = BAD_SERVING[name]
    options = TrafficOptions(**chosen)

    def serve() -> None:
        traffic = options.traffic()
        assert traffic is not None
        simulate_traffic(Pearl(5), Rate(0.8), FREE, traffic, options.server(), options.objectives())

    with pytest.raises(InputError) as found:
        serve()
    assert culprit in str(found.value)
    assert "\n" not in str(found.value)
