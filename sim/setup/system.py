"""A target and a draft on devices: whether both work at the same time, how much slower that is, and the overhead of a round.

A stage of a round occupies the draft for d seconds, the target for t, or both at the same time. How long the stage takes:

* each on its own device:   max(d + 2 network, t)
* on one device, in turn:   d + t
* only one model works:     d or t, times its factor in `turns` if the strategy uses both models
* on one device, together:  both run slower by measured factors f_d and f_t until the first is done, then the other runs alone:
                            m + [t f_t - d f_d]+ / f_t + [d f_d - t f_t]+ / f_d  with  m = min(d f_d, t f_t)

A draft that races the target finishes the token that is in progress when the target answers (`System.tokens_in_race`).

Jitter is lognormal and keeps the mean. It is drawn once for a target forward and once for a `Draft` (of n steps: cv / sqrt(n)).
The mean of a maximum of two lognormals has a closed form (Margrabe 1978, an option to exchange one asset for another).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from sim.setup.arrays import Floats
from sim.setup.latency import AtBatch, Latency, fork_reach, fork_seconds
from specdec import InputError
from specdec.profile import BatchRounds, Slowdown
from specdec.state import BRANCHES, POSITIONS, SPEED_RATIO, Costs
from specdec.strategy import DecodingStrategy

ROUNDING = 1e-9
ALONE = Slowdown()


@dataclass(frozen=True)
class Jitter:
    """Coefficients of variation of a target forward and of a single draft step, 0 or more."""

    target_cv: float = 0.0
    draft_cv: float = 0.0

    def __post_init__(self) -> None:
        for name, cv in vars(self).items():
            if not (isfinite(cv) and cv >= 0):
                raise InputError(f"{name} {cv} is not possible: a coefficient of variation is 0 or more")


def overlap(draft: Any, target: Any, slowdown: Slowdown) -> tuple[Any, Any]:
    """Seconds that a draft and a target work at the same time, from their seconds alone; numbers or arrays.

    Both are slowed down until the first is done; then the other runs alone.
    """
    slow_draft, slow_target = draft * slowdown.draft_factor, target * slowdown.target_factor
    draft_first = slow_draft < slow_target
    return (
        np.where(draft_first, slow_draft, draft + slow_target * (1 - 1 / slowdown.draft_factor)),
        np.where(draft_first, target + slow_draft * (1 - 1 / slowdown.target_factor), slow_target),
    )


@dataclass(frozen=True, eq=False)
class System:
    """The devices that a strategy runs on.

    `latency`                     seconds of a forward alone
    `shared`                      whether both models are on one device, where they work in turn unless `together` is given
    `together`                    slowdown of both models while both work at once, at least 1; `None`: no slowdown
    `network_seconds`             one way between the draft and the target; the request travels there, the tokens back
    `overhead_seconds`            sampling and bookkeeping of a round, in which both models are idle
    `jitter`                      coefficients of variation of forwards
    `context`                     tokens before the window, for latencies that depend on it
    `turns`                       slowdown of a model in stages in which the other one does not work
    `drafting_overhead_seconds`   overhead of a round of a strategy that drafts; `None`: as `overhead_seconds`
    `batches`                     slowdowns and overheads of rounds of several sequences, where they were measured
    `wake_seconds`                how much later idle devices begin with a request, under load

    `turns` and `drafting_overhead_seconds` count only for strategies that use both models: `used_by` sees to that. Raises
    `InputError` for negative seconds, a slowdown below 1 in `together`, and a network delay on one device.
    """

    latency: Latency
    shared: bool = False
    together: Slowdown | None = None
    network_seconds: float = 0.0
    overhead_seconds: float = 0.0
    jitter: Jitter = Jitter()
    context: int = 0
    turns: Slowdown = ALONE
    drafting_overhead_seconds: float | None = None
    batches: tuple[BatchRounds, ...] = ()
    wake_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("network_seconds", "overhead_seconds", "drafting_overhead_seconds", "wake_seconds"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value >= 0):
                raise InputError(f"{name} {value} is not possible: give 0 or more")
        for name, factor in vars(self.together or ALONE).items():
            if factor < 1:
                raise InputError(f"{name} {factor} is not possible for models that work together: give 1 or more")
        if self.network_seconds and (self.shared or self.together):
            raise InputError("a network delay needs two devices: drop it, or the shared device")

    def used_by(self, strategy: DecodingStrategy) -> System:
        """The system for one strategy: without slowdown by turns, and with the smaller overhead, if it never drafts."""
        if not strategy.drafts:
            return replace(self, turns=ALONE, batches=tuple(replace(one, target_in_turn=1.0) for one in self.batches))
        return self._drafting

    @property
    def _drafting(self) -> System:
        """The system whose overhead is that of rounds that draft."""
        if self.drafting_overhead_seconds is None:
            return self
        batches = tuple(replace(one, round_overhead_seconds=one.drafting_overhead_seconds) for one in self.batches)
        return replace(self, overhead_seconds=self.drafting_overhead_seconds, batches=batches)

    def at_batch(self, sequences: float, context: float) -> System:
        """The system as one of so many sequences meets it, each with `context` tokens: for exact speeds, and timelines.

        Forwards, slowdowns and overheads take what they take in the batch.
        """
        at = np.array([sequences], float)
        together, turns = (Slowdown(float(found[0, 1]), float(found[0, 0])) for found in self.slowdowns(at))
        return replace(
            self,
            latency=AtBatch(self.latency, sequences, context),
            together=self.together and Slowdown(max(1.0, together.target_factor), max(1.0, together.draft_factor)),
            turns=turns,
            overhead_seconds=float(self.overheads(at)[0]),
            drafting_overhead_seconds=None
            if self.drafting_overhead_seconds is None
            else float(self._drafting.overheads(at)[0]),
            batches=(),
        )

    def slowdowns(self, sequences: Floats) -> tuple[Floats, Floats]:
        """Slowdowns of models that work at once, and of those in turn, by numbers of sequences: level beyond the largest batch.

        Each of shape (sequences, 2): of the draft, and of the target.
        """
        at_once = {one.batch: (one.draft_together, one.target_together) for one in self.batches}
        in_turn = {one.batch: (one.draft_in_turn, one.target_in_turn) for one in self.batches}

        def by_sequences(one: Slowdown, batches: Mapping[int, tuple[float, float]]) -> Floats:
            sizes, factors = zip((1, (one.draft_factor, one.target_factor)), *sorted(batches.items()), strict=True)
            return np.stack([np.interp(sequences, sizes, of_model) for of_model in np.transpose(factors)], axis=1)

        return by_sequences(self.together or ALONE, at_once), by_sequences(self.turns, in_turn)

    def overheads(self, sequences: Floats, *, padded: bool = False) -> Floats:
        """Overheads of a round by numbers of sequences: in a line beyond the largest batch that was measured, or level.

        `padded`: as in specdec's own runtime, where it counts for each sequence unless batches were measured.
        """
        if not self.batches:
            return self.overhead_seconds * (sequences if padded else np.ones_like(sequences))
        found = {1: self.overhead_seconds} | {one.batch: one.round_overhead_seconds for one in self.batches}
        sizes, seconds = (np.array(column, float) for column in zip(*sorted(found.items()), strict=True))
        slope = max(0.0, (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0]))
        return np.interp(sequences, sizes, seconds) + slope * np.maximum(0.0, sequences - sizes[-1])

    @property
    def speed_ratio(self) -> float:
        """c = target forward over 1 position / one more token of a draft, both alone; the mean over a grid."""
        return float(np.mean(self.target_seconds(1) / (self.draft_seconds(2) - self.draft_seconds(1))))

    def speed_ratio_for(self, strategy: DecodingStrategy) -> float:
        """`speed_ratio` for a strategy that drafts, and the assumed one for any other: the draft may have no times then."""
        return self.speed_ratio if strategy.drafts else SPEED_RATIO

    @property
    def costs(self) -> Costs:
        """What closed forms know of it; means over a grid."""
        one, step = self.target_seconds(1), self.draft_seconds(2) - self.draft_seconds(1)
        begun = {number: self.fork_seconds(1, number, 1) for number in BRANCHES}
        steps = {number: self.fork_seconds(1, number, 2) - first for number, first in begun.items()}
        return Costs(
            self.speed_ratio,
            tuple((positions, float(np.mean(self.target_seconds(positions) / one))) for positions in POSITIONS),
            ((1, 1.0), *((number, float(np.mean(steps[number] / step))) for number in BRANCHES)),
            float(np.mean((begun[BRANCHES[0]] - steps[BRANCHES[0]]) / step)),
        )

    def draft_seconds(self, tokens: ArrayLike) -> Floats:
        """Mean seconds of a `Draft` of `tokens` tokens, alone."""
        return self._checked(self.latency.draft_seconds(tokens, 1, self.context), f"a draft of {tokens} tokens")

    def fork_seconds(self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike) -> Floats:
        """Mean seconds of a `Fork`, alone (`latency.fork_seconds`)."""
        seconds = fork_seconds(self.latency, rows, branches, steps, 1, self.context)
        return self._checked(seconds, f"a fork of {branches} branches")

    def target_seconds(self, width: ArrayLike) -> Floats:
        """Mean seconds of a forward over `width` positions, alone."""
        return self._checked(self.latency.target_seconds(width, 1, self.context), f"a forward over {width} positions")

    def _checked(self, seconds: Floats, what: str) -> Floats:
        """The seconds of a latency source, which may be a stranger's: refuse negative, infinite and missing ones."""
        if not (np.isfinite(seconds) & (np.asarray(seconds) >= 0)).all():
            raise InputError(f"{type(self.latency).__name__} gives {seconds} s for {what}: correct the latency, give 0 or more")
        return seconds

    def busy_seconds(self, draft: Any, target: Any) -> tuple[Any, Any]:
        """Seconds that the draft and the target work in a stage, from their seconds alone; numbers or arrays.

        The stage takes the longer of the two, with the draft's network delay. If `in_turn`, it takes the sum.
        """
        draft, target = self._taking_turns(draft, target)
        return overlap(draft, target, self.together) if self.together else (draft, target)

    def _taking_turns(self, draft: Any, target: Any) -> tuple[Any, Any]:
        """The seconds of both models in a stage, slowed down where only one of them works at a time."""
        apart = (draft == 0) | (target == 0) | self.in_turn
        return draft * (1 + (self.turns.draft_factor - 1) * apart), target * (1 + (self.turns.target_factor - 1) * apart)

    @property
    def in_turn(self) -> bool:
        """Whether draft and target can never work at the same time."""
        return self.shared and self.together is None

    def require_forks(self, name: str) -> None:
        """Refuse batches of forks, by the strategy's name, where the latency does not know what branches take."""
        if not fork_reach(self.latency):
            raise InputError(
                f"{name} forks, and what a draft step over several branches takes is not known: measure the pair with specdec "
                "profile, give a GPU, or take another strategy"
            )

    @property
    def one_memory(self) -> bool:
        """Whether draft and target are on one device, so that their caches share its memory."""
        return self.shared or self.together is not None

    def tokens_in_race(self, draft: Floats, target: float) -> int:
        """Tokens drafted by the time the target finishes, the one in progress included; at least 1.

        `draft` holds the seconds of the first token, of the first two, and so on up to the longest draft. `target` is the
        seconds of the forward. Both are those alone. Network delay cancels out, since start and stop are delayed alike. If the
        models share one device in turn the answer is 1: the draft makes nothing while the target runs.
        """
        if self.in_turn:
            return 1
        factors = self.together or ALONE
        answered = target * factors.target_factor * (1 - ROUNDING)
        return 1 + int(np.searchsorted(draft[:-1] * factors.draft_factor, answered))

    def stage(
        self, tokens: int, width: int, fork_rows: int = 0, branches: int = 0, branch_steps: int = 0
    ) -> tuple[Floats, Floats, Floats]:
        """Mean seconds of a stage with a draft of `tokens` tokens, a fork, and a forward over `width` positions.

        Each of them may be 0. Three numbers: how long the stage takes, how long the draft works, how long the target works. If
        both work at the same time, these are the means of `overlap` over jitter, from the mean time by which each model takes
        longer.
        """
        drafting = self.draft_seconds(tokens)
        forwards = tokens
        if branches:
            drafting, forwards = drafting + self.fork_seconds(fork_rows, branches, branch_steps), tokens + 1 + branch_steps
        draft, target = self._taking_turns(drafting, self.target_seconds(width))
        away = 2 * self.network_seconds if forwards else 0.0
        if not (forwards and width) or self.in_turn:
            return draft + away + target, draft, target
        factors = self.together or ALONE
        slow_draft, slow_target = (draft + away) * factors.draft_factor, target * factors.target_factor
        longer_target = self._mean_excess(slow_target, slow_draft, forwards, draft / (draft + away))
        longer_draft = longer_target - slow_target + slow_draft
        both = slow_target - longer_target  # mean seconds until the first of the two is done
        target_busy = both + longer_target / factors.target_factor
        draft_busy = both + longer_draft / factors.draft_factor - away
        return target_busy + longer_draft / factors.draft_factor, draft_busy, target_busy

    def _mean_excess(self, target: Floats, draft: Floats, tokens: int, moving: Floats) -> Floats:
        """E[target - draft]+ of lognormal times; `moving` is the share of the draft's time that varies."""
        variances = [np.log1p(self.jitter.target_cv**2), np.log1p((self.jitter.draft_cv * moving) ** 2 / tokens)]
        spread = np.sqrt(np.sum(np.broadcast_arrays(*variances), axis=0))
        if not np.any(spread):
            return np.maximum(target - draft, 0.0)
        high = np.log(target / draft) / spread + spread / 2
        return target * ndtr(high) - draft * ndtr(high - spread)
