"""The figures of the site, drawn at every build for the light and the dark palette. A hook of mkdocs; writes no file here.

The timeline is not drawn by hand: it drives the shipped strategies, with a stop-watch as the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import altair as alt
import polars as pl
import vl_convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

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
from specdec import Both, Committed, DecodingStrategy, Draft, Effect, Guess, KnownFacts, Score, Scores, Verdict, Verify
from specdec.effects import drive_at_once
from strategies import Autoregressive, Pearl, Speculative

INK = {"light": "#333842", "dark": "#d3d7e0"}
FAINT = {"light": "#d9dce3", "dark": "#454b59"}
COLOURS = {"autoregressive": "#7f8794", "speculative": "#e08a2c", "pearl": "#4c78d0"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `figures/NAME-PALETTE.svg` to the site."""
    for name, draw in {"timeline": timeline_chart, "speedup": speedup_chart, "plan": plan_chart}.items():
        for palette in INK:
            text = svg(draw(), palette)
            files.append(File.generated(config, f"figures/{name}-{palette}.svg", content=text))
    return files


def svg(chart: Any, palette: str) -> str:
    """A chart as text, on a transparent ground, in the inks of one palette."""
    ink, faint = INK[palette], FAINT[palette]
    axis = {"labelColor": ink, "titleColor": ink, "gridColor": faint, "domainColor": faint, "tickColor": faint}
    legend = {"labelColor": ink, "titleColor": ink}
    header = {"labelColor": ink, "titleColor": ink}
    chart = chart.configure(background="transparent", font="sans-serif", axis=axis, legend=legend, header=header)
    chart = chart.configure_view(stroke=None).configure_title(color=ink)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    for light, dark in theme_pairs() if palette == "dark" else ():  # charts of `sim.pictures.plan_charts` are drawn light
        drawn = drawn.replace(f'"{light}"', f'"{dark}"')
    return drawn


# --- who waits for whom


def rounds(strategy: DecodingStrategy, ratio: int, accepted: Callable[[int], bool]) -> Iterator[list[dict[str, Any]]]:
    """The bars of each round: a draft step takes 1, a target forward `ratio`; `accepted(i)` is the fate of a draft at `i`."""
    clock = 0.0
    bars: list[dict[str, Any]] = []

    def begin(effect: Effect[Any]) -> tuple[Any, float]:
        match effect:
            case Draft():
                bars.append({"who": "draft", "start": clock, "end": clock + effect.length, "label": f"{effect.length}"})
                return Guess.certain([0] * effect.length), clock + effect.length
            case Score():
                bars.append({"who": "target", "start": clock, "end": clock + ratio})
                return Scores(effect.committed, effect.guess), clock + ratio
            case _:
                raise TypeError(effect)

    def answer(effect: Effect[Any]) -> Any:
        nonlocal clock
        match effect:
            case Both(left, right):
                (one, first), (two, second) = begin(left), begin(right)
                clock = max(first, second)
                return one, two
            case Verify(scores, guess, bonus):
                window = range(len(scores.committed), len(scores.committed) + len(guess))
                count = next((i for i, position in enumerate(window) if not accepted(position)), len(guess))
                complete = count == len(guess)
                tokens = count + (bonus or not complete)
                bars[-1 if bars[-1]["who"] == "target" else -2]["label"] = f"+{tokens}"
                return Verdict(Committed((0,) * tokens), count, complete)
            case _:
                value, clock = begin(effect)
                return value

    state = strategy.init(Committed((0,)), KnownFacts(ratio))
    while True:
        bars = []
        state = drive_at_once(strategy.step(state), answer)
        yield bars


def timeline_chart() -> Any:
    """Rounds of three strategies on the same text, of which every seventh draft is refused; c = 4, draft length 4."""
    until = 48
    rows = [
        {"strategy": strategy.name, **bar}
        for strategy in (Autoregressive(), Speculative(4), Pearl(4))
        for bars in islice(rounds(strategy, 4, lambda position: position % 7 != 0), 40)
        for bar in bars
        if bar["end"] <= until
    ]
    ticks = alt.Axis(grid=False, values=list(range(0, until + 1, 4)))
    base = alt.Chart(pl.DataFrame(rows)).encode(
        y=alt.Y("who:N", title=None, sort=["target", "draft"], axis=alt.Axis(domain=False, ticks=False)),
        x=alt.X("start:Q", title="time, in draft steps", scale=alt.Scale(domain=[0, until], nice=False), axis=ticks),
    )
    bars = base.mark_bar(height=17, cornerRadius=2, stroke="white", strokeWidth=0.5).encode(
        x2="end:Q",
        color=alt.Color("strategy:N", legend=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))),
        opacity=alt.condition("datum.who == 'target'", alt.value(1), alt.value(0.55)),
    )
    labels = base.mark_text(color="white", fontSize=10, align="center", fontWeight="bold").encode(x="middle:Q", text="label:N")
    layers = alt.layer(bars, labels).transform_calculate(middle="(datum.start + datum.end) / 2")
    header = alt.Header(labelOrient="top", labelAnchor="start")
    row = alt.Row("strategy:N", title=None, sort=list(COLOURS), header=header)
    return layers.properties(width=560, height=56).facet(row=row)


# --- what to expect


def speculative_speedup(a: float, c: float, g: int) -> float:
    """Over autoregressive decoding; acceptance `a`, speed ratio `c`, draft length `g`, and a window costs what a step does."""
    return sum(a**i for i in range(g + 1)) / (g / c + 1)


def pearl_speedup(a: float, c: float, g: int) -> float:
    """The same of PEARL, whose rounds take as long as the slower model."""
    tokens = sum(a**i for i in range(g)) / (1 + a - a**g)
    return tokens / max(g / c, 1)


def speedup_chart() -> Any:
    """Each at its best draft length, for three speed ratios."""
    rows = [
        {"acceptance rate": a / 100, "speed-up over autoregressive": max(law(a / 100, c, g) for g in range(1, 33)), **names}
        for c in (3, 5, 10)
        for law, strategy in ((speculative_speedup, "speculative"), (pearl_speedup, "pearl"))
        for names in [{"strategy": strategy, "ratio": f"speed ratio {c}"}]
        for a in range(30, 96)
    ]
    scale = alt.Scale(domain=list(COLOURS)[1:], range=list(COLOURS.values())[1:])
    lines = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(strokeWidth=2.2)
        .encode(
            x=alt.X("acceptance rate:Q", scale=alt.Scale(domain=[0.3, 0.95], nice=False), axis=alt.Axis(tickCount=6)),
            y=alt.Y("speed-up over autoregressive:Q", scale=alt.Scale(domain=[0.5, 7])),
            color=alt.Color("strategy:N", title=None, scale=scale, legend=alt.Legend(orient="bottom")),
        )
        .properties(width=175, height=190)
    )
    return lines.facet(column=alt.Column("ratio:N", title=None, sort=["speed ratio 3", "speed ratio 5", "speed ratio 10"]))


# --- a figure of a plan's report


def plan_chart() -> Any:
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
