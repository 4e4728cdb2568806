"""Measures the acceptance of the bundled pair on texts that it never saw, and its step times. See `train_pair.py`."""

from __future__ import annotations

import gzip
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from pair_documents import CONTEXT, VOCAB, shakespeare_documents
from pair_models import sample
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaForCausalLM


def evaluation_prompts(data: Path, gsm8k: Path | None, humaneval: Path | None, count: int) -> dict[str, list[str]]:
    prompts = {}
    if gsm8k:
        items = [json.loads(line) for line in gsm8k.read_text(encoding="utf-8").splitlines() if line]
        prompts["gsm8k_test"] = [f"Question: {item['question']}\nAnswer:" for item in items]
    if humaneval:
        with gzip.open(humaneval, "rt", encoding="utf-8") as file:
            prompts["humaneval"] = [json.loads(line)["prompt"] for line in file]
    text = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    held = list(shakespeare_documents(text[int(len(text) * 0.95) :].split("\n\n", 1)[1]))
    prompts["shakespeare_held_out"] = [document[:300].rsplit("\n", 1)[0] + "\n" for document in held]
    return {name: random.Random(0).sample(texts, min(count, len(texts))) for name, texts in prompts.items()}


@torch.no_grad()
def acceptance(pair: dict[str, LlamaForCausalLM], sequences: list[list[int]], count: int) -> dict[str, float]:
    """Mean of sum_x min(p, q) over continuations sampled from the target, up to the end of the text."""
    sums = {"acceptance": 0.0, "target_entropy": 0.0}
    positions = 0
    for begin in range(0, len(sequences), 32):
        batch = sequences[begin : begin + 32]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(sequence)) + sequence for sequence in batch])
        mask = torch.tensor([[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in batch])
        ids = sample(pair["target"], ids, count, mask)
        mask = torch.cat([mask, torch.ones(len(batch), count, dtype=torch.long)], 1)
        where = (mask.cumsum(-1) - 1).clamp(min=0)
        p, q = (
            pair[name](ids, attention_mask=mask, position_ids=where, use_cache=False).logits[:, width - 1 : -1]
            .softmax(-1) for name in ("target", "draft")
        )  # fmt: skip
        ended = (ids[:, width:] == 0).long().cumsum(-1)
        keep = (ended == 0) | ((ended == 1) & (ids[:, width:] == 0))
        sums["acceptance"] += torch.minimum(p, q).sum(-1)[keep].sum().item()
        sums["target_entropy"] -= (p * p.clamp(min=1e-9).log()).sum(-1)[keep].sum().item()
        positions += int(keep.sum())
    return {**{name: round(value / positions, 4) for name, value in sums.items()}, "positions": positions}


@torch.inference_mode()
def step_times(pair: dict[str, LlamaForCausalLM], context: int = 200) -> dict[str, float]:
    """Median milliseconds of one cached step of width 1 (float32, one CPU thread, interleaved)."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in pair}
    caches = {name: DynamicCache(config=model.config) for name, model in pair.items()}
    for name, model in pair.items():
        model(torch.randint(0, VOCAB, (1, context)), past_key_values=caches[name])
    for _ in range(60):
        for name, model in pair.items():
            for repeat in range(4):
                begun = time.perf_counter()
                model(torch.tensor([[5]]), past_key_values=caches[name])
                if repeat:
                    times[name].append(time.perf_counter() - begun)
            caches[name].crop(-4)
    return {name: round(statistics.median(values) * 1e3, 3) for name, values in times.items()}


@torch.no_grad()
def evaluate(out: Path, prompts: dict[str, list[str]], count: int) -> dict[str, object]:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(out / "target", local_files_only=True)
    pair: dict[str, Any] = {
        name: AutoModelForCausalLM.from_pretrained(
            out / name, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        for name in ("target", "draft")
    }
    result: dict[str, object] = {"parameters": {name: model.num_parameters() for name, model in pair.items()}}
    for name, texts in prompts.items():
        sequences = [[0, *tokenizer(text)["input_ids"]][: CONTEXT - count] for text in texts]
        result[name] = acceptance(pair, sequences, count)
    times = step_times(pair)
    return {**result, "step_ms": times, "step_ratio": round(times["target"] / times["draft"], 2)}
