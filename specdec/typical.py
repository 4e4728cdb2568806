"""Typical acceptance: a guess is accepted if the target finds it likely enough. LOSSY: the output has not the target's law.

Medusa, Cai et al. 2024 (arXiv 2401.10774), section 2.3.1: accept `x` if `p(x) > min(epsilon, delta exp(-H(p)))`, where `H` is
the entropy. So a guess need not have a high `p(x)` where many tokens are plausible. `q` is not looked at: what the draft
prefers among likely tokens is what comes out. Medusa's release has `epsilon = 0.09` and `delta = 0.3`, and treats the first
token of a round in another way; here the token after the accepted ones is a sample of `p`, as in all other rules. At
temperature 0 every rule is the greedy one, which is lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import ClassVar

from specdec.inputs import between
from specdec.lengths import entropy
from specdec.verification import Chance, Decision, Row, Window


@dataclass(frozen=True)
class Typical:
    """Accept `x_i` if `p_i(x_i) > min(epsilon, delta exp(-H(p_i)))`; at the first rejection sample `p_i` and stop. Lossy.

    `epsilon`   a guess above this probability is accepted always
    `delta`     share of `exp(-H)`, which is the probability of each of a number of equally likely tokens, that is enough too
    """

    lossless: ClassVar[bool] = False
    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self) -> None:
        between(0, 1, epsilon=self.epsilon, delta=self.delta)

    @property
    def __name__(self) -> str:
        return f"typical:epsilon={self.epsilon:g},delta={self.delta:g}"

    def threshold(self, p: Row) -> float:
        """What `p(x)` must be above."""
        return min(self.epsilon, self.delta * exp(-entropy(p)))

    def __call__(self, window: Window, bonus: bool, chance: Chance) -> Decision:
        accepted = chance.leading(int(window.p_at(i) > self.threshold(window.p(i))) for i in range(window.n))
        return Decision(accepted, chance.pick(window.p(accepted)) if bonus or accepted < window.n else None)
