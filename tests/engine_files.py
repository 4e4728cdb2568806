"""Files as engines and benchmark tools write them, made up: their exact names, with numbers that agree with one another.

`BENCH` and its speculative twin are one load of vLLM; the metrics, GuideLLM's and SGLang's files show rounds of 25.82 ms and
2.804 tokens too, so that all readers must come to the same round.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sim.engines.reading import read_runs
from sim.engines.run import EngineRun

LENGTH, TOKEN_MS = 2.804, 9.208
ROUND_MS = LENGTH * TOKEN_MS

BENCH: dict[str, Any] = {
    "date": "20261101-120000",
    "endpoint_type": "openai",
    "backend": "openai",
    "label": None,
    "model_id": "T/target",
    "tokenizer_id": "T/target",
    "num_prompts": 50,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 11,
    "duration": 100.0,
    "completed": 50,
    "failed": 0,
    "total_input_tokens": 5000,
    "total_output_tokens": 10050,
    "request_throughput": 0.5,
    "request_goodput": None,
    "output_throughput": 100.5,
    "total_token_throughput": 150.5,
    "max_concurrent_requests": 11,
    **{f"{what}_ttft_ms": ms for what, ms in {"mean": 60.0, "median": 55.0, "std": 9.0, "p99": 120.0}.items()},
    **{f"{what}_tpot_ms": ms for what, ms in {"mean": 25.0, "median": 24.9, "std": 0.1, "p99": 26.0}.items()},
    **{f"{what}_itl_ms": ms for what, ms in {"mean": 25.0, "median": 24.0, "std": 1.0, "p99": 80.0}.items()},
}
SPECULATIVE: dict[str, Any] = {
    **BENCH,
    "mean_tpot_ms": TOKEN_MS,
    "mean_itl_ms": ROUND_MS,
    "spec_decode_acceptance_rate": 100 * 1.804 / 3,
    "spec_decode_acceptance_length": LENGTH,
    "spec_decode_num_drafts": 1000,
    "spec_decode_draft_tokens": 3000,
    "spec_decode_accepted_tokens": 1804,
    "spec_decode_per_position_acceptance_rates": [0.759, 0.543, 0.502],
}


def scrape(calls: int, prefix: str = "", **changed: str) -> str:
    """An answer of vLLM's /metrics after so many thousand rounds; `changed` replaces names."""
    labels = 'engine="0",model_name="T/target"'
    rounds, requests = 1000 * calls, 50 * calls
    histograms = {
        "time_to_first_token_seconds": (requests, 0.06 * requests),
        "inter_token_latency_seconds": (rounds, rounds * ROUND_MS / 1000),
        "request_time_per_output_token_seconds": (requests, requests * TOKEN_MS / 1000),
        "e2e_request_latency_seconds": (requests, 2.0 * requests),
    }
    counters = {
        "generation_tokens_total": 2804 * calls + requests,
        "prompt_tokens_total": 5000 * calls,
        "spec_decode_num_drafts_total": rounds,
        "spec_decode_num_draft_tokens_total": 3 * rounds,
        "spec_decode_num_accepted_tokens_total": 1804 * calls,
        "iteration_tokens_total_count": 250 * calls,
    }
    lines = ["# HELP vllm:num_requests_running Number of requests in model execution.", "process_start_time_seconds 1.7e9"]
    for name, (count, total) in histograms.items():
        name = changed.get(name, name)
        lines.append(f"# TYPE vllm:{name} histogram")
        lines.append(f'vllm:{name}_bucket{{{labels},le="+Inf"}} {float(count)}')
        lines += [f"vllm:{name}_count{{{labels}}} {float(count)}", f"vllm:{name}_sum{{{labels}}} {total}"]
    lines += [f"vllm:{changed.get(name, name)}{{{labels}}} {float(value)}" for name, value in counters.items()]
    for position, share in enumerate((0.759, 0.543, 0.502)):
        name = f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{position}"}}'
        lines.append(f"{name} {round(share * rounds)}.0")
    lines.append('vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="2033"} 1.0')
    lines += [f'vllm:request_success_total{{{labels},finished_reason="{why}"}} {25.0 * calls}' for why in ("stop", "length")]
    return "\n".join(prefix + line if line.startswith("vllm:") else line for line in lines) + "\n"


def sglang_scrape(calls: int) -> str:
    """An answer of SGLang's /metrics: times of a token, and gauges that every rank repeats."""
    tokens = 2804.0 * calls
    lines = [
        f'sglang:generation_tokens_total{{model_name="m",is_streaming="true"}} {tokens}',
        f'sglang:generation_tokens_total{{model_name="m",is_streaming="false"}} {10.0 * calls}',
        f'sglang:prompt_tokens_total{{model_name="m"}} {5000.0 * calls}',
        f'sglang:inter_token_latency_seconds_sum{{model_name="m"}} {tokens * TOKEN_MS / 1000}',
        f'sglang:inter_token_latency_seconds_count{{model_name="m"}} {tokens}',
        'sglang:spec_accept_length{engine_type="unified",model_name="m",tp_rank="0"} 2.804',
        'sglang:spec_accept_length{engine_type="unified",model_name="m",tp_rank="1"} 2.804',
        'sglang:spec_accept_length{engine_type="draft",model_name="d",tp_rank="0"} 9.9',
        'sglang:spec_num_steps{engine_type="unified",model_name="m",tp_rank="0"} 3.0',
    ]
    return "\n".join(lines) + "\n"


def guidellm(*, drafted: bool = True) -> dict[str, Any]:
    """GuideLLM's JSON of one benchmark; its `time_per_output_token_ms` includes the first token."""
    token = TOKEN_MS if drafted else 25.0

    def metric(mean: float, **more: float) -> dict[str, Any]:
        return {"successful": {"mean": mean, "median": mean, "percentiles": {"p99": 2 * mean}, "count": 50, **more}}

    return {
        "metadata": {"version": 2, "guidellm_version": "0.8.0"},
        "args": {"model": "T/target"},
        "benchmarks": [
            {
                "config": {"strategy": {"type_": "concurrent", "streams": 8, "max_concurrency": 8}},
                "metrics": {
                    "request_totals": {"successful": 50, "errored": 2, "incomplete": 0, "total": 52},
                    "requests_per_second": metric(0.5),
                    "request_concurrency": metric(7.9),
                    "request_latency": metric(2.5),
                    "prompt_token_count": metric(100.0, total_sum=5000.0),
                    "output_token_count": metric(201.0, total_sum=10050.0),
                    "time_to_first_token_ms": metric(60.0),
                    "time_per_output_token_ms": metric(99.0),
                    "inter_token_latency_ms": metric(token),
                    "iter_tokens_per_iteration": metric(LENGTH if drafted else 1.0),
                },
            }
        ],
    }


SGLANG: dict[str, Any] = {
    "backend": "sglang",
    "dataset_name": "sharegpt",
    "request_rate": float("inf"),
    "max_concurrency": 8,
    "duration": 100.0,
    "completed": 50,
    "total_input_tokens": 5000,
    "total_output_tokens": 10050,
    "mean_e2e_latency_ms": 2500.0,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 55.0,
    "p99_ttft_ms": 100.0,
    "mean_tpot_ms": TOKEN_MS,
    "mean_itl_ms": TOKEN_MS,
    "median_itl_ms": 8.0,
    "concurrency": 7.9,
    "accept_length": LENGTH,
}
RESPONSE: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "T/target",
    "choices": [],
    "metrics": {
        "speculative_decoding": {
            "mean_acceptance_length": 1 + 10 / 43,
            "draft_acceptance_rate": 10 / 129,
            "acceptance_histogram": [39, 1, 0, 3],
            "num_spec_steps": 43,
            "num_accepted_draft_tokens": 10,
            "num_draft_tokens": 129,
            "num_spec_tokens": 3,
        }
    },
}
VLLM_LOG = """\
(EngineCore pid=7) INFO 10-26 12:30:00 [core.py:93] Initializing a V1 LLM engine (v0.12.0) with config: model='T/target', \
speculative_config=SpeculativeConfig(method='eagle3', model='T/head', num_spec_tokens=3), tokenizer='T/target'
(EngineCore pid=7) INFO 10-26 12:31:00 [kv_cache_utils.py:1087] GPU KV cache size: 69,232 tokens
(APIServer pid=1) INFO 10-26 12:36:16 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 2.00, Accepted throughput: \
20.60 tokens/s, Drafted throughput: 60.90 tokens/s, Accepted: 100 tokens, Drafted: 300 tokens, Per-position acceptance rate: \
0.600, 0.300, 0.100, Avg Draft acceptance rate: 33.3%
(APIServer pid=1) INFO 10-26 12:36:26 [metrics.py:96] SpecDecoding metrics: Mean acceptance length: 3.00, Accepted throughput: \
20.60 tokens/s, Drafted throughput: 60.90 tokens/s, Accepted: 600 tokens, Drafted: 900 tokens, Per-position acceptance rate: \
0.800, 0.700, 0.500, Avg Draft acceptance rate: 66.7%
"""
SGLANG_LOG = "\n".join(
    [
        "server_args=ServerArgs(model_path='T/target', tp_size=2, speculative_algorithm='EAGLE3', speculative_num_steps=3)",
        "[2026-05-27 20:14:30 TP0] max_total_num_tokens=40000, chunked_prefill_size=8192",
        *(
            f"[2026-05-27 20:14:3{i} TP0] Decode batch. #running-req: 4, #token: 900, token usage: 0.01, accept len: 2.50, "
            f"accept rate: 0.62, cuda graph: True, gen throughput (token/s): {speed}, #queue-req: 0"
            for i, speed in enumerate((3.0, 400.0, 400.0, 401.0))
        ),
        "[2026-05-27 20:14:38] Decode batch, #running-req: 7, #token: 1, accept len: 2.50, gen throughput (token/s): 1.0",
    ]
)


def write(path: Path, value: Mapping[str, Any] | list[Any] | str) -> Path:
    """A file with a text or a JSON object; packed where the name says so."""
    text = value if isinstance(value, str) else json.dumps(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


Read = Callable[..., EngineRun]


def read_one(path: Path, value: Mapping[str, Any] | list[Any] | str, **known: Any) -> EngineRun:
    """The one run of a file with this value."""
    (run,) = read_runs([write(path, value)], **known)
    return run
