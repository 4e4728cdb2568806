"""Forced acceptance: forwards are real, and chance alone decides whether a guess is accepted. For measuring speed only.

    synthetic:0.8           every guess is accepted with this probability
    synthetic:profile.json  runs of accepted guesses as in a file that `specdec profile` wrote

This measures the speed of a strategy at any acceptance, on models without trained weights. The tokens are no text, and every
output says so. Forced acceptance is no rule of `specdec.verification`: nothing proves it, and the exact law does not know it.
The idea is vLLM's. Runs have the same law as recorded acceptance in the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence

from specdec.errors import InputError
from specdec.profile import Profile
from specdec.verification import Chance, Decision, Rule, Window, rule


class Synthetic:
    """Accepts guesses by chance, then samples a token from `p`. Each decode needs one of its own: it keeps the present run.

    `chances`   `chances[r]` is the probability that a guess is accepted after `r` accepted ones; the last holds for longer runs
    `rate`      share of tested guesses that are accepted in the long run
    `mark`      the words by which outputs say that they are no text
    """

    def __init__(self, chances: Sequence[float], rate: float, mark: str) -> None:
        self._chances, self.rate, self.mark = chances, rate, mark
        self._run = 0

    def __call__(self, window: Window, bonus: bool, chance: Chance) -> Decision:
        accepted = self._accepted(window.n, bonus, chance)
        return Decision(accepted, chance.pick(window.p(accepted)) if bonus or accepted < window.n else None)

    def greedy(self, best: Sequence[int], guess: Sequence[int], bonus: bool, chance: Chance) -> Decision:
        """The same at temperature 0, where the target's token is `best[i]`."""
        accepted = self._accepted(len(guess), bonus, chance)
        return Decision(accepted, best[accepted] if bonus or accepted < len(guess) else None)

    def _accepted(self, n: int, bonus: bool, chance: Chance) -> int:
        tests = n + bonus  # a bonus position is tested too, for the run alone, so that runs do not depend on windows
        last = len(self._chances) - 1
        passed = chance.leading(self._chances[min(self._run + i, last)] for i in range(tests))
        self._run = self._run + passed if passed == tests else 0
        return min(passed, n)


def synthetic(verification: str | Rule) -> Synthetic | None:
    """The forced acceptance that `synthetic:RATE` or `synthetic:FILE` names; `None` for any other verification."""
    if not isinstance(verification, str):
        return verification if isinstance(verification, Synthetic) else None
    kind, _, source = verification.partition(":")
    if kind != "synthetic":
        return None
    mark = f"synthetic acceptance {source}: not text"
    try:
        rate = float(source)
    except ValueError:
        return Synthetic(*_recorded(source), mark)
    if not 0 <= rate <= 1:
        raise InputError(f"synthetic acceptance {source} is no probability: give a number from 0 to 1, such as synthetic:0.8")
    return Synthetic((rate,), rate, mark)


def rule_of(verification: str | Rule) -> Rule:
    """What a decode may be asked for: a rule, a rule by name, or forced acceptance."""
    return synthetic(verification) or rule(verification)


def require_text(verification: str | Rule) -> None:
    """Refuse forced acceptance where its tokens would be read as text."""
    if synthetic(verification):
        raise InputError(f"{verification} forces acceptance, so there is no text to show: measure it with specdec bench")


def _recorded(source: str) -> tuple[list[float], float]:
    """Chances and rate of the run lengths in a profile."""
    try:
        measured = Profile.read(source).acceptance
        chances = measured.chances()
    except InputError as error:
        raise InputError(
            f"synthetic acceptance {source!r} holds no run lengths ({error}): give a number from 0 to 1, or a file that "
            "specdec profile wrote"
        ) from error
    accepted = sum(length * count for length, count in measured.run_lengths.items())
    return chances, accepted / (accepted + measured.runs)
