"""What a pair costs and how well it agrees, measured: the numbers that a simulator needs, and nothing it could guess."""

from specdec.measure.acceptance import Acceptance, acceptance
from specdec.measure.pair import hardware, profile

__all__ = ["Acceptance", "acceptance", "hardware", "profile"]
