"""Speculative decoding as programs of effects: run on real pairs, proved exactly, compiled and simulated.

Everything that a strategy needs is imported at once. Names whose modules need torch are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specdec.effects import (
    Both,
    Committed,
    Draft,
    Effect,
    Fork,
    Forks,
    Guess,
    Program,
    Race,
    Score,
    Scores,
    StopRule,
    Verdict,
    Verify,
)
from specdec.errors import (
    CheckFailed,
    InputError,
    LaneError,
    ModelError,
    NotLossless,
    PairError,
    SamplingError,
    SpecdecError,
    StrategyError,
)
from specdec.installed import Strategies, installed
from specdec.lengths import AnyDraftLength, DraftLength, Fixed, LengthFacts, SpeedRatio
from specdec.state import Costs, Facts, KnownFacts, State
from specdec.strategy import DecodingStrategy, DraftingStrategy, available, create
from specdec.verification import Chance, Decision, Rule, Window, rules

if TYPE_CHECKING:
    from specdec.batch import Batch
    from specdec.decoding import Decoding, decode
    from specdec.law.proof import assert_lossless
    from specdec.output import Result, Round
    from specdec.own_layers import self_draft
    from specdec.pair import Pair
    from specdec.sampling import Sampling
    from specdec.statistics import Statistics

_LATER = {
    "Batch": "specdec.batch",
    "Decoding": "specdec.decoding",
    "Pair": "specdec.pair",
    "Result": "specdec.output",
    "Round": "specdec.output",
    "Sampling": "specdec.sampling",
    "Statistics": "specdec.statistics",
    "assert_lossless": "specdec.law.proof",
    "decode": "specdec.decoding",
    "self_draft": "specdec.own_layers",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'specdec' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "AnyDraftLength",
    "Batch",
    "Both",
    "Chance",
    "CheckFailed",
    "Committed",
    "Costs",
    "Decision",
    "Decoding",
    "DecodingStrategy",
    "Draft",
    "DraftLength",
    "DraftingStrategy",
    "Effect",
    "Facts",
    "Fixed",
    "Fork",
    "Forks",
    "Guess",
    "InputError",
    "KnownFacts",
    "LaneError",
    "LengthFacts",
    "ModelError",
    "NotLossless",
    "Pair",
    "PairError",
    "Program",
    "Race",
    "Result",
    "Round",
    "Rule",
    "Sampling",
    "SamplingError",
    "Score",
    "Scores",
    "SpecdecError",
    "SpeedRatio",
    "State",
    "Statistics",
    "StopRule",
    "Strategies",
    "StrategyError",
    "Verdict",
    "Verify",
    "Window",
    "assert_lossless",
    "available",
    "create",
    "decode",
    "installed",
    "rules",
    "self_draft",
]
