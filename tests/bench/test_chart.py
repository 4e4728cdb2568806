"""The picture of a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from small_benchmarks import made_up

from specdec import Pair, create
from specdec.bench import BASELINE, BenchReport, hugging_face, report_of
from specdec.bench.chart import speedup_chart
from specdec.bench.details import details, idle_chart, length_chart, position_chart, predicted_chart, prompts_chart

MEASURED = BenchReport.read(next((Path(__file__).parents[2] / "benchmarks/results").glob("*2026-11-24_bench_bfloat16.json")))


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


def values(chart: Any, layer: int | None = None) -> list[dict[str, Any]]:
    """The rows of a chart, or of one of its layers."""
    found = chart.to_dict()
    own = {} if layer is None else found["layer"][layer]
    return own.get("data", found.get("data"))["values"]


def test_lengths_have_what_was_measured_and_what_was_predicted() -> None:
    rows = [row for row in values(length_chart(MEASURED, 1.0), 2) if row["strategy"] == "pearl"]
    assert [round(row["length"]) for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    six = next(one for one in MEASURED.results if (one.strategy, one.length, one.temperature) == ("pearl", "6", 1.0))
    assert (rows[4]["speedup"], rows[4]["low"], rows[4]["high"]) == (six.speedup_over_ar, *(six.speedup_over_ar_interval or ()))
    plain = next(one for one in MEASURED.results if (one.strategy, one.temperature) == (BASELINE, 1.0))
    assert rows[4]["predicted"] == (six.predicted_tokens_per_second or 0) / plain.tokens_per_second


def test_a_model_works_or_waits() -> None:
    rows = values(idle_chart(MEASURED, 0.0))
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        shares.setdefault((row["strategy"], row["model"]), {})[row["state"]] = row["share"]
    assert all(one["works"] + one["waits"] == 1 for one in shares.values())
    assert shares["autoregressive", "draft"]["waits"] == 1
    assert ("pearl 8", "target") in shares, "each strategy stands at its fastest length"


def test_a_place_is_tested_where_all_before_it_passed_in_a_window_that_has_it() -> None:
    results = [one for one in MEASURED.results if one.strategy == "speculative" and one.temperature == 1.0]
    two, *_ = results
    assert two.length == "2"
    assert sum(two.acceptance_histogram.values()) == two.rounds, "no window is cut in two"
    alone = values(position_chart(replace(MEASURED, results=(two,)), 1.0), 0)
    counts = two.acceptance_histogram
    assert [row["rate"] for row in alone] == [(counts[1] + counts[2]) / two.rounds, counts[2] / (counts[1] + counts[2])]
    assert [row["place"] for row in values(position_chart(MEASURED, 1.0), 0)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(row["low"] < row["rate"] < row["high"] for row in alone)
    three = values(position_chart(replace(MEASURED, results=(results[1],)), 1.0), 0)
    both = values(position_chart(replace(MEASURED, results=(two, results[1])), 1.0), 0)
    assert both[2]["rate"] == three[2]["rate"], "a window of two guesses does not test a third"


def test_every_prediction_stands_beside_its_measurement() -> None:
    rows = values(predicted_chart(MEASURED, 1.0), 1)
    known = [one for one in MEASURED.results if one.temperature == 1.0 and one.predicted_tokens_per_second is not None]
    assert [(row["predicted"], row["measured"]) for row in rows] == [
        (one.predicted_tokens_per_second, one.tokens_per_second) for one in known
    ]


def test_each_prompt_is_a_dot_and_all_together_a_tick() -> None:
    fastest = max(
        (one for one in MEASURED.results if one.strategy == "pearl" and one.temperature == 1.0),
        key=lambda one: one.tokens_per_second,
    )
    slower = next(
        one for one in MEASURED.results if one.strategy == "pearl" and one.tokens_per_second < fastest.tokens_per_second
    )
    both = replace(fastest, speedup_over_ar_by_prompt=(1.5, 2.5)), replace(slower, speedup_over_ar_by_prompt=(9.0, 9.0))
    dots = values(prompts_chart(replace(MEASURED, results=both), 1.0), 1)
    assert [(row["label"], row["prompt"], row["speedup"], row["all"]) for row in dots] == [
        (f"pearl {fastest.length}", number, speedup, fastest.speedup_over_ar) for number, speedup in enumerate((1.5, 2.5))
    ]


def test_a_detail_is_drawn_where_the_report_has_its_numbers() -> None:
    charts = details(MEASURED)
    assert [*charts] == ["length", "idle", "position", "predicted"], "this file is older than speeds by prompt"
    assert [panel["title"]["text"] for panel in charts["idle"].to_dict()["hconcat"]] == [
        "Who waits: greedy (temperature 0)",
        "Who waits: sampled (temperature 1)",
    ]
    plain = replace(MEASURED, results=tuple(one for one in MEASURED.results if one.strategy == BASELINE))
    assert [*details(plain)] == ["idle", "predicted"]
