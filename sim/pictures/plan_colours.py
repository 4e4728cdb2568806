"""Colours of plans: one for each method and strategy, in every figure; for both themes, told apart by colour-blind readers.

A figure is drawn once, in the colours of the light theme. `as_variables` turns them into CSS variables, whose values a page
sets for each theme, so that one drawing serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.planning.under_load import Deployed
from specdec.pictures import INKS, OTHERS, STRATEGIES

METHODS: dict[tuple[str, str], tuple[str, str]] = {
    ("ar", "autoregressive"): STRATEGIES["autoregressive"],
    ("draft_model", "speculative"): STRATEGIES["speculative"],
    ("draft_model", "pearl"): STRATEGIES["pearl"],
    ("ngram", "speculative"): STRATEGIES["prompt_lookup"],
    ("eagle3", "speculative"): STRATEGIES["saguaro"],
    ("eagle", "speculative"): STRATEGIES["hf_assisted"],
    ("mtp", "speculative"): STRATEGIES["hedged"],
}
"""By method and strategy: the colour on a light ground, and on a dark one. Strategies keep theirs. Heads take
those of strategies that no plan holds."""

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
