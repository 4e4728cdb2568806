"""One look for all pictures: two themes, colours for colour-blind readers too (Okabe and Ito 2008), saving by suffix."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import altair as alt

from specdec import InputError

Theme: TypeAlias = Literal["light", "dark"]
PICTURES = (".svg", ".png", ".html")
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")


@dataclass(frozen=True)
class Ink:
    """Colours that depend on the ground."""

    ground: str
    text: str
    faint: str
    waiting: str


INKS: dict[Theme, Ink] = {
    "light": Ink("#FFFFFF", "#222222", "#C8C8C8", "#ECECEC"),
    "dark": Ink("#14161A", "#E8E8E8", "#4A4E57", "#2A2E36"),
}


def themed(chart: Any, theme: Theme) -> Any:
    """`chart` on the ground of `theme`."""
    ink = INKS[theme]
    return (
        chart.configure(background=ink.ground, padding=16, font="sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=ink.text,
            titleColor=ink.text,
            gridColor=ink.faint,
            domainColor=ink.faint,
            tickColor=ink.faint,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            gridOpacity=0.6,
            labelFlush=False,
        )
        .configure_legend(labelColor=ink.text, titleColor=ink.text, labelFontSize=12, titleFontSize=12, labelLimit=300)
        .configure_title(color=ink.text, subtitleColor=ink.text, anchor="start", fontSize=15, subtitleFontSize=12)
    )


def save(chart: Any, path: str | Path, scale: float = 2.0) -> None:
    """Write a picture as its suffix says: .svg, .png, or .html that needs no network."""
    path = Path(path)
    if path.suffix not in PICTURES:
        raise InputError(f"picture {path} has no known format: end its name in {', '.join(PICTURES)}")
    with writing(path):
        if path.suffix == ".html":
            chart.save(str(path), inline=True)
        else:
            chart.save(str(path), scale_factor=scale)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """A file that cannot be written is an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another place") from error


def speed_chart(points: Sequence[dict[str, Any]], title: str, subtitle: str, theme: Theme = "light") -> Any:
    """Speed-up over autoregressive decoding against draft length.

    `points` hold `strategy`, `draft_length`, `speedup_over_ar` and `kind`: `compiled` is a line, `simulated` a dot,
    `measured` a cross. A point without a draft length is drawn as a level line.
    """
    names = list(dict.fromkeys(point["strategy"] for point in points))
    color = alt.Color("strategy:N", title=None, scale=alt.Scale(domain=names, range=[*SERIES][: len(names)]))
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
    layers = alt.layer(lines, dots, crosses).properties(width=640, height=360, title=alt.TitleParams(title, subtitle=subtitle))
    return themed(layers, theme)
