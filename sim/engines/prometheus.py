"""Reads two scrapes of vLLM's or SGLang's `/metrics` as one run.

Names moved between versions, so each quantity has a list of names, newest first; where none is there, the run is refused and
the list is printed. vLLM's inter-token latency has one observation a chunk, so its mean is the time of a round; SGLang divides
a chunk by its tokens, so the same name is the time of a token there, and its acceptance length is a gauge that only holds the
last value. Metrics hold no clock: the seconds between the two scrapes are to be stated, else throughput and load are unknown.

Sources: `vllm/v1/metrics/loggers.py`, `vllm/v1/spec_decode/metrics.py`, SGLang's `metrics_collector.py`.
"""

from __future__ import annotations

from sim.engines.run import MOST, EngineRun, Times
from sim.engines.scrapes import Between, Scrape
from sim.engines.stated import Stated
from specdec.errors import InputError

VLLM, SGLANG = "vllm:", "sglang:"
ANSWERS = ("generation_tokens_total",)
PROMPTS = ("prompt_tokens_total",)
ROUND = ("inter_token_latency_seconds", "time_per_output_token_seconds")
"""The second is what versions before 0.11 call the time of a chunk, not of a token."""
TOKEN = ("request_time_per_output_token_seconds",)
FIRST = ("time_to_first_token_seconds",)
WHOLE = ("e2e_request_latency_seconds",)
DRAFTS = "spec_decode_num_drafts_total"
DRAFTED = "spec_decode_num_draft_tokens_total"
ACCEPTED = "spec_decode_num_accepted_tokens_total"
BY_POSITION = "spec_decode_num_accepted_tokens_per_pos_total"


def prefix_of(scrape: Scrape) -> str:
    """Whose names these are. Raises `InputError` for names of neither engine."""
    for prefix in (VLLM, SGLANG):
        if any(sample.name.startswith(prefix) for sample in scrape.samples):
            return prefix
    names = sorted({sample.name for sample in scrape.samples})
    raise InputError(
        f"{scrape.source} holds metrics, but none of vLLM ({VLLM}...) or SGLang ({SGLANG}...): {', '.join(names[:3])}, ...; "
        "scrape the engine itself"
    )


def read_scrapes(between: Between, stated: Stated) -> EngineRun:
    """The run between two scrapes."""
    return _vllm(between, stated) if between.prefix == VLLM else _sglang(between, stated)


def _vllm(between: Between, stated: Stated) -> EngineRun:
    output = between.needed(*ANSWERS)
    between.needed(*(f"{name}_count" for name in ROUND))
    rounds, drafted, accepted = (between.grown(name) for name in (DRAFTS, DRAFTED, ACCEPTED))
    if rounds is None and (drafted or accepted):
        raise InputError(f"{between.source} have {VLLM}{DRAFTED} and no {VLLM}{DRAFTS}: rounds are not counted before vLLM 0.8")
    positions = between.by_label(BY_POSITION, "position")
    itl = between.mean(*ROUND)
    steps = between.grown("iteration_tokens_total_count")
    chunks = between.grown(*(f"{name}_count" for name in ROUND))
    return stated.run(
        between.source,
        bool(rounds),
        target=between.model,
        draft_length=_length(between, rounds, drafted, len(positions)),
        running=chunks / steps if steps and chunks else None,
        requests=int(between.grown("request_success_total", "e2e_request_latency_seconds_count") or 0) or None,
        input_tokens=int(between.grown(*PROMPTS) or 0),
        output_tokens=int(output),
        ttft=between.mean(*FIRST),
        tpot=between.mean(*TOKEN),
        itl=itl,
        e2e=between.mean(*WHOLE),
        acceptance_length=1 + (accepted or 0.0) / rounds if rounds else None,
        by_position=_shares(positions, rounds),
        rounds=int(rounds) if rounds else None,
        kv_tokens=_kv_tokens(between.after),
    )


def _length(between: Between, rounds: float | None, drafted: float | None, positions: int) -> int | None:
    """The draft length; `None` where the counters do not show one."""
    if not rounds:
        return None
    mean = (drafted or 0.0) / rounds
    nearest = round(mean)
    if positions and mean < 0.9 * positions:
        raise InputError(
            f"{between.source}: rounds drafted {mean:.2f} tokens of {positions} on average, so they have no one length: "
            "run each draft length alone"
        )
    return positions or (nearest if abs(mean - nearest) < 0.05 else None)


def _shares(positions: dict[str, float], rounds: float | None) -> tuple[float, ...]:
    if not rounds or not all(position.isdecimal() for position in positions):
        return ()
    return tuple(positions[position] / rounds for position in sorted(positions, key=int))


def _kv_tokens(scrape: Scrape) -> int | None:
    """Tokens that the KV cache holds: said by newer versions, else blocks times their size."""
    for sample in scrape.named(f"{VLLM}cache_config_info"):
        said, blocks, size = (sample.labels.get(name, "") for name in ("kv_cache_size_tokens", "num_gpu_blocks", "block_size"))
        if said.isdecimal():
            return int(said)
        if blocks.isdecimal() and size.isdecimal():
            return int(blocks) * int(size)
    return None


def _sglang(between: Between, stated: Stated) -> EngineRun:
    output = between.needed(*ANSWERS)
    between.needed("inter_token_latency_seconds_count")
    token = between.mean("inter_token_latency_seconds")
    length, steps = (_gauge(between.after, name) for name in ("spec_accept_length", "spec_num_steps"))
    drafted = bool(length and length > 0)
    rounds = None if token.mean is None else Times(token.mean * (length if drafted and length else 1.0))
    requests = between.grown("num_requests_total", "e2e_request_latency_seconds_count")
    return stated.run(
        between.source,
        drafted,
        target=between.model,
        draft_length=int(steps) if steps and drafted else None,
        requests=int(requests or 0) or None,
        input_tokens=int(between.grown(*PROMPTS) or 0),
        output_tokens=int(output),
        ttft=between.mean(*FIRST),
        tpot=token,
        itl=rounds or Times(),
        e2e=between.mean(*WHOLE),
        acceptance_length=max(1.0, length) if drafted and length else None,
        kv_tokens=int(_gauge(between.after, "max_total_num_tokens") or 0) or None,
    )


def _gauge(scrape: Scrape, name: str) -> float | None:
    """The last value of a gauge, which every rank of a tensor-parallel group repeats."""
    values = [one.value for one in scrape.named(SGLANG + name)]
    return values[-1] if values and 0 <= values[-1] < MOST else None
