"""What files are is told from their content; what is damaged, or of no known kind, is refused in one line that names it."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_files import BENCH, RESPONSE, SGLANG, SGLANG_LOG, SPECULATIVE, VLLM_LOG, guidellm, scrape, sglang_scrape, write

from sim.engines.reading import read_runs
from sim.engines.run import EngineRun, EngineRuns, Times
from specdec.errors import InputError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        (LFS, "pointer of Git LFS"),
        (json.dumps(BENCH)[:-20], "is no JSON, or breaks off"),
        ("[" * 100_000, "nested too deep|is no JSON"),
        ("[]", "an empty list"),
        ("{}", "JSON of no known kind: give JSON of vllm bench serve"),
        ('[1, "x", null]', "of no known kind"),
        ('[{}, "x", null]', "JSON of no known kind"),
        ("42", "of no known kind"),
        ("hello, world\n1, 2\n", "of no known kind"),
        ("target,method,k,max_concurrency\n", "has no column"),
        (json.dumps({**BENCH, "completed": 0, "failed": 50}), r"no request completed \(50 failed\)"),
        (json.dumps({**BENCH, "mean_itl_ms": float("nan")}), "mean_itl_ms is 'nan'"),
        (json.dumps({**BENCH, "mean_ttft_ms": "fast"}), "mean_ttft_ms is 'fast'"),
        (json.dumps({**BENCH, "mean_ttft_ms": -1.0}), "must be a time of at least 0"),
        (json.dumps({**BENCH, "mean_ttft_ms": True}), "mean_ttft_ms is 'True'"),
        (json.dumps({**BENCH, "duration": 0}), "seconds is 0"),
        (json.dumps({**BENCH, "max_concurrency": -3}), "max_concurrency is -3"),
        (json.dumps({**BENCH, "completed": 1e308}), r"completed is 1e\+308"),
        (json.dumps({**BENCH, "itls": 3, "ttfts": "x"}), "ttfts is no list"),
        (json.dumps({**SPECULATIVE, "spec_decode_per_position_acceptance_rates": [75.9, 54.3, 50.2]}), "are no shares"),
        (json.dumps({**SPECULATIVE, "spec_decode_per_position_acceptance_rates": [0.5, 0.7, 0.1]}), "never rise"),
        (json.dumps({**SPECULATIVE, "spec_decode_acceptance_length": 9.0}), "between 1 and 4"),
        (json.dumps({**SPECULATIVE, "speculative_config": "{method"}), "speculative_config '{method' is no JSON"),
        (json.dumps({**SPECULATIVE, "method": "ar"}), "drafted, says that it did not"),
        (json.dumps({"benchmarks": []}), "holds no benchmark"),
        (json.dumps({"benchmarks": [{"metrics": {}}]}), "no successful request"),
        (json.dumps({**SGLANG, "completed": 0}), "no request completed"),
        (json.dumps({**SGLANG, "backend": ""}), "does not name its backend"),
        (json.dumps({"meta_info": {"spec_verify_ct": 0, "completion_tokens": 3}}), "counts no round"),
        (json.dumps({"metrics": {"speculative_decoding": {"acceptance_histogram": "x"}}}), "counts no rounds"),
        (json.dumps({"metrics": {"speculative_decoding": {"acceptance_histogram": [0, 0]}}}), "holds no round"),
        (json.dumps({"format": "specdec.runs/1", "runs": [{"source": "a", "colour": 1}]}), "colour"),
        (json.dumps({"format": "specdec.runs/1", "runs": []}), "holds no run: give a file with JSON of vllm bench serve"),
        (json.dumps({"format": "specdec.profile/1"}), "JSON of no known kind"),
    ],
)
def test_damaged_and_unknown_files_are_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path / "run.json", text)
    with pytest.raises(InputError, match=rf"run\.json.*(?:{told})") as refused:
        read_runs([path], method="eagle3")
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for content, told in {
        b"\xff\xfe\x00{": "holds no text",
        gzip.compress(json.dumps(BENCH).encode())[:-9]: "breaks off or is damaged",
        b"\x1f\x8bnonsense": "breaks off or is damaged",
    }.items():
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match=told):
            read_runs([tmp_path / "a.json"])
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read \(No such file or directory\)"):
        read_runs([tmp_path / "nowhere.json"])
    with pytest.raises(InputError, match="no path is given"):
        read_runs([])


def test_a_folder_without_a_run_is_refused_and_one_with_a_broken_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match="holds no run"):
        read_runs([tmp_path])
    write(tmp_path / "a.json", BENCH)
    write(tmp_path / "deep" / "b.json", {"colour": 3})
    with pytest.raises(InputError, match=r"deep/b\.json is JSON of no known kind"):
        read_runs([tmp_path])
    write(tmp_path / "deep" / "b.json", [])
    with pytest.raises(InputError, match=r"deep/b\.json is an empty list"):
        read_runs([tmp_path])


WHOLE = {
    "bench": json.dumps(SPECULATIVE),
    "guidellm": json.dumps(guidellm()),
    "sglang": json.dumps(SGLANG),
    "response": json.dumps(RESPONSE),
    "scrape": scrape(2),
    "sglang scrape": sglang_scrape(2),
    "vllm log": VLLM_LOG,
    "sglang log": SGLANG_LOG,
}


@pytest.mark.parametrize("kind", WHOLE)
def test_files_that_break_off_anywhere_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    """No file that breaks off, or holds another value somewhere, ends in anything but runs or an `InputError`."""
    text, path = WHOLE[kind], tmp_path / "a.json"
    before = write(tmp_path / "before.prom", (scrape if kind == "scrape" else sglang_scrape)(1))
    outcomes, told = set[bool](), list[str]()
    step = max(1, len(text) // 40)
    changed = [text[:end] for end in range(step, len(text), step)]
    changed += [text[:at] + '"x"' + text[at + 1 :] for at in range(0, len(text), step)]
    for broken in (*changed, text):
        write(path, broken)
        try:
            outcomes.add(bool(read_runs([before, path] if "scrape" in kind else [path], method="eagle3", draft_length=3)))
        except InputError as error:
            outcomes.add(False)
            told.append(str(error))
    assert outcomes == {True, False}
    assert not [line for line in told if "\n" in line]


def test_what_was_read_is_written_and_read_back(tmp_path: Path) -> None:
    runs = read_runs([write(tmp_path / "a.json", BENCH), write(tmp_path / "b.json", SPECULATIVE)], method="eagle3")
    path = write(tmp_path / "runs.json", EngineRuns(runs).to_dict())
    assert read_runs([path]) == runs
    assert [run.gpu for run in read_runs([path], gpu="H100")] == ["H100", "H100"]
    assert EngineRuns.read(path).runs == runs


def test_a_file_of_another_draft_than_the_one_stated_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "run.json", {**SPECULATIVE, "method": "eagle3", "draft": "T/head"})
    assert read_runs([path], draft="T/head")[0].draft == "T/head"
    with pytest.raises(InputError, match="is a run of draft 'T/head', and --draft T/other was given: leave that out"):
        read_runs([path], draft="T/other")


def test_the_table_of_runs_shows_what_is_known() -> None:
    runs = EngineRuns(
        (
            EngineRun("a/b.json", clients=4, tpot=Times(0.025), output_tokens=100, seconds=2.0),
            EngineRun("a/c.json", method="mtp", draft_length=2, itl=Times(median=0.03), failed=3, requests=7, dataset="random"),
        )
    )
    text = str(runs)
    assert "2 runs of a/" in text
    assert text.splitlines()[4].split() == ["ar", "-", "4", "-", "-", "25.0", "-", "-", "50.0", "b.json"]
    assert text.splitlines()[5].split() == ["mtp", "2", "-", "-", "-", "-", "30.0", "-", "-", "c.json"]
    assert "a/c.json: 3 requests failed; the latencies are those of the 7 others." in text
    assert "random tokens" in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"seconds": float("inf")},
        {"output_tokens": -1},
        {"method": "mtp"},
        {"method": "mtp", "draft_length": 1, "by_position": (0.5, 0.4)},
        {"method": "mtp", "draft_length": 2, "by_position": (0.5, 0.6)},
        {"method": "mtp", "draft_length": 2, "acceptance_length": 0.9},
        {"method": "mtp", "draft_length": 2, "acceptance_length": 2.3, "by_position": (0.8, 0.7)},  # conditional ones
        {"method": "mtp", "draft_length": 2, "acceptance_length": 2.7, "by_position": (0.8, 0.7)},
        {"method": "mtp", "draft_length": 3, "acceptance_length": 2.3, "by_position": (0.8, 0.7)},
        {"method": "mtp", "draft_length": 2, "accepted": (5, 0, 3, 1)},
    ],
)
def test_a_run_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="here"):
        EngineRun("here", **wrong)  # type: ignore[arg-type]


def test_reports_of_one_acceptance_may_differ_by_rounding() -> None:
    run = EngineRun("here", method="mtp", draft_length=2, acceptance_length=2.55, by_position=(0.8, 0.7), accepted=(1, 2, 3, 0))
    assert run.acceptance_length == 2.55
    assert replace(run, draft_length=3, acceptance_length=3.2).by_position == (0.8, 0.7)  # the third rate is not known


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"gpu": "L40S"}, "says gpu 1x H100 80GB, and L40S was given: leave that out, or correct the file"),
        ({"gpus": 4}, "says gpus 2, and 4 was given"),
        ({"clients": 5}, "says clients 11, and 5 was given"),
        ({"seconds": 50.0}, r"says seconds 100\.0, and 50\.0 was given"),
    ],
)
def test_a_measurement_is_not_told_otherwise(tmp_path: Path, known: dict[str, Any], told: str) -> None:
    said = {"gpu": "1x H100 80GB", "gpus": 2, "kv_tokens": 69_232, "method": "ar"}
    path = write(tmp_path / "run.json", {**BENCH, **said})
    (run,) = read_runs([path], gpu="NVIDIA H100", gpus=2, clients=11, seconds=100.0, kv_tokens=9, target="other")
    assert (run.target, run.gpus, run.kv_tokens) == ("other", 2, 9)
    with pytest.raises(InputError, match=told):
        read_runs([path], **known)
    silent = write(tmp_path / "silent.json", {**BENCH, "method": "ar", "max_concurrency": None})
    assert read_runs([silent], gpu="L40S", gpus=4, clients=5, kv_tokens=9)[0].clients == 5  # 50 were assumed
    again = write(tmp_path / "runs.json", EngineRuns(read_runs([silent])).to_dict())
    assert read_runs([again], gpus=4)[0].gpus == 4
