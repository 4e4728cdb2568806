"""The figures of the site, drawn at every build for the light and the dark palette. A hook of mkdocs; writes no file here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import altair as alt
import vl_convert
from maps import MAPS, map_of
from measured import NAMES, detail
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from rounds import PANELS, panel

from sim.pictures.plan_charts import latency_chart
from sim.pictures.plan_colours import theme_pairs
from sim.planning.candidates import Candidate
from sim.planning.methods import Method, Place
from sim.planning.objectives import objectives_of
from sim.planning.trials import Trials, fewest_replicas
from sim.planning.under_load import load_curve
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic
from specdec.pictures import INKS, Theme, strategy_scale

PALETTES: tuple[Theme, ...] = ("light", "dark")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `figures/NAME-PALETTE.svg` to the site."""
    drawings: dict[str, Callable[[Theme], Any]] = {
        "plan": plan_chart,
        **{f"speedup-{ratio}": partial(speedup_chart, ratio) for ratio in (3, 5, 10)},
        **{name: partial(panel, name) for name in PANELS},
        **{f"measured-{name}": partial(detail, name) for name in NAMES},
        **{f"map-{name}": partial(map_of, name) for name in MAPS},
    }
    for name, draw in drawings.items():
        for palette in PALETTES:
            files.append(File.generated(config, f"figures/{name}-{palette}.svg", content=svg(draw(palette), palette)))
    return files


def svg(chart: Any, palette: Theme) -> str:
    """A chart as text, on a transparent ground, in the inks of one palette."""
    drawn = vl_convert.vegalite_to_svg({**chart.to_dict(), **inked(palette)})
    for light, dark in theme_pairs() if palette == "dark" else ():  # charts of `sim.pictures.plan_charts` are drawn light
        drawn = drawn.replace(f'"{light}"', f'"{dark}"')
    return drawn


def inked(palette: Theme) -> dict[str, Any]:
    """The configuration of a chart on a page."""
    ink = INKS[palette]
    lines = {"gridColor": ink.faint, "domainColor": ink.faint, "tickColor": ink.faint, "titleFontWeight": "normal"}
    words = {"labelColor": ink.text, "titleColor": ink.text, "labelFontSize": 12, "titleFontSize": 12}
    title = {"color": ink.text, "subtitleColor": ink.text, "anchor": "start", "fontSize": 14, "subtitleFontSize": 12}
    config = {"font": "sans-serif", "view": {"stroke": None}, "axis": {**lines, **words}, "legend": words, "header": words}
    return {"background": "transparent", "config": {**config, "title": title}}


# --- what to expect


def speculative_speedup(a: float, c: float, g: int) -> float:
    """Over autoregressive decoding; acceptance `a`, speed ratio `c`, draft length `g`, and a window costs what a step does."""
    return sum(a**i for i in range(g + 1)) / (g / c + 1)


def pearl_speedup(a: float, c: float, g: int) -> float:
    """The same of PEARL, whose rounds take as long as the slower model."""
    tokens = sum(a**i for i in range(g)) / (1 + a - a**g)
    return tokens / max(g / c, 1)


def speedup_chart(ratio: int, palette: Theme) -> Any:
    """Each strategy at its best draft length, for one speed ratio."""
    laws = {"speculative": speculative_speedup, "pearl": pearl_speedup}
    rows = [
        {"strategy": name, "acceptance rate": a / 100, "speed-up": max(law(a / 100, ratio, g) for g in range(1, 33))}
        for name, law in laws.items()
        for a in range(30, 96)
    ]
    color = alt.Color("strategy:N", title=None, scale=strategy_scale(laws, palette), legend=alt.Legend(orient="bottom"))
    x = alt.X("acceptance rate:Q", scale=alt.Scale(domain=[0.3, 0.95], nice=False), axis=alt.Axis(tickCount=6, grid=False))
    lines = alt.Chart(alt.Data(values=rows)).mark_line(strokeWidth=2.2)
    lines = lines.encode(x=x, y=alt.Y("speed-up:Q", scale=alt.Scale(domain=[0.5, 7])), color=color)
    return lines.properties(width=260, height=200, title=f"Speed ratio {ratio}")


# --- a figure of a plan's report


def plan_chart(_: Theme) -> Any:
    """P90 of TTFT against load, of two plans that serve 10 requests/s: made by the code that makes the report."""
    system = System(Constant(0.001, 0.010, batches_are_free=True), shared=True)
    head = Method("eagle3", (Place("shared", system),), Rate(0.75), 3, "head", {"step": "assumed", "acceptance": "assumed"})
    plain = Method("ar", (Place("shared", system),), tags={"step": "assumed"})
    traffic = Traffic(Arrivals(10.0), Lengths(20), Lengths(100), 400)
    trials = Trials(traffic, objectives_of({"ttft-p90": "300ms"}), Server())
    candidates = (
        Candidate(head, head.places[0], "speculative", 3, max_batch=4),
        Candidate(plain, plain.places[0], "autoregressive", 0, max_batch=4),
    )
    loads = [load_curve(trials, one, fewest_replicas(trials, one, 16).replicas) for one in candidates]
    return latency_chart(loads, 0, "P90 TTFT", 0.3, trials.rate, 620)
