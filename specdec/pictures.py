"""Themes, colours and files of charts. A strategy has one colour in every picture, by its name.

Colour-blind readers can tell the colours apart (a test simulates them, after Machado et al. 2009), and points by their shapes.
Each colour has a contrast of at least 4.5 on its ground. Knows no chart: `sim.pictures` and `specdec.bench.chart` draw them.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from zlib import crc32

from specdec.errors import InputError

Theme: TypeAlias = Literal["light", "dark"]
PICTURES = (".svg", ".png", ".html")
SHADES = 128
FITS = (
    "<style>body { margin: 0; } #vis.vega-embed { display: block !important; padding: 0 !important; }"
    " #vis.vega-embed svg { max-width: 100%; height: auto; }</style>"
)

STRATEGIES: dict[str, tuple[str, str]] = {
    "autoregressive": ("#6E6E6E", "#A8A8A8"),
    "speculative": ("#0072B2", "#56B4E9"),
    "pearl": ("#C04E00", "#F08A3C"),
    "elastic": ("#9B16F3", "#CD2FF4"),
    "saguaro": ("#426E35", "#5CFF0A"),
    "hedged": ("#A30300", "#F42A63"),
    "prompt_lookup": ("#5A2416", "#F9BA90"),
    "adaptive": ("#050122", "#A9FCC7"),
    "suffix": ("#0502C2", "#DB985D"),
    "hf_generate": ("#303030", "#EFEFEF"),
    "hf_assisted": ("#16315A", "#B6D7ED"),
}
"""By name: the colour on a light ground, and on a dark one."""

SHAPES = {
    "pearl": "square",
    "elastic": "triangle-up",
    "saguaro": "diamond",
    "hedged": "triangle-down",
    "prompt_lookup": "triangle-right",
    "suffix": "triangle-left",
    "adaptive": "cross",
}
"""Points by name, where colours alone would not do; all others are circles."""

OTHERS = (("#9B088C", "#F42AB7"), ("#5200A3", "#F8DE77"), ("#814BD2", "#259367"), ("#E00043", "#B4702D"))
"""Of strategies of other packages."""


@dataclass(frozen=True)
class Ink:
    """Colours of a theme: of the background, of text, of grid lines, and of idle time."""

    ground: str
    text: str
    faint: str
    waiting: str


INKS: dict[Theme, Ink] = {
    "light": Ink("#FFFFFF", "#222222", "#C8C8C8", "#ECECEC"),
    "dark": Ink("#14161A", "#E8E8E8", "#4A4E57", "#2A2E36"),
}


def colours_of(strategies: Iterable[str]) -> dict[str, tuple[str, str]]:
    """By name of strategy: its colour on a light ground, and on a dark one.

    Another package's strategy has the colour of `OTHERS` that its name decides. Two of them in one picture that would share a
    colour get different ones, as long as there are any.
    """
    found: dict[str, tuple[str, str]] = {}
    for name in strategies:
        first = crc32(name.encode()) % len(OTHERS)
        wheel = OTHERS[first:] + OTHERS[:first]
        free = [pair for pair in wheel if pair not in found.values()]
        found[name] = STRATEGIES.get(name) or (free or wheel)[0]
    return found


def strategy_scale(strategies: Iterable[str], theme: Theme) -> Any:
    """A scale of altair that gives each strategy its colour, in the order of first mention."""
    from altair import Scale

    colours = colours_of(strategies)
    return Scale(domain=[*colours], range=[pair[theme == "dark"] for pair in colours.values()])


def shape_scale(strategies: Iterable[str]) -> Any:
    """A scale of altair that gives the points of each strategy their shape, in the order of first mention."""
    from altair import Scale

    names = list(dict.fromkeys(strategies))
    return Scale(domain=names, range=[SHAPES.get(name, "circle") for name in names])


def themed(chart: Any, theme: Theme) -> Any:
    """`chart` with the colours and fonts of `theme`."""
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


def save(chart: Any, *paths: str | Path) -> None:
    """Write a chart into each path, as .svg, .png, or .html that needs no network; the suffix decides.

    A .png is twice as large, with at most `SHADES` colours, which keeps it small. An .html is no wider than its window.

    Raises `InputError` for another suffix, and for a path that cannot be written.
    """
    for path in map(Path, paths):
        if path.suffix not in PICTURES:
            raise InputError(f"picture {path} has no known format: end its name in {', '.join(PICTURES)}")
        with writing(path):
            if path.suffix == ".html":
                page = chart.to_html(inline=True, embed_options={"renderer": "svg"})
                path.write_text(page.replace("<head>", "<head>" + FITS, 1), encoding="utf-8")
            elif path.suffix == ".png":
                from PIL import Image

                drawn = io.BytesIO()
                chart.save(drawn, format="png", scale_factor=2)
                Image.open(drawn).convert("RGB").quantize(SHADES, dither=Image.Dither.NONE).save(path, optimize=True)
            else:
                chart.save(str(path))


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turns the error of a file that cannot be written into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another path") from error
