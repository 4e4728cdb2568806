"""How fast a strategy will decode on a measured pair: its compiled chain, priced by a profile.

The door to the simulator for whoever may not import it: `specdec bench` finds `predict` in the entry-point group
`specdec.predictors`, and puts its answer beside what it measures.
"""

from __future__ import annotations

from typing import Any

from sim.chain import compile_strategy
from sim.profiles import profile_of
from sim.rates import expected_seconds
from specdec import InputError
from specdec.strategy import DecodingStrategy


def predict(strategy: DecodingStrategy, profile: dict[str, Any], context: int, tokens: int) -> float:
    """Tokens per second of answers of `tokens` tokens, prefill left out.

    `profile` is what `specdec.profile.profile` returns, read like its file: its recorded runs where it has any, else its rate.
    `context` is the mean number of tokens before a window. `draft_length="auto"` is told the profile's speed ratio.
    Raises `StrategyError` for a strategy that cannot be compiled, `InputError` for a profile that cannot be read.
    """
    measured = profile_of(profile, "the profile")
    acceptance = measured.runs or measured.rate
    if acceptance is None:
        raise InputError("the profile holds no acceptance: measure it on more prompts, or on longer answers")
    system = measured.system(context)
    compiled = compile_strategy(strategy, system)
    return tokens / float(expected_seconds(compiled, acceptance, system, tokens))
