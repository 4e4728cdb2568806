"""Colours of plans: one for each method and strategy, in every figure; for both themes, told apart by colour-blind readers.

A figure is drawn once, in the colours of the light theme. `as_variables` turns them into CSS variables, whose values a page
sets for each theme, so that one drawing serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.planning.under_load import Deployed
from specdec.pictures import INKS

METHODS: dict[tuple[str, str], tuple[str, str]] = {
    ("ar", "autoregressive"): ("#6E6E6E", "#A8A8A8"),
    ("draft_model", "speculative"): ("#0072B2", "#56B4E9"),
    ("draft_model", "pearl"): ("#C04E00", "#F08A3C"),
    ("eagle3", "speculative"): ("#007F5F", "#2FC79B"),
    ("eagle", "speculative"): ("#4A7300", "#A3D14B"),
    ("mtp", "speculative"): ("#A8457F", "#E29AC4"),
    ("ngram", "speculative"): ("#946800", "#E6B23C"),
}
"""By method and strategy: the colour on a light ground, and on a dark one."""

OTHERS = (("#7A4FA3", "#BFA2DD"), ("#9C2F2F", "#E58A8A"), ("#2E6E73", "#7FC7CC"))
LIMIT, FEWER, MORE = "#B3261E", "#5E81AC", "#B5654A"
"""Of limits and knees; of an input that is a fifth smaller, and of one that is a fifth larger."""

KINDS = {"#009E73": "#2FB58C", "#D55E00": "#E27A2B", "#E8B64C": "#C79A3A"}
"""Of pieces of a timeline."""


def colour_of(method: str, strategy: str) -> str:
    """The colour on a light ground."""
    known = METHODS.get((method, strategy))
    return (known or OTHERS[sum(map(ord, method + strategy)) % len(OTHERS)])[0]


def theme_pairs() -> list[tuple[str, str]]:
    """Every colour of a drawing, with what takes its place on a dark ground."""
    light, dark = INKS["light"], INKS["dark"]
    inks = [(getattr(light, name), getattr(dark, name)) for name in ("ground", "text", "faint", "waiting")]
    return [*inks, *METHODS.values(), *OTHERS, (LIMIT, "#FF8A80"), (FEWER, "#88A9D0"), (MORE, "#D98E72"), *KINDS.items()]


def as_variables(svg: str) -> str:
    """A drawing whose colours are variables of the page."""
    for number, (light, _) in enumerate(theme_pairs()):
        svg = svg.replace(f'"{light}"', f'"var(--c{number})"')
    return svg


def variables(theme: int) -> str:
    """The values of those variables as CSS; theme 0 is light, 1 is dark."""
    return " ".join(f"--c{number}: {pair[theme]};" for number, pair in enumerate(theme_pairs()))


def scale_of(plans: Sequence[Deployed]) -> dict[str, str]:
    """By label of plan: its colour."""
    return {plan.label: colour_of(plan.method, plan.strategy) for plan in plans}
