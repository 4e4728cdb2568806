"""Train the small target/draft pair that specdec bundles (a toy for demonstrating decoding).

What it does
    1. Builds documents in three domains and one byte-level BPE tokenizer (`<|endoftext|>` = 0).
    2. Co-trains (72 % of the time): the target on cross-entropy, the draft on the target's
       distribution, first by KL(p||q), ending on the total-variation loss 0.5 * sum|p - q|, which
       *is* 1 - acceptance. That loss also reaches the target (its weight grows from 0 to 1), so
       the target gives up a little likelihood where the draft cannot follow it: the two are
       trained to agree, and accept more than two models that are trained apart.
    3. Freezes the target (the rest): the draft goes on with the total-variation loss, half on the
       documents and half on text sampled from the target, which is what decoding will see.

Data (`--data DIR`, a folder with these files) and licences
    gsm8k_train.jsonl    grade-school word problems (MIT); calculator annotations dropped
    mbpp.jsonl           974 small Python tasks (CC-BY-4.0), rewritten as functions with docstrings
    tinyshakespeare.txt  (public-domain text); the last 5 % is held out
    and functions from this interpreter's own standard library sources (PSF licence).
    Never trained on: GSM8K test, HumanEval, the last 5 % of tiny Shakespeare, and 2 % of each
    other domain's documents, on which the progress lines report.

How to run (on two idle CPU cores; a GPU is used where there is one). The schedule follows the clock:
other work on the same cores costs steps, and two training threads lose far more than their share.
Seeds are fixed, but a run repeats in kind, not to the bit. See specdec/bundled/README.md for the
run that made the bundled weights.
    python scripts/train_pair.py --data DIR --out specdec/bundled --minutes 80
    python scripts/train_pair.py --data DIR --out specdec/bundled --minutes 66 --grow     # from a shallower pair in --out
    python scripts/train_pair.py --data DIR --out specdec/bundled --minutes 13 --polish   # more of step 3
    python scripts/train_pair.py --data DIR --out specdec/bundled --evaluate \
        --gsm8k-test gsm8k_test.jsonl --humaneval HumanEval.jsonl.gz
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from pair_documents import Stream, corpus_sequences, load_documents, train_tokenizer
from pair_evaluation import evaluate, evaluation_prompts
from pair_models import DEVICE, build, draft_losses, export, load, logits_of, optimizers, sample, update
from transformers import AutoTokenizer, LlamaForCausalLM

TOKENS_PER_STEP = 8192
CO_TRAINING = 0.72  # share of the time before the target is frozen
SAMPLING = 0.30  # share of the last phase spent on sampling from the target
LEARNING_RATE = {"target": 2e-3, "draft": 3e-3}
START = time.monotonic()


def log(message: str) -> None:
    print(f"[{(time.monotonic() - START) / 60:6.2f} min] {message}", flush=True)


@torch.no_grad()
def validate(pair: dict[str, LlamaForCausalLM], held: dict[str, Stream]) -> str:
    """Held-out losses and acceptance on held-out (not sampled) text."""
    parts = []
    for name, stream in held.items():
        rng = random.Random(1)
        sequences = torch.stack([stream.sequence(rng, min(513, len(stream.tokens) // 4)) for _ in range(8)]).to(DEVICE)
        p, q = (logits_of(pair[kind], sequences[:, :-1]) for kind in ("target", "draft"))
        ce = [F.cross_entropy(x.float().flatten(0, 1), sequences[:, 1:].flatten()).item() for x in (p, q)]
        parts.append(f"{name} {ce[0]:.3f}/{ce[1]:.3f} acc {1 - draft_losses(p, q)[1].item():.3f}")
    return "; ".join(parts)


def new_pair(trained: Path | None) -> dict[str, LlamaForCausalLM]:
    """Both models: those in the folder `trained`, or new ones with the same embedding."""
    target, draft = build("target"), build("draft")
    if trained is None:
        draft.model.embed_tokens.weight.data.copy_(target.model.embed_tokens.weight.data)
    else:
        load(target, trained / "target")
        load(draft, trained / "draft")
    return {"target": target, "draft": draft}


def training_sequences(streams: dict[str, Stream], rng: random.Random, length: int, pool: torch.Tensor | None) -> torch.Tensor:
    """Sequences of one step, shape (sequences, length + 1). With a `pool` of text that the target sampled, half are from it."""
    sequences = corpus_sequences(streams, rng, TOKENS_PER_STEP // length, length + 1)
    if pool is not None:
        chosen = pool[[rng.randrange(len(pool)) for _ in range(TOKENS_PER_STEP // 512)]]
        packed = chosen.reshape(-1, length)
        sequences[len(sequences) // 2 :, :-1] = packed[: len(sequences) - len(sequences) // 2]
    return sequences


def train(data: Path, out: Path, minutes: float, export_minutes: float, compiled: bool,
          grow: bool, polish: bool) -> None:  # fmt: skip
    documents, held_documents = load_documents(data)
    again = grow or polish
    tokenizer = AutoTokenizer.from_pretrained(out / "target", local_files_only=True) if again else train_tokenizer(documents)
    streams = {name: Stream(tokenizer, texts) for name, texts in documents.items()}
    held = {name: Stream(tokenizer, texts) for name, texts in held_documents.items()}
    for name, stream in streams.items():
        chars = sum(map(len, documents[name]))
        log(f"{name}: {len(documents[name])} documents, {chars} characters, {len(stream.tokens)} tokens")
    pair = new_pair(out if again else None)
    target, draft = pair["target"], pair["draft"]
    co_trained = 0.0 if polish else CO_TRAINING
    log(", ".join(f"{name} {model.num_parameters() / 1e6:.2f} M" for name, model in pair.items()))
    run: Callable[..., torch.Tensor] = torch.compile(logits_of, dynamic=False) if compiled else logits_of
    run_draft: Callable[..., torch.Tensor] = torch.compile(logits_of, dynamic=False) if compiled else logits_of
    losses = torch.compile(draft_losses, dynamic=False) if compiled else draft_losses
    steppers = {name: optimizers(model) for name, model in pair.items()}
    rng, pool = random.Random(0), torch.empty(0, 256, dtype=torch.long)
    step, tokens, sampling_time, frozen_at = 0, 0, 0.0, math.inf
    last_log, last_export, means = time.monotonic(), time.monotonic(), [0.0, 0.0, 0.0]

    while (done := (time.monotonic() - START) / 60 / minutes) < 1:
        co_training = done < co_trained
        if not co_training and frozen_at == math.inf:
            frozen_at = time.monotonic()
            target.requires_grad_(False)
            log("the target is frozen")
        if not co_training and sampling_time <= SAMPLING * (time.monotonic() - frozen_at) and done < 0.97:
            begun = time.monotonic()
            with torch.autocast(DEVICE.type, torch.bfloat16):
                prompts = corpus_sequences(streams, rng, 64, rng.choice([32, 64, 96])).to(DEVICE)
                pool = torch.cat([pool, sample(target, prompts, 256 - prompts.shape[1]).cpu()])
            sampling_time += time.monotonic() - begun
        sequences = training_sequences(streams, rng, 1024 if step % 8 == 7 else 512, None if co_training else pool).to(DEVICE)
        inputs, labels = sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()
        warm = min(1.0, (step + 1) / 50)
        loss = torch.zeros((), device=DEVICE)
        if co_training:
            p = run(target, inputs)
            loss = F.cross_entropy(p.float().flatten(0, 1), labels.flatten())
        else:
            with torch.no_grad():
                p = run(target, inputs)
        kl, tv = losses(p, run_draft(draft, inputs))
        share = min(1.0, done / co_trained) if co_training else 1.0
        (loss + (1 - share) * kl + share * tv).backward()
        if co_training:
            update(target, steppers["target"], LEARNING_RATE["target"] * warm * (1 - done / co_trained))
        rate = LEARNING_RATE["draft"] * (1 - CO_TRAINING if polish else 1)  # polishing goes on about where training ended
        update(draft, steppers["draft"], rate * warm * (1 - done))
        step, tokens = step + 1, tokens + TOKENS_PER_STEP
        means = [m + 0.05 * (x.item() - m) if step > 1 else x.item() for m, x in zip(means, (loss, kl, tv), strict=True)]
        if step == 1 or time.monotonic() - last_log > 150:
            last_log = time.monotonic()
            log(f"step {step}, {tokens / 1e6:.2f} M tokens, loss {means[0]:.3f}, kl {means[1]:.3f}, "
                f"tv {means[2]:.3f}, pool {len(pool)} | {validate(pair, held)}")  # fmt: skip
        if time.monotonic() - last_export > export_minutes * 60:
            last_export = time.monotonic()
            export(out, tokenizer, pair)
    export(out, tokenizer, pair)
    log(f"done: {step} steps, {tokens / 1e6:.1f} M tokens, {len(pool)} sampled sequences | {validate(pair, held)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--export-minutes", type=float, default=10)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--grow", action="store_true", help="start from the pair in --out, which may have fewer layers")
    parser.add_argument("--polish", action="store_true", help="only the last phase again, from the pair in --out")
    parser.add_argument("--evaluate", action="store_true", help="measure the pair in --out, print JSON")
    parser.add_argument("--gsm8k-test", type=Path)
    parser.add_argument("--humaneval", type=Path)
    parser.add_argument("--prompts", type=int, default=64, help="prompts of each domain to evaluate on")
    parser.add_argument("--tokens", type=int, default=128, help="tokens sampled after each prompt")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if args.evaluate:
        prompts = evaluation_prompts(args.data, args.gsm8k_test, args.humaneval, args.prompts)
        print(json.dumps(evaluate(args.out, prompts, args.tokens), indent=1))
    else:
        os.nice(5)
        train(args.data, args.out, args.minutes, args.export_minutes, not args.no_compile, args.grow, args.polish)


if __name__ == "__main__":
    main()
