"""`specdec bench` on a small pair: its table, its JSON, its pictures, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_benchmarks import TEXTS

from specdec import Pair
from specdec.bench import BenchReport
from specdec.bench.prediction import PREDICTORS
from specdec.cli import main
from specdec.cli.options import ModelOptions


@pytest.fixture
def bench(pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`specdec bench` on the small pair, given token ids for texts."""
    monkeypatch.setattr(ModelOptions, "load", lambda *_, **__: pair)
    monkeypatch.setattr("specdec.prompts.bundled", lambda: TEXTS)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["bench", "--max-new-tokens", "6", "--repeats", "1", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(("columns", "predictor", "more"), [(80, True, 0), (110, True, 2), (110, False, 1)])
def test_the_table_fits_a_terminal(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, columns: int, predictor: bool, more: int
) -> None:
    if not predictor:
        monkeypatch.setattr("specdec.bench.prediction.PREDICTORS", replace(PREDICTORS, group="nowhere"))
    monkeypatch.setattr("specdec.cli.console.WIDTH", columns)
    code, out, _ = bench("--strategy", "pearl", "--strategy", "prompt_lookup", "--strategy", "speculative")
    assert code == 0
    rows = [line for line in out.splitlines() if re.match(r"\w+( \*)? +(-|auto=\d+|\d+) .* %", line)]
    assert len(rows) >= 2 * 8
    assert max(len(row.rstrip()) for row in rows) <= columns
    assert "…" not in out
    assert [heading in out for heading in ("Overhead:", "Predicted:")] == [more > 0, more > 1]
    assert {len(line.split()) for line in out.splitlines() if line.startswith("strategy")} == {9 + more}
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
    assert err == ""


def test_peers_on_the_command_line(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--strategy", "speculative", "--draft-lengths", "2", "--against", "hf")
    code, out, err = bench(*options, "--json", "-", "--output", str(tmp_path / "b.png"), "--output", str(tmp_path / "b.svg"))
    assert code == 0, err
    found = json.loads(out)
    names = ["autoregressive", "speculative", "hf_generate", "hf_assisted", "hf_assisted"]
    assert [row["strategy"] for row in found["results"]] == names * 2
    assert found["greedy_check"]["equal"]
    text = str(BenchReport.from_dict(found, "standard output"))
    assert re.search(r"(?m)^Our autoregressive is [\d.]+x hf_generate\.$", text)
    ours = r"(?m)^Our speculative \(draft length 2\) is .* hf_assisted \(draft length (?:2|default)\)\.$"
    assert len(re.findall(ours, text)) == 2
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "hf_assisted default" in (tmp_path / "b.svg").read_text()


def test_details_stand_beside_each_picture(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--strategy", "speculative", "--draft-lengths", "2", "--temperature", "1", "--details")
    code, _, err = bench(*options, "--output", str(tmp_path / "b.svg"), "--output", str(tmp_path / "b.png"))
    assert code == 0, err
    endings = ("", "-length", "-prompts", "-idle", "-position", "-predicted")
    assert {path.name for path in tmp_path.iterdir()} == {f"b{ending}{kind}" for ending in endings for kind in (".svg", ".png")}
    assert "Speed-up by prompt: sampled" in (tmp_path / "b-prompts.svg").read_text()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--against", "vllm"), ["'--against'", "'vllm'", "see specdec bench --help"]),
        (("--output", "bench.jpg"), ["bench.jpg", ".svg, .png, .html"]),
        (("--details",), ["--details is for pictures", "give --output"]),
        (("--theme", "dark"), ["--theme dark", "give --output"]),
        (("--draft-lengths", "2", "--strategy", "prompt_lookup"), ["--draft-lengths 2", "prompt_lookup", "leave it out"]),
        (("--draft-lengths", "2", "--target", "alone"), ["--draft-lengths 2", "no draft model", "leave it out"]),
        (("--draft-device", "cpu", "--target", "alone"), ["--draft-device cpu", "give --draft"]),
        (("--lane", "thread", "--target", "alone"), ["--lane thread", "give --draft"]),
        (("--draft", "small"), ["--draft small", "give --target"]),
        (("--prompt-tokens", "20"), ["--prompt-tokens", "give --prompts"]),
    ],
)
def test_what_bench_refuses_before_it_works(bench: Callable[..., Any], options: tuple[str, ...], parts: list[str]) -> None:
    code, out, err = bench(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts)
