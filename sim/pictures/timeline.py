"""A timeline as a chart of two bars. A drafted token has the colour of what became of it. Themes are `specdec.pictures`."""

from __future__ import annotations

from typing import Any

import altair as alt

from sim.stream.timeline import Kind, Piece, Timeline
from specdec.pictures import INKS, Theme, themed
from specdec.report import milliseconds, spelled

COLOURS: dict[Kind, str] = {
    "target forward": "#0072B2",
    "draft accepted": "#009E73",
    "draft rejected": "#D55E00",
    "draft wasted": "#E8B64C",
    "waiting": "",
}


def timeline_chart(shown: Timeline, theme: Theme = "light") -> Any:
    """The chart, of altair. Thin lines end rounds. Numbers are tokens committed in a round, and positions of a forward."""
    ink = INKS[theme]
    total = 1e3 * shown.seconds
    x = alt.X("start:Q", title="milliseconds", scale=alt.Scale(domain=[0, total], nice=False), axis=alt.Axis(grid=False))
    y = alt.Y(
        "model:N",
        title=None,
        sort=["target", "draft"],
        axis=alt.Axis(domain=False, ticks=False, labelFontSize=14),
        scale=alt.Scale(paddingInner=0.25, paddingOuter=0.12),
    )
    color = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[*COLOURS], range=[colour or ink.waiting for colour in COLOURS.values()]),
        legend=alt.Legend(orient="bottom", columns=5, symbolType="square", symbolSize=180),
    )
    pieces = [in_milliseconds(piece) for piece in (*shown.waits(), *shown.work)]
    bars = alt.Chart(alt.Data(values=pieces)).encode(x=x, x2="end:Q", y=y)
    blocks = bars.mark_bar(stroke=ink.ground, strokeWidth=1, height=alt.RelativeBandSize(1)).encode(
        color=color,
        tooltip=["kind:N", "round:Q", alt.Tooltip("start:Q", format=".3f"), alt.Tooltip("end:Q", format=".3f"), "positions:Q"],
    )
    positions = (
        bars.transform_filter("datum.kind == 'target forward'")
        .transform_calculate(middle="(datum.start + datum.end) / 2")
        .mark_text(color="white", fontSize=13)
        .encode(x="middle:Q", x2=alt.Undefined, text="positions:Q")
    )
    rounds = alt.Chart(alt.Data(values=_rounds(shown)))
    ends = rounds.mark_rule(color=ink.text, strokeDash=[3, 3], opacity=0.7).encode(x="end:Q")
    counts = rounds.mark_text(color=ink.text, fontSize=12, baseline="bottom", dy=-4).encode(
        x="middle:Q", y=alt.value(0), text="label:N"
    )
    subtitle = (
        f"{len(shown.round_tokens)} rounds, {sum(shown.round_tokens)} tokens in {milliseconds(shown.seconds)}. "
        "Above each round: tokens committed. In target bars: positions scored."
    )
    title = alt.TitleParams(spelled(shown.strategy, shown.parameters), subtitle=subtitle, offset=22)
    chart = alt.layer(blocks, positions, ends, counts).properties(
        width=max(1000, 50 * len(shown.round_tokens)), height=150, title=title
    )
    return themed(chart, theme)


def in_milliseconds(piece: Piece) -> dict[str, Any]:
    """A piece as a row of a chart."""
    times = {"start": 1e3 * piece.start_seconds, "end": 1e3 * piece.end_seconds}
    return {"model": piece.lane, "kind": piece.kind, "round": piece.round, **times, "positions": piece.rows}


def _rounds(shown: Timeline) -> list[dict[str, Any]]:
    ends = [1e3 * end for end in shown.round_end_seconds]
    starts = [0.0, *ends[:-1]]
    return [
        {"end": end, "middle": (start + end) / 2, "label": f"+{tokens}"}
        for start, end, tokens in zip(starts, ends, shown.round_tokens, strict=True)
    ]
