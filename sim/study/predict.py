"""How fast a strategy will decode on a measured pair: its compiled chain, priced by a profile.

The door to the simulator for whoever may not import it: `specdec bench` finds `predict` in the entry-point group
`specdec.predictors`, and puts its answer beside what it measures.
"""

from __future__ import annotations

from sim.setup.profiles import measured_acceptance, measured_system
from sim.stream.chain import compile_strategy
from sim.stream.rates import expected_seconds
from specdec.profile import Profile
from specdec.strategy import DecodingStrategy


def predict(strategy: DecodingStrategy, profile: Profile, context: int, tokens: int) -> float:
    """Tokens per second of answers of `tokens` tokens, prefill left out.

    Of the profile's acceptance, its recorded runs are taken where it has any, else its rate.
    `context` is the mean number of tokens before a window. `draft_length="auto"` is told the profile's speed ratio.
    Raises `StrategyError` for a strategy that cannot be compiled, `InputError` for a profile that cannot be read.
    """
    acceptance = measured_acceptance(profile, recorded=profile.acceptance.runs > 0)
    system = measured_system(profile, context)
    compiled = compile_strategy(strategy, system)
    return tokens / float(expected_seconds(compiled, acceptance, system, tokens))
