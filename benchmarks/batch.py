"""Throughput and memory of many sequences at once: `specdec.Batch` at several sizes, on the bundled pair or any other.

What it does
    Decodes the same prompts with every strategy at every batch size, in turn and repeatedly; speculative decoding in antiphase
    too. All answers have one length and no end of sequence, so that no batch runs empty early. Throughput is new tokens over
    all seconds of the batch, prefill included; ratios are taken within a repeat. What is predicted comes from the simulator,
    by profiles that the same run takes before and after each repeat, so that a machine which changes its speed does so for
    both; nothing is fitted to the throughput. Memory is the peak of this process over what it held when both models were
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
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

import strategies
from sim.setup.profiles import measured_acceptance, measured_system
from sim.stream.chain import compile_strategy
from sim.traffic.record import Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Workload
from specdec import Batch, DecodingStrategy, Pair, SpecdecError
from specdec.cli.console import Terminal
from specdec.cli.parsing import parsed_lengths
from specdec.machine import available_cores, cpu_name, versions
from specdec.measure import hardware, profile
from specdec.profile import Profile
from specdec.prompts import bundled
from specdec.report import named, table
from specdec.runtime.lane import leave_a_core_to_the_draft
from specdec.summary import DescribedPair
from specdec.text import prompt_tokens


@dataclass(frozen=True)
class Contender:
    """A strategy, and whether its batches are two halves in antiphase."""

    strategy: DecodingStrategy
    antiphase: bool = False

    def __str__(self) -> str:
        return f"{self.strategy}{' in antiphase' * self.antiphase}"


CONTENDERS = (
    Contender(strategies.Autoregressive()),
    Contender(strategies.Speculative(4)),
    Contender(strategies.Speculative(4), antiphase=True),
    Contender(strategies.Pearl(4)),
    Contender(strategies.Pearl("auto")),
)
SEEDS = 10
"""Simulations whose mean is predicted."""

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
    """A result for each contender and size, medians over repeats."""
    prompts = [prompt_tokens(pair, text) for text in bundled()]
    prompts = (prompts * max(sizes))[: 2 * max(sizes)]
    contenders = [Contender(one.strategy.resolved(pair), one.antiphase) for one in CONTENDERS]
    runs = [(one, size) for one in dict.fromkeys(contenders) for size in sizes if size > 1 or not one.antiphase]
    speeds: dict[tuple[Contender, int], list[float]] = {run: [] for run in runs}
    memory: dict[tuple[Contender, int], int] = {}
    output.console.print("Measuring the models", highlight=False)
    profiles = [profiled(pair, prompts, sizes, options.max_new_tokens)]
    own = forget_peak(pair)
    steps = [(repeat, run) for repeat in range(options.repeats + 1) for run in runs]
    for repeat, run in output.follow(steps, len(steps)):
        speed = decode(pair, *run, prompts, options.max_new_tokens if repeat else 8)
        if repeat:  # the first round warms up
            speeds[run].append(speed)
            memory[run] = max(memory.get(run, 0), peak_bytes(pair) - own)
        if repeat and run == runs[-1]:
            profiles.append(profiled(pair, prompts, sizes, options.max_new_tokens, repeat))
        forget_peak(pair)
    models = Profile.merged(profiles)
    alone, in_phase = runs[0][0], [(replace(one, antiphase=False), size) for one, size in runs]
    return [
        {
            "strategy": run[0].strategy.name,
            "parameters": run[0].strategy.parameters,
            "antiphase": run[0].antiphase,
            "batch_size": run[1],
            "tokens_per_second": median(speeds[run]),
            "predicted_tokens_per_second": predicted(models, *run, prompts, options.max_new_tokens),
            "times_autoregressive": paired(speeds[run], speeds[alone, run[1]]),
            "times_in_phase": paired(speeds[run], speeds[other]) if run[0].antiphase else None,
            "peak_bytes_over_models": memory[run],
        }
        for run, other in zip(runs, in_phase, strict=True)
    ]


def paired(speeds: Sequence[float], others: Sequence[float]) -> float:
    """The median ratio within a repeat."""
    return median(a / b for a, b in zip(speeds, others, strict=True))


def decode(pair: Pair, contender: Contender, size: int, prompts: Any, tokens: int) -> float:
    """Tokens per second of all prompts."""
    options: dict[str, Any] = {"max_new_tokens": tokens, "temperature": 1, "eos": (), "stop_strings": ()}
    batch = Batch(
        pair, contender.strategy, prompts[: 2 * size], batch_size=size, antiphase=contender.antiphase, seed=0, **options
    )
    for _ in batch:
        pass
    return sum(len(output.tokens) for output in batch.outputs) / batch.seconds


def profiled(pair: Pair, prompts: Sequence[Sequence[int]], sizes: Sequence[int], tokens: int, repeat: int = 0) -> Profile:
    """The times and the acceptance that the simulator needs."""
    lengths = sorted({len(prompt) for prompt in prompts})
    return profile(
        pair,
        {"prompts": prompts[: 4 * len(bundled())]},
        widths=range(1, 10),
        batches=sorted({*sizes, *(size // 2 for size in sizes)} - {0, 1}),
        batch_widths=(1, 2, 5, 8),
        contexts=(round(mean(lengths) + tokens / 2), 2 * (lengths[-1] + tokens)),
        prompt_tokens=sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]}),
        slots=max(sizes),
        new_tokens=tokens,
        seed=1000 + repeat,
    )


def predicted(models: Profile, contender: Contender, size: int, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Tokens per second of the same requests, simulated."""
    lengths = np.array([len(prompt) for prompt in prompts[: 2 * size]])
    requests = Workload(np.zeros(len(lengths)), lengths, np.full(len(lengths), tokens))
    system = measured_system(models, round(float(np.mean(lengths)) + tokens / 2), cells=size > 1)
    acceptance = measured_acceptance(models, recorded=models.acceptance.runs > 0)
    chain = compile_strategy(contender.strategy, system)
    server = Server(max_batch=size, runtime="specdec", antiphase=contender.antiphase)
    ends = [simulate_serving(chain, acceptance, system, requests, server, seed).finish_seconds.max() for seed in range(SEEDS)]
    return float(requests.output_tokens.sum() / mean(ends))


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
    numbers = ("batch", "tok/s", "predicted", "over autoregressive", "over in phase", "peak MB over the models")
    made = table("strategy", numbers=numbers, title="Batches")
    for result in results:
        speed, expected = result["tokens_per_second"], result["predicted_tokens_per_second"]
        ratios = ("" if result[key] is None else f"{result[key]:.2f}x" for key in ("times_autoregressive", "times_in_phase"))
        name = named(result["strategy"], result["parameters"]) + " in antiphase" * result["antiphase"]
        memory = f"{result['peak_bytes_over_models'] / 1e6:.0f}"
        error = f"{100 * (expected / speed - 1):+.1f} %"
        made.add_row(name, str(result["batch_size"]), f"{speed:.0f}", error, *ratios, memory)
    output.console.print(made)


if __name__ == "__main__":
    sys.exit(main())
