"""Predicts the speed of a strategy from measured seconds and acceptance, by an installed predictor.

    predicted     from what was timed before anything was decoded: the models alone, in turn and together
    closed form   from the strategy's own decodes: the mean seconds of its forwards by width, and the share of its tested
                  guesses that were accepted. The gap between the measured speed and this one is overhead: verification,
                  transport, bookkeeping, and forwards of uneven length

Predictors are found through the entry-point group `specdec.predictors`. Not predicted are strategies that guess without the
draft, since their acceptance depends on the text, and rules other than the token rule. Forced acceptance is predicted, since
its rate is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from specdec.acceptance import MeasuredAcceptance
from specdec.bench.values import BASELINE, Steps
from specdec.errors import SpecdecError
from specdec.plugins import Plugins
from specdec.profile import DraftTiming, Profile, TargetTiming
from specdec.statistics import Statistics
from specdec.strategy import DecodingStrategy
from specdec.synthetic import synthetic

Predictor = Callable[[DecodingStrategy, Profile, int, int], float]
"""`predict(strategy, profile, context, tokens)`: tokens per second of answers of `tokens` tokens after `context` tokens."""


@dataclass(frozen=True)
class Question:
    """What is to be predicted: answers of `tokens` tokens, at a mean context of `context` tokens."""

    strategy: DecodingStrategy
    verification: str
    context: int
    tokens: int


PREDICTORS: Plugins[Predictor] = Plugins("specdec.predictors", "predictor", "function", lambda _, it: callable(it))


def predictor() -> Predictor | None:
    """The installed predictor, `None` if there is none. One of another package comes before the simulator's; then the name."""
    found = PREDICTORS.usable()
    return found[min(found, key=lambda name: (PREDICTORS.is_built_in(name), name))] if found else None


def can_predict(question: Question, steps: Steps) -> bool:
    """Whether the steps hold all that a prediction needs.

    A forward must have been timed. The acceptance must be known, except for the baseline. The rule must be the token rule,
    whose acceptance was measured, or forced acceptance.
    """
    strategy, verification = question.strategy, question.verification
    known = strategy.name == BASELINE or (strategy.drafts and steps.acceptance_rate is not None)
    accepts_as_known = verification == "token" or synthetic(verification) is not None
    return known and accepts_as_known and bool(steps.target_window_seconds)


def predicted(question: Question, steps: Steps, profile: Profile | None = None) -> float | None:
    """Tokens per second at the acceptance of `steps` and the times of `profile`, or those of `steps` without a profile.

    `None` if no predictor is installed, if the steps hold too little, or if the predictor refuses the strategy.
    """
    predict = predictor()
    if predict is None or not can_predict(question, steps):
        return None
    try:
        found = profile_at(steps, profile, question.context)
        return predict(question.strategy, found, question.context, question.tokens)
    except SpecdecError:  # a strategy that it cannot compile
        return None


def profile_at(steps: Steps, profile: Profile | None, context: int) -> Profile:
    """`profile` with the acceptance of `steps`; without a profile, one with the times of `steps` too.

    A profile needs a draft, so one that never worked then gets the time of the target.
    """
    acceptance = MeasuredAcceptance(steps.acceptance_rate or 0.0, steps.run_lengths, foresight=steps.foresight)
    if profile is not None:
        return replace(profile, acceptance=acceptance)
    windows = steps.target_window_seconds
    return Profile(
        target_seconds=tuple(TargetTiming(width, 1, context, seconds) for width, seconds in windows.items()),
        draft_seconds=(DraftTiming(1, context, steps.draft_step_seconds or windows[min(windows)]),),
        acceptance=acceptance,
    )


def steps_of(statistics: Statistics) -> Steps:
    """Seconds and acceptance of a strategy's own decodes."""
    by_width, drafted, forwards = statistics.window_seconds, statistics.draft_steps, statistics.window_forwards
    return Steps(
        target_window_seconds={width: by_width[width] / forwards[width] for width in sorted(forwards)},
        draft_step_seconds=statistics.draft_busy_seconds / drafted if drafted and statistics.draft_busy_seconds else None,
        acceptance_rate=statistics.acceptance_rate if statistics.tested_tokens else None,
        foresight=statistics.foresight,
    )
