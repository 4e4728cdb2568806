"""Train the small target/draft pair that specdec bundles (a toy for demonstrating decoding).

What it does
    1. Builds documents in three domains and one byte-level BPE tokenizer (`<|endoftext|>` = 0).
    2. Co-trains (72 % of the time): the target on cross-entropy, the draft on the target's
       distribution, first by KL(p||q), ending on the total-variation loss 0.5 * sum|p - q|, which
       *is* 1 - acceptance. That loss also reaches the target (its weight grows from 0 to 1), so
       the target gives up a little likelihood where the draft cannot follow it: the two are
       trained to agree, and accept more than two models trained apart would.
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
import ast
import gzip
import json
import math
import os
import random
import re
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

EOS = "<|endoftext|>"
VOCAB = 1024
CONTEXT = 1024
TOKENS_PER_STEP = 8192
SHARES = {"gsm8k": 0.36, "mbpp": 0.14, "stdlib": 0.31, "shakespeare": 0.19}  # of the training rows
SHAPES = {  # deep and narrow against shallow: eager latency goes with the number of layers
    "target": {"num_hidden_layers": 28, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 2},
    "draft": {"num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4},
}
CO_TRAINING = 0.72  # share of the time before the target is frozen
SAMPLING = 0.30  # share of the last phase spent on sampling from the target
LEARNING_RATE = {"target": 2e-3, "draft": 3e-3}
SKIPPED_MODULES = re.compile(
    r"/(test|tests|idlelib|site-packages|lib2to3|tkinter|turtledemo|ensurepip|encodings|pydoc_data|"
    r"distutils|msilib|config-[^/]*|__phello__)/|/(turtle|_sysconfigdata[^/]*|_pydecimal)\.py$"
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
START = time.monotonic()


def log(message: str) -> None:
    print(f"[{(time.monotonic() - START) / 60:6.2f} min] {message}", flush=True)


# ---------------------------------------------------------------- documents and tokens


def mbpp_documents(task: dict[str, object]) -> Iterator[str]:
    """The task as a function whose docstring holds the text and the examples, and as text + code."""
    text, code = str(task["text"]).strip(), str(task["code"]).replace("\r", "").expandtabs(4)
    tests = [str(test).replace("\r", "") for test in task["test_list"]]  # type: ignore[attr-defined]
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    yield f"# {text}\n{ast.unparse(tree)}\n\n" + "\n".join(tests) + "\n"
    examples = [test.removeprefix("assert ").split(" == ", 1) for test in tests if test.count(" == ") == 1]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    used = [node for node in functions if any(call.startswith(f"{node.name}(") for call, *_ in examples)]
    if not used or ast.get_docstring(used[-1]) is not None:
        return
    doc = "".join(f">>> {call.strip()}\n    {result.strip()}\n    " for call, result in examples)
    used[-1].body.insert(0, ast.Expr(ast.Constant(f" {text}\n    {doc}")))
    source = ast.unparse(tree).replace("\ndef ", "\n\ndef ")
    yield ("from typing import List\n\n\n" if len(text) % 3 == 0 else "") + source + "\n"


def stdlib_documents() -> Iterator[str]:
    """Functions and methods of the standard library, in one normal form (no comments)."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if SKIPPED_MODULES.search(path.as_posix()):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                source = ast.unparse(node)
                if 150 <= len(source) <= 1500 and source.isascii():
                    yield source + "\n"


def shakespeare_documents(text: str) -> Iterator[str]:
    """Runs of whole speeches of at least 1,200 characters."""
    document = ""
    for speech in text.split("\n\n"):
        document += speech.strip("\n") + "\n\n"
        if len(document) >= 1200:
            yield document
            document = ""


def load_documents(data: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Training and validation documents of each domain."""

    def lines(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines() if line]

    gsm8k = [f"Question: {x['question']}\nAnswer: {x['answer']}\n" for x in lines("gsm8k_train.jsonl")]
    shakespeare = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    documents = {
        "gsm8k": [re.sub(r"<<[^>]*>>", "", text) for text in gsm8k],
        "mbpp": [document for task in lines("mbpp.jsonl") for document in mbpp_documents(task)],
        "stdlib": sorted(set(stdlib_documents())),
        "shakespeare": list(shakespeare_documents(shakespeare[: int(len(shakespeare) * 0.95)])),
    }
    train, held = {}, {}
    for name, texts in documents.items():
        random.Random(0).shuffle(texts)
        cut = max(8, len(texts) // 50)
        held[name], train[name] = texts[:cut], texts[cut:]
    return train, held


def train_tokenizer(documents: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [  # digits and line ends stand alone: a prompt that ends with a line end meets no new token
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    size = 1_000_000  # characters of each domain, so that all shape the vocabulary alike
    tokenizer.train_from_iterator(("".join(texts)[:size] for texts in documents.values()), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=EOS, eos_token=EOS, model_max_length=CONTEXT)


class Stream:
    """A domain's documents as one token stream; rows mostly begin where a document begins."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
        encoded = tokenizer(texts)["input_ids"]
        self.tokens = torch.tensor([token for ids in encoded for token in (0, *ids)])
        self.starts = (self.tokens == 0).nonzero()[:, 0].tolist()

    def row(self, rng: random.Random, length: int) -> torch.Tensor:
        start = rng.choice(self.starts) if rng.random() < 0.7 else rng.randrange(len(self.tokens))
        row = self.tokens[start : start + length]
        return row if len(row) == length else self.row(rng, length)


def corpus_rows(streams: dict[str, Stream], rng: random.Random, count: int, length: int) -> torch.Tensor:
    names = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return torch.stack([streams[name].row(rng, length) for name in names])


# ---------------------------------------------------------------- models and losses


def build(name: str) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, **SHAPES[name],
    )  # fmt: skip
    return LlamaForCausalLM(config).to(DEVICE)


def load(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights of the model in `folder`. Where that is shallower, each of its layers is followed by copies that add nothing
    to their input yet, so that the deeper model begins as the same function (block expansion, arXiv 2401.02415)."""
    small = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted, there = model.config.num_hidden_layers, small.config.num_hidden_layers
    copies, rest = divmod(wanted, there)
    if rest:
        raise SystemExit(f"{folder} has {there} layers, and {wanted} are no multiple of that")
    state = {}
    for name, value in small.state_dict().items():
        layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        for copy in range(copies):
            new = f"model.layers.{int(layer[1]) * copies + copy}.{layer[2]}" if layer else name
            state[new] = value * 0 if copy and new.endswith(("o_proj.weight", "down_proj.weight")) else value
    model.load_state_dict(state)


def logits_of(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        return model(ids, use_cache=False).logits


def draft_losses(p_logits: torch.Tensor, q_logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(p||q) and total variation (1 - acceptance), both averaged over the positions."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    p = log_p.exp()
    kl = (p.detach() * (log_p.detach() - log_q)).sum(-1).mean()  # teaches the draft alone
    return kl, 0.5 * (p - log_q.exp()).abs().sum(-1).mean()


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def update(model: LlamaForCausalLM, steppers: list[torch.optim.Optimizer], rate: float) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        stepper.zero_grad(set_to_none=True)


@torch.no_grad()
def sample(model: LlamaForCausalLM, prompts: torch.Tensor, count: int,
           mask: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    """Continue (left-padded, if a mask is given) prompts by `count` tokens at temperature 1."""
    cache, ids, new = DynamicCache(config=model.config), prompts, prompts
    mask = torch.ones_like(prompts) if mask is None else mask
    for _ in range(count):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
        out = model(new, attention_mask=mask, position_ids=positions, past_key_values=cache,
                    logits_to_keep=1)  # fmt: skip
        new = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
        ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
    return ids


def export(out: Path, tokenizer: PreTrainedTokenizerFast, pair: dict[str, LlamaForCausalLM]) -> None:
    for name, model in pair.items():
        copy = LlamaForCausalLM(model.config)
        copy.load_state_dict(model.state_dict())
        copy.to(torch.bfloat16).save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)


# ---------------------------------------------------------------- training


@torch.no_grad()
def validate(pair: dict[str, LlamaForCausalLM], held: dict[str, Stream]) -> str:
    """Held-out losses and acceptance on held-out (not sampled) text."""
    parts = []
    for name, stream in held.items():
        rng = random.Random(1)
        rows = torch.stack([stream.row(rng, min(513, len(stream.tokens) // 4)) for _ in range(8)]).to(DEVICE)
        p, q = (logits_of(pair[kind], rows[:, :-1]) for kind in ("target", "draft"))
        ce = [F.cross_entropy(x.float().flatten(0, 1), rows[:, 1:].flatten()).item() for x in (p, q)]
        parts.append(f"{name} {ce[0]:.3f}/{ce[1]:.3f} acc {1 - draft_losses(p, q)[1].item():.3f}")
    return "; ".join(parts)


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
    target, draft = build("target"), build("draft")
    if again:
        load(target, out / "target")
        load(draft, out / "draft")
    else:
        draft.model.embed_tokens.weight.data.copy_(target.model.embed_tokens.weight.data)
    co_trained = 0.0 if polish else CO_TRAINING
    pair = {"target": target, "draft": draft}
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
                prompts = corpus_rows(streams, rng, 64, rng.choice([32, 64, 96])).to(DEVICE)
                pool = torch.cat([pool, sample(target, prompts, 256 - prompts.shape[1]).cpu()])
            sampling_time += time.monotonic() - begun
        length = 1024 if step % 8 == 7 else 512
        rows = corpus_rows(streams, rng, TOKENS_PER_STEP // length, length + 1)
        if not co_training:  # the second half of the rows: packed samples
            chosen = pool[[rng.randrange(len(pool)) for _ in range(TOKENS_PER_STEP // 512)]]
            packed = chosen.reshape(-1, length)
            rows[len(rows) // 2 :, :-1] = packed[: len(rows) - len(rows) // 2]
        rows = rows.to(DEVICE)
        inputs, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
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
    log(f"done: {step} steps, {tokens / 1e6:.1f} M tokens, {len(pool)} sampled rows | {validate(pair, held)}")


# ---------------------------------------------------------------- evaluation


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
def acceptance(pair: dict[str, LlamaForCausalLM], rows: list[list[int]], count: int) -> dict[str, float]:
    """Mean of sum_x min(p, q) over continuations sampled from the target, up to the end of the text."""
    sums = {"acceptance": 0.0, "target_entropy": 0.0}
    positions = 0
    for begin in range(0, len(rows), 32):
        batch = rows[begin : begin + 32]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
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
    pair = {
        name: AutoModelForCausalLM.from_pretrained(
            out / name, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        for name in ("target", "draft")
    }
    result: dict[str, object] = {"parameters": {name: model.num_parameters() for name, model in pair.items()}}
    for name, texts in prompts.items():
        rows = [[0, *tokenizer(text)["input_ids"]][: CONTEXT - count] for text in texts]
        result[name] = acceptance(pair, rows, count)
    times = step_times(pair)
    return {**result, "step_ms": times, "step_ratio": round(times["target"] / times["draft"], 2)}


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
