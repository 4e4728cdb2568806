"""The page of a plan: every part is there, it asks nobody for anything, and its numbers are the plan's."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from plan_worlds import AR, DRAFT, OBJECTIVES, decided, world

from sim.pictures.plan_colours import METHODS, colour_of, theme_pairs
from sim.pictures.plan_figures import figures_of
from sim.pictures.plan_report import command_of, emphasised, plan_report, sentences, weakest_tags, write_plan_report
from sim.planning.curves import curves
from sim.planning.study import reported
from specdec.errors import InputError
from specdec.report import three_digits

SECTIONS = ("verdict", "plans", "rejected", "attainment", "load", "pareto", "lengths", "rounds", "cache", "sensitivity")
CHARTS = ("attainment", "ttft-p90", "e2e-p90", "goodput", "pareto", "lengths", "rounds", "cache", "sensitivity")

NOTHING_ELSE: dict[str, Any] = {"attained": (), "frontiers": (), "lengths": None, "timelines": (), "caches": ()}
"""For tests that draw few figures, since drawing takes its time."""


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> str:
    _, plan, found = world()
    return plan_report(
        replace(plan, command=("--gpu", "H100", "--arrivals", "poisson:18/s", "--seed", "0"), files={"a": "12"}), found
    )


def test_every_part_stands_in_its_order(page: str) -> None:
    found = [attributes["id"] for tag, attributes in Page(page).tags if tag == "section"]
    assert found == [*SECTIONS, "provenance", "command"]


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    tags = Page(page).tags
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {tag for tag, _ in tags}
    assert not [attributes for _, attributes in tags if {"src", "href", "xlink:href", "onload"} & set(attributes)]


def test_every_chart_is_drawn_once_or_for_both_widths(page: str) -> None:
    drawn = Counter(str(attributes.get("aria-label")) for tag, attributes in Page(page).tags if tag == "svg")
    assert sum(drawn.values()) == 3 + 2 * 6  # three panels, and six figures for wide and narrow windows
    assert all(count in (2, 3) for count in drawn.values())
    assert page.count("<path") > 100


def test_names_within_drawings_are_their_own(page: str) -> None:
    names = Counter(attributes["id"] for _, attributes in Page(page).tags if "id" in attributes)
    assert max(names.values()) == 1
    asked = set(re.findall(r"url\(#([^)]+)\)", page))
    assert asked
    assert asked <= set(names)


def test_both_themes_and_paper(page: str) -> None:
    """All colours of drawings are variables, which both themes set, and paper has the light ones."""
    light, dark = (page.index(text) for text in (":root {", "@media screen and (prefers-color-scheme: dark) { :root {"))
    assert light < dark
    drawings = page[page.index('<section id="attainment">') : page.index('<section id="provenance">')]
    assert not re.findall(r'"#[0-9A-Fa-f]{3,6}"', drawings)
    used = set(re.findall(r"var\(--(c\d+)\)", page))
    assert len(used) > 6
    for name in used:
        assert page.count(f"--{name}: #") == 2


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast(page: str) -> None:
    pairs = theme_pairs()
    (ground, text), muted = pairs[:2], re.findall(r"--muted: (#\w+)", page)
    strip, link = (re.findall(rf"--{name}: (#\w+)", page) for name in ("strip", "link"))
    for theme in range(2):
        for words in (text[theme], muted[theme], link[theme]):
            assert contrast(words, ground[theme]) >= 4.5
        assert contrast(muted[theme], strip[theme]) >= 4.5
        assert contrast(pairs[4:][1][theme], ground[theme]) >= 4.5  # words in the bars of a target
        assert all(contrast(colours[theme], ground[theme]) >= 4.5 for colours in METHODS.values())


def test_the_verdict_and_the_table_are_the_plan_s(page: str) -> None:
    _, plan, _ = world()
    text = Page(page).text
    assert " ".join(plan.verdict.split()) in text
    for one in plan.plans:
        assert one.name in text
        for number in (one.ttft_ms, one.tpot_ms or 0, one.e2e_ms, one.goodput, one.cost_per_hour or 0):
            assert three_digits(number) in text
    for one in plan.rejected:
        assert one.plan in text
        assert one.gate in text
    assert page.index("<strong>2 GPUs</strong>") < page.index("<h2>")


def test_a_time_that_no_request_has_is_a_dash() -> None:
    _, plan, found = world()
    quick = replace(plan, plans=(replace(plan.plans[0], tpot_ms=None),))
    assert re.search(r'<td class="number">\s*-\s*<', plan_report(quick, replace(found, **NOTHING_ELSE, loads=())))


def test_names_of_strangers_are_text(page: str) -> None:
    assert "a &lt;draft&gt;" in page
    assert "<draft>" not in page


def test_every_number_of_the_table_has_its_tag(page: str) -> None:
    _, plan, _ = world()
    table = page[page.index('<section id="plans">') : page.index('<section id="rejected">')]
    cells = re.findall(r'<td class="number">\s*([^<]*)(<sup title="(\w+)">(\w)</sup>)?', table)
    assert len(cells) == len(plan.plans) * 11
    assert {tag for _, _, tag, _ in cells} == {"assumed"}  # the traffic is
    assert weakest_tags(plan.plans) == {"step": "measured", "acceptance": "fitted", "traffic": "assumed", "exchange": "assumed"}
    provenance = page[page.index('<section id="provenance">') :]
    for what, tag, words in (
        ("step times", "measured", "a stop-watch"),
        ("acceptance", "fitted", "0.640"),
        ("traffic", "assumed", "18.0 requests/s"),
        ("exchange", "assumed", "there and back"),
        ("KV cache of a replica, ar", "", "640 tokens"),
        ("price", "assumed", "$2.50"),
    ):
        row = next(row for row in provenance.split("<tr>") if row.startswith(f"<td>{what}</td>"))
        assert f'"chip">{tag}<' in row if tag else "chip" not in row
        assert words in row


def test_the_command_makes_it_again(page: str) -> None:
    assert "specdec plan \\\n  --gpu H100 \\\n  --arrivals poisson:18/s \\\n  --seed 0" in page
    _, plan, found = world()
    few = replace(found, **NOTHING_ELSE, loads=())
    assert command_of(replace(plan, command=("--trace", "a b.csv"))) == "specdec plan \\\n  --trace 'a b.csv'"
    assert "made in Python" in plan_report(plan, few)


def test_small(page: str) -> None:
    assert len(page) < 600_000


def test_figures_stand_beside_the_page(tmp_path: Path) -> None:
    _, plan, found = world()
    few = replace(found, **NOTHING_ELSE)
    folder = write_plan_report(plan, few, tmp_path / "plan.html")
    assert (tmp_path / "plan.html").read_text("utf-8").startswith("<!doctype html>")
    names = {f"{name}{suffix}" for name in ("ttft-p90", "e2e-p90", "goodput", "sensitivity") for suffix in (".svg", ".png")}
    assert folder == tmp_path / "plan.figures"
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "goodput.svg").read_bytes().startswith(b"<svg")
    assert (folder / "goodput.png").read_bytes().startswith(b"\x89PNG")


def test_all_charts_have_names_of_files() -> None:
    _, plan, found = world()
    assert tuple(name for figure in figures_of(plan, found) for name in figure.panels) == CHARTS


@pytest.mark.parametrize(("name", "said"), [("plan.pdf", "end its name in .html"), ("nowhere/plan.html", "no folder")])
def test_paths_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    _, plan, found = world()
    with pytest.raises(InputError, match=said):
        write_plan_report(plan, found, tmp_path / name)


def test_a_page_without_a_plan_says_what_is_unmet() -> None:
    nothing = decided((AR, DRAFT), gpus=1)
    plan = reported(nothing)
    text = plan_report(plan, curves(nothing))
    found = [str(attributes["id"]) for tag, attributes in Page(text).tags if tag == "section"]
    assert found == ["verdict", "rejected", "load", "pareto", "provenance", "command"]
    assert "No plan meets the objectives" in Page(text).text


def test_objectives_may_be_missing(page: str) -> None:
    free = decided((AR,), objectives=())
    plan = reported(free)
    text = plan_report(plan, replace(curves(free), **NOTHING_ELSE))
    assert "no limit of latency" in text
    assert "P99 TTFT" in text
    assert all(str(one) in page for one in OBJECTIVES)


def test_emphasis_is_for_numbers_that_say_something() -> None:
    assert emphasised("draft model llama-3.2-1b, k = 5 up to 6 running; 2 GPUs ($5.00/h).") == (
        "draft model llama-3.2-1b, k = <strong>5</strong> up to 6 running; <strong>2 GPUs</strong> (<strong>$5.00/h</strong>)."
    )
    assert emphasised("P99 TTFT 382 of 500 ms, acceptance 0.548.") == (
        "P99 TTFT <strong>382 of 500 ms</strong>, acceptance <strong>0.548</strong>."
    )
    assert emphasised("a <b> & 3 %") == "a &lt;b&gt; &amp; <strong>3 %</strong>"


def test_sentences_end_at_full_stops_only() -> None:
    assert sentences("AR; 2 GPUs. TTFT 1.5 of 2.0 ms. Flips below 0.5. Step times table.") == [
        "AR; 2 GPUs.",
        "TTFT 1.5 of 2.0 ms.",
        "Flips below 0.5.",
        "Step times table.",
    ]


def test_a_method_has_one_colour() -> None:
    assert len({light for light, _ in theme_pairs()}) == len(theme_pairs())
    assert colour_of("draft_model", "pearl") != colour_of("draft_model", "speculative")
    assert colour_of("suffix", "speculative") == colour_of("suffix", "speculative")
