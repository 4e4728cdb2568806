"""Adaptive: chooses a strategy and a draft length before each round, by closed forms at the counted acceptance.

Each round tells how many guesses were accepted, whether one was rejected, and whether a fork foresaw the outcome. At these
rates and the measured costs, `closed_form` says how many tokens each strategy gives for a step of the target, and with
which length. The counts fade, so that a change of the text is noticed. Without news they fade to what is assumed at the start,
so that drafting, or forking, is tried again. What is pending is kept where the chosen strategy verifies it.

The choice depends on earlier rounds alone, so the law is that of the strategies that it chooses from.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, ClassVar

from specdec import (
    Both,
    Committed,
    Costs,
    DecodingStrategy,
    Draft,
    DraftingStrategy,
    Facts,
    Fork,
    Guess,
    InputError,
    Program,
    State,
    Verdict,
    create,
)
from specdec.inputs import between, texts
from specdec.lengths import longest_draft

PLAIN = "autoregressive"
START = 6
"""Guesses that the assumed rate counts as at the start; they fade. Of a few rounds alone, a rate says little."""
GRID = 40
"""Steps of the grid of rates at which closed forms are computed, each once."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What work takes, the strategy in use, and faded counts of guesses, and of outcomes that a fork was to foresee."""

    costs: Costs
    used: str = PLAIN
    accepted: float = 0.0
    tested: float = 0.0
    hits: float = 0.0
    outcomes: float = 0.0

    def faded(self, fading: float, verdict: Verdict, hit: bool | None) -> Counts:
        """The counts after a round; `hit` is `None` where nothing was forked."""
        slowly = 0.995 if hit is None else 0.98  # foresight is the pair's more than the text's, and to try it costs rounds
        return replace(
            self,
            accepted=fading * self.accepted + verdict.accepted,
            tested=fading * self.tested + verdict.accepted + (not verdict.complete),
            hits=slowly * self.hits + bool(hit),
            outcomes=slowly * self.outcomes + (hit is not None),
        )


@dataclass(frozen=True)
class Adaptive(DecodingStrategy):
    """Choose from the strategies `among` (names with + between them) and from drafts of up to `most` tokens.

    `first`    the acceptance rate that is assumed without news
    `fading`   what a count is multiplied by after each round
    `margin`   how much better another strategy must be to switch to it, as a share
    """

    name: ClassVar[str] = "adaptive"
    among: str = "speculative+pearl+saguaro"
    most: int = 12
    first: float = 0.8
    fading: float = 0.95
    margin: float = 0.05

    def __post_init__(self) -> None:
        longest_draft(most=self.most)
        texts(among=self.among)
        between(0, 1, first=self.first, margin=self.margin)
        between(0.5, 1, fading=self.fading)
        for name in self._names:
            if not isinstance(_named(name), DraftingStrategy):
                raise InputError(f"among {self.among!r} is not possible: {name} has no draft length to choose")

    @property
    def _names(self) -> list[str]:
        return self.among.split("+")

    def init(self, prompt: Committed, facts: Facts) -> State:
        return State(prompt, memory=Counts(facts.costs(), accepted=START * self.first, tested=START))

    def choice(self, counts: Counts) -> tuple[str, int]:
        """The strategy of the next round, and its draft length."""
        rate = (counts.accepted + self.first) / (counts.tested + 1)
        hit = round(GRID * counts.hits / counts.outcomes) / GRID if counts.outcomes > 1 else None
        found = {name: _best(name, counts.costs, round(GRID * rate) / GRID, hit, self.most) for name in self._names}
        paces = {PLAIN: 1.0} | {name: pace for name, (pace, _) in found.items()}
        paces[counts.used] *= 1 + self.margin
        name = max(paces, key=lambda one: paces[one])
        return name, found[name][1] if name in found else 0

    def step(self, state: Any) -> Program[State]:
        counts: Counts = state.memory
        name, length = self.choice(counts)
        after, verdict, hit = yield from _watched(_round(_strategy(name, length), state.committed, state.pending))
        return State(after.committed, after.pending, replace(counts, used=name).faded(self.fading, verdict, hit))


@cache
def _named(name: str) -> Any:
    return create(name)


@cache
def _strategy(name: str, length: int) -> Any:
    return replace(_named(name), draft_length=length) if length else _named(name)


@lru_cache(1 << 14)  # not without end: each decode corrects the costs
def _best(name: str, costs: Costs, rate: float, hit: float | None, most: int) -> tuple[float, int]:
    """The highest pace, and the draft length that has it."""
    return max((_strategy(name, length).closed_form(rate, costs, length, hit), length) for length in range(1, most + 1))


def _round(strategy: Any, committed: Committed, pending: Guess) -> Program[State]:
    """A round that verifies what is pending, or drops it: speculative decoding would draft behind it, and leave it out."""
    first: Any = next(strategy.step(State(committed, pending)))
    score = first.left if isinstance(first, Both) else first
    verified = getattr(score, "guess", None) is pending
    return strategy.step(State(committed, pending if verified else Guess.empty))


def _watched(program: Program[State]) -> Generator[Any, Any, tuple[State, Verdict, bool | None]]:
    """A round of another strategy; what it returns, its verdict, and whether its fork foresaw the outcome."""
    given, verdict, missed = None, Verdict(Committed(), 0, False), False
    fork: Fork | None = None
    while True:
        try:
            effect: Any = program.send(given)
        except StopIteration as end:
            foreseeable = fork is not None and fork.fan_outs[verdict.accepted] > 0
            return end.value, verdict, bool(end.value.pending.drafted) and not missed if foreseeable else None
        given = yield effect
        verdict = given if isinstance(given, Verdict) else verdict
        right = getattr(effect, "right", None)
        fork = right if isinstance(right, Fork) else fork
        missed = isinstance(effect, Draft)
