"""The flags that a plan becomes: accepted by the documented grammars, and those of the plan."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from engine_flags import commands, llama_server, pearl_bench, pearl_config, sglang_server, vllm_bench, vllm_serve

from sim.planning.candidates import Tier
from sim.planning.emit import emit
from sim.planning.objectives import objectives_of
from sim.planning.report import Plan, Planned
from specdec import InputError

BEST = Planned(
    name="draft_model k=3",
    method="draft_model",
    draft="Qwen/Qwen3-1.7B",
    strategy="speculative",
    draft_length=3,
    schedule=(),
    placement="shared",
    max_batch=128,
    acceptance=(0.8, 0.6, 0.5),
    replicas=2,
    target_gpus=2,
    draft_gpus=0,
    gpus=4,
    cost_per_hour=None,
    ttft_ms=400.0,
    tpot_ms=20.0,
    e2e_ms=4000.0,
    goodput=9.0,
    requests_per_second=9.0,
    output_tokens_per_second=1800.0,
    utilisation=0.8,
    kv_tokens=32528,
    kv_share=0.5,
    binding="ttft-p99",
    headroom=0.2,
    load=0.7,
    extrapolated_share=0.0,
    tags={"step": "fitted"},
)
AR: dict[str, Any] = {
    "name": "ar",
    "method": "ar",
    "draft": "",
    "strategy": "autoregressive",
    "draft_length": 0,
    "acceptance": (),
}
PEARL: dict[str, Any] = {"strategy": "pearl", "placement": "own device", "draft_gpus": 1}
SCHEDULE = {"draft_length": 4, "acceptance": (0.8, 0.6, 0.5, 0.4), "schedule": (Tier(16, 4), Tier(64, 2), Tier(None, 0))}


def plan(**changes: Any) -> Plan:
    return Plan(
        verdict="",
        plans=(replace(BEST, **changes),),
        rejected=(),
        flips=(),
        lengths=(),
        sustained=12.0,
        objectives=objectives_of({"ttft-p99": "500ms", "tpot-p99": "40ms", "e2e-p95": "9s"}),
        rate=9.0,
        input_tokens=1154.4,
        output_tokens=211.0,
        target="Qwen/Qwen3-32B",
        iteration_tokens=2048,
        kv_pools={},
        price=None,
        provenance={},
    )


def test_vllm_serves_the_plan_and_tests_it_without_a_trained_draft() -> None:
    real, synthetic, bench = commands(emit(plan(), "vllm"))
    found = vllm_serve(real)
    assert found.model == "Qwen/Qwen3-32B"
    assert (found.tensor_parallel_size, found.max_num_seqs, found.max_num_batched_tokens) == (2, 128, 2048)
    assert found.speculative_config == {
        "method": "draft_model",
        "model": "Qwen/Qwen3-1.7B",
        "num_speculative_tokens": 3,
        "draft_tensor_parallel_size": 2,
    }
    assert vllm_serve(synthetic).speculative_config["synthetic_acceptance_rates"] == [0.8, 0.6, 0.5]
    played = vllm_bench(bench)
    assert (played.request_rate, played.random_input_len, played.random_output_len) == (4.5, 1154, 211)
    assert played.goodput == ["ttft:500", "tpot:40", "e2el:9000"]


def test_a_schedule_has_no_tier_without_guesses() -> None:
    text = emit(plan(**SCHEDULE), "vllm")
    config = vllm_serve(commands(text)[0]).speculative_config
    assert config["num_speculative_tokens_per_batch_size"] == [[1, 16, 4], [17, 64, 2]]
    assert "second deployment" in text


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_without_a_draft_nothing_is_speculative(engine: str) -> None:
    text = emit(plan(**AR), engine)
    assert "spec" not in text.replace("sglang.bench_serving", "")
    assert "acceptance" not in text
    served = {"vllm": vllm_serve, "sglang": sglang_server, "llama.cpp": llama_server}[engine]
    served(commands(text)[0])


def test_a_head_is_named_as_each_engine_names_it() -> None:
    head: Mapping[str, Any] = {"method": "eagle3", "draft": "org/head"}
    assert vllm_serve(commands(emit(plan(**head), "vllm"))[0]).speculative_config == {
        "method": "eagle3",
        "model": "org/head",
        "num_speculative_tokens": 3,
    }
    assert sglang_server(commands(emit(plan(**head), "sglang"))[0]).speculative_algorithm == "EAGLE3"
    assert llama_server(commands(emit(plan(**head), "llama.cpp"))[0]).spec_type == "draft-eagle3"


@pytest.mark.parametrize("method", ["mtp", "ngram", "suffix"])
def test_a_method_of_the_target_alone_names_no_model(method: str) -> None:
    found = vllm_serve(commands(emit(plan(method=method, draft=""), "vllm"))[0])
    assert found.speculative_config == {"method": method, "num_speculative_tokens": 3}


def test_sglang_takes_a_chain_and_simulates_its_length() -> None:
    text = emit(plan(), "sglang")
    real, simulated, bench = commands(text)
    assert "--random-input-len 1154 --random-output-len 211 --random-range-ratio 1 " in " ".join(bench)
    found = sglang_server(real)
    assert (found.speculative_algorithm, found.speculative_num_steps) == ("STANDALONE", 3)
    assert found.tp == 2
    sglang_server(simulated)
    assert "SGLANG_SIMULATE_ACC_LEN=2.90" in text


def test_llama_cpp_has_flags_of_two_builds() -> None:
    new, old = map(llama_server, commands(emit(plan(), "llama.cpp"))[:2])
    assert (new.spec_type, new.spec_draft_n_max, old.draft_max) == ("draft-simple", 3, 3)


def test_llama_cpp_before_types_would_run_a_head_as_a_model() -> None:
    [head] = map(llama_server, commands(emit(plan(method="eagle3", draft="org/head"), "llama.cpp"))[:-1])
    [own] = map(llama_server, commands(emit(plan(method="mtp", draft=""), "llama.cpp"))[:-1])
    assert (head.spec_type, head.md, own.spec_type, own.md) == ("draft-eagle3", "DRAFT.gguf", "draft-mtp", None)


def test_pearl_is_for_nano_pearl_alone() -> None:
    found = pearl_config(emit(plan(**PEARL), "nano-pearl"))
    assert (found["draft"], found["target"], found["gamma"]) == ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-32B", 3)
    assert (found["draft_tensor_parallel_size"], found["target_tensor_parallel_size"]) == (1, 2)


@pytest.mark.parametrize(("changes", "of_acceptance"), [({}, True), (AR, False)])
def test_the_planned_load_is_played_on_llama_cpp_by_the_client_of_vllm(changes: Mapping[str, Any], of_acceptance: bool) -> None:
    text = emit(plan(**changes), "llama.cpp")
    played = vllm_bench(commands(text)[-1])
    assert (played.backend, played.base_url, played.model) == ("llama.cpp", "http://127.0.0.1:8080", "Qwen/Qwen3-32B")
    assert (played.request_rate, played.random_input_len, played.random_output_len) == (4.5, 1154, 211)
    assert played.goodput == ["ttft:500", "tpot:40", "e2el:9000"]
    assert ("acceptance" in text) == of_acceptance
    assert vllm_bench(commands(emit(plan(), "vllm"))[-1]).backend is None


def test_the_benchmark_of_nano_pearl_has_the_planned_batch() -> None:
    text = emit(plan(**PEARL), "nano-pearl")
    [words] = commands("\n".join(line.removeprefix("# ") for line in text[text.index("# python") :].splitlines()))
    played = pearl_bench(words)
    assert (played.draft_model, played.target_model) == ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-32B")
    assert (played.draft_tp, played.target_tp, played.bs, played.max_tokens) == (1, 2, 128, 211)
    assert (played.input_len, played.num_samples, played.run_ar_benchmark) == (1154, 256, True)


@pytest.mark.parametrize(
    ("changes", "engine", "why"),
    [
        (PEARL, "vllm", "vLLM does not serve pearl"),
        ({"placement": "own device"}, "vllm", "--placement shared"),
        ({}, "nano-pearl", "nano-PEARL serves PEARL"),
        (SCHEDULE, "sglang", "--no-schedules"),
        (SCHEDULE, "llama.cpp", "--no-schedules"),
        ({"method": "dspark"}, "sglang", "does not name dspark"),
        ({"draft": ""}, "vllm", "give --target and --draft"),
        ({}, "tgi", "unknown engine 'tgi'"),
    ],
)
def test_what_an_engine_cannot_serve_is_refused(changes: Mapping[str, Any], engine: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        emit(plan(**changes), engine)


def test_there_is_nothing_to_serve_without_a_plan() -> None:
    with pytest.raises(InputError, match="no plan to serve"):
        emit(replace(plan(), plans=()), "vllm")
