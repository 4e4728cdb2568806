"""Draft-length policies that learn or that stop early, one file each. Every strategy with a draft length can use each."""

from strategies.lengths.adaedl import AdaEdl
from strategies.lengths.bandit import Bandit
from strategies.lengths.closed_form import ClosedForm
from strategies.lengths.confident import Confident
from strategies.lengths.heuristic import Heuristic
from strategies.lengths.svip import Svip

__all__ = ["AdaEdl", "Bandit", "ClosedForm", "Confident", "Heuristic", "Svip"]
