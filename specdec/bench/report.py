"""What a benchmark says: speeds, paired ratios with their intervals, rankings, and whether greedy outputs are the target's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from importlib.resources import files
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from specdec.bench.peers import COUNTERPARTS, SECONDS
from specdec.bench.prediction import predictions, steps
from specdec.bench.run import Benchmark, Contender, Decoder, Ours, drafted_at_once
from specdec.machine import versions
from specdec.measure import hardware
from specdec.pair import Pair
from specdec.runtime.runner import Runner
from specdec.statistics import Statistics
from specdec.strategy import DraftingStrategy
from specdec.synthetic import synthetic

DRAWS = 2000
"""Resamples of the bootstrap."""

TIE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Two logits closer than this share of the largest one are a tie: windows of two widths may round them either way."""


@dataclass(frozen=True)
class Speed:
    """Tokens and seconds of one contender, arrays of shape (repeats, prompts)."""

    tokens: Any
    seconds: Any

    @classmethod
    def of(cls, benchmark: Benchmark, contender: Contender) -> Speed:
        statistics = [cell[contender].statistics for cell in benchmark.reported_cells]
        tokens = np.array([s.new_tokens for s in statistics], float).reshape(benchmark.shape)
        return cls(tokens, np.array([s.decode_seconds for s in statistics]).reshape(benchmark.shape))

    @property
    def by_repeat(self) -> Any:
        """Tokens per second in each repeat."""
        return self.tokens.sum(1) / self.seconds.sum(1)

    @property
    def tokens_per_second(self) -> float:
        """The median over repeats."""
        return float(np.median(self.by_repeat))

    def resampled(self, repeats: Any, prompts: Any) -> Speed:
        """Draws of repeats and prompts: arrays of shape (draws, repeats, prompts)."""
        rows, columns = repeats[:, :, None], prompts[:, None, :]
        return Speed(self.tokens[rows, columns], self.seconds[rows, columns])


def compared(ours: Speed, theirs: Speed) -> tuple[float, list[float]]:
    """How many times as fast `ours` is: median over repeats, and a 95 % bootstrap interval over prompts and repeats."""
    repeats, prompts = ours.tokens.shape
    random = np.random.default_rng(0)
    drawn = random.integers(repeats, size=(DRAWS, repeats)), random.integers(prompts, size=(DRAWS, prompts))
    rates = [speed.tokens.sum(-1) / speed.seconds.sum(-1) for speed in (ours.resampled(*drawn), theirs.resampled(*drawn))]
    interval = np.quantile(np.median(rates[0] / rates[1], axis=1), [0.025, 0.975])
    return float(np.median(ours.by_repeat / theirs.by_repeat)), interval.tolist()


def summary(statistics: Statistics) -> dict[str, Any]:
    """What is reported of a decode, by name."""
    return {
        "mean_acceptance_length": statistics.mean_acceptance_length,
        "draft_acceptance_rate": statistics.draft_acceptance_rate,
        "tokens_per_target_forward": statistics.tokens_per_target_forward,
        "acceptance_histogram": statistics.acceptance_histogram,
        "target_idle_share": statistics.target_idle_share,
        "draft_idle_share": statistics.draft_idle_share,
        "overhead_share": statistics.overhead_share,
        "rounds": statistics.rounds,
        "new_tokens": statistics.new_tokens,
        "synthetic": statistics.synthetic,
    }


def described(pair: Pair) -> dict[str, Any]:
    """The pair by names, sizes and number format; the bundled models by their place in the package."""
    models = {"target": pair.target} if pair.draft is None else {"target": pair.target, "draft": pair.draft}
    package = Path(str(files("specdec"))).parent
    names = {key: Path(model.name_or_path or "unnamed") for key, model in models.items()}
    return {
        **{key: str(name.relative_to(package) if name.is_relative_to(package) else name) for key, name in names.items()},
        **{f"{key}_parameters": model.num_parameters() for key, model in models.items()},
        "vocabulary": pair.vocabulary,
        "dtype": str(pair.target.dtype).removeprefix("torch."),
    }


def named(decoder: Decoder) -> dict[str, Any]:
    return {"strategy": decoder.name, "parameters": decoder.parameters}


def report(benchmark: Benchmark) -> dict[str, Any]:
    """Everything that was measured so far, for JSON. Times in seconds, speeds in tokens per second."""
    pair = benchmark.pair
    there = bool(benchmark.cells)
    comparable = there and 0 in benchmark.temperatures and not synthetic(benchmark.verification)
    return {
        "pair": described(pair),
        "hardware": {**hardware(pair).to_dict(), **versions(), "date": datetime.now(UTC).isoformat(timespec="seconds")},
        "settings": settings(benchmark),
        "measured": benchmark.measured,
        "results": [result(benchmark, contender) for contender in benchmark.contenders] if there else [],
        "ranking": [ranking(benchmark, temperature) for temperature in benchmark.temperatures] if there else [],
        "against": [entry for t in benchmark.temperatures for entry in against(benchmark, t)] if there else [],
        "greedy_check": greedy_check(benchmark) if comparable else None,
    }


def settings(benchmark: Benchmark) -> dict[str, Any]:
    """What all contenders had in common."""
    repeats, prompts = benchmark.shape
    lane, forced = benchmark.pair.draft_lane(), synthetic(benchmark.verification)
    return {
        "temperatures": list(benchmark.temperatures),
        "max_new_tokens": benchmark.max_new_tokens,
        "repeats": repeats,
        "repeats_planned": benchmark.repeats,
        "prompts": prompts,
        "verification": benchmark.verification,
        "synthetic": forced.mark if forced else "",
        "why_eager": benchmark.pair.why_eager(),
        "seed": benchmark.seed,
        "dtype": str(benchmark.pair.target.dtype).removeprefix("torch."),
        "target_threads": torch.get_num_threads(),
        "draft_lane": None if lane is None else type(lane).__name__.removesuffix("Lane").lower(),
        "peer_seconds": SECONDS if benchmark.peers else None,
    }


def result(benchmark: Benchmark, contender: Contender) -> dict[str, Any]:
    """The row of one contender."""
    decoder = contender.decoder
    speed = Speed.of(benchmark, contender)
    ratio, interval = compared(speed, Speed.of(benchmark, benchmark.baseline(contender.temperature)))
    total = reduce(add, (cell[contender].statistics for cell in benchmark.reported_cells))
    return {
        **named(decoder),
        "lossless_claimed": decoder.lossless,
        "temperature": contender.temperature,
        "tokens_per_second": speed.tokens_per_second,
        "speedup_over_ar": ratio,
        "speedup_over_ar_interval": interval,
        **summary(total),
        **(of_ours(benchmark, contender, decoder, total) if isinstance(decoder, Ours) else {}),
    }


def of_ours(benchmark: Benchmark, contender: Contender, decoder: Ours, total: Statistics) -> dict[str, Any]:
    """What is known of our own strategies only: how far they draft, what their decodes measured, and what is predicted."""
    strategy, own = decoder.strategy, steps(total)
    drafts = {"drafted_at_once": drafted_at_once(strategy, benchmark.pair)} if isinstance(strategy, DraftingStrategy) else {}
    decoded = [cell[contender] for cell in benchmark.reported_cells]
    return {**drafts, "measured": own, **predictions(benchmark, strategy, contender.temperature, decoded, own)}


def length(result: dict[str, Any]) -> str:
    """The draft length as a person wants to see it: `auto` with what it came to."""
    chosen = result["parameters"].get("draft_length", "-")
    resolved = result.get("drafted_at_once", chosen)
    return str(chosen) if chosen == resolved else f"{chosen}={resolved}"


def best(benchmark: Benchmark, temperature: float) -> dict[str, Contender]:
    """The fastest setting of each strategy and peer, by name, fastest first."""
    contenders = [contender for contender in benchmark.contenders if contender.temperature == temperature]
    found: dict[str, Contender] = {}
    for contender in sorted(contenders, key=lambda contender: -Speed.of(benchmark, contender).tokens_per_second):
        found.setdefault(contender.decoder.name, contender)
    return found


def ranking(benchmark: Benchmark, temperature: float) -> dict[str, Any]:
    """The best setting of each strategy, fastest first, and how many times as fast the first is as the others."""
    first, *others = best(benchmark, temperature).values()
    slower: list[dict[str, Any]] = []
    for other in others:
        ratio, interval = compared(Speed.of(benchmark, first), Speed.of(benchmark, other))
        slower.append({**named(other.decoder), "times_as_fast": ratio, "interval": interval})
    return {"temperature": temperature, "fastest": named(first.decoder), "against": slower}


def against(benchmark: Benchmark, temperature: float) -> Iterator[dict[str, Any]]:
    """How many times as fast we are as each peer that does the same thing, both at their best setting."""
    contenders = best(benchmark, temperature)
    for peer, ours in COUNTERPARTS.items():
        if peer in contenders and ours in contenders:
            ratio, interval = compared(Speed.of(benchmark, contenders[ours]), Speed.of(benchmark, contenders[peer]))
            yield {
                "temperature": temperature,
                "peer": peer,
                "peer_parameters": contenders[peer].decoder.parameters,
                "ours": ours,
                "parameters": contenders[ours].decoder.parameters,
                "times_as_fast": ratio,
                "interval": interval,
            }


def greedy_check(benchmark: Benchmark) -> dict[str, Any]:
    """Whether greedy outputs equal the baseline's token for token.

    Where one differs, `tie` says that the two tokens' logits are too close for the number format to tell apart.
    """
    baseline = benchmark.baseline(0)
    differences: list[dict[str, Any]] = []
    first_repeat = benchmark.cells[: len(benchmark.prompts)]
    for i, cell in enumerate(first_repeat):
        theirs = cell[baseline].tokens
        for contender, decoded in cell.items():
            if contender.temperature == 0 and decoded.tokens != theirs:
                where = difference(benchmark.pair, benchmark.prompts[i], decoded.tokens, theirs)
                differences.append({**named(contender.decoder), "prompt": i, **where})
    return {"prompts": len(first_repeat), "equal": not differences, "differences": differences}


def difference(pair: Pair, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    """Where two greedy outputs part, and how far apart the target's logits of the two tokens are there."""
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    row = Runner(pair.target, pair.vocabulary).logits([*prompt, *theirs[:at]], 1)[0].double()
    margin = abs(float(row[ours[at]] - row[theirs[at]]))
    tie = margin <= TIE[pair.target.dtype] * float(row.abs().max())
    return {"position": at, "tokens": [ours[at], theirs[at]], "logit_margin": margin, "tie": tie}
