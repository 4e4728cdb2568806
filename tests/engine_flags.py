"""The documented grammar of engines' flags, as parsers: what these accept, an engine of that documentation accepts."""

from __future__ import annotations

import argparse
import ast
import json
import shlex
from typing import Any

METHODS = {"draft_model", "eagle3", "eagle", "mtp", "dflash", "dspark", "ngram", "suffix"}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise AssertionError(f"{self.prog}: {message}")


def commands(text: str) -> list[list[str]]:
    """The commands of a text of a shell, as words; remarks are left out, variables before a command are kept with it."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [shlex.split(line) for line in whole.splitlines() if line.strip()]


def vllm_serve(words: list[str]) -> argparse.Namespace:
    """`vllm serve`, of the arguments that a plan may use."""
    parser = Parser("vllm serve", allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--tensor-parallel-size", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--speculative-config", type=json.loads)
    assert words[:2] == ["vllm", "serve"]
    found = parser.parse_args(words[2:])
    if found.speculative_config is not None:
        speculative_config(found.speculative_config)
    return found


def speculative_config(config: dict[str, Any]) -> None:
    """vLLM's `SpeculativeConfig` and the documentation of dynamic and synthetic speculation."""
    known = {
        "method": str,
        "model": str,
        "num_speculative_tokens": int,
        "draft_tensor_parallel_size": int,
        "max_model_len": int,
        "prompt_lookup_min": int,
        "prompt_lookup_max": int,
        "num_speculative_tokens_per_batch_size": list,
        "rejection_sample_method": str,
        "synthetic_acceptance_rates": list,
        "synthetic_acceptance_length": float,
    }
    assert config.keys() <= known.keys(), config.keys() - known.keys()
    assert all(isinstance(value, known[name]) for name, value in config.items())
    assert config["method"] in METHODS
    longest = config["num_speculative_tokens"]
    assert longest >= 1
    end = 0
    for first, last, length in config.get("num_speculative_tokens_per_batch_size", []):
        assert first == end + 1 <= last
        assert 1 <= length <= longest  # no tier without guesses
        end = last
    rates = config.get("synthetic_acceptance_rates", [])
    assert rates == sorted(rates, reverse=True)
    assert len(rates) in (0, longest)
    assert all(0 <= rate <= 1 for rate in rates)
    assert ("rejection_sample_method" in config) == bool(rates)


def vllm_bench(words: list[str]) -> argparse.Namespace:
    """`vllm bench serve`, of the arguments that a plan may use."""
    parser = Parser("vllm bench serve", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--backend", choices=["vllm", "openai", "llama.cpp"])
    parser.add_argument("--base-url")
    parser.add_argument("--dataset-name", choices=["random", "sharegpt", "hf", "custom", "sonnet"])
    for name in ("random-input-len", "random-output-len", "num-prompts"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--request-rate", type=float)
    parser.add_argument("--ignore-eos", action="store_true")
    parser.add_argument("--save-result", action="store_true")
    parser.add_argument("--percentile-metrics")
    parser.add_argument("--metric-percentiles")
    parser.add_argument("--goodput", nargs="+")
    assert words[:3] == ["vllm", "bench", "serve"]
    found = parser.parse_args(words[3:])
    for limit in found.goodput or []:
        name, _, milliseconds = limit.partition(":")
        assert name in ("ttft", "tpot", "e2el")
        assert float(milliseconds) > 0
    return found


def sglang_server(words: list[str]) -> argparse.Namespace:
    """`python -m sglang.launch_server`. With a top-k of 1, the draft tokens are one more than the steps."""
    while "=" in words[0] and not words[0].startswith("-"):
        assert words.pop(0).partition("=")[0].startswith("SGLANG_SIMULATE_ACC_")
    assert words[:3] == ["python", "-m", "sglang.launch_server"]
    parser = Parser("sglang", allow_abbrev=False)
    parser.add_argument("--model-path", required=True)
    for name in ("tp", "max-running-requests", "chunked-prefill-size"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--speculative-algorithm", choices=["STANDALONE", "EAGLE3", "EAGLE", "NEXTN", "NGRAM"])
    parser.add_argument("--speculative-draft-model-path")
    for name in ("num-steps", "eagle-topk", "num-draft-tokens"):
        parser.add_argument(f"--speculative-{name}", type=int)
    found = parser.parse_args(words[3:])
    chain = (found.speculative_num_steps, found.speculative_eagle_topk, found.speculative_num_draft_tokens)
    if any(one is not None for one in chain):
        assert None not in chain
        assert chain[1] == 1
        assert chain[2] == chain[0] + 1
        assert found.speculative_algorithm
    return found


def llama_server(words: list[str]) -> argparse.Namespace:
    """`llama-server`, of builds with `--spec-type` and of those before."""
    parser = Parser("llama-server", allow_abbrev=False)
    parser.add_argument("-m", required=True)
    parser.add_argument("-md")
    parser.add_argument("-ngld", type=int)
    parser.add_argument("--parallel", type=int)
    parser.add_argument("--spec-type", choices=["draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "ngram-mod"])
    for name in ("spec-draft-n-max", "spec-draft-n-min", "draft-max", "draft-min"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("spec-draft-p-min", "draft-p-min"):
        parser.add_argument(f"--{name}", type=float)
    assert words[0] == "llama-server"
    found = parser.parse_args(words[1:])
    assert found.spec_draft_n_max is None or found.draft_max is None  # never of two builds at once
    return found


def pearl_bench(words: list[str]) -> argparse.Namespace:
    """`benchmark/eval_random.py` of nano-PEARL."""
    parser = Parser("nano-PEARL", allow_abbrev=False)
    for name in ("draft-model", "target-model"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("draft-tp", "target-tp", "input-len", "max-tokens", "num-samples", "bs", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--run-ar-benchmark", action="store_true")
    assert words[:2] == ["python", "benchmark/eval_random.py"]
    found = parser.parse_args(words[2:])
    assert found.num_samples >= found.bs  # batches that are not full are dropped
    return found


def pearl_config(text: str) -> dict[str, Any]:
    """The arguments of `PEARLConfig(draft, target, ...)`."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert len(calls) == 1
    found = {one.arg: ast.literal_eval(one.value) for one in calls[0].keywords if one.arg}
    assert found.keys() == {"draft_tensor_parallel_size", "target_tensor_parallel_size", "gamma"}
    names = [ast.literal_eval(one) for one in calls[0].args]
    return found | dict(zip(("draft", "target"), names, strict=True))
