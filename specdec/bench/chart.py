"""The chart of a benchmark: speed-up over autoregressive decoding, a line for each strategy and draft length.

There is a panel for each temperature. A dot with its 95 % interval is the measured speed-up, a tick the predicted one. Only the
report is needed: `speedup_chart(BenchReport.read("results.json"))` draws a file that `specdec bench --json` wrote.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from specdec.bench.report import BenchReport
from specdec.bench.text import heading
from specdec.bench.values import BASELINE, BenchResult
from specdec.pictures import INKS, Theme, strategy_scale, themed


def speedup_chart(report: BenchReport, theme: Theme = "light") -> Any:
    """The chart of a report that holds results."""
    points = [point(result, report) for result in report.results]
    names = list(dict.fromkeys(point["strategy"] for point in points))
    color = alt.Color("strategy:N", legend=None, scale=strategy_scale(names, theme))
    labels = list(dict.fromkeys(point["label"] for point in points))
    y = alt.Y("label:N", title=None, sort=labels, axis=alt.Axis(labelLimit=300, ticks=False, domain=False, grid=True))
    ends = [end for point in points for end in (point["low"], point["high"], point["predicted"]) if end is not None]
    x_scale = alt.Scale(domain=[min(0.9, *ends), max(1.1, *ends)], nice=True, zero=False)
    ink = INKS[theme]
    panels: list[Any] = []
    for temperature in dict.fromkeys(point["temperature"] for point in points):
        base = alt.Chart(alt.Data(values=[point for point in points if point["temperature"] == temperature]))
        x = alt.X("speedup:Q", title="times as fast as autoregressive", scale=x_scale)
        tooltip = ["label:N", *(alt.Tooltip(f"{key}:Q", format=".2f") for key in ("speedup", "low", "high", "predicted"))]
        one = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(color=ink.text, strokeDash=[4, 3]).encode(x="one:Q")
        known = base.transform_filter("isValid(datum.low)")
        intervals = known.mark_rule(strokeWidth=3, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=color)
        dots = base.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=color, tooltip=tooltip)
        ticks = (
            base.transform_filter("isValid(datum.predicted)")
            .mark_tick(color=ink.text, thickness=2, size=14)
            .encode(x="predicted:Q", y=y, tooltip=tooltip)
        )
        title = alt.TitleParams(heading(temperature), fontSize=13, fontWeight="normal", anchor="middle")
        panels.append(alt.layer(one, intervals, ticks, dots).properties(width=360, height=alt.Step(20), title=title))
    return themed(alt.hconcat(*panels).properties(title=_title(report)), theme)


def _title(report: BenchReport) -> Any:
    hardware, settings = report.hardware, report.settings
    predicted = any(result.predicted_tokens_per_second for result in report.results)
    intervals = any(result.speedup_over_ar_interval for result in report.results)
    shown = f"Dot: median{' and 95 % interval' if intervals else ''}." + (" Tick: predicted." if predicted else "")
    subtitle = [
        f"{report.pair}; {hardware.cpu}, {hardware.cores} cores",
        f"{settings.prompts} prompts, {settings.repeats} repeats, {hardware.date[:10]}. {shown}",
    ]
    if settings.synthetic:
        subtitle.append(settings.synthetic)
    return alt.TitleParams("Speed-up over autoregressive decoding", subtitle=subtitle, offset=14)


def point(result: BenchResult, report: BenchReport) -> dict[str, Any]:
    """A result for a chart. A predicted speed-up, like the measured one, is over the measured speed of the baseline."""
    baseline = next(
        other.tokens_per_second
        for other in report.results
        if other.strategy == BASELINE and other.temperature == result.temperature
    )
    low, high = result.speedup_over_ar_interval or (None, None)
    predicted = result.predicted_tokens_per_second
    return {
        "strategy": result.strategy,
        "label": result.label,
        "temperature": result.temperature,
        "speedup": result.speedup_over_ar,
        "low": low,
        "high": high,
        "predicted": predicted and predicted / baseline,
    }
