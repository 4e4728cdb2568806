"""The benchmark: fair order, paired comparisons, what is reported, and what is left when it ends early."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from models import minuscule, resembling

from specdec import (
    Committed,
    DecodingStrategy,
    Draft,
    Guess,
    InputError,
    Pair,
    Program,
    State,
    Statistics,
    Verdict,
    create,
    prompts,
)
from specdec.bench import BASELINE, Benchmark, Contender, Speed, compared, line_up, report
from specdec.bench.report import difference
from specdec.decoding import Result, decode

TEXTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    target = minuscule(64, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as made:
        yield made


def strategies() -> list[DecodingStrategy]:
    return [create(BASELINE), create("speculative", draft_length=2), create("pearl", draft_length=3)]


def small(pair: Pair, **options: Any) -> Benchmark:
    settings: dict[str, Any] = {"temperatures": (0.0, 1.0), "max_new_tokens": 6, "repeats": 2, **options}
    return Benchmark(pair, settings.pop("strategies", strategies()), settings.pop("texts", TEXTS), **settings)


def finished(benchmark: Benchmark) -> Benchmark:
    for _ in benchmark:
        pass
    return benchmark


@pytest.fixture(scope="module")
def measurement(pair: Pair) -> dict[str, Any]:
    return json.loads(json.dumps(report(finished(small(pair)))))


# --- ratios and intervals


def speeds(seconds: Any, faster: float = 1.0) -> Speed:
    seconds = np.asarray(seconds, float)
    return Speed(np.full(seconds.shape, 10.0), seconds / faster)


def test_a_machine_that_slows_down_between_repeats_changes_no_ratio() -> None:
    slow = np.array([[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]])
    ratio, interval = compared(speeds(slow, faster=1.5), speeds(slow))
    assert ratio == pytest.approx(1.5)
    assert interval == pytest.approx([1.5, 1.5])


def test_one_disturbed_repeat_changes_no_ratio() -> None:
    """Comparing each one's median repeat would say 0.9: the hiccup in the third makes the slow second ours, not theirs."""
    slow = np.array([[1.0], [5.0], [3.0]])
    hiccup = np.array([[1.0], [1.0], [10.0]])
    assert compared(speeds(slow * hiccup, faster=1.5), speeds(slow))[0] == pytest.approx(1.5)


def test_the_ratio_is_that_of_all_tokens_over_all_seconds() -> None:
    """Averaging the ratios of prompts instead would say 1.25: the long prompt counts for more."""
    ratio, _ = compared(speeds([[1.0, 9.0]]), speeds([[2.0, 4.5]]))
    assert ratio == pytest.approx(0.65)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        ours, theirs = (random.lognormal(0, 0.2, (5, 12)) for _ in range(2))
        low, high = compared(speeds(ours, faster=1.2), speeds(theirs))[1]
        held += low < 1.2 < high
    assert 85 <= held <= 100


def test_the_interval_shrinks_with_less_noise() -> None:
    random = np.random.default_rng(2)

    def width(noise: float) -> float:
        low, high = compared(speeds(random.lognormal(0, noise, (3, 8))), speeds(random.lognormal(0, noise, (3, 8))))[1]
        return high - low

    assert width(0.02) < width(0.4) / 4


# --- who runs when


def test_every_cell_has_every_contender_in_turn_on_the_same_prompt_and_seed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def recorded(pair: Pair, strategy: DecodingStrategy, prompt: Any, **options: Any) -> Result:
        asked.append((Contender(strategy, options["temperature"]), tuple(prompt), options["seed"], options["max_new_tokens"]))
        return decode(pair, strategy, prompt, **options)

    monkeypatch.setattr("specdec.bench.run.decode", recorded)
    benchmark = finished(small(pair))
    n = len(benchmark.contenders)
    warm_up, cells = asked[:n], [asked[i : i + n] for i in range(n, len(asked), n)]
    assert len(asked) + 1 == len(benchmark)
    assert {contender for contender, *_ in warm_up} == {*benchmark.contenders}
    assert len(cells) == 2 * len(TEXTS)
    for cell in cells:
        assert {contender for contender, *_ in cell} == {*benchmark.contenders}
        assert len({rest for _, *rest in ((c, p, s, m) for c, p, s, m in cell) for rest in [tuple(rest)]}) == 1
    assert [cell[0][1] for cell in cells] == [tuple(text) for text in TEXTS] * 2
    assert len({cell[0][2] for cell in cells}) == len(cells)  # no two cells draw the same random numbers
    assert all(a[0][0] != b[0][0] for a, b in pairwise(cells))  # nobody always begins


def test_contenders_of_the_default_line_up(pair: Pair) -> None:
    fast = SimpleNamespace(draft=pair.draft, speed_ratio=6.2)
    lengths = lengths_by_name(line_up(fast))  # type: ignore[arg-type]
    assert lengths[BASELINE] == [None]
    assert lengths["speculative"] == [1, 2, 3, 4, 6]
    assert lengths["pearl"] == ["auto", 3, 5, 7]
    assert lengths["prompt_lookup"] == [8]
    slow = SimpleNamespace(draft=pair.draft, speed_ratio=0.9)
    assert lengths_by_name(line_up(slow))["pearl"] == ["auto", 2]  # type: ignore[arg-type]


def lengths_by_name(lined_up: list[DecodingStrategy]) -> dict[str, list[Any]]:
    names = dict.fromkeys(strategy.name for strategy in lined_up)
    return {name: [s.parameters.get("draft_length") for s in lined_up if s.name == name] for name in names}


def test_chosen_contenders(pair: Pair) -> None:
    full = lengths_by_name(line_up(pair, full=True))
    assert full["speculative"] == [*range(1, 9)]
    assert full["pearl"] == ["auto", *range(1, 9)]
    chosen = lengths_by_name(line_up(pair, ["pearl"], [2, 5]))
    assert chosen == {BASELINE: [None], "pearl": ["auto", 2, 5]}


def test_without_a_draft_only_what_needs_none_is_measured(pair: Pair) -> None:
    alone = Pair(pair.target)
    assert {*lengths_by_name(line_up(alone))}.isdisjoint({"pearl", "speculative"})
    measured = report(finished(small(alone, strategies=line_up(alone, ["prompt_lookup"]), temperatures=(0.0,))))
    assert measured["measured"]["draft_step_seconds"] is None
    assert measured["settings"]["draft_lane"] is None
    assert [row["strategy"] for row in measured["results"]] == [BASELINE, "prompt_lookup"]


# --- what is reported


def test_the_report_has_the_agreed_shape(measurement: dict[str, Any]) -> None:
    assert measurement.keys() >= {"pair", "hardware", "settings", "measured", "results"}
    assert measurement["measured"].keys() == {
        "target_step_seconds",
        "target_window_seconds",
        "draft_step_seconds",
        "speed_ratio",
        "acceptance_rate",
    }
    assert measurement["measured"]["target_window_seconds"].keys() == {"1", "2", "4", "8"}
    assert measurement["hardware"].keys() >= {"cpu", "cores", "devices", "torch", "date"}
    for row in measurement["results"]:
        assert row.keys() >= {
            "strategy",
            "parameters",
            "temperature",
            "tokens_per_second",
            "speedup_over_ar",
            "speedup_over_ar_interval",
            "mean_acceptance_length",
            "draft_acceptance_rate",
            "acceptance_histogram",
            "target_idle_share",
            "draft_idle_share",
            "rounds",
            "new_tokens",
        }


def test_the_numbers_are_those_of_the_decodes(pair: Pair, measurement: dict[str, Any]) -> None:
    assert len(measurement["results"]) == 2 * len(strategies())
    for row in measurement["results"]:
        strategy = create(row["strategy"], **row["parameters"])
        total = Statistics()
        for repeat in range(2):
            for number, text in enumerate(TEXTS):
                seed = repeat * len(TEXTS) + number
                total += decode(pair, strategy, text, max_new_tokens=6, temperature=row["temperature"], seed=seed).statistics
        assert row["rounds"] == total.rounds == sum(row["acceptance_histogram"].values())
        assert row["new_tokens"] == total.new_tokens == 36
        assert row["mean_acceptance_length"] == total.mean_acceptance_length
        assert row["draft_acceptance_rate"] == total.draft_acceptance_rate
        assert row["tokens_per_second"] > 0
        low, high = row["speedup_over_ar_interval"]
        assert 0 < low <= high
        if row["strategy"] == BASELINE:
            assert [low, high, row["speedup_over_ar"]] == [1, 1, 1]


def test_the_pair_is_measured(pair: Pair, measurement: dict[str, Any]) -> None:
    measured = measurement["measured"]
    assert 0 < measured["target_step_seconds"] < 1
    assert 0 < measured["draft_step_seconds"] < 1
    assert measured["speed_ratio"] == pair.speed_ratio
    assert 0 < measured["acceptance_rate"] < 1
    twins = Pair(pair.target, pair.target, lane="inline")
    assert report(finished(small(twins)))["measured"]["acceptance_rate"] == pytest.approx(1)


def test_the_ranking_compares_the_best_of_each_strategy(pair: Pair) -> None:
    """Made-up seconds: pearl's second setting is the fastest, and speculative's first is its best."""
    lined_up = [create(BASELINE), *(create(n, draft_length=k) for n in ("speculative", "pearl") for k in (1, 2))]
    benchmark = small(pair, strategies=lined_up, temperatures=(1.0,), texts=[[1]], repeats=3)
    for _ in range(3):
        seconds = dict(zip(benchmark.contenders, (8.0, 4.0, 5.0, 3.0, 2.0), strict=True))
        benchmark.cells.append(
            {c: Result((1, 2), "", "length", Statistics(new_tokens=2, decode_seconds=s)) for c, s in seconds.items()}
        )
    done = report(benchmark)
    assert [row["tokens_per_second"] for row in done["results"]] == [0.25, 0.5, 0.4, pytest.approx(2 / 3), 1.0]
    assert [row["speedup_over_ar"] for row in done["results"]] == pytest.approx([1, 2, 1.6, 8 / 3, 4])
    assert done["ranking"] == [
        {
            "temperature": 1.0,
            "fastest": {"strategy": "pearl", "parameters": {"draft_length": 2}},
            "against": [
                {
                    "strategy": "speculative",
                    "parameters": {"draft_length": 1},
                    "times_as_fast": 2.0,
                    "interval": [2.0, 2.0],
                },
                {"strategy": BASELINE, "parameters": {}, "times_as_fast": 4.0, "interval": [4.0, 4.0]},
            ],
        }
    ]


# --- greedy outputs


@dataclass(frozen=True)
class Hasty(DecodingStrategy):
    """Commits a drafted token that nobody verified."""

    name: ClassVar[str] = "hasty"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 1)
        return state.then(Verdict(Committed(guess.tokens), 1, True))


def test_greedy_outputs_are_checked_token_for_token(pair: Pair) -> None:
    good = report(finished(small(pair, temperatures=(0.0,))))["greedy_check"]
    assert good == {"prompts": 3, "equal": True, "differences": []}
    bad = report(finished(small(pair, strategies=[*strategies(), Hasty()], max_new_tokens=24)))["greedy_check"]
    assert bad["equal"] is False
    assert {found["strategy"] for found in bad["differences"]} == {"hasty"}
    assert not any(found["tie"] for found in bad["differences"])


def test_a_difference_at_equal_logits_is_a_tie(pair: Pair) -> None:
    flat = minuscule(64, seed=3)
    with torch.no_grad():
        flat.get_output_embeddings().weight[5] = flat.get_output_embeddings().weight[6]
    tied = difference(Pair(flat), [1, 2], [7, 5, 3], [7, 6, 3])
    assert tied["position"] == 1
    assert tied["logit_margin"] < 1e-12
    assert tied["tie"]
    assert not difference(Pair(flat), [1, 2], [7, 5, 3], [7, 8, 3])["tie"]


def test_sampling_alone_has_no_greedy_check(pair: Pair) -> None:
    assert report(finished(small(pair, temperatures=(1.0,), repeats=1)))["greedy_check"] is None


# --- ending early


def test_a_time_limit_cuts_the_first_repeat_short(pair: Pair) -> None:
    done = report(finished(small(pair, seconds=0)))
    assert (done["settings"]["repeats"], done["settings"]["prompts"]) == (1, 1)
    assert all(row["new_tokens"] == 6 for row in done["results"])


@pytest.mark.parametrize(
    ("decodes", "shape"),
    [(6, (0, 0)), (6 + 3, (0, 0)), (6 + 6 + 2, (1, 1)), (6 + 6 * 3 + 1, (1, 3)), (6 + 6 * 5 + 5, (1, 3))],
)
def test_an_interrupt_leaves_whole_cells(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, decodes: int, shape: tuple[int, int]
) -> None:
    """Six contenders: a warm-up of six decodes, then six for each cell, three cells for each repeat."""
    count = 0

    def until(*arguments: Any, **options: Any) -> Result:
        nonlocal count
        count += 1
        if count > decodes:
            raise KeyboardInterrupt
        return decode(*arguments, **options)

    monkeypatch.setattr("specdec.bench.run.decode", until)
    benchmark = small(pair)
    with pytest.raises(KeyboardInterrupt):
        finished(benchmark)
    done = report(benchmark)
    assert (done["settings"]["repeats"], done["settings"]["prompts"]) == shape
    assert all(row["new_tokens"] == 6 * shape[0] * shape[1] for row in done["results"])
    assert len(done["results"]) == (6 if shape[0] else 0)


def test_a_prompt_over_the_context_is_named(pair: Pair) -> None:
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=16))
    with pytest.raises(InputError, match="prompt 2 has 16 tokens and the context holds 16"):
        small(limited, texts=[[1], [2] * 16])


# --- prompts


def test_the_bundled_prompts_are_of_three_kinds() -> None:
    texts = prompts.bundled()
    assert len(texts) == 12
    kinds = [
        sum(text.startswith(("def ", "import ", "class ")) for text in texts),
        sum(text.startswith("Question: ") and text.endswith("\nAnswer:") for text in texts),
        sum(text.split("\n")[0].endswith(":") and not text.startswith(("def ", "class ")) for text in texts),
    ]
    assert kinds == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.txt", "one\n\ntwo: 2\n", ["one", "two: 2"]),
        ("human.jsonl", '{"task_id": 1, "prompt": "def f():\\n"}\n', ["def f():\n"]),
        ("human.jsonl.gz", '{"prompt": "a"}\n{"prompt": "b"}', ["a", "b"]),
        ("gsm.jsonl", '{"question": "How many?", "answer": "3"}', ["Question: How many?\nAnswer:"]),
        ("mt.jsonl", '{"turns": ["first", "second"], "category": "x"}', ["first"]),
        ("unnamed", '{"prompt": "line\u2028separator"}', ["line\u2028separator"]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert prompts.load(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("empty.txt", b"\n \n", "holds no prompt: write one a line"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ("other.jsonl", b'{"text": "a"}', "line 1 has no prompt: write"),
        ("not.gz", b"plain", "cannot be read"),
        ("cut.gz", gzip.compress(b"plain text")[:-6], "cannot be read"),
        ("bytes.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=message) as caught:
        prompts.load(tmp_path / name)
    assert name in str(caught.value)


# --- the command


@pytest.fixture
def bench(pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`specdec bench` on the small pair, given token ids for texts."""
    from specdec.cli import main

    monkeypatch.setattr("specdec.cli.options.load_pair", lambda *_: pair)
    monkeypatch.setattr("specdec.prompts.bundled", lambda: TEXTS)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["bench", "--max-new-tokens", "6", "--repeats", "1", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


def test_the_table_fits_a_terminal_of_80_columns(bench: Callable[..., Any]) -> None:
    code, out, _ = bench("--strategy", "pearl", "--strategy", "prompt_lookup", "--strategy", "speculative")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith((" autoregressive", " pearl", " spec", " prompt"))]
    assert len(rows) >= 2 * 8
    assert max(len(row.rstrip()) for row in rows) <= 80
    assert "Greedy (temperature 0)" in out
    assert "Sampled (temperature 1)" in out
    assert "on 3 prompts" in out


def test_json_on_standard_output_is_alone(bench: Callable[..., Any]) -> None:
    code, out, err = bench("--strategy", "speculative", "--draft-lengths", "1-2,4", "--temperature", "1", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert [row["parameters"].get("draft_length") for row in found["results"]] == [None, 1, 2, 4]
    assert found["settings"]["interrupted"] is False
    assert found["settings"]["prompts_file"] == "bundled"
    assert "tok/s" in err


@pytest.mark.parametrize(
    ("fastest", "interval", "expected"),
    [
        ("pearl", [1.1, 1.4], "pearl is the fastest at temperature 1: 1.25x speculative."),
        ("pearl", [0.9, 1.4], "pearl is the fastest at temperature 1: 1.25x speculative (within the noise: speculative)."),
        ("autoregressive", [1.1, 1.4], "Nothing beats autoregressive decoding at temperature 1: it is 1.25x speculative."),
    ],
)
def test_the_verdict_is_honest(fastest: str, interval: list[float], expected: str) -> None:
    from specdec.cli.bench import verdict

    ranking = {
        "temperature": 1.0,
        "fastest": {"strategy": fastest, "parameters": {}},
        "against": [{"strategy": "speculative", "parameters": {}, "times_as_fast": 1.25, "interval": interval}],
    }
    assert verdict(ranking) == expected
