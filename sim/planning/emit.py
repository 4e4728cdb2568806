"""A plan as the flags of an engine, with what tests it on the user's own GPU.

For each engine: the command that serves the plan; the same with a synthetic acceptance, where the engine has that, which tests
the plan's speed before any draft is trained; and a benchmark. Sources of the flags: the engines' documentation (vLLM:
speculative decoding, dynamic and synthetic, and `vllm bench serve` with its llama.cpp backend; SGLang: server arguments;
llama.cpp: llama-server; nano-PEARL: README and `benchmark/eval_random.py`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sim.engines.run import DRAFT_MODEL, SGLANG_ALGORITHMS
from sim.planning.report import Plan, Planned
from specdec.errors import InputError

LLAMA_TYPES = {"draft_model": "draft-simple", "eagle3": "draft-eagle3", "mtp": "draft-mtp"}
OF_TARGET = ("ngram", "suffix", "mtp")
"""Methods that need no model beside the target."""
OUTPUT_OF = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}
"""Names of latencies in `vllm bench serve`."""
BENCH = "# The planned requests/s on one replica, all of the mean lengths: this tests TPOT, not TTFT."
OWN_PROMPTS = "Random prompts say nothing of acceptance: for that, give --dataset-name custom --dataset-path FILE with your own"
SYNTHETIC = "Random prompts say nothing of acceptance, so use the synthetic one"


def emit(plan: Plan, engine: str) -> str:
    """The commands that serve the best plan with an engine of `ENGINES`, as text of a shell, or of Python for nano-PEARL.

    Raises `InputError` for a plan that this engine cannot serve, for an unknown engine, and where there is no plan.
    """
    if engine not in ENGINES:
        raise InputError(f"unknown engine {engine!r}: give one of {', '.join(ENGINES)}")
    if not plan.plans:
        raise InputError("there is no plan to serve: no candidate meets the objectives")
    best = plan.plans[0]
    if best.parts:
        alone = [replace(plan, plans=(part,), rate=part.share * plan.rate) for part in best.parts]
        return "\n\n".join(
            f"# {100 * part.share:.0f} % of the requests\n{emit(one, engine)}"
            for part, one in zip(best.parts, alone, strict=True)
        )
    if best.draft_length and (not plan.target or not best.draft) and best.method not in OF_TARGET:
        raise InputError("the flags need the names of both models: give --target and --draft")
    return ENGINES[engine](plan, best)


def _command(*parts: str, **flags: Any) -> str:
    """A command with its flags, one on a line; `None` leaves a flag out, and True gives it no value."""
    lines = [" ".join(parts)]
    for name, value in flags.items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            lines.append(flag if value is True else f"{flag} {shlex.quote(str(value))}")
    return " \\\n  ".join(lines)


def _served_with_target(best: Planned, engine: str) -> None:
    if best.strategy not in ("speculative", "autoregressive"):
        other = "give --emit nano-pearl, or " if best.strategy == "pearl" else ""
        raise InputError(f"{engine} does not serve {best.strategy}: {other}plan with --strategy speculative")
    if best.placement != "shared":
        raise InputError(
            f"{engine} runs a draft on the target's GPUs, and the best plan has it elsewhere: plan with --placement shared"
        )


def speculative_config(best: Planned, *, synthetic: bool = False) -> dict[str, Any]:
    """vLLM's `--speculative-config`. A schedule has no tier without guesses: vLLM is slower there than without the config."""
    config: dict[str, Any] = {"method": best.method}
    if best.method not in OF_TARGET:
        config["model"] = best.draft
    config["num_speculative_tokens"] = best.draft_length
    if best.method == DRAFT_MODEL:
        config["draft_tensor_parallel_size"] = best.target_gpus
    if best.schedule:
        tiers, first = [], 1
        for tier in best.schedule:
            last = best.max_batch if tier.up_to is None else tier.up_to
            if not tier.draft_length:
                break
            tiers.append([first, last, tier.draft_length])
            first = last + 1
        config["num_speculative_tokens_per_batch_size"] = tiers
    if synthetic:
        config["rejection_sample_method"] = "synthetic"
        config["synthetic_acceptance_rates"] = [round(rate, 4) for rate in best.acceptance]
    return config


def vllm(plan: Plan, best: Planned) -> str:
    _served_with_target(best, "vLLM")

    def serve(**more: Any) -> str:
        return _command(
            "vllm serve",
            plan.target or "TARGET",
            tensor_parallel_size=best.target_gpus if best.target_gpus > 1 else None,
            max_num_seqs=best.max_batch,
            max_num_batched_tokens=plan.iteration_tokens,
            **more,
        )

    parts = [f"# {best.replicas} replica(s); each:"]
    if not best.draft_length:
        return "\n".join([*parts, serve(), "", BENCH, _vllm_bench(plan, best)])
    config = json.dumps(speculative_config(best), separators=(",", ":"))
    parts.append(serve(speculative_config=config))
    off = next((before for before, tier in zip(best.schedule, best.schedule[1:], strict=False) if not tier.draft_length), None)
    if off is not None:
        parts.append(
            f"# The plan is off above {off.up_to} running. vLLM pays 7 to 25 % for speculation that is configured and off: "
            "serve that load with a second deployment, without --speculative-config."
        )
    parts += [
        "",
        "# The same speed without a trained draft: acceptance as planned, text without meaning",
        serve(speculative_config=json.dumps(speculative_config(best, synthetic=True), separators=(",", ":"))),
    ]
    return "\n".join([*parts, "", f"{BENCH} {SYNTHETIC}", _vllm_bench(plan, best)])


def _vllm_bench(plan: Plan, best: Planned, **server: Any) -> str:
    """The benchmark of vLLM, which plays requests on other servers too."""
    goodput = [f"{OUTPUT_OF[one.quantity]}:{1e3 * one.seconds:g}" for one in plan.objectives]
    rate = plan.rate / best.replicas
    command = _command(
        "vllm bench serve",
        **server,
        model=plan.target or "TARGET",
        dataset_name="random",
        random_input_len=round(plan.input_tokens),
        random_output_len=round(plan.output_tokens),
        ignore_eos=True,
        request_rate=f"{rate:.3g}",
        num_prompts=max(200, round(300 * rate)),
        percentile_metrics="ttft,tpot,itl,e2el",
        metric_percentiles="50,90,95,99",
        save_result=True,
    )
    if goodput:
        command += " \\\n  --goodput " + " ".join(goodput)
    return command


def sglang(plan: Plan, best: Planned) -> str:
    _served_with_target(best, "SGLang")
    flags: dict[str, Any] = {}
    before: list[str] = []
    if best.schedule:
        raise InputError("SGLang has no lengths by running batch for this method: plan with --no-schedules")
    if best.draft_length:
        if best.method not in SGLANG_ALGORITHMS:
            raise InputError(f"SGLang does not name {best.method}: it has {', '.join(SGLANG_ALGORITHMS)}")
        flags = {
            "speculative_algorithm": SGLANG_ALGORITHMS[best.method],
            "speculative_draft_model_path": best.draft or None,
            "speculative_num_steps": best.draft_length,
            "speculative_eagle_topk": 1,
            "speculative_num_draft_tokens": best.draft_length + 1,
        }
        length = 1 + sum(best.acceptance)
        before = [
            "",
            "# The same speed without a trained draft: acceptance as planned, text without meaning",
            f"SGLANG_SIMULATE_ACC_LEN={length:.2f} SGLANG_SIMULATE_ACC_METHOD=match-expected \\",
            "SGLANG_SIMULATE_ACC_TOKEN_MODE=real-draft-token \\",
        ]
    serve = _command(
        "python -m sglang.launch_server",
        model_path=plan.target or "TARGET",
        tp=best.target_gpus if best.target_gpus > 1 else None,
        max_running_requests=best.max_batch,
        chunked_prefill_size=plan.iteration_tokens,
        **flags,
    )
    bench = _command(
        "python -m sglang.bench_serving",
        backend="sglang",
        dataset_name="random",
        random_input_len=round(plan.input_tokens),
        random_output_len=round(plan.output_tokens),
        random_range_ratio=1,  # else lengths from 1 on
        request_rate=f"{plan.rate / best.replicas:.3g}",
        num_prompts=max(200, round(300 * plan.rate / best.replicas)),
    )
    again = [*before, serve] if before else []
    return "\n".join([f"# {best.replicas} replica(s); each:", serve, *again, "", BENCH, bench])


def llama_cpp(plan: Plan, best: Planned) -> str:
    _served_with_target(best, "llama.cpp")
    if best.schedule:
        raise InputError("llama.cpp has no lengths by running batch: plan with --no-schedules")
    if best.draft_length and best.method not in LLAMA_TYPES:
        raise InputError(f"llama.cpp does not name {best.method}: it has {', '.join(LLAMA_TYPES)}")
    base: dict[str, Any] = {"parallel": best.max_batch}
    lines = [f"# {best.replicas} replica(s); each (give the models as GGUF files):"]
    played = "Its client is vLLM's." if not best.draft_length else f"Its client is vLLM's. {OWN_PROMPTS}"
    bench = ["", f"{BENCH} {played}", _vllm_bench(plan, best, backend="llama.cpp", base_url="http://127.0.0.1:8080")]
    if not best.draft_length:
        return "\n".join([*lines, _command("llama-server -m TARGET.gguf", **base), *bench])
    new = {"spec_type": LLAMA_TYPES[best.method], "spec_draft_n_max": best.draft_length, "spec_draft_n_min": 0}
    new["spec_draft_p_min"] = 0
    start = "llama-server -m TARGET.gguf" + ("" if best.method in OF_TARGET else " -md DRAFT.gguf -ngld 99")
    lines.append(_command(start, **base, **new))
    if best.method == DRAFT_MODEL:  # those would run a head as a model of its own
        old = {"draft_max": best.draft_length, "draft_min": 0, "draft_p_min": 0}
        lines += ["", "# Builds of 2025, which have no --spec-type:", _command(start, **base, **old)]
    return "\n".join([*lines, *bench])


def nano_pearl(plan: Plan, best: Planned) -> str:
    if best.strategy != "pearl":
        raise InputError(f"nano-PEARL serves PEARL, and the best plan is {best.name}: give another engine")
    bench = _command(
        "python benchmark/eval_random.py",
        draft_model=best.draft,
        target_model=plan.target,
        draft_tp=best.draft_gpus or 1,
        target_tp=best.target_gpus,
        input_len=round(plan.input_tokens),
        max_tokens=round(plan.output_tokens),
        bs=best.max_batch,
        num_samples=2 * best.max_batch,
        run_ar_benchmark=True,
    )
    return "\n".join(
        [
            f"# {best.replicas} replica(s) of nano-PEARL, a research engine: no production engine serves PEARL yet",
            "from nano_pearl import PEARLConfig",
            "",
            f"PEARLConfig({best.draft!r}, {plan.target!r}, draft_tensor_parallel_size={best.draft_gpus or 1}, "
            f"target_tensor_parallel_size={best.target_gpus}, gamma={best.draft_length})",
            "",
            "# In a checkout of nano-PEARL: whole batches of random prompts, beside autoregressive decoding. It plays no",
            "# arrivals, and sets the draft length itself. For acceptance, give the first four flags to eval_benchmark.py",
            *[f"# {line}" for line in bench.splitlines()],
        ]
    )


ENGINES: Mapping[str, Callable[[Plan, Planned], str]] = {
    "vllm": vllm,
    "sglang": sglang,
    "llama.cpp": llama_cpp,
    "nano-pearl": nano_pearl,
}
