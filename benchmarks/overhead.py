"""The overhead of a PEARL round by the length of its text: wall seconds of the round in which no model worked.

    python benchmarks/overhead.py --json benchmarks/results/HARDWARE_DATE_overhead.json

Both models are tiny (one layer, 16 wide, random weights). Greedy rounds with forced acceptance start behind prompts of several
lengths, which take turns. The two models work at the same time, so the overhead of a round is its seconds without those of the
model that worked longer. There are two ways to count these:

    beside_lanes      the lanes say how long they worked, as `Statistics.forward_seconds` has it: forwards and what is around
                      them, such as the choice of each token. What is left is transport, verification and bookkeeping
    beside_forwards   the clock runs around the model's own forward alone, in the draft's process too. All else is left

A forward takes longer after a long text, since attention reads all of it; that is no overhead. Other work on the machine adds
to the seconds of some rounds, so the fastest tenth is told beside the median: 9 of 10 rounds took longer. `others` in the
file is the share of the machine that other processes took.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import strategies
from specdec import Batch, Pair
from specdec.machine import OtherWork, versions
from specdec.measure import hardware
from specdec.runtime.lane import InlineLane, Lane, ProcessLane, ThreadLane
from specdec.runtime.messages import Drafting, DraftRequest, ScoreRequest, Scoring
from specdec.runtime.runner import Forward
from specdec.runtime.sequences import BatchRunner, new_batch_runner
from specdec.runtime.worker import NewWorker, Worker

LENGTHS = (128, 2048, 8192, 32768)
LANES = {"process": ProcessLane, "thread": ThreadLane, "inline": InlineLane}
VOCABULARY, WIDTH, LONGEST = 512, 16, 65_536
DRAFT_LENGTH, ACCEPTANCE = 4, 0.8
WAYS = ("beside_lanes", "beside_forwards")


class TimedForward(Forward):
    """Another forward, and the seconds that it took in all."""

    seconds = 0.0

    def __init__(self, forward: Forward) -> None:
        self._forward, self.why_eager = forward, forward.why_eager

    def __call__(self, *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        logits = self._forward(*given, **named)
        self.seconds += time.perf_counter() - start
        return logits


class TimedWorker(Worker):
    """Answers with the seconds of its forwards alone."""

    def __init__(self, model: Any, vocabulary: int) -> None:
        clocks: list[TimedForward] = []

        def timed(model: Any, vocabulary: int, size: int, forward: Forward, **options: Any) -> BatchRunner:
            clocks.append(TimedForward(forward))
            return new_batch_runner(model, vocabulary, size, clocks[-1], **options)

        super().__init__(model, vocabulary, new_runner=timed)
        [self._clock] = clocks

    def draft(self, requests: Sequence[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        before = self._clock.seconds
        return [replace(one, busy_seconds=self._clock.seconds - before) for one in super().draft(requests, answered)]

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scoring]:
        before = self._clock.seconds
        return [replace(one, busy_seconds=self._clock.seconds - before) for one in super().score(requests)]


@dataclass(frozen=True, eq=False)
class NewTimed(NewWorker):
    """What a lane makes a `TimedWorker` from."""

    def __call__(self) -> Worker:
        return TimedWorker(self.model, self.vocabulary)


class TimedPair(Pair):
    """A pair whose lanes report the seconds of forwards alone."""

    def target_lane(self) -> Lane:
        if self._target_lane is None:
            super().target_lane()
            self._target_lane = InlineLane(NewTimed(self.target, self.vocabulary))
        return self._target_lane

    def draft_lane(self) -> Lane:
        if self._draft_lane is None:
            assert self.draft is not None
            self._draft_lane = LANES[self.lane](NewTimed(self.draft, self.vocabulary))
        return self._draft_lane


def tiny(seed: int) -> LlamaForCausalLM:
    """A model whose forwards are as short as they can be."""
    torch.manual_seed(seed)
    size: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "vocab_size": VOCABULARY}
    heads: dict[str, Any] = {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": LONGEST}
    return LlamaForCausalLM(LlamaConfig(**size, **heads)).eval()


def overheads(pair: Pair, tokens: int, rounds: int) -> list[float]:
    """Seconds of each round that no forward took, behind a prompt of `tokens` tokens."""
    prompt = [i * 7919 % VOCABULARY for i in range(tokens)]
    options: dict[str, Any] = {"max_new_tokens": 16 * rounds, "temperature": 0, "eos": (), "stop_strings": ()}
    strategy = strategies.Pearl(DRAFT_LENGTH)
    batch = Batch(pair, strategy, [prompt], batch_size=1, seed=0, verification=f"synthetic:{ACCEPTANCE}", **options)
    batch.step()
    statistics = batch.outputs[0].slot.statistics
    found: list[float] = []
    for _ in range(rounds):
        forwards, start = statistics.forward_seconds, time.perf_counter()
        batch.step()
        found.append(time.perf_counter() - start - (statistics.forward_seconds - forwards))
    return found


def measured(lane: str, lengths: Sequence[int], rounds: int, repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    """Overheads by way of counting and length, in seconds."""
    found: dict[str, dict[int, list[float]]] = {way: {length: [] for length in lengths} for way in WAYS}
    with Pair(tiny(0), tiny(1), lane=lane) as plain, TimedPair(tiny(0), tiny(1), lane=lane) as timed:
        for repeat in range(repeats + 1):
            for length in lengths:
                for way, pair in zip(WAYS, (plain, timed), strict=True):
                    seconds = overheads(pair, length, rounds if repeat else 20)
                    found[way][length] += seconds if repeat else []  # the first ones warm up
    return {way: {length: told(seconds) for length, seconds in by_length.items()} for way, by_length in found.items()}


def told(seconds: Sequence[float]) -> dict[str, float]:
    """What is kept of the seconds of many rounds."""
    return {"fastest_tenth": quantiles(seconds, n=10)[0], "median": median(seconds), "mean": sum(seconds) / len(seconds)}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lanes", nargs="+", choices=LANES, default=[*LANES])
    parser.add_argument("--lengths", nargs="+", type=int, default=[*LENGTHS])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    others, lanes = OtherWork(2), dict[str, Any]()
    for lane in options.lanes:
        lanes[lane] = measured(lane, options.lengths, options.rounds, options.repeats)
        for way, by_length in lanes[lane].items():
            ms = (f"{n}: {1e3 * own['fastest_tenth']:.3f} {1e3 * own['median']:.3f}" for n, own in by_length.items())
            print(f"{lane:8} {way:16} ms a round by tokens, fastest tenth and median: {', '.join(ms)}", flush=True)
    if options.json:
        with TimedPair(tiny(0), tiny(1), lane="inline") as pair:
            machine = {**hardware(pair).to_dict(), **versions(), "date": date.today().isoformat()}
        settings = {"rounds": options.rounds, "repeats": options.repeats, "strategy": f"pearl({DRAFT_LENGTH})"}
        found = {"hardware": machine, "settings": settings, "others": others.share(), "lanes": lanes}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from overhead import main as importable  # the draft's process imports the classes by this name

    importable()
