"""Reads what SGLang's `bench_serving` writes (a JSON object a line), and the acceptance in its responses.

With the backend `sglang`, the inter-token latencies are divided by the tokens of each chunk: they are times of a token. Only
their mean turns into the time of a round, times `accept_length`. With the OpenAI backends they are times of a chunk, as vLLM's.
`accept_length` counts the bonus token. It is null without speculation, and also where the engine was not asked: behind a
router, and with the backends of other engines. There are no rates by position. Source: `python/sglang/bench_serving.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.engines.files import Found
from sim.engines.run import AR, EngineRun, Times, chunks_of_many, tokens_of_chunk
from sim.engines.stated import Stated, method_name
from specdec.errors import InputError

NATIVE = ("sglang", "sglang-native")
COUNTED = ("completion_tokens", "spec_verify_ct")


def is_sglang_bench(values: Mapping[str, Any]) -> bool:
    """Whether `bench_serving` of SGLang wrote this object."""
    return "completed" in values and ("accept_length" in values or "mean_e2e_latency_ms" in values)


def is_sglang_response(values: Mapping[str, Any]) -> bool:
    """Whether this is a response with SGLang's counters of speculation."""
    return "spec_verify_ct" in Found("", values).inside("meta_info").values


def read_sglang_bench(found: Found, stated: Stated) -> EngineRun:
    """The run. Raises `InputError` for one in which no request completed."""
    completed = found.count("completed")
    if not completed:
        raise InputError(f"{found.source} is of a run in which no request completed: repeat the run")
    backend = found.text("backend")
    length = found.number("accept_length")
    itl, tpot = found.milliseconds("itl"), found.milliseconds("tpot")
    server = found.inside("server_info").values or found.values
    said = Found(found.source, server)
    drafted = length is not None or _drafted(said, backend, itl, tpot)
    if drafted and itl.mean is not None and not backend:
        raise InputError(f"{found.source} does not name its backend, so its inter-token latency may be of tokens or of chunks")
    if drafted and backend in NATIVE:
        itl = Times(itl.mean * length) if itl.mean is not None and length is not None else Times()
    elif drafted and length is None:
        length = tokens_of_chunk(itl, tpot)
    clients, rate = found.count("max_concurrency"), found.request_rate()
    return stated.run(
        found.source,
        drafted,
        target=said.text("model_path", "model_id"),
        draft=said.text("speculative_draft_model_path"),
        method=said.text("speculative_algorithm") if drafted else "",
        draft_length=said.count("speculative_num_steps") if drafted else None,
        dataset=found.text("dataset_name"),
        gpus=said.count("tp_size"),
        clients=completed if clients is None and rate is None else clients,
        rate=rate,
        requests=completed,
        seconds=found.number("duration"),
        input_tokens=found.count("total_input_tokens", "total_input"),
        output_tokens=found.count("total_output_tokens", "total_output"),
        ttft=found.milliseconds("ttft"),
        tpot=tpot,
        itl=itl,
        e2e=found.milliseconds("e2e_latency"),
        acceptance_length=length,
        kv_tokens=said.count("max_total_num_tokens"),
    )


def _drafted(said: Found, backend: str, itl: Times, tpot: Times) -> bool | None:
    """Whether the engine drafted, by what the server says or, where it was not asked, by chunks that hold several tokens."""
    if "speculative_algorithm" in said.values:
        return method_name(said.text("speculative_algorithm") or AR) != AR
    return False if backend in NATIVE else chunks_of_many(itl, tpot)


def read_sglang_responses(responses: Sequence[Found], stated: Stated) -> EngineRun:
    """One run of all these responses: tokens over rounds, and the draft length where proposed drafts are counted."""
    metas = [Found(one.source, one.inside("meta_info").values) for one in responses]
    tokens, rounds = (sum(meta.count(name) or 0 for meta in metas) for name in COUNTED)
    source = responses[0].source if len(responses) == 1 else f"{responses[0].source} and {len(responses) - 1} more responses"
    if not rounds:
        raise InputError(f"{source} counts no round (spec_verify_ct): the engine did not speculate")
    proposed = sum(meta.count("spec_num_proposed_drafts") or 0 for meta in metas)
    correct = sum(meta.count("spec_num_correct_drafts") or 0 for meta in metas)
    length = 1 + correct / rounds if correct else tokens / rounds
    whole = proposed and abs(proposed / rounds - round(proposed / rounds)) < 0.05
    return stated.run(
        source,
        True,
        draft_length=round(proposed / rounds) if whole else None,
        requests=len(responses),
        output_tokens=tokens,
        acceptance_length=max(1.0, length),
        rounds=rounds,
    )
