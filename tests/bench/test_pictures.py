"""Colours and files of pictures: readable, told apart by colour-blind readers, the same everywhere, small."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from numpy.typing import NDArray

from specdec.pictures import INKS, OTHERS, SHAPES, STRATEGIES, Theme, colours_of, save, shape_scale, strategy_scale, themed
from specdec.strategy import available

FIRST_SCREEN = ("speculative", "pearl", "elastic", "hedged", "saguaro")
THEMES: tuple[Theme, ...] = ("light", "dark")
SIGHTS = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "trichromat": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(colour: str) -> NDArray[np.float64]:
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, two: str) -> float:
    dark, light = sorted(float(linear(colour) @ (0.2126, 0.7152, 0.0722)) for colour in (one, two))
    return (light + 0.05) / (dark + 0.05)


def lab(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (
        np.cbrt(value) if value > 0.008856 else 7.787 * value + 16 / 116
        for value in matrix @ np.clip(colour, 0, 1) / (0.9505, 1, 1.089)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(one: str, two: str, sight: str) -> float:
    matrix = np.array(SIGHTS[sight])
    return float(np.linalg.norm(lab(matrix @ linear(one)) - lab(matrix @ linear(two))))


@pytest.mark.parametrize("theme", THEMES)
def test_colours_and_text_are_read_on_their_ground(theme: Theme) -> None:
    ink = INKS[theme]
    for colour in [*(pair[theme == "dark"] for pair in (*STRATEGIES.values(), *OTHERS)), ink.text]:
        assert contrast(colour, ink.ground) >= 4.5, colour


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", THEMES)
def test_every_reader_tells_the_colours_apart(theme: Theme, sight: str) -> None:
    for one, two in combinations((*STRATEGIES.values(), *OTHERS), 2):
        assert distance(one[theme == "dark"], two[theme == "dark"], sight) >= 14, (one, two)


def test_a_confusing_pair_is_seen() -> None:
    assert distance("#C04E00", "#946800", "deutan") < 14 < distance("#C04E00", "#946800", "trichromat")


def test_a_strategy_has_the_same_colour_in_any_company() -> None:
    assert colours_of(["pearl"])["pearl"] == colours_of(["mine", "speculative", "pearl"])["pearl"]
    assert colours_of(["mine"])["mine"] == colours_of(["pearl", "mine"])["mine"]
    assert len(set(colours_of(f"other{n}" for n in range(len(OTHERS))).values())) == len(OTHERS)
    assert len(colours_of(f"other{n}" for n in range(9))) == 9


def test_every_built_in_strategy_has_a_colour_of_its_own() -> None:
    ours = [name for name, cls in available().items() if cls.__module__.startswith("strategies.")]
    assert set(ours) <= STRATEGIES.keys()
    assert len(set(STRATEGIES.values())) == len(STRATEGIES)


def test_a_png_is_small(tmp_path: Path) -> None:
    values = [{"x": n, "y": n * n % 17, "s": name} for n in range(60) for name in STRATEGIES]
    scale = strategy_scale(STRATEGIES, "dark")
    chart = alt.Chart(alt.Data(values=values)).mark_line().encode(x="x:Q", y="y:Q", color=alt.Color("s:N", scale=scale))
    save(themed(chart.properties(width=900, height=500), "dark"), tmp_path / "chart.png")
    written = (tmp_path / "chart.png").read_bytes()
    assert len(written) < 100_000
    assert written[25] == 3, "a palette, not colours for each pixel"


def test_points_of_what_is_compared_most_differ_in_shape_too() -> None:
    assert set(SHAPES) <= set(STRATEGIES)
    scale = shape_scale([*FIRST_SCREEN, "pearl", "mine"])
    assert scale.domain == [*FIRST_SCREEN, "mine"]
    assert len(set(scale.range[: len(FIRST_SCREEN)])) == len(FIRST_SCREEN)
    assert scale.range[-1] == "circle"
