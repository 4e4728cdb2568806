"""A draft of another family beside the bundled one, on the bundled target: acceptance, speed, and whether greedy outputs hold.

    python scripts/train_other_draft.py --data DIR --out other --minutes 8
    python benchmarks/families.py other --json benchmarks/results/HARDWARE_DATE_families.json

Drafts take turns on each prompt, so that a busy machine slows all alike. Speeds are medians over prompts of the ratio to
autoregressive decoding of the same prompt. `others` in the file is the share of
the machine that other processes took.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer

from specdec import Pair, create, decode
from specdec.loading import load_model
from specdec.machine import OtherWork
from specdec.measure import hardware, measure_acceptance
from specdec.prompts import bundled
from specdec.source import sources
from specdec.vocabularies import SAME, Matching, match_tokenizers

LANES = ("inline", "thread", "process")
LENGTHS = {"speculative": 3, "pearl": 4}


def pairs(folder: Path) -> dict[str, Pair]:
    """The target with each draft, by how its tokens become the target's. All have the target's weights in common."""
    ours = Pair.bundled(dtype="float32", lane="process")
    [source] = sources(folder, None, device="cpu", draft_device=None, dtype="float32", options={})
    other, theirs = load_model(source), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert ours.tokenizer is not None
    found = {"same": ours}
    for way in ("common", "text"):
        matching = match_tokenizers(ours.tokenizer, theirs, way)
        found[way] = Pair(ours.target, other, ours.tokenizer, lane="process", matching=matching)
    return found


def greedy_equal(pair: Pair, prompts: list[list[int]], tokens: int) -> dict[str, bool]:
    """Whether the greedy outputs of both strategies are those of autoregressive decoding, by lane."""
    found: dict[str, bool] = {}
    for lane in LANES:
        with Pair(pair.target, pair.draft, pair.tokenizer, lane=lane, matching=pair.matching) as here:
            options: dict[str, Any] = {"max_new_tokens": tokens, "temperature": 0}
            found[lane] = all(
                decode(here, create(name, draft_length=length), prompt, **options).tokens
                == decode(here, create("autoregressive"), prompt, **options).tokens
                for prompt in prompts
                for name, length in LENGTHS.items()
            )
    return found


def speeds(every: dict[str, Pair], prompts: list[list[int]], tokens: int, temperature: float) -> dict[str, Any]:
    """Speed-ups over autoregressive decoding and draft acceptance rates, by draft and strategy."""
    ratios: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], Any] = {}
    for number, prompt in enumerate([prompts[0], *prompts]):  # the first warms up
        options: dict[str, Any] = {"max_new_tokens": tokens, "temperature": temperature, "seed": number}
        base = decode(every["same"], create("autoregressive"), prompt, **options).statistics.tokens_per_second
        for way, pair in every.items():
            for name, length in LENGTHS.items():
                statistics = decode(pair, create(name, draft_length=length), prompt, **options).statistics
                if number:
                    ratios.setdefault((way, name), []).append(statistics.tokens_per_second / base)
                    counts[way, name] = counts[way, name] + statistics if (way, name) in counts else statistics
    return {
        f"{way} {name}": {
            "speed_up": round(median(ratios[way, name]), 3),
            "draft_acceptance_rate": round(one.accepted_tokens / max(1, one.tested_tokens), 4),
            "mean_acceptance_length": round(1 + one.accepted_tokens / one.rounds, 3),
        }
        for (way, name), one in counts.items()
    }


def described(pair: Pair) -> dict[str, Any]:
    matching: Matching = pair.matching
    common = None if matching is SAME or matching.vocabularies is None else len(matching.vocabularies.common)
    return {"parameters": pair.draft.num_parameters() if pair.draft else 0, "common_tokens": common, "share": matching.share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("draft", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    others = OtherWork(2)
    every = pairs(args.draft)
    tokenizer: Any = every["same"].tokenizer
    prompts: list[list[int]] = [tokenizer(text)["input_ids"] for text in bundled()[: args.prompts]]
    found: dict[str, Any] = {
        "hardware": {name: str(value) for name, value in vars(hardware(every["same"])).items()},
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {"tokens": args.tokens, "prompts": len(prompts), "dtype": "float32", "draft_lengths": LENGTHS},
        "drafts": {way: described(pair) for way, pair in every.items()},
        "greedy_equal": {way: greedy_equal(pair, prompts[:3], args.tokens) for way, pair in every.items()},
        "sum_min_p_q": {way: round(measure_acceptance(every[way], prompts, args.tokens).rate, 4) for way in ("same", "common")},
        "temperature 0": speeds(every, prompts, args.tokens, 0.0),
        "temperature 1": speeds(every, prompts, args.tokens, 1.0),
    }
    found["others"] = round(others.share(), 2)
    args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    for pair in every.values():
        pair.close()


if __name__ == "__main__":
    main()
