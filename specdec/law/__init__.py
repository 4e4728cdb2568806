"""The exact world: the output law of any strategy by enumeration with `Fraction`, and proofs of losslessness on top of it."""

from specdec.law.exact import (
    Exact,
    ExactLaw,
    ExactPair,
    ExactRow,
    Oracle,
    Scattered,
    Schedule,
    branches,
    law,
    target_law,
    total_variation,
)
from specdec.law.proof import Case, Proof, assert_lossless, cases, prove

__all__ = [
    "Case",
    "Exact",
    "ExactLaw",
    "ExactPair",
    "ExactRow",
    "Oracle",
    "Proof",
    "Scattered",
    "Schedule",
    "assert_lossless",
    "branches",
    "cases",
    "law",
    "prove",
    "target_law",
    "total_variation",
]
