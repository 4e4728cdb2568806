"""State of one sequence in the engine."""

from __future__ import annotations

from specdec.sampling import Dice
from specdec.statistics import Statistics
from specdec.synthetic import Synthetic, rule_of
from specdec.verification import Rule


class Slot:
    """One sequence in the engine: its slot in both caches (`index`), its verification rule, its random numbers, its counts."""

    index = 0

    def __init__(self, seed: object, verification: str | Rule = "token") -> None:
        self.seed = seed
        self.rule = rule_of(verification)
        self.dice = Dice(f"{seed} verification")
        self.statistics = Statistics(synthetic=self.rule.mark if isinstance(self.rule, Synthetic) else "")
