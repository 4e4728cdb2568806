"""Charts of a benchmark that explain its speeds: by draft length, by prompt, by who waits, by position, and beside predictions.

Each is a function of a report that `specdec bench --json` wrote, and shows one temperature, without the inks of a theme.
`details` puts the temperatures side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt

from specdec.bench.chart import point
from specdec.bench.report import BenchReport
from specdec.bench.text import heading
from specdec.bench.values import BASELINE, BenchResult
from specdec.pictures import INKS, Theme, shape_scale, strategy_scale, themed

SIZE = {"width": 330, "height": 230}
LEGEND = alt.Legend(orient="bottom", symbolOpacity=1)
BUSY = {"works": ("#00684C", "#2FB58C"), "waits": ("#C8C8C8", "#4A4E57")}
WHOLE_WINDOWS = "speculative"
"""The strategy whose acceptance is shown by position. It verifies windows as a whole; PEARL's pre-verify tests one token."""


def details(report: BenchReport, theme: Theme = "light") -> dict[str, Any]:
    """The charts that the report has numbers for, by name, with a panel for each temperature."""
    found: dict[str, Any] = {}
    for name, detail in DETAILS.items():
        has_numbers = {one.temperature for one in report.results if detail.shows(one)}
        temperatures = [one for one in report.settings.temperatures if one in has_numbers]
        panels = [detail.draw(report, one, theme) for one in temperatures]
        for panel, temperature in zip(panels, temperatures, strict=True):
            panel.title.text = f"{panel.title.text}: {heading(temperature).lower()}"
        if panels:
            found[name] = themed(alt.hconcat(*panels, spacing=30), theme)
    return found


def length_chart(report: BenchReport, temperature: float, theme: Theme = "light") -> Any:
    """Speed-up by draft length: a dot is measured, a bar its 95 % interval, a line what the chain predicts."""
    lengths = _lengths(report, temperature)
    names = list(dict.fromkeys(one.strategy for one in lengths))
    points: list[dict[str, Any]] = [
        {
            **point(one, report),
            "length": one.drafted_at_once + 0.1 * (names.index(one.strategy) - (len(names) - 1) / 2),  # intervals side by side
        }
        for one in lengths
    ]
    base = alt.Chart(alt.Data(values=points))
    x = alt.X("length:Q", title="draft length (tokens)", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    scale = alt.Scale(zero=False)
    y = alt.Y("speedup:Q", title="speed-up over autoregressive", scale=scale)
    color = _color([point["strategy"] for point in points], theme)
    lines = base.mark_line(strokeWidth=2, strokeDash=[5, 3]).encode(x=x, y=alt.Y("predicted:Q", scale=scale), color=color)
    bars = base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=color)
    dots = base.mark_point(size=60, filled=True, opacity=1).encode(x=x, y=y, color=color, shape=_shape(names))
    return _drawn(alt.layer(lines, bars, dots), "Speed-up by draft length", "Dot: measured. Bar: 95 %. Dashed: predicted.")


def predicted_chart(report: BenchReport, temperature: float, theme: Theme = "light") -> Any:
    """Predicted tokens per second against measured ones; on the line, both are equal."""
    points: list[dict[str, Any]] = [
        {"strategy": one.strategy, "predicted": one.predicted_tokens_per_second, "measured": one.tokens_per_second}
        for one in _at(report, temperature)
        if _is_predicted(one)
    ]
    values = [value for point in points for value in (point["predicted"], point["measured"])]
    ends = [0.9 * min(values), 1.05 * max(values)]
    scale = alt.Scale(domain=ends, nice=False)
    x = alt.X("predicted:Q", title="predicted (tokens/s)", scale=scale, axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("measured:Q", title="measured (tokens/s)", scale=scale, axis=alt.Axis(tickCount=6))
    rule: dict[str, Any] = {"color": INKS[theme].text, "strokeDash": [4, 3], "strokeWidth": 1.2}
    line = alt.Chart(alt.Data(values=[{"predicted": end, "measured": end} for end in ends]))
    equal = line.mark_line(**rule).encode(x=x, y=y)
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=60, filled=True, opacity=0.9)
    names = [point["strategy"] for point in points]
    dots = dots.encode(x=x, y=y, color=_color(names, theme), shape=_shape(names))
    return _drawn(alt.layer(equal, dots), "Predicted and measured", "Above the line: faster than predicted.")


def idle_chart(report: BenchReport, temperature: float, theme: Theme = "light") -> Any:
    """The share of time in which each model works and waits, for every strategy at its fastest length."""
    rows: list[dict[str, Any]] = [
        {"strategy": one.label, "model": model, "state": state, "share": share}
        for one in _fastest(report, temperature)
        for model, idle in (("target", one.target_idle_share), ("draft", one.draft_idle_share))
        for state, share in (("works", 1 - idle), ("waits", idle))
    ]
    scale = alt.Scale(domain=[*BUSY], range=[pair[theme == "dark"] for pair in BUSY.values()])
    bars = alt.Chart(alt.Data(values=rows)).mark_bar(height=alt.RelativeBandSize(0.8))
    bars = bars.encode(
        x=alt.X("share:Q", title="share of the time", axis=alt.Axis(format="%", grid=False, tickCount=5)),
        y=alt.Y("strategy:N", title=None, sort=list(dict.fromkeys(row["strategy"] for row in rows))),
        yOffset=alt.YOffset("model:N", sort=["target", "draft"]),
        color=alt.Color("state:N", title=None, scale=scale, legend=LEGEND),
        order=alt.Order("state:N", sort="descending"),
    )
    return _drawn(bars, "Who waits", "Upper bar: target. Lower bar: draft.")


def prompts_chart(report: BenchReport, temperature: float, theme: Theme = "light") -> Any:
    """The speed-up on each prompt, for every strategy at its fastest length; a tick is the speed-up over all prompts."""
    fastest = [one for one in _fastest(report, temperature) if one.strategy != BASELINE]
    rows: list[dict[str, Any]] = [
        {"strategy": one.strategy, "label": one.label, "prompt": prompt, "speedup": speedup, "all": one.speedup_over_ar}
        for one in fastest
        for prompt, speedup in enumerate(one.speedup_over_ar_by_prompt)
    ]
    base = alt.Chart(alt.Data(values=rows))
    scale = alt.Scale(zero=False)
    y = alt.Y("label:N", title=None, sort=[one.label for one in fastest], axis=alt.Axis(grid=True, ticks=False, labelPadding=8))
    color = alt.Color("strategy:N", legend=None, scale=strategy_scale([one.strategy for one in fastest], theme))
    even = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(color=INKS[theme].text, strokeDash=[4, 3]).encode(x="one:Q")
    dots = base.mark_point(size=55, filled=True, opacity=0.55)
    dots = dots.encode(x=alt.X("speedup:Q", title="times as fast as autoregressive", scale=scale), y=y, color=color)
    ticks = base.mark_tick(thickness=2.5, size=20, color=INKS[theme].text).encode(x=alt.X("all:Q", scale=scale), y=y)
    return _drawn(alt.layer(even, dots, ticks), "Speed-up by prompt", "Dot: one prompt. Tick: all together.")


def position_chart(report: BenchReport, temperature: float, theme: Theme = "light") -> Any:
    """How often the guess at each place of a window is accepted, if those before it were; all draft lengths together.

    For the strategy that verifies every window as a whole.
    """
    points = [{"strategy": WHOLE_WINDOWS, **rate} for rate in _rates(_lengths(report, temperature), WHOLE_WINDOWS)]
    base = alt.Chart(alt.Data(values=points))
    x = alt.X("place:Q", title="place in the window", axis=alt.Axis(tickMinStep=1, format="d", grid=False))
    scale = alt.Scale(domain=[0.4, 1], clamp=True)
    y = alt.Y("rate:Q", title="acceptance, if all before passed", scale=scale)
    color = _color([WHOLE_WINDOWS], theme)
    bands = base.mark_area(opacity=0.25).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=color)
    lines = base.mark_line(strokeWidth=2, point={"size": 45, "filled": True}).encode(x=x, y=y, color=color)
    return _drawn(alt.layer(bands, lines), "Acceptance by position", "Band: two standard errors.")


def _rates(results: Sequence[BenchResult], strategy: str) -> Iterator[dict[str, float]]:
    """From how many windows had 0, 1, 2, ... accepted guesses. A window of `g` guesses tests no place beyond `g`."""
    ours = [one for one in results if one.strategy == strategy]
    for place in range(1, max(one.drafted_at_once or 0 for one in ours) + 1):
        windows = [one.acceptance_histogram for one in ours if (one.drafted_at_once or 0) >= place]
        tested = sum(count for window in windows for accepted, count in window.items() if accepted >= place - 1)
        passed = sum(count for window in windows for accepted, count in window.items() if accepted >= place)
        rate = passed / tested if tested else 0.0
        spread = 2 * (rate * (1 - rate) / max(tested, 1)) ** 0.5
        yield {"place": place, "rate": rate, "low": max(0.0, rate - spread), "high": min(1.0, rate + spread)}


def _at(report: BenchReport, temperature: float) -> list[BenchResult]:
    return [one for one in report.results if one.temperature == temperature]


def _has_length(one: BenchResult) -> bool:
    """Whether it is one of our own strategies that draft a constant number of tokens: those with a prediction and a length."""
    return _is_predicted(one) and isinstance(one.parameters.get("draft_length"), int)


def _is_predicted(one: BenchResult) -> bool:
    return one.predicted_tokens_per_second is not None


def _lengths(report: BenchReport, temperature: float) -> list[Any]:
    return [one for one in _at(report, temperature) if _has_length(one)]


def _fastest(report: BenchReport, temperature: float) -> list[BenchResult]:
    best: dict[str, BenchResult] = {}
    for one in _at(report, temperature):
        if one.strategy not in best or one.tokens_per_second > best[one.strategy].tokens_per_second:
            best[one.strategy] = one
    return list(best.values())


def _color(names: Sequence[str], theme: Theme) -> alt.Color:
    return alt.Color("strategy:N", title=None, scale=strategy_scale(names, theme), legend=LEGEND)


def _shape(names: Sequence[str]) -> alt.Shape:
    return alt.Shape("strategy:N", title=None, scale=shape_scale(names), legend=LEGEND)


def _drawn(chart: Any, title: str, subtitle: str) -> Any:
    return chart.properties(**SIZE, title=alt.TitleParams(title, subtitle=subtitle, fontSize=14))


class Detail(NamedTuple):
    """A chart, and the results that it has something to show of."""

    draw: Callable[[BenchReport, float, Theme], Any]
    shows: Callable[[BenchResult], bool]


DETAILS = {
    "length": Detail(length_chart, _has_length),
    "prompts": Detail(prompts_chart, lambda one: one.strategy != BASELINE and bool(one.speedup_over_ar_by_prompt)),
    "idle": Detail(idle_chart, lambda _: True),
    "position": Detail(position_chart, lambda one: one.strategy == WHOLE_WINDOWS and _has_length(one)),
    "predicted": Detail(predicted_chart, _is_predicted),
}
"""By the name that a picture's file ends in."""
