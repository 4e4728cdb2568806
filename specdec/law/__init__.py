"""Computes the exact output law of any strategy by enumeration, in fractions, and compares it with the target's law."""

from specdec.law.exact import Exact, law
from specdec.law.lossy import MeasuredLoss, OneStep, how_lossy, measured_loss, one_step
from specdec.law.oracle import Oracle, branches
from specdec.law.pair import (
    ExactLaw,
    ExactPair,
    ExactRow,
    Hits,
    Scattered,
    ScatteredHits,
    Schedule,
    target_law,
    total_variation,
)
from specdec.law.proof import Case, Proof, assert_lossless, cases, prove
from specdec.law.suite import Proofs, prove_all

__all__ = [
    "Case",
    "Exact",
    "ExactLaw",
    "ExactPair",
    "ExactRow",
    "Hits",
    "MeasuredLoss",
    "OneStep",
    "Oracle",
    "Proof",
    "Proofs",
    "Scattered",
    "ScatteredHits",
    "Schedule",
    "assert_lossless",
    "branches",
    "cases",
    "how_lossy",
    "law",
    "measured_loss",
    "one_step",
    "prove",
    "prove_all",
    "target_law",
    "total_variation",
]
