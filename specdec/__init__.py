"""Speculative decoding as programs of effects: run on real pairs, proved exactly, compiled and simulated."""

from specdec.decode import Decoding, Result, Round, decode
from specdec.effects import Both, Committed, Draft, Effect, Guess, Program, Score, Scores, Verdict, Verify
from specdec.errors import (
    InputError,
    LaneError,
    ModelError,
    NotLossless,
    PairError,
    SamplingError,
    SpecdecError,
    StrategyError,
)
from specdec.law import ExactPair, law, target_law, total_variation
from specdec.pair import Pair
from specdec.proof import Proof, assert_lossless, prove
from specdec.sampling import Sampling
from specdec.statistics import Statistics
from specdec.strategy import (
    AnyDraftLength,
    Confident,
    DecodingStrategy,
    DraftingStrategy,
    DraftLength,
    Facts,
    Fixed,
    KnownFacts,
    SpeedRatio,
    State,
    available,
    create,
)

__all__ = [
    "AnyDraftLength",
    "Both",
    "Committed",
    "Confident",
    "Decoding",
    "DecodingStrategy",
    "Draft",
    "DraftLength",
    "DraftingStrategy",
    "Effect",
    "ExactPair",
    "Facts",
    "Fixed",
    "Guess",
    "InputError",
    "KnownFacts",
    "LaneError",
    "ModelError",
    "NotLossless",
    "Pair",
    "PairError",
    "Program",
    "Proof",
    "Result",
    "Round",
    "Sampling",
    "SamplingError",
    "Score",
    "Scores",
    "SpecdecError",
    "SpeedRatio",
    "State",
    "Statistics",
    "StrategyError",
    "Verdict",
    "Verify",
    "assert_lossless",
    "available",
    "create",
    "decode",
    "law",
    "prove",
    "target_law",
    "total_variation",
]
