"""A map of the best strategy as a chart: acceptance rate across, speed ratio up, and the pair that was given as a diamond."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import altair as alt

from sim.study.best_map import StrategyMap
from specdec.pictures import INKS, Theme, strategy_scale, themed
from specdec.report import three_digits

LABELS = 5
"""Speed-ups written along each axis."""

RATIOS = (1, 2, 3, 5, 10, 20, 30, 50)


def map_chart(found: StrategyMap, theme: Theme = "light", width: int = 420, height: int = 320) -> Any:
    """Colour: the best strategy. Numbers: its speed-up over autoregressive decoding. A pair beyond the map is not drawn."""
    ink, here, cells = INKS[theme], found.here, _cells(found)
    across = min(cell["left"] for cell in cells), max(cell["right"] for cell in cells)
    up = min(cell["low"] for cell in cells), max(cell["high"] for cell in cells)
    x_scale = alt.Scale(domain=across, nice=False)
    y_scale = alt.Scale(type="log", domain=up, nice=False)
    x_axis = alt.Axis(format=".1f", grid=False, tickCount=7)
    y_axis = alt.Axis(values=[ratio for ratio in RATIOS if up[0] <= ratio <= up[1]], format="d", grid=False)
    colours = strategy_scale(found.strategies(), theme)
    legend = alt.Legend(orient="bottom", columns=3, symbolType="square", symbolStrokeWidth=0)
    base = alt.Chart(alt.Data(values=cells))
    tiles = base.mark_rect(strokeWidth=1).encode(
        x=alt.X("left:Q", title="acceptance rate", scale=x_scale, axis=x_axis),
        x2="right:Q",
        y=alt.Y("low:Q", title="speed ratio: target step / draft step", scale=y_scale, axis=y_axis),
        y2="high:Q",
        color=alt.Color("strategy:N", title=None, scale=colours, legend=legend),
        stroke=alt.Stroke("strategy:N", scale=colours, legend=None),
        tooltip=["choice:N", alt.Tooltip("speedup:Q", format=".2f")],
    )
    at: dict[str, Any] = {"x": alt.X("rate:Q", scale=x_scale), "y": alt.Y("ratio:Q", scale=y_scale)}
    numbers = base.mark_text(color=ink.ground, fontSize=12, clip=True).encode(**at, text="label:N")
    inside = across[0] <= here.acceptance_rate <= across[1] and up[0] <= here.speed_ratio <= up[1]
    pair = [{"rate": here.acceptance_rate, "ratio": here.speed_ratio}] if inside else []
    diamond = alt.Chart(alt.Data(values=pair)).mark_point(
        shape="diamond", size=190, filled=True, opacity=1, color=ink.ground, stroke=ink.text, strokeWidth=2
    )
    lines = ["Numbers: speed-up over autoregressive."]
    if inside:
        lines.append(f"You are here: {here.best}, {three_digits(here.best.speedup_over_ar)}x.")
    title = alt.TitleParams(found.heading(), subtitle=lines, fontSize=14)
    chart = alt.layer(tiles, numbers, diamond.encode(**at))
    return themed(chart.properties(width=width, height=height, title=title), theme)


def _cells(found: StrategyMap) -> list[dict[str, Any]]:
    """A tile for each spot; some say how much faster the best strategy is."""
    across, up = _borders(found.rates), _borders(found.ratios, relative=True)
    rates, ratios = _some(found.rates), _some(found.ratios)
    return [
        {
            "strategy": spot.best.strategy,
            "choice": str(spot.best),
            "speedup": spot.best.speedup_over_ar,
            "rate": rate,
            "ratio": ratio,
            "label": f"{spot.best.speedup_over_ar:.1f}" if rate in rates and ratio in ratios else "",
            **dict(zip(("left", "right", "low", "high"), (*across[rate], *up[ratio]), strict=True)),
        }
        for spot in found.spots
        for rate, ratio in [(spot.acceptance_rate, spot.speed_ratio)]
    ]


def _some(values: Sequence[float]) -> set[float]:
    """About `LABELS` of the values, none at the edge."""
    step = max(1, round(len(values) / LABELS))
    return set(values[step // 2 : -1 : step])


def _borders(values: Sequence[float], relative: bool = False) -> dict[float, tuple[float, float]]:
    """The two ends of the tile of each value, halfway to its neighbours; `relative` on an axis of logarithms."""

    def between(low: float, high: float) -> float:
        return sqrt(low * high) if relative else (low + high) / 2

    inner = [between(low, high) for low, high in pairwise(values)]
    return dict(zip(values, pairwise([values[0], *inner, values[-1]]), strict=True))
