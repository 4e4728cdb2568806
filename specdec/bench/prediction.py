"""What a strategy ought to reach at the seconds and the acceptance that were measured, by an installed predictor.

    predicted     from what was timed before anything was decoded: the models alone, in turn and together
    closed form   from the strategy's own decodes: the seconds of its forwards by width, and how its guesses fared. What it
                  falls short of this is the driver's: verification, transport, bookkeeping, and forwards of uneven length

A predictor is found through the entry-point group `specdec.predictors`; what it computes with is its own affair. Not predicted
are strategies that guess without the draft, whose acceptance hangs on the text, and rules other than the token rule (forced
acceptance is what a predictor takes it to be).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from statistics import mean
from typing import Any

from specdec.batch import Result
from specdec.bench.run import BASELINE, Benchmark, drafted_at_once
from specdec.errors import SpecdecError
from specdec.profile import Profile
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy, DraftingStrategy
from specdec.synthetic import synthetic

GROUP = "specdec.predictors"

Predictor = Callable[[DecodingStrategy, Profile, int, int], float]
"""`predict(strategy, profile, context, tokens)`: tokens per second of answers of `tokens` tokens behind `context` tokens.

`profile` has the keys of a file that `specdec profile` wrote, as far as they are known.
"""


def predictor() -> Predictor | None:
    """The installed one, the first by name where there are several."""
    entries = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return entries[0].load() if entries else None


def steps(statistics: Statistics) -> dict[str, Any]:
    """What a strategy's own decodes say of seconds and acceptance, under the names of `Benchmark.measured`."""
    by_width, drafted = statistics.window_seconds, statistics.drafted_tokens
    forwards = statistics.window_forwards
    return {
        "target_window_seconds": {str(width): by_width[width] / forwards[width] for width in sorted(forwards)},
        "draft_step_seconds": statistics.draft_busy_seconds / drafted if drafted and statistics.draft_busy_seconds else None,
        "acceptance_rate": statistics.acceptance_rate if statistics.tested_tokens else None,
    }


def predictions(
    benchmark: Benchmark, strategy: DecodingStrategy, temperature: float, decoded: Sequence[Result], own: dict[str, Any]
) -> dict[str, float | None]:
    """Predicted and closed-form tokens per second; `None` where there is no predictor or it cannot tell."""
    predict = predictor()
    if isinstance(strategy, DraftingStrategy) and strategy.draft_length == "auto":
        strategy = replace(strategy, draft_length=drafted_at_once(strategy, benchmark.pair))
    tokens = round(mean(len(result.tokens) for result in decoded))
    context = round(mean(len(prompt) for prompt in benchmark.prompts)) + tokens // 2
    rates = benchmark.measured["acceptance_rate_by_temperature"]
    before = {**benchmark.measured, "acceptance_rate": rates.get(f"{temperature:g}")}

    def by(measured: dict[str, Any], timed: dict[str, Any]) -> float | None:
        known = strategy.name == BASELINE or (strategy.drafts and measured["acceptance_rate"] is not None)
        as_told = benchmark.verification == "token" or synthetic(benchmark.verification)
        if predict is None or not (known and as_told and measured["target_window_seconds"]):
            return None
        try:
            return predict(
                strategy, Profile.from_dict({**profile(measured, context), **timed}, "what was timed"), context, tokens
            )
        except SpecdecError:  # a strategy that it cannot compile
            return None

    return {
        "predicted_tokens_per_second": by(before, benchmark.measured.get("profile") or {}),
        "closed_form_tokens_per_second": by(own, {}),
    }


def profile(measured: dict[str, Any], context: int) -> dict[str, Any]:
    """Measured steps in the form of `specdec profile`. A draft that never works is given the target's seconds."""
    windows = {int(width): seconds for width, seconds in measured["target_window_seconds"].items()}
    common = {"batch": 1, "context": context, "cv": 0.0}
    return {
        "target_seconds": [{"width": width, "mean": seconds, **common} for width, seconds in windows.items()],
        "draft_seconds": [{"mean": measured["draft_step_seconds"] or windows[min(windows)], **common}],
        "acceptance": {"rate": measured["acceptance_rate"] or 0.0},
        "round_overhead_seconds": 0.0,
    }
