"""The engine's side of one sequence."""

from __future__ import annotations

from specdec.sampling import Dice
from specdec.statistics import Statistics
from specdec.synthetic import Synthetic, rule_of
from specdec.verification import Rule


class Slot:
    """One sequence at work: its `index` in both caches, its verification rule, its random numbers and its counts."""

    index = 0

    def __init__(self, seed: object, verification: str | Rule = "token") -> None:
        self.seed = seed
        self.rule = rule_of(verification)
        self.dice = Dice(f"{seed} verification")
        self.statistics = Statistics(synthetic=self.rule.mark if isinstance(self.rule, Synthetic) else "")
