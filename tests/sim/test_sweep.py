"""Sweeps: nothing is lost or done twice, whatever stops them and however many workers there are."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest

from sim.setup.acceptance import Rate, markov
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.study.load import simulate_traffic
from sim.study.sweep import Sweep, sweep
from sim.study.sweep_file import Results
from sim.study.sweep_point import Point, _code, grid
from sim.traffic.metrics import Objectives
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec import InputError
from specdec.acceptance import Foresight
from specdec.strategy import DecodingStrategy
from strategies import Autoregressive, Pearl, Speculative

FREE = System(Constant(1e-3, 5e-3, batches_are_free=True))
TRAFFIC = Traffic(Arrivals(1.0), Lengths(30), Lengths(60, 0.5), 60)
STRATEGIES: list[DecodingStrategy] = [Autoregressive(), Speculative(3), Pearl(4)]
HERE = Path(__file__).parent


def points(requests: int = 60) -> list[Point]:
    """12 points: three strategies, two loads, one and two replicas."""
    return grid(STRATEGIES, Rate(0.8), FREE, replace(TRAFFIC, requests=requests), rates=(2, 8), replicas=(1, 2))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, list[str]]:
    """The sweep on one worker."""
    path = tmp_path_factory.mktemp("sweep") / "alone.jsonl"
    return sweep(points(), output=path, workers=1), lines(path)


def test_a_point_is_the_study_of_its_values(alone: tuple[Sweep, list[str]]) -> None:
    found, written = alone
    load = simulate_traffic(Pearl(4), Rate(0.8), FREE, replace(TRAFFIC, arrivals=Arrivals(8)), Server(replicas=2))
    assert found.points[-1].load == replace(load, simulated_requests_per_wall_second=None)
    assert [json.loads(line)["key"] for line in written] == [point.key for point in found.points] == [p.key() for p in points()]
    assert Sweep.from_dict(json.loads(json.dumps(found.to_dict())), "sweep") == replace(found, output=found.output)


def test_workers_do_not_change_the_file(alone: tuple[Sweep, list[str]], tmp_path: Path) -> None:
    found = sweep(points(), output=tmp_path / "two.jsonl", workers=2)
    assert replace(found, output=alone[0].output) == alone[0]
    assert sorted(lines(tmp_path / "two.jsonl")) == sorted(alone[1])


KILLED = """
    import sys
    sys.path.insert(0, {here!r})
    import test_sweep
    if __name__ == "__main__":
        test_sweep.sweep(test_sweep.points(12_000), output={path!r}, workers=2)
"""


def started(path: Path, least: int) -> subprocess.Popen[str]:
    """Another process that sweeps, when it has written `least` lines."""
    code = textwrap.dedent(KILLED.format(here=str(HERE), path=str(path)))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (path.exists() and path.read_text().count("\n") >= least):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_killed_and_run_again_it_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "killed.jsonl"
    process = started(path, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = lines(path)
    assert 2 <= len(before) < 12
    path.write_bytes(path.read_bytes() + before[0][:200].encode())  # a line that the kill cut off
    done: list[str] = []
    sweep(points(12_000), output=path, workers=1, progress=lambda steps, total: [done.append(str(total)) or s for s in steps])
    assert done == [str(12 - len(before))] * (12 - len(before))
    after = lines(path)
    assert after[: len(before)] == before
    assert sorted(json.loads(line)["key"] for line in after) == sorted(point.key() for point in points(12_000))
    assert sorted(after) == sorted(_written(points(12_000), tmp_path / "whole.jsonl"))


def _written(wanted: list[Point], path: Path) -> list[str]:
    sweep(wanted, output=path, workers=1)
    return lines(path)


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    def interrupted(steps: object, total: int) -> object:
        for number, step in enumerate(steps):  # type: ignore[arg-type, var-annotated]
            if number == 3:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt, match=r"^3 of 12 points are in .*x\.jsonl: the same command goes on from there$"):
        sweep(points(), output=tmp_path / "x.jsonl", workers=1, progress=interrupted)  # type: ignore[arg-type]
    assert len(lines(tmp_path / "x.jsonl")) == 3


def test_a_larger_grid_goes_on_from_a_smaller_one(alone: tuple[Sweep, list[str]], tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text("\n".join(alone[1]) + "\n")
    more = [*points(), *grid([Pearl(5)], Rate(0.8), FREE, TRAFFIC, rates=(2,))]
    assert len(sweep(more, output=path, workers=1).points) == 13
    assert lines(path)[:12] == alone[1]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{first}\n", "another sweep"),
        ("{first}\n{half}", "another sweep"),
        ("a,b\n1,2\n", "line 1 is no JSON"),
        ("my notes", "no file of a sweep"),
        ('{{"format": "specdec.tune/1"}}\n', "specdec.tune/1"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(
    alone: tuple[Sweep, list[str]], tmp_path: Path, content: str, why: str
) -> None:
    path = tmp_path / "other.jsonl"
    written = content.format(first=alone[1][0], half=alone[1][1][:40])
    path.write_text(written)
    with pytest.raises(InputError, match=r"other\.jsonl.*" + why):
        sweep(grid([Pearl(2)], Rate(0.8), FREE, TRAFFIC), output=path)
    assert path.read_text() == written


def test_two_sweeps_do_not_write_one_file(tmp_path: Path) -> None:
    with Results(tmp_path / "one.jsonl", ()), pytest.raises(InputError, match="written by another sweep right now"):
        sweep(points(), output=tmp_path / "one.jsonl")


TRACE = Workload(np.arange(5.0), np.full(5, 9), np.full(5, 9))
OTHERS: list[dict[str, object]] = [
    {"strategy": Pearl(5)},
    {"acceptance": Rate(0.81)},
    {"acceptance": markov(0.8, 0.8)},
    {"acceptance": Rate(0.8).foreseeing(Foresight((0.2, 0.4), (0.6, 0.7)))},
    {"acceptance": Rate(0.8).foreseeing(Foresight((0.2, 0.4), (0.6, 0.8)))},
    {"system": System(Constant(1e-3, 6e-3, batches_are_free=True))},
    {"system": System(Constant(1e-3, 5e-3, {4: 6e-3}, batches_are_free=True))},
    {"traffic": replace(TRAFFIC, requests=61)},
    {"traffic": TRACE},
    {"traffic": Workload(np.arange(5.0), np.full(5, 9), np.array([9, 9, 8, 9, 9]))},
    {"server": Server(kv_tokens=10_000)},
    {"objectives": Objectives(ttft_seconds=1.0)},
    {"replications": 2},
    {"seed": 1},
]


def test_the_key_is_of_everything_that_decides_the_result() -> None:
    point = grid([Pearl(4)], Rate(0.8), FREE, TRAFFIC)[0]
    keys = [point.key(), *(replace(point, **other).key() for other in OTHERS)]
    assert len({*keys}) == len(keys)
    (again,) = grid([Pearl(4)], {"known": Rate(0.8)}, replace(FREE), replace(TRAFFIC))
    assert again.key() == point.key()


@pytest.mark.parametrize("changed", ["sim/stream/chain.py", "specdec/lengths.py", "strategies/lengths/heuristic.py"])
def test_the_key_is_of_the_code_that_computes_the_result(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def edited(path: Path) -> bytes:
        return read(path) + b"# edited" * path.as_posix().endswith(changed)

    point, read = grid([Pearl(4)], Rate(0.8), FREE, TRAFFIC)[0], Path.read_bytes
    before = point.key()
    _code.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", edited)
    assert point.key() != before
    _code.cache_clear()


def test_the_best_of_each_load_is_marked() -> None:
    speeds = sweep(grid([Pearl(2), Pearl(5), Speculative(4)], {"low": Rate(0.3), "high": Rate(0.8)}, FREE), workers=1)
    best = {point.acceptance: point for point in speeds.points if point.key in speeds.best}
    assert speeds.ranked_by == "speed"
    assert [one.tokens_per_second for one in best.values()] == [
        max(point.tokens_per_second for point in speeds.points if point.acceptance == name) for name in ("low", "high")
    ]
    assert str(best["high"]) == "pearl (draft length 5), one sequence"


def test_objectives_rank_by_requests_that_meet_them_and_then_by_time() -> None:
    limits = Objectives(e2e_seconds=0.3)
    found = sweep(grid(STRATEGIES, Rate(0.8), FREE, TRAFFIC, objectives=limits, clients=(1, 4)), workers=1)
    assert found.ranked_by == "goodput"
    for key in found.best:
        best = next(point for point in found.points if point.key == key)
        assert best.load
        rivals = [point.load.goodput for point in found.points if point.clients == best.clients and point.load]
        assert best.load.goodput == max(rivals)
    assert len(found.best) == 2


def test_points_that_cannot_be_simulated_are_named_and_the_others_are_kept(tmp_path: Path) -> None:
    small = grid([Pearl(4)], Rate(0.8), FREE, TRAFFIC, Server(kv_tokens=64))
    found = sweep([*small, *points()[:1]], output=tmp_path / "some.jsonl", workers=1)
    assert len(found.points) == len(lines(tmp_path / "some.jsonl")) == 1
    assert found.refused[0].point == "pearl (draft length 4), 1.00/s"
    assert "kv_tokens 64 is too small" in str(found)
    with pytest.raises(InputError, match=r"no point can be simulated.*kv_tokens 64"):
        sweep(small, workers=1)


def test_a_trace_is_stretched_to_each_rate() -> None:
    slow, fast = grid([Pearl(4)], Rate(0.8), FREE, TRACE, rates=(0.5, 4.0))
    assert (slow.rate_per_second, fast.rate_per_second) == (0.5, 4.0)
    assert isinstance(slow.traffic, Workload)
    np.testing.assert_allclose(slow.traffic.arrival_seconds, 2 * np.arange(5.0))


def test_axes_of_requests_need_requests() -> None:
    with pytest.raises(InputError, match="give traffic too"):
        grid([Pearl(4)], Rate(0.8), FREE, replicas=(1, 2))
    with pytest.raises(InputError, match="no points"):
        sweep([])


def test_a_backend_that_returns_lists_gives_the_same_file(
    alone: tuple[Sweep, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ray's does."""
    monkeypatch.setattr("joblib._parallel_backends.ThreadingBackend.supports_return_generator", False)
    with joblib.parallel_config("threading"):
        sweep(points(), output=tmp_path / "lists.jsonl", workers=2)
    assert lines(tmp_path / "lists.jsonl") == alone[1]


def test_a_cluster_of_dask_gives_the_same_file(alone: tuple[Sweep, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask: pip install 'pearl-specdec[dask]'")
    from sim.study.sweep_backend import backend

    with backend("dask", workers=2):
        assert joblib.effective_n_jobs(-1) == 2
        sweep(points(), output=tmp_path / "cluster.jsonl")
    assert sorted(lines(tmp_path / "cluster.jsonl")) == sorted(alone[1])
