"""State of one sequence in the engine."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.sampling import Dice, Sampling
from specdec.statistics import Statistics
from specdec.synthetic import Synthetic, rule_of
from specdec.verification import Rule


class Slot:
    """One sequence in the engine: its sampling, its verification rule, its random numbers, its counts.

    `index` is its slot in both caches. `written` says whether its draft writes text, whose tokens are certain guesses.
    All randomness of a decode is drawn here, so it does not depend on who else decodes.
    """

    index = 0
    written = False

    def __init__(self, seed: object, verification: str | Rule = "token", sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()
        self.rule = rule_of(verification)
        self.dice = Dice(f"{seed} verification")
        self.statistics = Statistics(synthetic=self.rule.mark if isinstance(self.rule, Synthetic) else "")
        self._draft_dice = Dice(f"{seed} draft")
        self._unused: list[float] = []

    def uniforms(self, length: int) -> list[float]:
        """What a draft of up to `length` tokens is sampled by. Those that it does not use must be given back."""
        if self.sampling.greedy:
            return []
        taken, self._unused = self._unused[:length], self._unused[length:]
        return taken + [self._draft_dice.uniform() for _ in range(length - len(taken))]

    def give_back(self, uniforms: Sequence[float]) -> None:
        """Keep uniforms that a draft has not looked at for the next one: how many it uses may depend on the clock."""
        self._unused[:0] = uniforms
