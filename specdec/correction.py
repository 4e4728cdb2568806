"""Corrects `Costs` by what a decode took: they are measured once, in a few seconds, and a machine does not keep its speed."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.state import Costs, Curve
from specdec.statistics import Statistics

REMEMBERED = 16
"""Pieces of work, such as forwards, that what is known counts as, beside those of one decode."""


@dataclass
class _Work:
    """Work of one kind in a decode: `pieces` that took `seconds`, and that take `steps` plain steps by what is known."""

    pieces: int = 0
    steps: float = 0.0
    seconds: float = 0.0

    def add(self, pieces: int, steps: float, seconds: float) -> None:
        self.pieces, self.steps, self.seconds = self.pieces + pieces, self.steps + steps, self.seconds + seconds

    def over(self, other: _Work, known: float = 1.0) -> float:
        """Seconds of a step over those of the other work, moved there from what is known by how much of both was seen."""
        if not (self.seconds and other.steps and other.seconds):
            return known
        pieces = min(self.pieces, other.pieces)
        share = pieces / (pieces + REMEMBERED)
        return known ** (1 - share) * (self.seconds / self.steps / (other.seconds / other.steps)) ** share


def corrected(costs: Costs, decode: Statistics) -> Costs:
    """The costs, moved towards what one decode of one sequence took.

    Three numbers move: how long windows take beside a forward over one position, forks beside plain drafts, and a step of the
    target beside one of the draft. Each compares work of the same decode, so that its curve keeps its shape, and a machine that
    is slower as a whole changes nothing.
    """
    step, windows, drafts, forks = _Work(), _Work(), _Work(), _Work()
    for width, number in decode.window_forwards.items():
        (windows if width > 1 else step).add(number, number * costs.window(width - 1), decode.window_seconds[width])
    for (guesses, branches, tokens), number in decode.drafts.items():
        seconds = decode.draft_seconds[guesses, branches, tokens]
        if branches:
            forks.add(number, number * costs.forks(guesses, branches, tokens) * costs.speed_ratio, seconds)
        else:
            drafts.add(number, number * tokens, seconds)
    wider, slower = windows.over(step), forks.over(drafts)
    step.add(windows.pieces, wider * windows.steps, windows.seconds)
    drafts.add(forks.pieces, slower * forks.steps, forks.seconds)
    ratio = step.over(drafts, costs.speed_ratio)
    return Costs(ratio, _scaled(costs.windows, wider), _scaled(costs.branches, slower), max(1.0, slower * costs.fork))


def _scaled(curve: Curve, by: float) -> Curve:
    """The curve, `by` times as high beyond its first point; nothing takes less than a step."""
    first, *others = curve
    return (first, *((number, max(1.0, by * time)) for number, time in others))
