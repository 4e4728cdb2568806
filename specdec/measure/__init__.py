"""Measures what a pair costs and how well it agrees: the numbers that a simulator needs."""

from specdec.measure.acceptance import Acceptance, acceptance
from specdec.measure.pair import hardware, profile

__all__ = ["Acceptance", "acceptance", "hardware", "profile"]
