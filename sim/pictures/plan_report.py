"""The report of a plan: one HTML file that asks nobody for anything, and each figure as SVG and PNG beside it.

Figures are inline SVG, not scripts: a page of some hundred kB that prints and opens everywhere, where a drawing library alone
would be 1.5 MB. The price is that nothing appears under the pointer, so numbers that matter are written out. One drawing serves
both themes, since its colours are variables of the page; a large one is drawn twice, for wide and for narrow windows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment
from markupsafe import Markup, escape

from sim.pictures.plan_colours import as_variables, variables
from sim.pictures.plan_figures import Figure, figures_of
from sim.planning.curves import Curves
from sim.planning.methods import WORST_FIRST, weakest
from sim.planning.report import SHOWN, Plan, Planned
from sim.planning.trials import NEGLIGIBLE
from specdec.acceptance import Tag
from specdec.errors import InputError
from specdec.pictures import save, themed, writing
from specdec.report import three_digits

NARROW, WIDE, PANEL = 350, 900, 440
"""Pixels of a figure in a narrow window, in a wide one, and of one of several beside each other."""

_NUMBER = r"\d+(?:[.,]\d+)*"
_EMPHASISED = re.compile(
    rf"(?<=k = ){_NUMBER}|(?<=acceptance ){_NUMBER}|\${_NUMBER}(?:/h)?|"
    rf"(?<![\w.\-]){_NUMBER}(?: of {_NUMBER})? (?:ms|%|GPUs?|requests/s|req/s)(?!\w)"
)
"""A number with its unit; without one, a draft length or an acceptance. Other numbers are parts of names."""
_SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Za-z])")
_INPUTS: Mapping[str, tuple[str, str]] = {
    "step": ("step times", ""),
    "acceptance": ("acceptance", ""),
    "traffic": ("traffic", ""),
    "exchange": ("exchange", "way of a round's tokens between two devices, there and back"),
    "off": ("speculation that is off", "a step without guesses takes 1.1 times as long while speculation is configured"),
    "kv_tokens": ("KV cache", ""),
    "foresight": ("foresight", "how often the draft of a fork foresees the outcome of a verification"),
}
"""By tag of a plan: what it is about, as provenance calls it, and what is to be said of it."""


def write_plan_report(plan: Plan, curves: Curves, path: str | Path) -> Path:
    """Write the page, and the figures into a folder of the same name that ends in `.figures`, which is returned.

    Raises `InputError` for a name that does not end in .html, and for a path that cannot be written.
    """
    path = checked(path)
    folder = path.with_suffix(".figures")
    with writing(path):
        path.write_text(plan_report(plan, curves), "utf-8")
        folder.mkdir(exist_ok=True)
    for figure in figures_of(plan, curves):
        for name, draw in figure.panels.items():
            chart = themed(draw(WIDE if len(figure.panels) == 1 else PANEL), "light")
            save(chart, folder / f"{name}.svg", folder / f"{name}.png")
    return folder


def checked(path: str | Path) -> Path:
    """The path of a report. Raises `InputError` for a suffix other than .html, and for a folder that does not exist."""
    path = Path(path)
    if path.suffix != ".html":
        raise InputError(f"report {path} is a page: end its name in .html")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written (no folder {path.parent}): make the folder, or choose another path")
    return path


def plan_report(plan: Plan, curves: Curves) -> str:
    """The page as text."""
    page = Environment(autoescape=True, trim_blocks=True).from_string(
        files("sim.pictures").joinpath("plan_report.html").read_text("utf-8")
    )
    simulated = [one for one in plan.rejected if not one.gate.startswith("screened")]
    tags = weakest_tags(plan.plans[:SHOWN])
    return page.render(
        title=f"Plan: {sentences(plan.verdict)[0]}",
        light=variables(0),
        dark=variables(1),
        verdict=[emphasised(sentence) for sentence in sentences(plan.verdict)],
        asked=_asked(plan),
        plans=[list(_row(plan, one)) for one in plan.plans[:SHOWN]],
        more=max(0, len(plan.plans) - SHOWN),
        rejected=simulated,
        screened=[one for one in plan.rejected if one not in simulated],
        figures=[_drawn(figure) for figure in figures_of(plan, curves)],
        rests=", ".join(f"{_INPUTS[what][0]} {tag}" for what, tag in tags.items()),
        provenance=list(_provenance(plan, tags)),
        files=plan.files,
        command=command_of(plan),
    )


def weakest_tags(plans: Sequence[Planned]) -> dict[str, Tag]:
    """By input: the weakest tag that it has in any of the plans."""
    found = weakest([one.tags for one in plans])
    return {what: found[what] for what in _INPUTS if what in found}


def sentences(text: str) -> list[str]:
    return _SENTENCE.split(text)


def emphasised(sentence: str) -> Markup:
    """A sentence whose numbers stand out, with their units; those in names do not."""
    parts, at = [Markup()], 0
    for found in _EMPHASISED.finditer(sentence):
        parts += [escape(sentence[at : found.start()]), Markup("<strong>{}</strong>").format(found[0])]
        at = found.end()
    return Markup().join([*parts, escape(sentence[at:])])


def command_of(plan: Plan) -> str:
    """The command that makes the plan again, an option on a line; empty for a plan that was made in Python."""
    if not plan.command:
        return ""
    lines = ["specdec plan"]
    for word in plan.command:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


# --- figures


@dataclass(frozen=True)
class _Drawn:
    """A figure as the template takes it."""

    name: str
    title: str
    caption: str
    panels: tuple[Markup, ...]


def _drawn(figure: Figure) -> _Drawn:
    several = len(figure.panels) > 1
    panels = [
        Markup().join(
            Markup('<div class="{}">{}</div>').format(kind, inline(draw(width), f"{name}-{kind or 'one'}", figure.title))
            for kind, width in ([("", PANEL)] if several else [("wide", WIDE), ("narrow", NARROW)])
        )
        for name, draw in figure.panels.items()
    ]
    return _Drawn(figure.name, figure.title, figure.caption, tuple(panels))


def inline(chart: Any, name: str, label: str) -> Markup:
    """A chart as SVG that may stand in a page beside others: its own names of clips, no address, colours as variables."""
    spec = themed(chart, "light").to_dict()
    spec["config"] |= {"aria": False, "padding": {"left": 0, "right": 8, "top": 8, "bottom": 4}}
    svg = as_variables(vl_convert.vegalite_to_svg(spec))
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'(id="|url\(#)', lambda found: f"{found[1]}{name}-", svg)
    return Markup(svg.replace("<svg ", Markup('<svg role="img" aria-label="{}" ').format(label), 1))


# --- tables


@dataclass(frozen=True)
class _Cell:
    """A cell of a table, with the weakest tag of what it rests on, and a remark below it."""

    heading: str
    text: str
    tag: str = ""
    below: str = ""


def _row(plan: Plan, one: Planned) -> Iterator[_Cell]:
    weakest = next(tag for tag in WORST_FIRST if tag in one.tags.values())
    yield _Cell("plan", one.name, below=" · ".join(f"{what} {tag[0]}" for what, tag in one.tags.items()))
    for heading, number in plan.numbers(one).items():
        yield _Cell(heading, number, "" if number == "-" else weakest)


def _asked(plan: Plan) -> str:
    parts = [f"{three_digits(plan.rate)} requests/s", f"prompts of {plan.input_tokens:,.0f} and answers of "]
    parts[-1] += f"{plan.output_tokens:,.0f} tokens on average"
    return ", ".join([*parts, *(map(str, plan.objectives) if plan.objectives else ["no limit of latency"])])


def _provenance(plan: Plan, tags: Mapping[str, Tag]) -> Iterator[tuple[str, str, str]]:
    """Name, tag, and words of every input."""
    by_name = {_INPUTS[what][0]: tag for what, tag in tags.items() if what in _INPUTS}
    numbers = dict[str, str]()
    if plan.plans and plan.plans[0].acceptance:
        rates = ", ".join(three_digits(rate) for rate in plan.plans[0].acceptance)
        numbers["acceptance"] = f"of all rounds, {rates} by position; "
    numbers["traffic"] = f"{_asked(plan).partition(', P')[0].partition(', mean ')[0]}; "
    for what, words in plan.provenance.items():
        yield what, by_name.get(what, ""), numbers.get(what, "") + words
    for what, (name, words) in _INPUTS.items():
        if what in tags and words:
            yield name, tags[what], words
    if plan.plans and plan.plans[0].extrapolated_share > NEGLIGIBLE:
        beyond = three_digits(100 * plan.plans[0].extrapolated_share)
        yield (
            "larger forwards",
            "extrapolated",
            f"{beyond} % of the best plan's time is in forwards beyond what was measured",
        )
    for name, tokens in plan.kv_pools.items():
        yield (
            f"KV cache of a replica, {name}",
            tags.get("kv_tokens", ""),
            "no limit known" if tokens is None else f"{tokens:,} tokens",
        )
    if plan.price is not None:
        yield "price", "assumed", f"${three_digits(plan.price)} of a GPU in an hour, as given"
