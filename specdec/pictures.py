"""Themes, colours and files of charts. Colour-blind readers can tell the colours apart (Okabe and Ito 2008).

Knows no chart: `sim.pictures` and `specdec.bench.chart` draw them.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from specdec.errors import InputError

Theme: TypeAlias = Literal["light", "dark"]
PICTURES = (".svg", ".png", ".html")
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")


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


def save(chart: Any, path: str | Path, scale: float = 2.0) -> None:
    """Write a chart as .svg, .png, or .html that needs no network; the suffix decides, and `scale` enlarges a .png.

    Raises `InputError` for another suffix, and for a path that cannot be written.
    """
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
    """Turns the error of a file that cannot be written into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another path") from error
