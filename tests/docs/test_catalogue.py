"""What the site claims of strategies: a row for each built-in one, with the speeds that were measured."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sim.setup.profiles import measured_system
from specdec.bench import BenchReport
from specdec.pictures import STRATEGIES
from specdec.state import Costs
from specdec.strategy import available
from strategies import Pearl, Speculative

ROOT = Path(__file__).resolve().parents[2]
MEASURED = BenchReport.read(ROOT / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-24_bench_bfloat16.json")
DEMO = BenchReport.read(ROOT / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-26_bench_bfloat16.json")
SAMPLED = BenchReport.read(ROOT / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-26_bench_sampled_bfloat16.json")
XEON = BenchReport.read(ROOT / "benchmarks/results/cpu_intel_xeon_2_cores_2026-11-27_bench_bfloat16.json")
CATALOGUE = (ROOT / "docs/strategies/index.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "docs/reference/benchmarks.md").read_text(encoding="utf-8")
BUILT_IN = [name for name, cls in available().items() if cls.__module__.startswith("strategies.")]
ON_THE_PAGE = {
    "speculative": "speculative",
    "PEARL": "pearl",
    "elastic PEARL": "elastic",
    "prompt lookup": "prompt_lookup",
    "Hugging Face `generate`": "hf_generate",
    "Hugging Face, assisted": "hf_assisted",
}


def best(strategy: str, temperature: float, run: BenchReport = MEASURED) -> tuple[float, float, float]:
    """The speed-up at the draft length with the most tokens a second, and its interval."""
    found = [one for one in run.results if (one.strategy, one.temperature) == (strategy, temperature)]
    top = max(found, key=lambda one: one.tokens_per_second)
    assert top.speedup_over_ar_interval is not None
    return (round(top.speedup_over_ar, 2), *(round(end, 2) for end in top.speedup_over_ar_interval))  # type: ignore[return-value]


def times(one: Any) -> str:
    """The speed-up, and its interval."""
    return "{:.2f} ({:.2f} to {:.2f})".format(one.speedup_over_ar, *one.speedup_over_ar_interval)


def row(page: str, name: str) -> str:
    return next(line for line in page.splitlines() if line.startswith((f"| {name} |", f"| [`{name}`]")))


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_catalogue_has_a_row_and_a_page_for_each_strategy(name: str) -> None:
    found = row(CATALOGUE, name)
    assert name in STRATEGIES, "and a colour"
    assert (ROOT / f"docs/strategies/{name}.md").is_file()
    run = MEASURED if "in another run" in found else DEMO
    if "not in these runs" in found:
        assert not any(one.strategy == name for one in (*MEASURED.results, *DEMO.results))
    else:
        greedy, sampled = map(float, re.findall(r"(\d\.\d\d)x", found))
        assert (greedy, sampled) == (best(name, 0.0, run)[0], best(name, 1.0, run)[0])


@pytest.mark.parametrize("name", ON_THE_PAGE)
def test_the_page_of_benchmarks_says_what_was_measured(name: str) -> None:
    cells = re.findall(r"(\d\.\d\d) times \((\d\.\d\d) to (\d\.\d\d)\)", row(BENCHMARKS, name))
    assert [tuple(map(float, cell)) for cell in cells] == [best(ON_THE_PAGE[name], temperature) for temperature in (0.0, 1.0)]


@pytest.mark.parametrize("name", ["speculative", "PEARL", "Saguaro", "Adaptive"])
def test_the_page_of_benchmarks_says_what_was_measured_on_another_processor(name: str) -> None:
    cells = re.findall(r"(\d\.\d\d) times \((\d\.\d\d) to (\d\.\d\d)\)", row(BENCHMARKS, f"{name}, on the Xeon"))
    assert [tuple(map(float, cell)) for cell in cells] == [best(name.lower(), temperature, XEON) for temperature in (0.0, 1.0)]


def test_the_first_screen_shows_what_the_demo_printed() -> None:
    """The last table of the run of `make demo` that is committed, line by line."""
    ran = str(DEMO).splitlines()
    table = [line for line in ran[ran.index("Each at its best setting") :] if line]
    assert len(table) == 9
    assert "\n".join(table) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_page_says_what_the_page_of_errors_found() -> None:
    """Mean errors of the time per token of an engine, and of PEARL's speed-ups at each batch."""
    page = (ROOT / "docs/reference/validation.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    tpot = {row[1].strip(): row[2].strip() for row in rows if row[0].strip() == "TPOT"}
    pearl = sorted(row[2].strip().removesuffix(" %") for row in rows if row[1].strip() == "24")
    assert len(pearl) == 3
    first = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"off by {tpot['16 to 64']} on average at 16 to 64 clients, and by {tpot['256']} at 256" in first
    assert f"are off by {pearl[0]} to {pearl[-1]} % on average" in first


def test_the_page_of_forks_says_what_misses_cost() -> None:
    page = (ROOT / "docs/strategies/saguaro.md").read_text(encoding="utf-8").replace("\n", " ")
    ran = {one.strategy: one for one in sorted(SAMPLED.results, key=lambda one: one.tokens_per_second)}  # the fastest of each
    spent: dict[str, list[float]] = {}
    for name in ("pearl", "saguaro"):
        one = ran[name]
        tokens, target, neither = one.new_tokens / one.rounds, 1 - one.target_idle_share, one.overhead_share
        whole = 1000 * tokens / one.tokens_per_second
        spent[name] = [tokens, target * whole, (1 - target - neither) * whole, neither * whole, whole]
        cells = " | ".join(f"{value:.2f}" for value in spent[name])
        assert f"| `{name}`, {one.parameters['draft_length']} tokens" in page
        assert f"| {cells} |" in page
    one, own = ran["saguaro"], ran["saguaro"].measured
    tokens, _, alone, neither, whole = spent["saguaro"]
    assert own is not None
    assert own.foresight is not None
    foresight = own.foresight
    full = one.acceptance_histogram[4] / one.rounds
    missed = 1 - full * foresight.after_acceptance[0] - (1 - full) * foresight.after_rejection[0]
    allowed = 1000 * tokens / (1.15 * ran["pearl"].tokens_per_second)
    needed = [1 - missed * (1 - (now - allowed) / alone) for now in (whole, whole - neither + spent["pearl"][3])]
    before = SAMPLED.measured
    assert before is not None
    assert before.profile is not None
    system = measured_system(before.profile, 128)
    assert system.together is not None
    fork, beside = system.fork_seconds(5, 20, 4), system.target_seconds(5) * system.together.target_factor
    for said in (
        f"take it {1000 * float(fork):.1f} ms by the same run's profile, longer than the target's forward beside it, "
        f"{1000 * float(beside):.1f} ms",
        f"Saguaro is {one.tokens_per_second / ran['pearl'].tokens_per_second:.2f} times as fast",
        f"in {100 * missed:.0f} % of the rounds, for {alone / missed:.1f} ms each",
        f"may take {allowed:.2f} ms: {100 * needed[0]:.0f} % of the outcomes must be foreseen, or {100 * needed[1]:.0f} % if",
    ):
        assert said in page


def test_the_page_of_forks_has_the_foresight_that_was_measured() -> None:
    file = ROOT / "benchmarks/results/cpu_amd_epyc_2_cores_2026-11-27_bench_greedy_float32.json"
    measured = BenchReport.read(file).measured
    assert measured is not None
    page = (ROOT / "docs/strategies/saguaro.md").read_text(encoding="utf-8")
    for temperature, name in (("0", "greedy"), ("1", "temperature 1")):
        found = measured.foresight_by_temperature[temperature]
        for after, chances in (("a rejection", found.after_rejection), ("a full acceptance", found.after_acceptance)):
            assert f"| {name}, after {after} | {' | '.join(f'{chance:.2f}' for chance in chances[:6])} |" in page


def test_the_page_of_forks_has_the_hit_rates_that_were_counted() -> None:
    counted = json.loads(
        (ROOT / "benchmarks/results/cpu_intel_xeon_2_cores_2026-11-28_branches.json").read_text(encoding="utf-8")
    )
    page = (ROOT / "docs/strategies/saguaro.md").read_text(encoding="utf-8")
    for one in counted["results"]:
        shares = [f"{one[way]:.2f}" for way in ("equally", "published", "measured", "confidence", "known")]
        assert f"| {one['length']}, {one['branches']} | {' | '.join(shares)} |" in page
    *behind, complete = ([f"{chances[number - 1]:.2f}" for number in (1, 2, 3, 4, 6, 8)] for chances in counted["foresight"])
    for accepted, shown in [*enumerate(behind), (f"{len(behind)}, all", complete)]:
        assert f"| {accepted} | {' | '.join(shown)} |" in page


@pytest.mark.parametrize(
    ("machine", "name", "temperature"),
    [
        ("amd_epyc", "greedy_float32", 0),
        ("amd_epyc", "sampled_float32", 1),
        ("intel_xeon", "adaptive_bfloat16", 0),
        ("intel_xeon", "adaptive_bfloat16", 1),
    ],
)
def test_the_page_of_adaptive_says_what_was_measured(machine: str, name: str, temperature: float) -> None:
    run = BenchReport.read(ROOT / f"benchmarks/results/cpu_{machine}_2_cores_2026-11-27_bench_{name}.json")
    page = (ROOT / "docs/strategies/adaptive.md").read_text(encoding="utf-8").splitlines()
    [found] = [line for line in page if f"| `bench_{name}` |" in line and ("greedy" in line) == (temperature == 0)]
    results = [one for one in run.results if one.temperature == temperature]
    top = max((one for one in results if one.strategy != "adaptive"), key=lambda one: one.speedup_over_ar)
    [adaptive] = [one for one in results if one.strategy == "adaptive"]
    assert f"| {times(adaptive)} | `{top.strategy}`, {top.parameters['draft_length']} tokens: {times(top)} |" in found


def test_the_page_of_forks_compares_real_rounds_with_their_chain() -> None:
    """The chain at the seconds and hit rates of the decodes themselves, with the share in which neither model works."""
    page = (ROOT / "docs/strategies/saguaro.md").read_text(encoding="utf-8")
    errors: list[float] = []
    names = ("26_bench_bfloat16", "26_bench_sampled_bfloat16", "27_bench_greedy_float32", "27_bench_sampled_float32")
    for cpu, name in (*(("amd_epyc", name) for name in names), ("intel_xeon", "27_bench_bfloat16")):
        run = BenchReport.read(ROOT / f"benchmarks/results/cpu_{cpu}_2_cores_2026-11-{name}.json")
        forks = [one for one in run.results if one.strategy == "saguaro"]
        for temperature in sorted({one.temperature for one in forks}):
            compared: list[tuple[Any, float]] = []
            for one in forks:
                if one.temperature == temperature and one.closed_form_tokens_per_second:
                    seconds = 1 / one.closed_form_tokens_per_second + one.overhead_share / one.tokens_per_second
                    compared.append((one.parameters["draft_length"], 1 / seconds / one.tokens_per_second - 1))
            cells = ", ".join(f"{length}: {100 * error:+.1f} %" for length, error in sorted(compared))
            assert f"| {'Xeon' if cpu == 'intel_xeon' else 'EPYC'}, `{name}` | {temperature:g} | {cells} |" in page
            errors += [error for _, error in compared]
    assert len(errors) == 25
    assert f"at most {100 * max(map(abs, errors)):.1f} %, {100 * sum(map(abs, errors)) / 25:.1f} % on average" in page
    assert max(map(abs, errors)) < 0.05


def test_what_an_h100_gave_is_in_its_file() -> None:
    text = (ROOT / "benchmarks/results/gpu_nvidia_h100_80gb_hbm3_2026-11-27.json").read_text(encoding="utf-8")
    pair = json.loads(text)["pairs"][0]
    page = (ROOT / "docs/how-to/gpu.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[2:4] for line in page.splitlines() if len(cells := line.split("|")) == 5}

    def shown(name: str, temperature: float, length: int | None) -> str:
        found = [one for one in pair["results"] if (one["strategy"], one["temperature"]) == (name, temperature)]
        kept = [one for one in found if length in (None, one["parameters"].get("draft_length"))]
        best = max(kept, key=lambda one: one["speedup_over_ar"])
        if name == "autoregressive":
            return f"{best['tokens_per_second']:.0f} tok/s"
        low, high = best["speedup_over_ar_interval"]
        return f"{best['speedup_over_ar']:.2f} ({low:.2f} to {high:.2f})"

    for row, name, length in (
        ("autoregressive", "autoregressive", None),
        ("speculative, best length: 4", "speculative", None),
        ("elastic", "elastic", None),
        ("pearl, best length: 2", "pearl", None),
        ("pearl, length 8, which `auto` chose", "pearl", 8),
    ):
        for cell, temperature in zip(rows[row], (0.0, 1.0), strict=True):
            assert cell.strip().replace("*", "") == shown(name, temperature, length), row
    assert f"{pair['measured']['speed_ratio']:.1f} was measured" in page
    assert f"{pair['results'][0]['share_of_copy']:.0%}".replace("%", " %") in page


def test_batches_on_a_machine_that_changes_its_speed_are_in_their_file() -> None:
    text = (ROOT / "benchmarks/results/cpu_intel_xeon_2_cores_2026-11-27_batch_float32.json").read_text(encoding="utf-8")
    results = json.loads(text)["results"]
    page = (ROOT / "docs/how-to/batches.md").read_text(encoding="utf-8")
    errors = [100 * (one["predicted_tokens_per_second"] / one["tokens_per_second"] - 1) for one in results]
    gains = [f"{one['times_in_phase']:.2f}" for one in results if one["antiphase"]]
    assert f"{', '.join(gains[:-1])} and {gains[-1]} times as fast" in page
    assert f"all {len(errors)} predictions were {sum(map(abs, errors)) / len(errors):.0f} % off" in page
    assert f"{min(errors):.0f} to +{max(errors):.0f} %" in page


@pytest.mark.parametrize(("acceptance", "limit"), [(0.5, 6), (0.6, 7), (0.7, 9), (0.8, 13), (0.9, 24)])
def test_pages_name_the_speed_ratios_between_which_pearl_is_ahead(acceptance: float, limit: int) -> None:
    """By closed forms at the best lengths, where windows cost what a step does: from a ratio of 2 on, up to about the limit."""

    def gain(ratio: float) -> float:
        costs = Costs(ratio)
        pearl, speculative = (
            max(one.closed_form(acceptance, costs, length) for length in range(1, 60)) for one in (Pearl(1), Speculative(1))
        )
        return pearl / speculative

    assert min(gain(2 + step * (limit - 2) / 20) for step in range(21)) > 0.999
    assert gain(limit + 1) < 1
    page = (ROOT / "docs/how-to/which-strategy.md").read_text(encoding="utf-8")
    assert f"{limit} at {'acceptance ' if acceptance == 0.5 else ''}{acceptance}" in page
