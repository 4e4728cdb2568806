"""Charts of the inside of a plan: rounds, the cache over time, and what the plan hangs on. As in `sim.pictures.plan_charts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from sim.pictures.plan_charts import INK, WIDE, colour, haloed, note, rule, sized
from sim.pictures.plan_colours import FEWER, LIMIT, MORE, scale_of
from sim.pictures.timeline import COLOURS, in_milliseconds
from sim.planning.sensitivity import Changed, Sensitivity
from sim.planning.under_load import CacheUse
from sim.stream.timeline import Kind, Timeline
from specdec.pictures import INKS
from specdec.report import three_digits

NARROW_ROUNDS = 4
"""Rounds of a narrow timeline."""


def rounds_chart(timelines: Sequence[Timeline], width: int) -> Any:
    """Bars of the target and of the draft, for each timeline; a narrow chart shows the first rounds only."""
    ends = timelines[0].round_end_seconds
    until = 1e3 * ends[-1 if width >= WIDE else min(NARROW_ROUNDS, len(ends)) - 1]
    bars = [row for one in timelines for row in _bars(one, until)]
    counts = [row for one in timelines for row in _counts(one, until)]
    lanes = list(dict.fromkeys(row["lane"] for row in bars))
    kinds: dict[Kind, str] = {kind: shade or INKS["light"].waiting for kind, shade in COLOURS.items()}
    axis = alt.Scale(domain=[0, until], nice=False)
    x = alt.X("start:Q", title="ms", scale=axis, axis=alt.Axis(grid=False, tickCount=5))
    y = alt.Y(
        "lane:N",
        title=None,
        axis=alt.Axis(domain=False, ticks=False, labelLimit=180),
        scale=alt.Scale(domain=lanes, paddingInner=0.3, paddingOuter=0.25),
    )
    legend = alt.Legend(orient="bottom", columns=2 if width < WIDE else 5, symbolType="square", symbolSize=120)
    color = alt.Color("kind:N", title=None, scale=alt.Scale(domain=[*kinds], range=[*kinds.values()]), legend=legend)
    gaps = alt.condition("datum.kind == 'target forward'", alt.value(0.8), alt.value(0))  # a rim would hide a thin draft
    blocks = (
        alt.Chart(alt.Data(values=bars))
        .mark_bar(stroke=INKS["light"].ground, height=alt.RelativeBandSize(1))
        .encode(x=x, x2="end:Q", y=y, color=color, strokeWidth=gaps)
    )
    tokens = (
        alt.Chart(alt.Data(values=counts))
        .mark_text(color=INKS["light"].ground, fontSize=11, fontWeight="bold")
        .encode(x=alt.X("middle:Q", scale=axis), y=y, text="words:N")
    )
    height = 100 + 34 * len(lanes) + (57 if width < WIDE else 19)
    return sized(alt.layer(blocks, tokens), width, height, "Tokens are committed where a target bar ends")


def _bars(one: Timeline, until: float) -> Iterator[dict[str, Any]]:
    """Pieces up to a time in milliseconds, the target's first."""
    pieces = sorted((*one.waits(), *one.work), key=lambda piece: piece.lane != "target")
    for row in map(in_milliseconds, pieces):
        if row["start"] < until:
            yield {**row, "end": min(row["end"], until), "lane": f"{_short(one)}: {row['model']}"}


def _counts(one: Timeline, until: float) -> Iterator[dict[str, Any]]:
    """Tokens of each round that ends before then."""
    starts = (0.0, *one.round_end_seconds[:-1])
    for start, end, tokens in zip(starts, one.round_end_seconds, one.round_tokens, strict=True):
        if 1e3 * end <= 1.001 * until:
            yield {"middle": 500 * (start + end), "words": f"+{tokens}", "lane": f"{_short(one)}: target"}


def _short(one: Timeline) -> str:
    """`PEARL k=4`, `AR`."""
    length = one.parameters.get("draft_length")
    name = {"autoregressive": "AR", "pearl": "PEARL"}.get(one.strategy, one.strategy)
    return name if length is None else f"{name} k={length}"


def cache_chart(caches: Sequence[CacheUse], width: int) -> Any:
    """Tokens in use: the mean of a plan's replicas as a line, the fullest one as the top of an area; pools as dashed lines."""
    names = scale_of([one.plan for one in caches])
    rows: list[dict[str, Any]] = [
        {"plan": one.plan.label, "seconds": seconds, "mean": mean, "most": most}
        for one in caches
        for seconds, mean, most in zip(one.seconds, one.mean, one.most, strict=True)
    ]
    peak = max([row["most"] for row in rows], default=0) or 1
    pools = [one for one in caches if one.pool is not None and one.pool < 4 * peak]
    top = 1.06 * max([peak, *(one.pool or 0 for one in pools)])
    x = alt.X("seconds:Q", title="seconds", scale=alt.Scale(nice=False), axis=alt.Axis(grid=False, tickCount=6))
    y = alt.Y("mean:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False), axis=alt.Axis(format="~s", tickCount=5))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour(names, width))
    layers = [
        base.mark_area(opacity=0.2).encode(y=alt.Y("most:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False))),
        base.mark_line(strokeWidth=1.6).encode(y=y),
    ]
    for one in pools:
        layers += [
            rule(names[one.plan.label], y=one.pool),
            note(alt.value(4), one.pool, f"pool of {one.plan.method}: {one.pool:,}", align="left", baseline="top", dy=3),
        ]
    return sized(alt.layer(*layers), width, 230, "Tokens of the KV cache of a replica, in use", [*names])


def tornado_chart(found: Sensitivity, width: int) -> Any:
    """Pressure with each input a fifth smaller and larger, the widest first; numbers are the GPUs that the plan then needs."""
    inputs = sorted({one.parameter for one in found.changes}, key=lambda name: -_spread(found, name))
    top = max([1.15, found.pressure, *(one.pressure for one in found.changes if one.pressure is not None)]) * 1.12
    rows = [row for name in inputs for row in _pair(found, name, top)]
    lower = min(row["to"] for row in rows)
    bottom = max(0.0, min(found.pressure, lower) - 0.25 * (top - lower))
    x = alt.X(
        "from:Q",
        title="statistic / limit of the binding objective",
        scale=alt.Scale(domain=[bottom, top], nice=False),
        axis=alt.Axis(grid=False, tickCount=6, format=".2~f"),
    )
    y = alt.Y("input:N", title=None, sort=inputs, axis=alt.Axis(domain=False, ticks=False))
    scale = alt.Scale(domain=["20 % less", "20 % more"], range=[FEWER, MORE])
    color = alt.Color("change:N", title=None, scale=scale, legend=alt.Legend(orient="bottom", columns=2, symbolType="square"))
    base = alt.Chart(alt.Data(values=rows)).encode(y=y)
    words = base.encode(x="at:Q", text="words:N")
    layers = [
        base.mark_bar(height=alt.RelativeBandSize(0.7)).encode(x=x, x2="to:Q", color=color),
        rule(INK, x=found.pressure, dash=(1, 0)),
        rule(LIMIT, x=1.0),
        note(1.0, alt.value(-2), "limit", align="center", baseline="bottom"),
        note(found.pressure, alt.value(-2), f"plan {three_digits(found.pressure)}", align="center", baseline="bottom"),
        haloed(words.transform_filter("datum.left"), fontSize=11, align="right", dx=-4),
        haloed(words.transform_filter("!datum.left"), fontSize=11, align="left", dx=4),
    ]
    return sized(alt.layer(*layers), width, 90 + 38 * len(inputs), "What the plan hangs on")


def _pair(found: Sensitivity, parameter: str, top: float) -> list[dict[str, Any]]:
    """Both bars of an input, the one that ends further left first; words of each stand on its own side of both."""
    bars = [
        {
            "input": parameter,
            "change": "20 % less" if one.factor < 1 else "20 % more",
            "from": found.pressure,
            "to": top if one.pressure is None else one.pressure,
            "words": _words(one),
        }
        for one in found.changes
        if one.parameter == parameter
    ]
    lower, upper = sorted(bars, key=lambda bar: bar["to"])
    lower |= {"left": True, "at": min(lower["to"], found.pressure)}
    upper |= {"left": False, "at": max(upper["to"], found.pressure)}
    return [lower, upper]


def _spread(found: Sensitivity, parameter: str) -> float:
    ours = [10.0 if one.pressure is None else one.pressure for one in found.changes if one.parameter == parameter]
    return max(ours) - min(ours)


def _words(one: Changed) -> str:
    if one.gpus is not None:
        return f"{one.gpus} GPU{'s' if one.gpus > 1 else ''}"
    return "more GPUs than tried"
