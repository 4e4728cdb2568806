"""Who works when: a detailed run as a picture of two bars, and as a trace that Perfetto opens.

A drafted token has the colour of its fate: accepted, rejected (its verdict said no) or wasted (never asked about, since
something before it was rejected).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.events import run_stream
from sim.stream.run import Model, Span
from specdec.pictures import INKS, Theme, themed
from specdec.strategy import DecodingStrategy

MORE_ROUNDS = 8
"""Simulated behind the ones that are shown, so that the fate of what was drafted last is known."""
MOST_TOKENS = 100_000

KINDS = {
    "target forward": "#0072B2",
    "draft accepted": "#009E73",
    "draft rejected": "#D55E00",
    "draft wasted": "#E8B64C",
    "waiting": "",
}


@dataclass(frozen=True)
class Timeline:
    """The first rounds of a decode: work in order of its start, the clock at the end of each round, tokens committed in it."""

    spans: tuple[Span, ...]
    round_end_seconds: tuple[float, ...]
    round_tokens: tuple[int, ...]

    @property
    def seconds(self) -> float:
        return self.round_end_seconds[-1]

    def idle_share(self, lane: Model) -> float:
        """Share of the time shown in which a model does nothing."""
        return 1 - sum(span.end_seconds - span.start_seconds for span in self.spans if span.lane == lane) / self.seconds


def timeline(strategy: DecodingStrategy, acceptance: Acceptance, system: System, rounds: int = 10, seed: int = 0) -> Timeline:
    """Simulate the first `rounds` rounds in detail."""
    run = run_stream(strategy, acceptance, system, tokens=MOST_TOKENS, rounds=rounds + MORE_ROUNDS, seed=seed, detailed=True)
    return Timeline(
        tuple(span for span in run.spans if span.round < rounds),
        tuple(run.round_end_seconds[:rounds].tolist()),
        tuple(run.round_tokens[:rounds].tolist()),
    )


def pieces(shown: Timeline) -> list[dict[str, Any]]:
    """A target forward or a single drafted token each: `lane`, `kind`, `start` and `end` in milliseconds, `round`, `rows`."""
    found: list[dict[str, Any]] = []
    for span in shown.spans:
        start, end = 1e3 * span.start_seconds, 1e3 * span.end_seconds
        common = {"lane": span.lane, "round": span.round + 1}
        if span.lane == "target":
            found.append({**common, "kind": "target forward", "start": start, "end": end, "rows": span.width})
        step = (end - start) / max(1, len(span.fates))
        for i, fate in enumerate(span.fates):
            times = {"start": start + i * step, "end": start + (i + 1) * step}
            found.append({**common, "kind": f"draft {fate}", **times, "rows": None})
    return found


def waits(shown: Timeline) -> list[dict[str, Any]]:
    """Where a model that works at all does nothing, in the same shape as `pieces`."""
    found: list[dict[str, Any]] = []
    for lane in ("target", "draft"):
        spans = [span for span in shown.spans if span.lane == lane]
        ends = [0.0, *(span.end_seconds for span in spans)]
        starts = [*(span.start_seconds for span in spans), shown.seconds]
        for start, end in zip(ends, starts, strict=True):
            if spans and end - start > 1e-9:
                found.append(
                    {"lane": lane, "kind": "waiting", "start": 1e3 * start, "end": 1e3 * end, "round": None, "rows": None}
                )
    return found


def timeline_chart(shown: Timeline, title: str, theme: Theme = "light") -> Any:
    """The picture. Thin lines end rounds, with the tokens they committed; numbers in target bars are rows scored."""
    ink = INKS[theme]
    colors = [color or ink.waiting for color in KINDS.values()]
    total = 1e3 * shown.seconds
    x = alt.X("start:Q", title="milliseconds", scale=alt.Scale(domain=[0, total], nice=False), axis=alt.Axis(grid=False))
    y = alt.Y(
        "lane:N",
        title=None,
        sort=["target", "draft"],
        axis=alt.Axis(domain=False, ticks=False, labelFontSize=14),
        scale=alt.Scale(paddingInner=0.25, paddingOuter=0.12),
    )
    color = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=[*KINDS], range=colors),
        legend=alt.Legend(orient="bottom", columns=5, symbolType="square", symbolSize=180),
    )
    bars = alt.Chart(alt.Data(values=[*waits(shown), *pieces(shown)])).encode(x=x, x2="end:Q", y=y)
    blocks = bars.mark_bar(stroke=ink.ground, strokeWidth=1, height=alt.RelativeBandSize(1)).encode(
        color=color,
        tooltip=["kind:N", "round:Q", alt.Tooltip("start:Q", format=".3f"), alt.Tooltip("end:Q", format=".3f"), "rows:Q"],
    )
    rows = (
        bars.transform_filter("datum.kind == 'target forward'")
        .transform_calculate(middle="(datum.start + datum.end) / 2")
        .mark_text(color="white", fontSize=13)
        .encode(x="middle:Q", x2=alt.Undefined, text="rows:Q")
    )
    rounds = alt.Chart(alt.Data(values=_rounds(shown)))
    ends = rounds.mark_rule(color=ink.text, strokeDash=[3, 3], opacity=0.7).encode(x="end:Q")
    counts = rounds.mark_text(color=ink.text, fontSize=12, baseline="bottom", dy=-4).encode(
        x="middle:Q", y=alt.value(0), text="label:N"
    )
    subtitle = (
        f"{len(shown.round_tokens)} rounds, {sum(shown.round_tokens)} tokens in {total:.1f} ms. "
        "Above each round: tokens committed. In target bars: rows scored."
    )
    chart = alt.layer(blocks, rows, ends, counts).properties(
        width=max(1000, 50 * len(shown.round_tokens)), height=150, title=alt.TitleParams(title, subtitle=subtitle, offset=22)
    )
    return themed(chart, theme)


def _rounds(shown: Timeline) -> list[dict[str, Any]]:
    ends = [1e3 * end for end in shown.round_end_seconds]
    starts = [0.0, *ends[:-1]]
    return [
        {"end": end, "middle": (start + end) / 2, "label": f"+{tokens}"}
        for start, end, tokens in zip(starts, ends, shown.round_tokens, strict=True)
    ]


def chrome_trace(shown: Timeline) -> dict[str, Any]:
    """Chrome's trace event format (times in microseconds), which ui.perfetto.dev and chrome://tracing open."""
    threads = {"target": 1, "draft": 2}
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": lane}} for lane, thread in threads.items()
    ]
    events = [
        {
            "name": piece["kind"],
            "cat": piece["lane"],
            "ph": "X",
            "pid": 1,
            "tid": threads[piece["lane"]],
            "ts": 1e3 * piece["start"],
            "dur": 1e3 * (piece["end"] - piece["start"]),
            "args": {"round": piece["round"]} | ({"rows": piece["rows"]} if piece["rows"] else {}),
        }
        for piece in pieces(shown)
    ]
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}


def text_bars(shown: Timeline, width: int) -> list[str]:
    """The two bars and a legend for a terminal `width` columns wide, in rich's markup. A letter stands for each colour."""
    marks = {
        "target forward": "[white on blue]T[/]",
        "draft accepted": "[black on green]a[/]",
        "draft rejected": "[white on red]r[/]",
        "draft wasted": "[black on yellow]w[/]",
        "waiting": "[dim].[/]",
        "end of round": "[bold]|[/]",
    }
    columns = max(20, width - 10)
    milliseconds = 1e3 * shown.seconds / columns
    ends = {min(columns - 1, int(1e3 * end / milliseconds)) for end in shown.round_end_seconds}
    lines: list[str] = []
    for lane in ("target", "draft"):
        found = [piece for piece in pieces(shown) if piece["lane"] == lane]
        cells: list[str] = []
        for column in range(columns):
            middle = (column + 0.5) * milliseconds
            kind = next((piece["kind"] for piece in found if piece["start"] <= middle < piece["end"]), "waiting")
            cells.append(marks["end of round" if column in ends else kind])
        lines.append(f"{lane:<7}{''.join(cells)}")
    return [*lines, "       " + "  ".join(f"{mark} {kind}" for kind, mark in marks.items())]
