"""Measures what a pair costs and how well it agrees: the numbers that the simulator needs."""

from specdec.measure.acceptance import SampledAcceptance, measure_acceptance, sampled_rows
from specdec.measure.pair import hardware, profile

__all__ = ["SampledAcceptance", "hardware", "measure_acceptance", "profile", "sampled_rows"]
