"""The picture of a benchmark."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from small_benchmarks import made_up

from specdec import Pair, create
from specdec.bench import BASELINE, BenchReport, hugging_face, report_of
from specdec.bench.chart import speedup_chart


def drawn(chart: Any) -> list[dict[str, Any]]:
    """The rows of all panels."""
    panels = chart.to_dict()["hconcat"]
    return [row for panel in panels for row in panel["layer"][1]["data"]["values"]]


def test_the_picture_shows_every_contender_with_its_interval(pair: Pair) -> None:
    lined_up = [create(BASELINE), create("pearl"), create("speculative", draft_length=2)]
    done = report_of(made_up(pair, lined_up, (8.0, 4.0, 5.0, 10.0, 9.0, 7.0, 6.0), peers=hugging_face(pair)))
    first, second, *others = done.results
    done = replace(done, results=(first, replace(second, predicted_tokens_per_second=0.75), *others))
    rows = drawn(speedup_chart(done))
    assert rows == drawn(speedup_chart(BenchReport.from_dict(done.to_dict(), "a file")))
    pearl = f"pearl auto={max(1, round(pair.speed_ratio()))}"
    assert [row["label"] for row in rows] == [
        "autoregressive",
        pearl,
        "speculative 2",
        "hf_generate",
        "hf_assisted default",
        "hf_assisted 2",
        "hf_assisted 4",
    ]
    assert rows[1] == {
        "strategy": "pearl",
        "label": pearl,
        "temperature": 1.0,
        "speedup": 2.0,
        "low": 2.0,
        "high": 2.0,
        "predicted": 3.0,
    }
    assert rows[3]["predicted"] is None
