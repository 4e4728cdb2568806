"""Charts of a plan against load, replicas, batch and draft length: from values of `sim.planning.curves` to altair, unthemed.

Each takes a width in pixels, legends included, and is drawn in the colours of the light theme (`sim.pictures.plan_colours`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import altair as alt

from sim.pictures.plan_colours import LIMIT, scale_of
from sim.planning.frontier import LengthCurve
from sim.planning.under_load import Attained, LoadCurve
from specdec.pictures import INKS
from specdec.report import milliseconds, three_digits

INK = INKS["light"].text
WIDE = 600
"""Pixels from which a legend has several columns."""


def sized(chart: Any, width: int, height: int, title: str, names: Sequence[str] = ()) -> Any:
    """A chart of a whole width, with room below for a legend of `names`, one in a line where it is narrow."""
    columns = 1 if width < WIDE else 2
    return chart.properties(
        width=width,
        height=height + 19 * -(-len(names) // columns),
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        title=alt.TitleParams(title, fontSize=13, fontWeight="normal", anchor="start", offset=10),
    )


def colour(names: dict[str, str], width: int, field: str = "plan:N") -> alt.Color:
    """The scale and legend of plans by name."""
    legend = alt.Legend(
        orient="bottom",
        columns=1 if width < WIDE else 2,
        symbolType="stroke",
        symbolStrokeWidth=3,
        symbolOpacity=1,
        symbolSize=120,
        labelLimit=width - 90,
    )
    scale = alt.Scale(domain=[*names], range=[*names.values()])
    return alt.Color(field, title=None, scale=scale, legend=legend)


def note(x: Any = None, y: Any = None, text: str = "", **look: Any) -> Any:
    """A line of text in a chart, at values of its axes or at fixed places (`alt.value`)."""
    at = {name: value if isinstance(value, dict) else alt.datum(value) for name, value in (("x", x), ("y", y))}
    return haloed(alt.Chart(alt.Data(values=[{}])).encode(**at, text=alt.value(text)), fontSize=11, **look)


def haloed(base: Any, **look: Any) -> Any:
    """Text on a rim of the ground's colour, so that lines below it do not disturb."""
    rim = base.mark_text(stroke=INKS["light"].ground, strokeWidth=3, strokeJoin="round", **look)
    return alt.layer(rim, base.mark_text(color=INK, **look))


def rule(color: str, *, x: float | None = None, y: float | None = None, dash: Sequence[int] = (5, 4)) -> Any:
    """A line across a chart."""
    mark = alt.Chart(alt.Data(values=[{}])).mark_rule(color=color, strokeDash=[*dash], strokeWidth=1.6)
    return mark.encode(x=alt.datum(x)) if x is not None else mark.encode(y=alt.datum(y))


def _most(curves: Sequence[LoadCurve], rate: float) -> float:
    """The end of an axis of loads."""
    return max([1.1 * rate, *(point.rate for curve in curves for point in curve.points)])


def _rate_axis(most: float) -> alt.X:
    scale = alt.Scale(domain=[0, most], nice=False)
    return alt.X("rate:Q", title="requests/s", scale=scale, axis=alt.Axis(grid=False, tickCount=6))


def _marked(rate: float, held: float | None, top: float, low: float) -> list[Any]:
    """The planned load and the knee, as lines with words; those of the knee at `low`."""
    found = [
        rule(INK, x=rate, dash=(6, 3)),
        note(rate, alt.value(6), f"planned {three_digits(rate)}", **beside(rate < 0.3 * top), baseline="top"),
    ]
    if held:
        found += [
            rule(LIMIT, x=held, dash=(2, 3)),
            note(held, low, f"holds to {three_digits(held)}", **beside(held < 0.7 * top)),
        ]
    return found


def beside(right: bool) -> dict[str, Any]:
    """On which side of a line its words stand."""
    return {"align": "left", "dx": 4} if right else {"align": "right", "dx": -4}


def latency_chart(curves: Sequence[LoadCurve], index: int, words: str, limit: float | None, rate: float, width: int) -> Any:
    """One statistic against load, with the range of other draws; cut off above twice the limit."""
    rows: list[dict[str, Any]] = [
        {
            "plan": curve.plan.label,
            "rate": point.rate,
            **{name: 1e3 * getattr(point.seconds[index], name) for name in ("value", "low", "high")},
        }
        for curve in curves
        for point in curve.points
        if not isnan(point.seconds[index].value)
    ]
    at_plan = [row["value"] for row in rows if row["rate"] <= 1.01 * rate]
    highest = max([row["high"] for row in rows], default=1.0)
    top = (
        highest if limit is None else min(max(1.25e3 * limit, 1.05 * highest), max(2e3 * limit, 1.3 * max(at_plan, default=0)))
    )
    names = scale_of([curve.plan for curve in curves])
    held = curves[0].sustained
    most = _most(curves, rate)
    x = _rate_axis(most)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour(names, width))
    layers = [
        base.mark_area(opacity=0.2, clip=True, line=False).encode(
            y=alt.Y("low:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False)), y2="high:Q"
        ),
        base.mark_line(strokeWidth=2.2, clip=True).encode(y=y),
        base.mark_circle(size=26, clip=True, opacity=1).encode(y=y),
        *_marked(rate, held, most, 0.05 * top),
    ]
    if limit is not None:
        layers += [
            rule(LIMIT, y=1e3 * limit),
            note(alt.value(4), 1e3 * limit, f"limit {milliseconds(limit)}", align="left", baseline="bottom", dy=-3),
        ]
    return sized(alt.layer(*layers), width, 250, f"{words}, ms", [*names])


def goodput_chart(curves: Sequence[LoadCurve], rate: float, width: int) -> Any:
    """Requests in a second that meet all limits, against those that arrive; a thin line where all would."""
    rows: list[dict[str, Any]] = [
        {"plan": curve.plan.label, "rate": point.rate, "value": point.goodput.value, "low": point.goodput.low,
         "high": point.goodput.high}
        for curve in curves
        for point in curve.points
    ]  # fmt: skip
    names = scale_of([curve.plan for curve in curves])
    most = _most(curves, rate)
    x = _rate_axis(most)
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1.02 * most], nice=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour(names, width))
    ideal = alt.Chart(alt.Data(values=[{"rate": 0, "value": 0}, {"rate": most, "value": most}]))
    layers = [
        ideal.mark_line(color=INKS["light"].faint, strokeWidth=1.5, strokeDash=[4, 3]).encode(x=x, y=y),
        base.mark_area(opacity=0.2, clip=True).encode(
            y=alt.Y("low:Q", title=None, scale=alt.Scale(domain=[0, 1.02 * most], nice=False)), y2="high:Q"
        ),
        base.mark_line(strokeWidth=2.2).encode(y=y),
        base.mark_circle(size=26, opacity=1).encode(y=y),
        *_marked(rate, curves[0].sustained, most, 0.05 * most),
    ]
    return sized(alt.layer(*layers), width, 250, "Goodput: requests/s that meet all limits", [*names])


def attainment_chart(attained: Sequence[Sequence[Attained]], price: float | None, width: int) -> Any:
    """The share of requests that meet all limits, against what the replicas cost; hollow where an objective is missed."""
    rows: list[dict[str, Any]] = [
        {
            "plan": one.plan.label,
            "cost": one.plan.gpus * (price or 1),
            "share": 100 * one.share,
            "met": one.met,
            "replicas": f"{one.plan.replicas}",
        }
        for plan in attained
        for one in plan
    ]
    names = scale_of([plan[0].plan for plan in attained])
    x = alt.X(
        "cost:Q",
        title="GPUs" if price is None else "$/h",
        scale=alt.Scale(zero=False, padding=18),
        axis=alt.Axis(grid=False, tickMinStep=1, format="d" if price is None else "~g"),
    )
    lowest = min(row["share"] for row in rows)
    bottom = next(floor for floor in (95, 90, 50, 0) if lowest >= floor)
    domain = [bottom, 100 + 0.06 * (100 - bottom)]
    y = alt.Y("share:Q", title=None, scale=alt.Scale(domain=domain, nice=False), axis=alt.Axis(tickCount=5))
    sizes = alt.Scale(domain=[*names], range=[60 + 110 * index for index in range(len(names))])
    size = alt.Size("plan:N", legend=None, scale=sizes)  # so that points on one another are all seen
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour(names, width))
    hollow: dict[str, Any] = {"filled": False, "fill": INKS["light"].ground, "strokeWidth": 2}
    layers = [base.mark_line(strokeWidth=1.8, opacity=0.7)]
    for name in reversed(names):
        ours = base.transform_filter(alt.datum.plan == name).encode(size=size)
        layers += [
            ours.transform_filter("datum.met").mark_point(filled=True, opacity=1),
            ours.transform_filter("!datum.met").mark_point(opacity=1, **hollow),
        ]
    return sized(alt.layer(*layers), width, 260, "Requests that meet all limits, %", [*names])


def length_chart(curve: LengthCurve, rate: float, planned: int, color: str, width: int) -> Any:
    """Requests per second by draft length: simulated as dots with a line, by the exact chain as a thin line."""
    kinds = {"simulated": [one.requests_per_second for one in curve.simulated], "exact chain, no waiting": curve.closed}
    rows: list[dict[str, Any]] = [
        {"length": one.draft_length, "kind": kind, "value": value}
        for kind, values in kinds.items()
        for one, value in zip(curve.simulated, values, strict=True)
    ]
    x = alt.X("length:O", title="draft length (tokens)", axis=alt.Axis(labelAngle=0, grid=False))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    dash = alt.StrokeDash(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[*kinds], range=[[1, 0], [5, 4]]),
        legend=alt.Legend(orient="bottom", columns=1 if width < WIDE else 2, symbolStrokeColor=color, symbolStrokeWidth=2),
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    solid = base.transform_filter("datum.kind == 'simulated'")
    layers = [
        base.mark_line(color=color, strokeWidth=2).encode(strokeDash=dash),
        solid.mark_circle(color=color, size=70, opacity=1),
        solid.transform_filter(f"datum.length == {planned}").mark_point(color=INK, size=190, strokeWidth=1.8),
        rule(INK, y=rate, dash=(6, 3)),
        note(alt.value(4), rate, f"planned {three_digits(rate)}", align="left", baseline="top", dy=4),
    ]
    return sized(alt.layer(*layers), width, 250, f"Requests/s that keep all limits, by draft length: {curve.plan}", [*kinds])
