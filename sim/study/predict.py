"""Predicts how fast a strategy decodes on a measured pair, by its compiled chain with the seconds of a profile.

`specdec` may not import the simulator. `specdec bench` finds `predict` in the entry-point group `specdec.predictors`, and
prints the prediction next to the measured speed.
"""

from __future__ import annotations

from sim.setup.profiles import measured_acceptance, measured_system
from sim.stream.chain import compile_strategy
from sim.stream.speed import expected_seconds
from specdec.profile import Profile
from specdec.strategy import DecodingStrategy


def predict(strategy: DecodingStrategy, profile: Profile, context: int, tokens: int) -> float:
    """Tokens per second of answers of `tokens` tokens, prefill left out.

    `context` is the mean number of tokens before a window. Acceptance is that of the profile's recorded runs, or its rate where
    it holds no runs. With `draft_length="auto"`, a strategy drafts as many tokens as the profile's speed ratio says.
    Raises `StrategyError` for a strategy that cannot be compiled, `InputError` for a profile without acceptance.
    """
    acceptance = measured_acceptance(profile, recorded=profile.acceptance.runs > 0)
    system = measured_system(profile, context)
    compiled = compile_strategy(strategy, system)
    return tokens / float(expected_seconds(compiled, acceptance, system, tokens))
