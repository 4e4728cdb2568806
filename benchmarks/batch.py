"""Throughput and memory of many sequences at once: `specdec.Batch` at several sizes, on the bundled pair or any other.

What it does
    Decodes the same prompts with every strategy at every batch size, in turn and repeatedly. All answers have one length and no
    end of sequence, so that no batch runs empty early. Throughput is new tokens over all seconds of the batch, prefill
    included; ratios are taken within a repeat. Memory is the peak of this process over what it held when both models were
    loaded and warm; on a GPU, that of the device.

How to run, on an otherwise idle machine
    python benchmarks/batch.py
    python benchmarks/batch.py --dtype bfloat16 --sizes 1,4,16 --output FOLDER
    python benchmarks/batch.py --target DIR --draft DIR --device cuda
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import torch

from specdec import Batch, Pair, SpecdecError, create
from specdec.cli.console import Terminal
from specdec.cli.options import parsed_lengths
from specdec.machine import available_cores, cpu_name, versions
from specdec.measure import hardware
from specdec.prompts import bundled
from specdec.report import table
from specdec.runtime.lane import leave_a_core_to_the_draft
from specdec.summary import DescribedPair
from specdec.text import prompt_tokens

STRATEGIES = (("autoregressive", {}), ("speculative", {"draft_length": 4}), ("pearl", {"draft_length": "auto"}))
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    options = parsed(arguments)
    leave_a_core_to_the_draft()
    try:
        sizes = parsed_lengths(options.sizes)
        machine = re.sub(r"\W+", "_", f"cpu {cpu_name()} {available_cores()} cores").lower()
        output = Terminal(str(options.output / f"{machine}_{date.today().isoformat()}_batch_{options.dtype}.json"))
        loaded: dict[str, Any] = {"dtype": options.dtype, "device": options.device}
        with Pair.load(options.target, options.draft, **loaded) if options.target else Pair.bundled(**loaded) as pair:
            results = measured(pair, sizes, options, output)
            hardware_now = {**hardware(pair).to_dict(), **versions(), "date": date.today().isoformat()}
            found = {"pair": DescribedPair.of(pair).to_dict(), "hardware": hardware_now}
        output.write({**found, "settings": {"tokens": options.max_new_tokens, "repeats": options.repeats}, "results": results})
        show(output, results)
    except SpecdecError as error:
        print(f"batch.py: {error}", file=sys.stderr)
        return 2
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target")
    parser.add_argument("--draft")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sizes", default="1,2,4,8", help="batch sizes, such as 1,2,4 or 1-8")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args(arguments)


def measured(pair: Pair, sizes: Sequence[int], options: argparse.Namespace, output: Terminal) -> list[dict[str, Any]]:
    """A result for each strategy and size, medians over repeats."""
    prompts = [prompt_tokens(pair, text) for text in bundled()]
    prompts = (prompts * max(sizes))[: 2 * max(sizes)]
    runs = [(name, parameters, size) for name, parameters in STRATEGIES for size in sizes]
    speeds: dict[tuple[str, int], list[float]] = {}
    memory: dict[tuple[str, int], int] = {}
    decode(pair, "pearl", {"draft_length": "auto"}, prompts, 1, 4)
    own = forget_peak(pair)
    steps = [(repeat, run) for repeat in range(options.repeats + 1) for run in runs]
    for repeat, (name, parameters, size) in output.follow(steps, len(steps)):
        speed = decode(pair, name, parameters, prompts, size, options.max_new_tokens if repeat else 8)
        if repeat:  # the first round warms up
            speeds.setdefault((name, size), []).append(speed)
            memory[name, size] = max(memory.get((name, size), 0), peak_bytes(pair) - own)
        forget_peak(pair)
    return [
        {
            "strategy": name,
            "parameters": parameters,
            "batch_size": size,
            "tokens_per_second": median(speeds[name, size]),
            "times_batch_1": median(a / b for a, b in zip(speeds[name, size], speeds[name, sizes[0]], strict=True)),
            "times_autoregressive": median(
                a / b for a, b in zip(speeds[name, size], speeds["autoregressive", size], strict=True)
            ),
            "peak_bytes_over_models": memory[name, size],
        }
        for name, parameters, size in runs
    ]


def decode(pair: Pair, name: str, parameters: dict[str, Any], prompts: Any, size: int, tokens: int) -> float:
    """Tokens per second of all prompts."""
    options: dict[str, Any] = {"max_new_tokens": tokens, "temperature": 1, "eos": (), "stop_strings": ()}
    batch = Batch(pair, create(name, **parameters), prompts, batch_size=size, seed=0, **options)
    for _ in batch:
        pass
    return sum(len(output.tokens) for output in batch.outputs) / batch.seconds


def peak_bytes(pair: Pair) -> int:
    """Peak memory of the process in bytes, or of the GPU; Linux only."""
    if pair.target.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def forget_peak(pair: Pair) -> int:
    """Start the peak anew from the memory that is held; returns that memory in bytes."""
    if pair.target.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(pair)


def show(output: Terminal, results: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    numbers = ("batch", "tok/s", "over batch 1", "over autoregressive", "peak MB over the models")
    made = table("strategy", numbers=numbers, title="Batches")
    for result in results:
        ratios = (f"{result[key]:.2f}x" for key in ("times_batch_1", "times_autoregressive"))
        size, memory = str(result["batch_size"]), f"{result['peak_bytes_over_models'] / 1e6:.0f}"
        made.add_row(result["strategy"], size, f"{result['tokens_per_second']:.0f}", *ratios, memory)
    output.console.print(made)


if __name__ == "__main__":
    sys.exit(main())
