"""Files of GuideLLM and SGLang, tables of published runs, and golden acceptance lengths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from engine_files import LENGTH, ROUND_MS, SGLANG, SGLANG_LOG, TOKEN_MS, guidellm, read_one, sglang_scrape, write

from sim.engines.golden import golden, golden_lengths
from sim.engines.reading import read_runs
from sim.engines.run import EngineRun, EngineRuns, Times
from specdec.errors import InputError


def test_words_of_guidellm_are_turned_into_those_of_vllm(tmp_path: Path) -> None:
    run = read_one(tmp_path / "a.json", guidellm(), method="mtp", draft_length=3)
    assert run.tpot.mean == pytest.approx(TOKEN_MS / 1000), "its time per output token includes the first one"
    assert run.itl.mean == pytest.approx(ROUND_MS / 1000)
    assert run.itl.median is None, "a product of medians is no median"
    assert run.e2e.mean == pytest.approx(2.5), "its request latency is in seconds"
    assert (run.ttft.mean, run.ttft.p99) == pytest.approx((0.06, 0.12))
    assert (run.clients, run.requests, run.failed, run.seconds) == (8, 50, 2, pytest.approx(100.0))
    assert (run.input_tokens, run.output_tokens, run.acceptance_length) == (5000, 10_050, LENGTH)
    assert run.target == "T/target"


def test_guidellm_sees_whether_the_engine_drafted(tmp_path: Path) -> None:
    run = read_one(tmp_path / "a.json", guidellm(drafted=False))
    assert (run.method, run.acceptance_length) == ("ar", None)
    with pytest.raises(InputError, match="drafted and does not say how"):
        read_one(tmp_path / "a.json", guidellm())
    with pytest.raises(InputError, match="give --draft-length to specdec import"):
        read_one(tmp_path / "a.json", guidellm(), method="mtp")


def test_a_median_of_requests_of_guidellm_is_none_of_chunks(tmp_path: Path) -> None:
    """Each request's mean holds rounds that read prompts of others, so their median is no round without a prompt."""
    run = read_one(tmp_path / "a.json", guidellm(drafted=False))
    assert run.tpot.median == pytest.approx(0.025)
    assert run.itl == Times(run.tpot.mean)


def test_open_loads_of_guidellm_have_a_rate_and_no_clients(tmp_path: Path) -> None:
    found = guidellm(drafted=False)
    found["benchmarks"][0]["config"]["strategy"] = {"type_": "poisson", "rate": 2.5, "max_concurrency": 512}
    run = read_one(tmp_path / "a.json", found)
    assert (run.clients, run.rate) == (None, 2.5)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("config", "strategy"), {"type_": "replay"}, "has load of type replay, and known are synchronous, concurrent"),
        (("metrics", "inter_token_latency_ms"), "12 ms", "inter_token_latency_ms is '12 ms', and must be an object"),
        (("metrics", "iter_tokens_per_iteration"), [2.0], r"iter_tokens_per_iteration is \[2.0\], and must be an object"),
    ],
)
def test_what_is_not_understood_in_a_file_of_guidellm_is_refused(
    tmp_path: Path, place: tuple[str, str], value: object, told: str
) -> None:
    found = guidellm(drafted=False)
    found["benchmarks"][0][place[0]][place[1]] = value
    with pytest.raises(InputError, match=told):
        read_one(tmp_path / "a.json", found)


def test_latencies_of_sglang_are_of_tokens(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(SGLANG) for _ in range(2))
    runs = read_runs([write(tmp_path / "a.jsonl", lines)], method="EAGLE3", draft_length=3)
    assert len(runs) == 2
    assert runs[0].itl.mean == pytest.approx(ROUND_MS / 1000)
    assert runs[0].itl.median is None
    assert (runs[0].method, runs[0].acceptance_length, runs[0].clients, runs[0].rate) == ("eagle3", LENGTH, 8, None)
    chunks = read_one(tmp_path / "b.json", {**SGLANG, "backend": "sglang-oai"}, method="eagle3", draft_length=3)
    assert chunks.itl.mean == pytest.approx(TOKEN_MS / 1000), "OpenAI's protocol: a chunk, as it came"
    server = {"model_path": "T/target", "speculative_algorithm": "EAGLE3", "speculative_num_steps": 3, "tp_size": 2}
    said = read_one(tmp_path / "c.json", {**SGLANG, "server_info": server})
    assert (said.target, said.method, said.draft_length, said.gpus) == ("T/target", "eagle3", 3, 2)
    plain = read_one(tmp_path / "d.json", {**SGLANG, "accept_length": None})
    assert (plain.method, plain.itl.median) == ("ar", 0.008)


def test_sglang_drafts_where_its_server_or_its_chunks_say_so_and_no_length_does(tmp_path: Path) -> None:
    silent = {**SGLANG, "accept_length": None}
    server = {"speculative_algorithm": "EAGLE3", "speculative_num_steps": 3}
    routed = read_one(tmp_path / "a.json", {**silent, "server_info": server})
    assert (routed.method, routed.draft_length, routed.acceptance_length) == ("eagle3", 3, None)
    assert routed.itl == Times(), "times of a token, and nobody says how many a round has"
    assert read_one(tmp_path / "b.json", {**silent, "server_info": {**server, "speculative_algorithm": None}}).method == "ar"
    chunks = {**silent, "backend": "vllm", "mean_itl_ms": ROUND_MS}
    other = read_one(tmp_path / "c.json", chunks, method="mtp", draft_length=3)
    assert (other.method, other.acceptance_length) == ("mtp", pytest.approx(LENGTH))
    assert (other.itl.mean, other.itl.median) == pytest.approx((ROUND_MS / 1000, 0.008))
    with pytest.raises(InputError, match="drafted and does not say how"):
        read_one(tmp_path / "d.json", chunks)
    assert read_one(tmp_path / "e.json", {**silent, "backend": "vllm"}).method == "ar"


@pytest.mark.parametrize(("said", "method"), [("STANDALONE", "draft_model"), ("NEXTN", "mtp"), ("EAGLE3", "eagle3")])
def test_methods_of_sglang_have_the_names_of_vllm(tmp_path: Path, said: str, method: str) -> None:
    server = {"speculative_algorithm": said, "speculative_num_steps": 3}
    bench = read_one(tmp_path / "a.json", {**SGLANG, "server_info": server})
    log = read_one(tmp_path / "a.log", SGLANG_LOG.replace("EAGLE3", said))
    row = read_one(tmp_path / "a.csv", f"{HEAD}\n{DRAFTED.replace('draft_model', said)}\n")
    assert (bench.method, log.method, row.method) == (method, method, method)


def test_metrics_of_sglang_divide_a_chunk_by_its_tokens(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{calls}.prom", sglang_scrape(calls)) for calls in (1, 3)]
    (run,) = read_runs(paths, method="standalone")
    assert (run.method, run.draft_length, run.output_tokens, run.acceptance_length) == ("draft_model", 3, 5628, LENGTH)
    assert run.tpot.mean == pytest.approx(TOKEN_MS / 1000)
    assert run.itl.mean == pytest.approx(ROUND_MS / 1000)


def test_responses_of_sglang_are_tokens_over_rounds(tmp_path: Path) -> None:
    meta = {"completion_tokens": 280, "spec_verify_ct": 100, "spec_num_correct_drafts": 180, "spec_num_proposed_drafts": 300}
    run = read_one(tmp_path / "a.jsonl", "\n".join([json.dumps({"text": "", "meta_info": meta})] * 3), method="eagle")
    assert (run.draft_length, run.acceptance_length, run.rounds) == (3, pytest.approx(2.8), 300)


def test_lines_of_equally_many_requests_of_sglang_are_a_run(tmp_path: Path) -> None:
    run = read_one(tmp_path / "a.log", SGLANG_LOG)
    assert (run.running, run.clients, run.draft_length, run.method, run.kv_tokens, run.gpus) == (4.0, 4, 3, "eagle3", 40_000, 2)
    assert (run.tpot.median, run.itl.median) == pytest.approx((0.01, 0.025))
    with pytest.raises(InputError, match="no 3 `Decode batch` lines of equally many"):
        read_one(tmp_path / "a.log", SGLANG_LOG.splitlines()[-1])


HEAD = (
    "target,draft,method,k,dataset,gpu,tp,max_concurrency,requests,duration_s,input_tokens,output_tokens,output_tok_s,"
    "ttft_mean_ms,ttft_p99_ms,tpot_mean_ms,tpot_median_ms,tpot_p99_ms,itl_mean_ms,itl_median_ms,itl_p99_ms,acceptance_length,"
    "drafts,accepted_tokens,acceptance_by_position_pct,kv_pool_tokens"
)
ALONE = "T,,ar,0,code,1x H,1,8,80,70.0,11000,16000,228.6,100,110,34,34,35,34,33.9,40,,,,,69232"
DRAFTED = "T,D,draft_model,2,code,1x H,1,8,80,40.0,11000,16000,400,80,110,16.8,16,17,42,41,50,2.50,6400,9600,80.0 70.0,32528"


def test_rows_of_a_table_are_runs(tmp_path: Path) -> None:
    alone, drafted = read_runs([write(tmp_path / "a.csv", f"# made up\n# no licence\n{HEAD}\n{ALONE}\n\n{DRAFTED}\n")])
    assert (alone.method, alone.clients, alone.rate, alone.kv_tokens, alone.acceptance_length) == ("ar", 8, 8.0, 69_232, None)
    assert (drafted.method, drafted.draft, drafted.draft_length, drafted.rounds) == ("draft_model", "D", 2, 6400)
    assert (drafted.by_position, drafted.acceptance_length) == ((0.8, 0.7), 2.5)
    assert (drafted.itl.mean, drafted.ttft.median) == (0.042, None)
    assert alone.running == pytest.approx(0.034 * (16_000 - 80) / 70)
    assert drafted.source.endswith("a.csv row 2 (line 6)")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (ALONE.replace(",ar,0", ",ar,1"), "'ar' with k '1'"),
        (ALONE.replace(",ar,0", ",eagle3,0"), "'eagle3' with k '0'"),
        (DRAFTED.replace(",draft_model,2", ",draft_model,"), "k ''"),
        (ALONE.replace(",ar,0", ",,"), "method '' with k ''"),
        (DRAFTED.replace(",draft_model,2", ",,2"), "method '' with k '2'"),
        (ALONE.replace(",34,34,35,", ",nan,34,35,"), "tpot_mean_ms is 'nan'"),
        (ALONE.replace(",34,34,35,", ",-1,34,35,"), "-0.001 s"),
        (ALONE.replace(",8,80,", ",8.5,80,"), "max_concurrency is 8.5"),
        (ALONE.replace(",8,80,", ",0,80,"), "max_concurrency is '0'"),
        (ALONE.replace(",80,70.0,", ",80,0,"), "seconds is 0"),
        (
            ALONE.replace("228.6,100,110,34,34,35,34,", "228.6,0.1,0.11,0.034,0.034,0.035,0.034,"),
            "do not take 70 s with 8 clients",
        ),
        (ALONE.replace("228.6,100,110,34,34,35,34,", "228.6,100,110,0.034,0.034,0.035,34,"), "itl_mean_ms is 34 and tpot"),
        (DRAFTED.replace("16.8,16,17,42,", "16.8,16,17,0.042,"), "itl_mean_ms is 0.042 and tpot_mean_ms 16.8"),
        (ALONE.replace(",228.6,", ",28.6,"), "output_tok_s is 28.6, and output_tokens over duration_s are 228.6"),
        (ALONE.replace(",70.0,11000,16000,228.6,", ",10.0,11000,16000,1600,"), "80 requests of 6.87 s each"),
        (ALONE.replace(",70.0,11000,16000,228.6,", ",,11000,16000,2286,"), "do not take 6.999 s with 8 clients"),
        (ALONE.replace(",8,80,70.0,11000,16000,228.6,", ",8,80,700,11000,16000,22.86,"), "or fill in request_rate"),
        (ALONE + ",", "27 cells, and the head 26"),
        (DRAFTED.replace("80.0 70.0", "70.0 80.0"), "never rise"),
        (DRAFTED.replace("80.0 70.0", "80.0 x"), "acceptance_by_position_pct is 'x'"),
        (DRAFTED.replace("2.50,6400,9600", "3.6,,"), "between 1 and 3"),
        (
            DRAFTED.replace("2.50,", "1.50,"),
            "drafts give 2.5 tokens a round, and acceptance_length is 1.5",
        ),
        (DRAFTED.replace("80.0 70.0", "80.0 80.0"), "give 2.6 tokens a round, and the acceptance length is 2.5"),
        (DRAFTED.replace("80.0 70.0", "0.80 0.70"), "cannot give 2.5 tokens a round: write percentages, not shares"),
        (DRAFTED.replace("80.0 70.0", "0.80 0.70").replace("2.50,", ","), "write percentages, not shares"),
        (DRAFTED.replace("80.0 70.0", "0.80 0.70").replace(",6400,9600,", ",,,"), "write percentages, not shares"),
    ],
)
def test_bad_rows_are_refused_by_their_number(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv row 2 \(line 4\)") as refused:
        read_runs([write(tmp_path / "a.csv", f"# made up\n{HEAD}\n{ALONE}\n{row}\n")])
    assert told in str(refused.value)


@pytest.mark.parametrize("column", ["method", "k", "max_concurrency", "output_tok_s"])
def test_a_table_without_a_column_is_told_which(tmp_path: Path, column: str) -> None:
    table = write(tmp_path / "a.csv", f"{HEAD.replace(f',{column},', f',{column}_of_mine,')}\n{ALONE}\n")
    with pytest.raises(InputError, match=f"has no column {column}: a table of runs needs target, draft, method, k"):
        read_runs([table])


@pytest.mark.parametrize("blank", [",ar,", ",,0", ",baseline,0", ",No-Spec,", ",none,0"])
def test_a_run_without_a_draft_may_leave_its_length_or_its_method_blank(tmp_path: Path, blank: str) -> None:
    (run,) = read_runs([write(tmp_path / "a.csv", f"{HEAD}\n{ALONE.replace(',ar,0', blank)}\n")])
    assert (run.method, run.draft_length) == ("ar", 0)


def test_arrivals_of_a_table_are_as_it_says_or_assumed_aloud(tmp_path: Path) -> None:
    def one(path: Path, rate: float | None = None) -> EngineRun:
        (found,) = read_runs([path], rate=rate)
        return found

    silent = write(tmp_path / "a.csv", f"{HEAD}\n{ALONE}\n")
    assert (one(silent).rate, one(silent).assumed) == (8.0, ("rate",))
    assert (one(silent, rate=3.0).rate, one(silent, rate=3.0).assumed) == (3.0, ())
    assert "1 run(s) of a table without request_rate" in EngineRuns((one(silent),)).remarks()[0]
    for cell, rate in {"inf": None, "": None, "2.5": 2.5}.items():
        told = one(write(tmp_path / "b.csv", f"{HEAD},request_rate\n{ALONE},{cell}\n"))
        assert (told.rate, told.assumed) == (rate, ())
        assert not EngineRuns((told,)).remarks()


def test_a_run_that_waits_for_arrivals_or_for_the_cache_takes_long(tmp_path: Path) -> None:
    rare = ALONE.replace(",8,80,70.0,11000,16000,228.6,", ",8,80,700,11000,16000,22.86,")
    queued = rare.replace("22.86,100,110,", "22.86,60000,90000,")
    blank = rare.replace("22.86,100,110,", "22.86,,,")
    for row, rate in {rare: "0.11", queued: "inf", blank: "inf"}.items():
        (run,) = read_runs([write(tmp_path / "a.csv", f"{HEAD},request_rate\n{row},{rate}\n")])
        assert run.seconds == 700


def test_a_table_may_say_the_batch_limit(tmp_path: Path) -> None:
    runs = read_runs([write(tmp_path / "a.csv", f"{HEAD},max_num_seqs\n{ALONE},512\n{DRAFTED},\n")])
    assert [run.max_batch for run in runs] == [512, None]


def test_a_table_may_quote_its_cells(tmp_path: Path) -> None:
    quoted = "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in (HEAD, ALONE, DRAFTED))
    assert [run.draft_length for run in read_runs([write(tmp_path / "a.csv", quoted)])] == [0, 2]


def test_seconds_follow_from_tokens_and_speed(tmp_path: Path) -> None:
    (run,) = read_runs([write(tmp_path / "a.csv", f"{HEAD}\n{ALONE.replace(',70.0,', ',,')}\n")])
    assert run.seconds == pytest.approx(16_000 / 228.6)
    assert run.throughput == pytest.approx(228.6)


PUBLISHED = Path(__file__).resolve().parents[3] / "shared/data/published/vllm_h100_draft_eagle3_by_concurrency.csv"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not here")
def test_the_published_table_is_read() -> None:
    runs = read_runs([PUBLISHED])
    assert len(runs) == 221
    assert {run.method for run in runs} == {"ar", "draft_model", "eagle3"}
    drafted = [run for run in runs if run.by_position]
    for run in drafted:
        assert run.acceptance_length is not None
        assert sum(run.by_position) == pytest.approx(run.acceptance_length - 1, abs=2e-3)


def test_golden_lengths_are_bundled_with_their_source() -> None:
    lengths = golden_lengths("glm-5.2-fp8")
    assert list(lengths) == list(range(1, 9))
    found = golden("glm5.2_mtp", "thinking_on")
    shares = np.cumprod(found.by_position)
    assert found.tag == "table"
    assert len(shares) == 8
    assert np.max(np.abs(1 + np.cumsum(shares) - list(lengths.values()))) < 0.04


def test_golden_lengths_that_fall_are_fitted() -> None:
    lengths, found = golden_lengths("deepseek-v4-pro-0813"), golden("deepseek-v4-pro-0813")
    assert lengths[8] < lengths[6], "each is a run of its own"
    fitted = 1 + np.cumsum(np.cumprod(found.by_position))
    assert np.max(np.abs(fitted / list(lengths.values()) - 1)) < 0.06


def test_golden_names_that_leave_a_choice_are_refused() -> None:
    with pytest.raises(InputError, match=r"'deepseek-v4-pro' leaves a choice: .* dsv4_mtp/thinking_off, dsv4_mtp/thinking_on"):
        golden("deepseek-v4-pro")
    with pytest.raises(InputError, match=r"'llama/thinking_on' is not in the table .* qwen3\.5_mtp/thinking_on"):
        golden("llama", "thinking_on")
