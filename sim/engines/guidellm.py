"""Reads GuideLLM's JSON: one run for each benchmark in the file.

Its words mean other things than vLLM's. `inter_token_latency_ms` is (last - first) / (tokens - 1), which is vLLM's TPOT. Its
`time_per_output_token_ms` includes the time to the first token, and is not read. A round takes the inter-token latency times
`iter_tokens_per_iteration`, the tokens of a chunk without the first, which is the acceptance length. `request_latency` is in
seconds. The means of both are weighted by tokens and chunks, so their product is exact. An ITL has no median: a product of
medians is none, and without a draft the tool's median is one of requests, each a mean that holds rounds in which prompts were
read. A median of chunks would not hold them.

GuideLLM sees only the stream: it does not know method, draft length or rates by position. Source: GuideLLM 0.3 to 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sim.engines.files import Found
from sim.engines.run import EngineRun, Times
from sim.engines.stated import Stated
from specdec.errors import InputError

DRAFTED = 1.05
"""More tokens in a chunk than this mean that the engine drafted; clients that are late merge a few chunks."""

CLOSED, OPEN = ("synchronous", "concurrent", "throughput"), ("constant", "poisson")
"""Types of load: so many requests are kept open, or so many arrive per second."""


def is_guidellm(values: Mapping[str, Any]) -> bool:
    """Whether GuideLLM wrote this object."""
    found = values.get("benchmarks")
    return isinstance(found, list) and all(isinstance(one, dict) and "metrics" in one for one in found)


def read_guidellm(found: Found, stated: Stated) -> Iterator[EngineRun]:
    """The runs. Raises `InputError` for a file without one, and for a benchmark in which no request succeeded."""
    benchmarks = found.values["benchmarks"]
    if not benchmarks:
        raise InputError(f"{found.source} holds no benchmark: GuideLLM was stopped before the first one ended")
    for number, one in enumerate(benchmarks):
        yield _run(Found(f"{found.source} benchmark {number}", one), _model(found) or _model(Found("", one)), stated)


def _run(found: Found, model: str, stated: Stated) -> EngineRun:
    first = _metric(found, "time_to_first_token_ms")
    prompts, answers = _metric(found, "prompt_token_count"), _metric(found, "output_token_count")
    requests = found.inside("metrics", "request_totals").count("successful") or answers.count("count")
    if not requests:
        raise InputError(f"{found.source} has no successful request: repeat the run")
    per_second = _metric(found, "requests_per_second").number("mean")
    seconds = requests / per_second if per_second else None
    output, tpot = _sum(answers, requests), _times(_metric(found, "inter_token_latency_ms"), "inter_token_latency_ms", 1e-3)
    length = _metric(found, "iter_tokens_per_iteration").number("mean")
    if tpot.mean is None:
        raise InputError(f"{found.source} has no inter_token_latency_ms: let GuideLLM stream the answers, and repeat the run")
    drafted = None if length is None else length > DRAFTED
    chunk = length if drafted and length else 1.0
    strategy = found.inside("config", "strategy")
    if (kind := strategy.text("type_")) not in ("", *CLOSED, *OPEN):
        raise InputError(
            f"{found.source} has load of type {kind}, and known are {', '.join((*CLOSED, *OPEN))}: repeat the run with one of "
            "these"
        )
    return stated.run(
        found.source,
        drafted,
        target=model,
        clients=1 if kind == "synchronous" else strategy.count("streams", "max_concurrency") if kind in CLOSED else None,
        rate=strategy.number("rate") if kind in OPEN else None,
        running=tpot.mean * max(0, output - requests) / seconds if seconds and output else None,
        requests=requests,
        failed=found.inside("metrics", "request_totals").count("errored") or 0,
        seconds=seconds,
        input_tokens=_sum(prompts, requests),
        output_tokens=output,
        ttft=_times(first, "time_to_first_token_ms", 1e-3),
        tpot=tpot,
        itl=Times(tpot.mean * chunk),
        e2e=_times(_metric(found, "request_latency"), "request_latency", 1.0),
        acceptance_length=length,
    )


def _metric(found: Found, name: str) -> Found:
    metrics = found.inside("metrics")
    value = metrics.values.get(name)
    if not (value is None or isinstance(value, Mapping)):
        raise InputError(f"{found.source}: {name} is {value!r}, and must be an object: the file is damaged")
    return metrics.inside(name, "successful")


def _times(metric: Found, name: str, unit: float) -> Times:
    p99 = metric.inside("percentiles").number("p99")
    return metric.times(metric.number("mean"), metric.number("median"), p99, unit, name)


def _sum(metric: Found, requests: int) -> int | None:
    """Tokens of all requests."""
    total, mean = metric.number("total_sum"), metric.number("mean")
    return round(total) if total is not None else None if mean is None else round(mean * requests)


def _model(found: Found) -> str:
    """The name of the model, wherever this version puts it."""
    places = (("args",), ("args", "backend_kwargs"), ("config", "backend"), ("config", "backend", "backend_kwargs"))
    return next((name for place in places if (name := found.inside(*place).text("model"))), "")
