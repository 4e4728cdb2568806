"""A tuning as a chart of speed-up against draft length. Themes are `specdec.pictures`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from sim.study.search import Choice
from sim.study.tune import Tuning
from specdec.pictures import INKS, Theme, strategy_scale, themed
from specdec.report import three_digits


def speed_chart(tuning: Tuning, measured: Sequence[Choice] = (), theme: Theme = "light") -> Any:
    """Speed-up over autoregressive decoding against draft length: exact as a line, simulated as dots, `measured` as crosses.

    A strategy without a draft length is a level line.
    """
    points = [*_points(tuning, measured)]
    names = list(dict.fromkeys(point["strategy"] for point in points))
    color = alt.Color("strategy:N", title=None, scale=strategy_scale(names, theme))
    lengths = [point["draft_length"] for point in points if point["draft_length"] is not None] or [1]
    longest = max(max(lengths), min(lengths) + 1)
    level = [
        {**point, "draft_length": at} for point in points if point["draft_length"] is None for at in (min(lengths), longest)
    ]
    data = alt.Data(values=[*[point for point in points if point["draft_length"] is not None], *level])
    x = alt.X(
        "draft_length:Q",
        title="draft length (tokens)",
        axis=alt.Axis(tickMinStep=1, format="d", grid=False),
        scale=alt.Scale(domain=[min(lengths), longest], nice=False),
    )
    y = alt.Y("speedup_over_ar:Q", title="speed-up over autoregressive decoding", scale=alt.Scale(zero=False))
    base = alt.Chart(data).encode(x=x, y=y, color=color)
    ink, kinds = INKS[theme], {"simulated": "circle", "measured": "cross"}
    drawn = [kind for kind in kinds if any(point["kind"] == kind for point in points)]
    shape = alt.Shape(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=drawn, range=[kinds[kind] for kind in drawn]),
        legend=alt.Legend(symbolFillColor=ink.text, symbolStrokeColor=ink.text),
    )
    lines = (
        base.transform_filter("datum.kind == 'compiled'")
        .mark_line(strokeWidth=2.5)
        .encode(tooltip=["strategy:N", "draft_length:Q", alt.Tooltip("speedup_over_ar:Q", format=".3f")])
    )
    dots = base.transform_filter("datum.kind == 'simulated'").mark_point(size=55, filled=True, opacity=0.9).encode(shape=shape)
    crosses = base.transform_filter("datum.kind == 'measured'").mark_point(size=130, filled=True, opacity=1).encode(shape=shape)
    layers = alt.layer(lines, dots, crosses).properties(width=640, height=360, title=_title(tuning, bool(measured)))
    return themed(layers, theme)


def _points(tuning: Tuning, measured: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    for name, curve in tuning.curves.items():
        for point in curve:
            common = {"strategy": name, "draft_length": point.draft_length}
            yield {**common, "kind": "compiled", "speedup_over_ar": point.speedup_over_ar}
            if point.simulated_speedup_over_ar is not None:
                yield {**common, "kind": "simulated", "speedup_over_ar": point.simulated_speedup_over_ar}
    for choice in measured:
        if choice.strategy in tuning.curves:
            yield {**vars(choice), "kind": "measured"}


def _title(tuning: Tuning, measured: bool) -> alt.TitleParams:
    subtitle = f"Target / draft speed ratio {three_digits(tuning.speed_ratio)}. Line: exact. Dot: simulated."
    return alt.TitleParams(f"Best: {tuning.best}", subtitle=subtitle + (" Cross: measured." if measured else ""))
