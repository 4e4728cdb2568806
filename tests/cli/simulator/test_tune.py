"""`specdec tune`: the keys that others read, and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_commands import COMMON, Run, answer, check_pictures, printed, refused

from sim import StrategyMap


def test_tune_writes_the_agreed_keys(run: Run) -> None:
    found = answer(run, "tune", *COMMON, "--tokens", "4000", "--draft-lengths", "3-6")
    assert list(found) == ["format", "best", "curves", "flips", "acceptance_rate", "speed_ratio", "remarks"]
    assert list(found["best"]) == ["strategy", "draft_length", "speedup_over_ar"]
    assert (found["best"]["strategy"], found["best"]["draft_length"]) == ("pearl", 5)
    assert {"autoregressive", "pearl", "speculative"} <= found["curves"].keys()
    for point in [point for curve in found["curves"].values() for point in curve]:
        assert list(point) == ["draft_length", "speedup_over_ar", "simulated_speedup_over_ar"]
        assert point["simulated_speedup_over_ar"] == pytest.approx(point["speedup_over_ar"], rel=0.05)
    assert [point["draft_length"] for point in found["curves"]["pearl"]] == [3, 4, 5, 6]
    assert [point["draft_length"] for point in found["curves"]["elastic"]] == [None]
    assert found["curves"]["elastic"][0]["speedup_over_ar"] == pytest.approx(found["best"]["speedup_over_ar"])
    assert found["flips"]
    assert list(found["flips"][0]) == ["parameter", "at", "below", "above"]


def test_tune_draws_pictures(tmp_path: Path, run: Run) -> None:
    bench, *_ = sorted((Path(__file__).parents[3] / "benchmarks/results").glob("*_bench_*.json"))
    names = [tmp_path / f"tune.{suffix}" for suffix in ("svg", "png", "html")]
    outputs = [part for name in names for part in ("--output", str(name))]
    options = ("--tokens", "0", "--draft-lengths", "3-5", "--measured", str(bench))
    text = printed(run, "tune", *COMMON, *options, *outputs)
    check_pictures(names)
    assert "measured" in names[0].read_text()
    assert "Best: pearl" in text
    assert "Without a draft length: autoregressive 1.00x, elastic 2.28x." in text


def test_map_writes_prints_and_draws(tmp_path: Path, run: Run) -> None:
    names = [tmp_path / f"map.{suffix}" for suffix in ("svg", "png", "html")]
    outputs = [part for name in names for part in ("--output", str(name))]
    options = ("--strategy", "pearl,speculative", "--draft-lengths", "1-6", "--json", str(tmp_path / "map.json"))
    text = printed(run, "map", *COMMON, *options, *outputs)
    check_pictures(names)
    assert "You are here: acceptance 0.800, speed ratio 5.00. Best: pearl (draft length 5), 2.28x" in text
    assert "P pearl, S speculative" in text
    found = StrategyMap.read(tmp_path / "map.json")
    assert (found.batch, found.per, found.here.best.draft_length) == (1, "sequence", 5)


def test_map_refuses_a_batch_of_constant_steps(run: Run) -> None:
    assert "make batches free" in refused(run, "map", *COMMON, "--batch", "8")
