"""Files of vLLM: its benchmark, its sweeps, its metrics, its responses and its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_files import BENCH, LENGTH, RESPONSE, ROUND_MS, SPECULATIVE, TOKEN_MS, VLLM_LOG, read_one, scrape, write

from sim.engines.identify import sequences_of
from sim.engines.reading import read_runs
from sim.engines.run import EngineRun
from specdec.errors import InputError


def test_a_benchmark_without_speculation_is_autoregressive(tmp_path: Path) -> None:
    run = read_one(tmp_path / "a.json", BENCH)
    assert (run.method, run.draft_length, run.acceptance_length, run.by_position) == ("ar", 0, None, ())
    assert (run.target, run.clients, run.rate, run.requests, run.seconds) == ("T/target", 11, None, 50, 100.0)
    assert (run.input_tokens, run.output_tokens, run.throughput) == (5000, 10050, pytest.approx(100.5))
    assert (run.ttft.mean, run.ttft.median, run.ttft.p99) == pytest.approx((0.06, 0.055, 0.12))
    assert (run.itl.mean, run.itl.median, run.tpot.p99) == pytest.approx((0.025, 0.024, 0.026))
    assert run.running == pytest.approx(0.025 * 10_000 / 100), "of 11 clients, two and a half were decoded at once"


def test_a_speculative_benchmark_tells_its_length_and_asks_for_its_method(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json drafted and does not say how: give --method"):
        read_one(tmp_path / "a.json", SPECULATIVE)
    run = read_one(tmp_path / "a.json", SPECULATIVE, method="eagle3", draft="T/head", gpu="H100", gpus=2, kv_tokens=40_000)
    assert (run.method, run.draft_length, run.draft) == ("eagle3", 3, "T/head")
    assert (run.gpu, run.gpus, run.kv_tokens) == ("H100", 2, 40_000)
    assert (run.acceptance_length, run.rounds) == (LENGTH, 1000)
    assert run.by_position == (0.759, 0.543, 0.502)
    assert run.itl.mean == pytest.approx(ROUND_MS / 1000)
    with pytest.raises(InputError, match=r"shows that the engine drafted, and --method ar was given"):
        read_one(tmp_path / "a.json", SPECULATIVE, method="ar")
    with pytest.raises(InputError, match=r"draft_length 3, and --draft-length 4 was given"):
        read_one(tmp_path / "a.json", SPECULATIVE, method="eagle3", draft_length=4)


def test_old_versions_count_no_rounds_and_show_them_in_the_chunks(tmp_path: Path) -> None:
    old = {name: value for name, value in SPECULATIVE.items() if not name.startswith("spec_")}
    with pytest.raises(InputError, match="give --draft-length"):
        read_one(tmp_path / "a.json", old, method="mtp")
    run = read_one(tmp_path / "a.json", old, method="mtp", draft_length=3)
    assert run.acceptance_length == pytest.approx(ROUND_MS / TOKEN_MS)


def test_runs_with_and_without_speculation_are_read_together(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.json", BENCH), write(tmp_path / "b.json.gz", SPECULATIVE)]
    runs = read_runs(paths, method="draft_model", draft="T/small")
    assert [(run.method, run.draft_length, run.draft) for run in runs] == [("ar", 0, ""), ("draft_model", 3, "T/small")]
    with pytest.raises(InputError, match=r"--method eagle3 is true of no run"):
        read_runs(paths[:1], method="eagle3")


CONFIG = {"method": "eagle3", "model": "T/head", "num_speculative_tokens": 3}


@pytest.mark.parametrize(
    "parameters",
    [
        {"speculative_config": CONFIG},
        {"speculative-config": json.dumps(CONFIG)},
        {f"speculative_config.{name}": value for name, value in CONFIG.items()},
        {"method": "eagle3", "draft": "T/head", "num_speculative_tokens": "3"},
    ],
    ids=["object", "text", "dotted", "metadata"],
)
def test_parameters_of_a_sweep_say_the_method(tmp_path: Path, parameters: dict[str, Any]) -> None:
    more = {"tensor_parallel_size": 2, "dataset_name": "random", "run_number": 0}
    run = read_one(tmp_path / "run=0.json", {**SPECULATIVE, **parameters, **more})
    assert (run.method, run.draft, run.draft_length, run.gpus, run.dataset) == ("eagle3", "T/head", 3, 2, "random")


def test_a_sweep_is_read_without_its_by_products(tmp_path: Path) -> None:
    for name, config in {"SERVE--none": None, "SERVE--spec": CONFIG}.items():
        run = {**(SPECULATIVE if config else BENCH), "speculative_config": config, "run_number": 0}
        write(tmp_path / name / "run=0.json", run)
        write(tmp_path / name / "summary.json", [run])
        write(tmp_path / name / "warmup.json", {**run, "run_number": -1})
    failure = {"run_number": 1, "error_type": "ValueError", "error": "no", "serve_overrides": {}, "bench_overrides": {}}
    note = write(tmp_path / "SERVE--spec" / "run=1.failure.json", failure)
    write(tmp_path / "plot.py", "print()")
    assert [(run.method, run.draft_length) for run in read_runs([tmp_path])] == [("ar", 0), ("eagle3", 3)]
    named = {
        note: r"note of a run that failed \(ValueError\)",
        tmp_path / "SERVE--spec" / "summary.json": "is the summary of a sweep, which repeats its runs",
        tmp_path / "SERVE--spec" / "warmup.json": "is the warm-up of a sweep, and no measurement",
    }
    for path, told in named.items():
        with pytest.raises(InputError, match=told):
            read_runs([path])


@pytest.mark.parametrize("setting", ["num_speculative_tokens_per_batch_size", "enable_adaptive_verification"])
def test_rounds_of_many_lengths_are_refused(tmp_path: Path, setting: str) -> None:
    config = {**CONFIG, setting: [[1, 64, 3], [65, 128, 1]]}
    with pytest.raises(InputError, match="no one length"):
        read_one(tmp_path / "a.json", {**SPECULATIVE, "speculative_config": config})


def test_arrays_of_single_requests_fill_what_the_summary_leaves_out(tmp_path: Path) -> None:
    gaps = {"ttfts": [0.1, 0.2, 0.0], "itls": [[0.01, 0.03], [0.02], []], "errors": ["", "", "lost"], "input_lens": [9, 9, 9]}
    short = {name: value for name, value in BENCH.items() if not name.endswith(("_itl_ms", "_ttft_ms"))}
    run = read_one(tmp_path / "a.json", {**short, **gaps, "completed": 2, "failed": 1, "duration": 1.0}, method="ar")
    assert (run.itl.mean, run.itl.median, run.ttft.mean) == pytest.approx((0.02, 0.02, 0.15))
    assert run.e2e.mean == pytest.approx(0.18)
    assert run.running == pytest.approx((0.18 - 0.15) * 2)
    assert run.failed == 1


def test_a_run_without_a_limit_has_all_requests_open(tmp_path: Path) -> None:
    assert read_one(tmp_path / "a.json", {**BENCH, "max_concurrency": None}).clients == 50
    run = read_one(tmp_path / "a.json", {**BENCH, "max_concurrency": None, "request_rate": 4.0})
    assert (run.clients, run.rate) == (None, 4.0)


def test_a_ceiling_that_was_never_reached_is_not_how_many_clients_there_were(tmp_path: Path) -> None:
    """With a rate it is no ceiling at all, and the mean number that ran counts: the most ran for a moment."""
    ceiling = {**BENCH, "max_concurrency": 256}
    assert read_one(tmp_path / "a.json", ceiling).clients == 11
    arriving = read_one(tmp_path / "a.json", {**ceiling, "request_rate": 4.0})
    assert (arriving.clients, sequences_of(arriving)) == (None, arriving.running)
    assert read_one(tmp_path / "a.json", {**BENCH, "max_concurrency": 8, "request_rate": 4.0}).clients == 8
    silent = {name: value for name, value in ceiling.items() if name != "max_concurrent_requests"}
    assert read_one(tmp_path / "a.json", silent).clients == 256, "older versions do not write it"


# --- metrics


@pytest.mark.parametrize("prefix", ["", "kserve_"])
def test_two_scrapes_are_one_run(tmp_path: Path, prefix: str) -> None:
    paths = [write(tmp_path / f"{calls}.prom", scrape(calls, prefix)) for calls in (2, 5)]
    (run,) = read_runs(paths, method="mtp", seconds=30.0)
    assert (run.method, run.draft_length, run.target) == ("mtp", 3, "T/target")
    assert (run.rounds, run.requests, run.input_tokens, run.output_tokens) == (3000, 150, 15_000, 8562)
    assert run.acceptance_length == pytest.approx(LENGTH)
    assert run.by_position == pytest.approx((0.759, 0.543, 0.502))
    assert (run.itl.mean, run.tpot.mean) == pytest.approx((ROUND_MS / 1e3, TOKEN_MS / 1e3))
    assert (run.ttft.mean, run.e2e.mean) == pytest.approx((0.06, 2.0))
    assert run.itl.median is None, "buckets are too coarse"
    assert run.kv_tokens == 2033 * 16
    assert run.running == pytest.approx(4), "1000 chunks in 250 steps"
    assert run.throughput == pytest.approx(8562 / 30)


def test_the_older_name_of_the_time_of_a_chunk_is_known(tmp_path: Path) -> None:
    older = {"inter_token_latency_seconds": "time_per_output_token_seconds"}
    paths = [write(tmp_path / f"{calls}.prom", scrape(calls, **older)) for calls in (1, 2)]
    (run,) = read_runs(paths, method="mtp")
    assert run.itl.mean == pytest.approx(ROUND_MS / 1000), "per_output_token was the time of a chunk"


def test_scrapes_that_make_no_run_are_refused(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{calls}.prom", scrape(calls)) for calls in (1, 2))
    with pytest.raises(InputError, match=r"2\.prom is a single scrape .* scrape before and after a load"):
        read_runs([two], method="mtp")
    with pytest.raises(InputError, match=r"generation_tokens_total fell, so the engine started again or .* wrong order"):
        read_runs([two, one], method="mtp")
    with pytest.raises(InputError, match=r"generation_tokens_total did not grow"):
        read_runs([two, two], method="mtp")
    later = write(tmp_path / "later.prom", scrape(3).replace("1.7e9", "1.8e9"))
    with pytest.raises(InputError, match="started again between the two"):
        read_runs([one, later], method="mtp")
    other = {"inter_token_latency_seconds": "token_gap_seconds"}
    renamed = [write(tmp_path / f"{calls}.txt", scrape(calls, **other)) for calls in (1, 2)]
    with pytest.raises(InputError, match=r"no vllm:inter_token_latency_seconds_count or vllm:time_per_output_token"):
        read_runs(renamed, method="mtp")
    engines = write(tmp_path / "two.prom", scrape(2) + scrape(2).replace('engine="0"', 'engine="1"'))
    with pytest.raises(InputError, match=r"holds 2 of engine \(0, 1\)"):
        read_runs([engines, engines], method="mtp")
    foreign = write(tmp_path / "tgi.prom", 'tgi_request_count{a="b"} 1\n')
    with pytest.raises(InputError, match=r"none of vLLM \(vllm:\.\.\.\) or SGLang"):
        read_runs([foreign, foreign])
    torn = write(tmp_path / "torn.prom", scrape(2)[:-40])
    with pytest.raises(InputError, match=r"torn\.prom line \d+ is no sample"):
        read_runs([one, torn], method="mtp")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"spec_decode_per_position_acceptance_rates": [0.759, 0.715, 0.7]}, "give 3.17 tokens a round, and the .* is 2.8: "),
        ({"spec_decode_acceptance_length": 1.2}, "give 2.8 tokens a round, and the acceptance length is 1.2"),
        ({"num_speculative_tokens": 5}, "num_speculative_tokens is 5, and 3 tokens were drafted in a round by its counters"),
        ({"num_speculative_tokens": 2}, "num_speculative_tokens is 2, and 3 tokens were drafted"),
    ],
)
def test_acceptance_that_contradicts_itself_is_refused(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_one(tmp_path / "a.json", {**SPECULATIVE, **wrong}, method="eagle3")


def test_rates_by_position_are_taken_before_the_time_of_chunks(tmp_path: Path) -> None:
    silent = {**SPECULATIVE, "spec_decode_acceptance_length": None, "mean_itl_ms": 2 * ROUND_MS}
    assert read_one(tmp_path / "a.json", silent, method="eagle3").acceptance_length == pytest.approx(LENGTH)


# --- responses and log


def test_a_histogram_of_other_rounds_than_were_counted_is_refused(tmp_path: Path) -> None:
    odd = json.loads(json.dumps(RESPONSE))
    odd["metrics"]["speculative_decoding"]["acceptance_histogram"] = [39, 1, 0, 30]
    with pytest.raises(InputError, match="acceptance_histogram counts 70 rounds, and num_spec_steps is 43"):
        read_one(tmp_path / "a.json", odd, method="ngram")
    odd["metrics"]["speculative_decoding"]["acceptance_histogram"] = [39, 1, 0, 2, 1]
    with pytest.raises(InputError, match="a round accepted 4 guesses, and the draft length is 3"):
        read_one(tmp_path / "a.json", odd, method="ngram")


def test_histograms_of_responses_become_shares_of_all_rounds(tmp_path: Path) -> None:
    run = read_one(tmp_path / "a.json", RESPONSE, method="ngram")
    assert (run.draft_length, run.rounds, run.accepted) == (3, 43, (39, 1, 0, 3))
    assert run.by_position == pytest.approx((4 / 43, 3 / 43, 3 / 43))
    assert run.acceptance_length == pytest.approx(1 + 10 / 43)
    both = "\n".join(json.dumps(RESPONSE) for _ in range(2))
    run = read_one(tmp_path / "many.jsonl", both, method="ngram")
    assert (run.requests, run.rounds, run.accepted) == (2, 86, (78, 2, 0, 6))


def test_responses_with_rounds_of_several_lengths_are_refused(tmp_path: Path) -> None:
    mixed = json.loads(json.dumps(RESPONSE))
    metrics = mixed["metrics"]["speculative_decoding"]
    del metrics["num_spec_tokens"]
    metrics["acceptance_histogram_by_draft_length"] = {"3": [20, 0, 0, 3], "1": [19, 1]}
    with pytest.raises(InputError, match="drafted 1 and 3 tokens"):
        read_one(tmp_path / "a.json", mixed, method="ngram")
    metrics["acceptance_histogram"] = {"0": 39, "1": 1, "3": 3}
    metrics["acceptance_histogram_by_draft_length"] = {"5": {"0": 39, "1": 1, "3": 3}}
    run = read_one(tmp_path / "a.json", mixed, method="ngram")
    assert (run.draft_length, run.accepted) == (5, (39, 1, 0, 3))
    assert run.by_position == pytest.approx((4 / 43, 3 / 43, 3 / 43, 0, 0))


def test_draft_lengths_of_responses_are_one_but_for_the_last_rounds_of_answers(tmp_path: Path) -> None:
    def response(drafted: int, by_length: dict[str, list[int]]) -> dict[str, Any]:
        found = json.loads(json.dumps(RESPONSE))
        found["metrics"]["speculative_decoding"] |= {
            "num_spec_tokens": drafted,
            "acceptance_histogram_by_draft_length": by_length,
        }
        return found

    def read(*responses: dict[str, Any]) -> EngineRun:
        return read_one(tmp_path / "a.jsonl", "\n".join(map(json.dumps, responses)), method="ngram")

    whole, ended, mixed = {"3": [39, 1, 0, 3]}, {"3": [37, 1, 0, 3], "1": [2, 0]}, {"3": [20, 0, 0, 3], "1": [19, 1]}
    assert read(response(3, whole), response(3, ended)).draft_length == 3
    with pytest.raises(InputError, match=r"1 more responses has rounds that drafted 3 and 5 tokens"):
        read(response(3, whole), response(5, {}))
    with pytest.raises(InputError, match="drafted 1 and 3 tokens"):
        read(response(3, mixed))
    with pytest.raises(InputError, match="drafted 3 and 5 tokens"):
        read(response(5, whole))


def test_lines_of_the_log_are_weighted_by_their_rounds(tmp_path: Path) -> None:
    run = read_one(tmp_path / "serve.log", VLLM_LOG)
    assert (run.target, run.draft, run.method, run.draft_length, run.kv_tokens) == ("T/target", "T/head", "eagle3", 3, 69_232)
    assert (run.rounds, run.acceptance_length) == (400, pytest.approx(1 + 700 / 400))
    assert run.by_position == pytest.approx((0.75, 0.6, 0.4))
    assert sum(run.by_position) == pytest.approx(700 / 400)


def test_a_log_without_speculation_tells_the_pool(tmp_path: Path) -> None:
    lines = VLLM_LOG.splitlines()[:2]
    alone = lines[0].partition("speculative_config")[0] + "speculative_config=None, tokenizer='T/target'\n" + lines[1]
    run = read_one(tmp_path / "serve.log", alone)
    assert (run.method, run.kv_tokens, run.target) == ("ar", 69_232, "T/target")
    with pytest.raises(InputError, match="does not say whether the engine drafted"):
        read_one(tmp_path / "serve.log", lines[1])
