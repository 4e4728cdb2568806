"""Speed on one GPU at batch 1, on shapes of random weights with forced acceptance (`specdec.shapes`, `specdec.synthetic`).

What it does
    1. Makes each pair on the device: Llama 8B with a 1B and with a 160M draft, in bf16. Nothing is downloaded.
    2. Measures by `specdec.bench`: autoregressive decoding, speculative decoding over draft lengths, PEARL with both models
       on the one device, and elastic PEARL where it is installed. Interleaved, paired repeats.
    3. Compares the bytes that autoregressive decoding reads a second (weights, keys and values) with the bandwidth of copying
       on the same device, reads and writes counted. A decoder at batch 1 can do no better than that.

How to run
    python benchmarks/gpu.py                             # on a GPU; the JSON goes to benchmarks/results/
    python benchmarks/gpu.py --acceptance 0.6 --draft-lengths 2,4,6 --output FOLDER
    python benchmarks/gpu.py --dry-run --output FOLDER   # tiny shapes on a CPU: tests the script, measures nothing
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from specdec import InputError, Pair, SpecdecError, available
from specdec.bench import BASELINE, bench, line_up
from specdec.cli.console import Terminal
from specdec.cli.parsing import parsed_lengths
from specdec.report import share
from specdec.runtime.timing import made_up_context

PAIRS = [("shape:llama-8b", "shape:llama-1b"), ("shape:llama-8b", "shape:llama-160m")]
TINY = [("shape:tiny-target", "shape:tiny-draft")]
STRATEGIES = ("speculative", "pearl", "elastic")
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    try:
        run(parsed(arguments))
    except SpecdecError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """Measure every pair, print it, and write the JSON."""
    if not options.dry_run and not torch.cuda.is_available():
        raise InputError("no GPU is here: run it where torch sees CUDA, or give --dry-run")
    device = "cpu" if options.dry_run else "cuda"
    gpu = "dry run" if options.dry_run else torch.cuda.get_device_name()
    machine = {"gpu": gpu, "driver": driver(), "cuda": torch.version.cuda, "date": date.today().isoformat()}
    folder = options.output or (None if options.dry_run else RESULTS)
    output = Terminal(folder and str(folder / f"gpu_{gpu.lower().replace(' ', '_')}_{machine['date']}.json"))
    copied = copy_bytes_per_second(device, size=2**26 if options.dry_run else 2**30)
    pairs: list[dict[str, Any]] = []
    for names in TINY if options.dry_run else PAIRS:
        pairs.append(measured(output, *names, device, copied, options))
        output.write({**machine, "copy_bytes_per_second": copied, "pairs": pairs})  # after each: a run may be cut short


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; a dry run is short unless they say otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--acceptance", default="0.8", help="forced acceptance: a rate, or a file that specdec profile wrote")
    parser.add_argument("--draft-lengths", default="1-8", help="such as 1,2,4 or 1-8")
    parser.add_argument("--temperature", type=float, action="append", help="0, greedy, unless given; may be repeated")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU, few tokens")
    parser.add_argument("--output", type=Path, help="folder of the JSON; benchmarks/results unless given or a dry run")
    if parser.parse_args(arguments).dry_run:
        parser.set_defaults(draft_lengths="2", max_new_tokens=16, repeats=1)
    return parser.parse_args(arguments)


def measured(
    output: Terminal, target: str, draft: str, device: str, copied: float, options: argparse.Namespace
) -> dict[str, Any]:
    """The report of one pair, with the bytes that autoregressive decoding reads added to it."""
    with Pair.load(target, draft, device=device, dtype=torch.bfloat16, lane="thread") as pair:
        names = [name for name in STRATEGIES if name in available()]
        report = bench(
            pair,
            line_up(pair, names, parsed_lengths(options.draft_lengths)),
            [made_up_context(options.prompt_tokens)],
            temperatures=options.temperature or [0.0],
            max_new_tokens=options.max_new_tokens,
            repeats=options.repeats,
            verification=f"synthetic:{options.acceptance}",
            progress=output.follow,
        )
        read = bytes_read(pair.target, options.prompt_tokens + options.max_new_tokens / 2)
    output.console.print(report)
    found: dict[str, Any] = {**report.to_dict(), "bytes_read_per_token": read, "why_eager": dict(report.settings.why_eager)}
    for name, reason in report.settings.why_eager.items():
        output.console.print(f"{name}: {'graphs or fused' if reason is None else f'eager, since {reason}'}")
    for result in found["results"]:
        if result["strategy"] == BASELINE:
            speed = result["bytes_per_second"] = read * result["tokens_per_second"]
            result["share_of_copy"] = speed / copied
            output.console.print(
                f"Autoregressive decoding at temperature {result['temperature']:g} reads {speed / 1e9:.1f} GB/s, "
                f"{share(speed / copied)} of the {copied / 1e9:.1f} GB/s at which this device copies.\n"
            )
    return found


def bytes_read(model: PreTrainedModel, context_tokens: float) -> float:
    """Bytes that one token of a Llama model at batch 1 reads: every weight once, and keys and values of the context.

    Of an embedding that is not the head as well, only one row is read.
    """
    config, size = model.config, model.dtype.itemsize
    weights = model.num_parameters()
    if not config.tie_word_embeddings:
        weights -= (config.vocab_size - 1) * config.hidden_size
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return size * (weights + per_position * context_tokens)


def copy_bytes_per_second(device: str, size: int, repeats: int = 20) -> float:
    """Bytes read and written a second while `size` bytes are copied on the device: the median of repeats."""
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        copy.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size / median(seconds)


def driver() -> str:
    """The version of the NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.partition("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):  # no GPU, or a container without the tool
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
