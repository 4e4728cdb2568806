"""Reads what `vllm bench serve --save-result` and `vllm bench sweep` write: one JSON object a run.

A sweep merges the parameters of a run into its object, and `--metadata KEY=VALUE` of the benchmark does too; so the method, the
draft length and the GPU are read from there. `max_concurrency` is a ceiling, and `max_concurrent_requests` the most that were
open at once: how many requests really ran at once is computed from the time that they spent decoding (Little's law). Source:
`vllm/benchmarks/serve.py` and `vllm/benchmarks/sweep/serve.py`.

Not known here: the size of the KV cache, which only the log and the metrics hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sim.engines.files import Found
from sim.engines.run import AR, EngineRun, Times, chunks_of_many, far_above, tokens_of_chunk
from sim.engines.stated import NO_DRAFT, Stated
from specdec.errors import InputError

NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
"""Our names of latencies, and vLLM's."""
NOT_ONE_LENGTH = ("num_speculative_tokens_per_batch_size", "enable_adaptive_verification")
"""Settings with which rounds have no one draft length."""


def is_vllm_bench(values: Mapping[str, Any]) -> bool:
    """Whether `vllm bench serve` wrote this object."""
    return "completed" in values and "total_output_tokens" in values and ("model_id" in values or "endpoint_type" in values)


def is_sweep_failure(values: Mapping[str, Any]) -> bool:
    """Whether this is the note that a sweep leaves of a run that failed."""
    return "error_type" in values and "serve_overrides" in values


def is_warm_up(values: Mapping[str, Any]) -> bool:
    """Whether a sweep wrote this for a warm-up, which is no measurement."""
    return values.get("run_number") == -1


def read_vllm_bench(found: Found, stated: Stated) -> EngineRun:
    """The run. Raises `InputError` for one in which no request completed, and for rounds without one draft length."""
    completed, failed = found.count("completed"), found.count("failed") or 0
    if not completed:
        raise InputError(f"{found.source} is of a run in which no request completed ({failed} failed): repeat the run")
    seconds = found.number("duration")
    output = found.count("total_output_tokens")
    times = {name: found.milliseconds(tool) for name, tool in NAMES.items()}
    times |= {name: one for name, one in _detailed(found).items() if times[name] == Times()}
    said = _speculation(found)
    length = _acceptance_length(found, times["itl"], times["tpot"])
    rate = found.request_rate()
    clients = _clients(found, rate)
    return stated.run(
        found.source,
        _drafted(found, said, times["itl"], times["tpot"]),
        **said,
        target=found.text("target", "model_id", "model"),
        dataset=found.text("dataset", "dataset_name"),
        gpu=found.text("gpu"),
        gpus=found.count("gpus", "tensor_parallel_size", "tensor-parallel-size"),
        clients=completed + failed if clients is None and rate is None else clients,
        assumed=("clients",) if clients is None and rate is None else (),
        rate=rate,
        running=_running(times, completed, output, seconds),
        requests=completed,
        failed=failed,
        seconds=seconds,
        input_tokens=found.count("total_input_tokens"),
        output_tokens=output,
        **times,
        acceptance_length=length,
        by_position=tuple(found.numbers("spec_decode_per_position_acceptance_rates")),
        rounds=found.count("spec_decode_num_drafts"),
        kv_tokens=found.count("kv_tokens"),
        max_batch=found.count("max_num_seqs", "max-num-seqs"),
    )


def _detailed(found: Found) -> dict[str, Times]:
    """Latencies from the arrays of `--save-detailed`, for what the summary leaves out; empty without arrays."""
    gaps, first = found.values.get("itls"), found.numbers("ttfts")
    if not isinstance(gaps, list) or not first or len(gaps) != len(first):
        return {}
    every = found.numbers("itls")
    errors = found.values.get("errors")
    failed = errors if isinstance(errors, list) and len(errors) == len(gaps) else [""] * len(gaps)
    one_each = [Found(found.source, {"itls": gap}).numbers("itls") for gap in gaps]
    whole = [ttft + sum(gap) for ttft, gap, error in zip(first, one_each, failed, strict=False) if not error]
    first = [ttft for ttft, error in zip(first, failed, strict=False) if not error]
    return {"itl": _of(every), "ttft": _of(first), "e2e": _of(whole)}


def _of(values: list[float]) -> Times:
    if not values:
        return Times()
    return Times(float(np.mean(values)), float(np.median(values)), float(np.percentile(values, 99)))


def _speculation(found: Found) -> dict[str, Any]:
    """Method, draft length and draft, as far as parameters of a sweep, metadata or counters say them."""
    values = {str(key).replace("-", "_"): value for key, value in found.values.items()}
    said: dict[str, Any] = {
        "method": values.get("method"),
        "draft": values.get("draft"),
        "draft_length": Found(found.source, values).count("num_speculative_tokens"),
    }
    config = _config(found.source, values)
    if config is not None:
        said = {"method": AR, "draft": None, "draft_length": None} if not config else _of_config(found.source, config)
    counted, length, mean = _counted(found), said["draft_length"], _drafted_a_round(found)
    if length and mean is not None and (far_above(mean, length) or far_above(length, mean)):
        raise InputError(
            f"{found.source}: num_speculative_tokens is {length}, and {mean:.3g} tokens were drafted in a round by its "
            "counters: correct the first, or leave it out; a schedule of lengths has no one length"
        )
    return said | {"draft_length": length or counted}


def _config(source: str, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """`speculative_config` as an object, empty where it is switched off; `None` where it is not mentioned."""
    dotted = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("speculative_config.")}
    if dotted:
        return dotted
    if "speculative_config" not in values:
        return None
    config = values["speculative_config"]
    if isinstance(config, str) and config.strip().lower() not in ("", *NO_DRAFT):
        try:
            config = json.loads(config)
        except ValueError as error:
            raise InputError(f"{source}: speculative_config {config[:60]!r} is no JSON: correct it, or take it out") from error
    return config if isinstance(config, Mapping) else {}


def _of_config(source: str, config: Mapping[str, Any]) -> dict[str, Any]:
    mixed = [name for name in NOT_ONE_LENGTH if config.get(name)]
    if mixed:
        raise InputError(f"{source} drafted by {mixed[0]}, so its rounds have no one length: run each draft length alone")
    draft = str(config.get("model") or "")
    method = config.get("method") or ("ngram" if draft in ("ngram", "[ngram]") else None)
    length = Found(source, config).count("num_speculative_tokens")
    return {"method": method, "draft": "" if draft in ("ngram", "[ngram]") else draft, "draft_length": length}


def _counted(found: Found) -> int | None:
    """The draft length that the counters show; `None` where drafts were not all of one length."""
    mean = _drafted_a_round(found)
    positions = len(found.numbers("spec_decode_per_position_acceptance_rates"))
    if mean is None:
        return positions or None
    nearest = round(mean) if abs(mean - round(mean)) < 0.05 else 0  # the last rounds of an answer may be shorter
    return max(positions, nearest) or None


def _drafted_a_round(found: Found) -> float | None:
    rounds, drafted = found.number("spec_decode_num_drafts"), found.number("spec_decode_draft_tokens")
    return None if not rounds or drafted is None else drafted / rounds


def _drafted(found: Found, said: Mapping[str, Any], itl: Times, tpot: Times) -> bool | None:
    """Whether the engine drafted: said, counted, or seen in chunks that take longer than their tokens."""
    if found.number("spec_decode_num_drafts"):
        return True
    if said["method"] is not None:
        return None  # the name decides
    return True if said["draft_length"] else chunks_of_many(itl, tpot)


def _acceptance_length(found: Found, itl: Times, tpot: Times) -> float | None:
    """As counted, else by rates of all positions, else the time of a chunk over the time of a token."""
    counted, rates = found.number("spec_decode_acceptance_length"), found.numbers("spec_decode_per_position_acceptance_rates")
    if counted is None and rates:
        counted = 1 + sum(rates)
    return tokens_of_chunk(itl, tpot) if counted is None else counted


def _clients(found: Found, rate: float | None) -> int | None:
    """Requests that clients keep open at once: the ceiling, or the most that ever were; `None` without a ceiling.

    A ceiling that requests which arrive at a rate never reach limits nothing, and is none.
    """
    ceiling, most = found.count("max_concurrency"), found.count("max_concurrent_requests")
    if ceiling is None or not most or most >= ceiling:
        return ceiling
    return most if rate is None else None


def _running(times: Mapping[str, Times], completed: int, output: int | None, seconds: float | None) -> float | None:
    """Requests that were decoded at once: seconds of decoding, over those of the run."""
    if not seconds:
        return None
    whole, first, token = times["e2e"].mean, times["ttft"].mean, times["tpot"].mean
    if whole is not None and first is not None:
        return max(0.0, whole - first) * completed / seconds
    if token is not None and output is not None:
        return token * max(0, output - completed) / seconds
    return None
