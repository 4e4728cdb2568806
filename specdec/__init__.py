"""Speculative decoding as programs of effects: run on real pairs, proved exactly, compiled and simulated."""

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
