"""Reads lines that vLLM and SGLang log.

vLLM: `SpecDecoding metrics` are counts of ten seconds each, so they are added up to one run with acceptance and no times, and
`GPU KV cache size` is the pool. SGLang: `Decode batch` lines hold the requests that are decoded, the acceptance length and the
speed. Lines with equally many requests become one run, of at least three lines; medians, since the first line after a pause is
slow. The line with the engine's arguments says models, method and draft length, where the log has it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any

from sim.engines.run import EngineRun, Times
from sim.engines.stated import Stated
from specdec.errors import InputError

COUNT, NUMBER = r"(\d{1,15})", r"(\d{1,12}(?:\.\d{1,12})?)"
VLLM_ROUNDS = re.compile(
    r"SpecDecoding metrics: Mean acceptance length: [\d.]+,.*?Accepted: (?P<accepted>\d{1,15}) tokens, "
    r"Drafted: (?P<drafted>\d{1,15}) tokens(?:, Per-position acceptance rate: (?P<positions>[01]\.\d+(?:, [01]\.\d+)*))?"
)
VLLM_POOL = re.compile(r"GPU KV cache size: (\d[\d,]{0,18}) tokens")
VLLM_MODEL = re.compile(r"Initializing an? (?:V\d )?LLM engine .*?model='([^'\n]+)'")
VLLM_SPECULATION = re.compile(
    r"speculative_config=(?:None|SpeculativeConfig\(method='(?P<method>[^'\n]+)', model='?(?P<model>[^',\n]+)'?, "
    r"num_spec_tokens=(?P<length>\d{1,6})\))"
)
SGLANG_BATCH = re.compile(r"Decode batch\b[^#]*#running-req: (?P<running>\d{1,9}),(?P<rest>.*)")
SGLANG_LENGTH = re.compile(rf"accept len: {NUMBER}\b")
SGLANG_SPEED = re.compile(rf"gen throughput \(token/s\): {NUMBER}\b")
SGLANG_POOL = re.compile(rf"(?:max_total_num_tokens=|KV Cache is allocated\.[^#]*#tokens: ){COUNT}")
SGLANG_SAID = {
    "target": re.compile(r"model_path='([^'\n]+)'"),
    "method": re.compile(r"speculative_algorithm='([^'\n]+)'"),
    "draft": re.compile(r"speculative_draft_model_path='([^'\n]+)'"),
    "draft_length": re.compile(r"speculative_num_steps=(\d{1,6})\b"),
    "gpus": re.compile(r"tp_size=(\d{1,6})\b"),
}
LINES = 3
"""Fewest lines of a number of requests that make a run."""


def is_vllm_log(text: str) -> bool:
    return VLLM_ROUNDS.search(text) is not None or VLLM_POOL.search(text) is not None


def is_sglang_log(text: str) -> bool:
    return SGLANG_BATCH.search(text) is not None


def read_vllm_log(text: str, source: str, stated: Stated) -> EngineRun:
    """Acceptance of all intervals together, and the pool. Raises `InputError` for intervals of several draft lengths."""
    said = VLLM_SPECULATION.search(text)
    model, pool = VLLM_MODEL.search(text), VLLM_POOL.search(text)
    intervals = [found for found in VLLM_ROUNDS.finditer(text) if int(found["drafted"])]
    lengths = {len(found["positions"].split(",")) for found in intervals if found["positions"]}
    if len(lengths) > 1:
        raise InputError(
            f"{source} has rounds of {' and '.join(map(str, sorted(lengths)))} drafted tokens: cut the log between them"
        )
    length = int(said["length"]) if said and said["length"] else next(iter(lengths), None) or stated.draft_length
    return stated.run(
        source,
        True if intervals else None,
        target=model[1] if model else "",
        method=("ar" if said["method"] is None else said["method"]) if said else "",
        draft=said["model"] if said else "",
        draft_length=length,
        kv_tokens=int(pool[1].replace(",", "")) if pool else None,
        **(_acceptance(intervals, length) if length and intervals else {}),
    )


def _acceptance(intervals: Sequence[re.Match[str]], length: int) -> dict[str, Any]:
    """Intervals weighted by their rounds."""
    rounds = [int(found["drafted"]) / length for found in intervals]
    accepted, total = sum(int(found["accepted"]) for found in intervals), sum(rounds)
    shares: tuple[float, ...] = ()
    if all(found["positions"] for found in intervals):
        rates = [[float(rate) for rate in found["positions"].split(",")] for found in intervals]
        columns = zip(*rates, strict=True)
        shares = tuple(sum(r * n for r, n in zip(column, rounds, strict=True)) / total for column in columns)
    return {"acceptance_length": 1 + accepted / total, "by_position": shares, "rounds": round(total)}


def read_sglang_log(text: str, source: str, stated: Stated) -> Iterator[EngineRun]:
    """A run for each number of requests that was decoded at once. Raises `InputError` where none has enough lines."""
    batches: dict[int, list[tuple[float, float | None]]] = defaultdict(list)
    for found in SGLANG_BATCH.finditer(text):
        speed, length = SGLANG_SPEED.search(found["rest"]), SGLANG_LENGTH.search(found["rest"])
        if speed and float(speed[1]) > 0 and int(found["running"]):
            batches[int(found["running"])].append((float(speed[1]), float(length[1]) if length else None))
    enough = {running: lines for running, lines in sorted(batches.items()) if len(lines) >= LINES}
    if not enough:
        raise InputError(
            f"{source} has no {LINES} `Decode batch` lines of equally many requests: log a longer run of a steady load"
        )
    said = {name: found[1] for name, pattern in SGLANG_SAID.items() if (found := pattern.search(text))}
    pool = SGLANG_POOL.search(text)
    for running, lines in enough.items():
        lengths = [length for _, length in lines if length is not None]
        token, length = running / median(speed for speed, _ in lines), fmean(lengths) if lengths else None
        steps = said.get("draft_length")
        yield stated.run(
            f"{source}, {running} running",
            bool(lengths),
            **{
                name: value
                for name, value in said.items()
                if name in ("target", "method", "draft") and (lengths or name == "target")
            },
            draft_length=int(steps) if steps and lengths else None,
            gpus=int(said["gpus"]) if "gpus" in said else None,
            clients=running,
            running=float(running),
            tpot=Times(median=token),
            itl=Times(median=token * (length or 1.0)),
            acceptance_length=length,
            kv_tokens=int(pool[1]) if pool else None,
        )
