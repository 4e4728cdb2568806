"""Draft lengths that change under load: with the running batch, and with the acceptance that a replica counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sim.setup.acceptance import Acceptance, Rate, probability
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.stream.speed import long_run_speed
from sim.traffic.state import Rounds
from sim.traffic.tables import rounds_table
from sim.traffic.workload import Workload
from specdec.errors import InputError

OFF_FACTOR = 1.1
"""What a step without guesses takes while speculation is configured, over one of an engine without it. 1.07 to 1.25 was
measured in vLLM (issues 49548 and 49986)."""
RATES = 41
"""Counted acceptance rates from 0 to 1 for which the fastest length is found."""
EACH_DOUBLING = 4
"""Running batches for which it is found, in each doubling. Between two of them, that of the smaller one holds."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """Draft lengths that follow the running batch: compiled strategies, and up to how many running sequences each is used.

    `chains`   compiled strategies of one system
    `up_to`    for all but the last of them, the most running sequences at which it is used
    `slower`   factor of the target's seconds under each one: an autoregressive one takes longer where speculation is
               configured and switched off (`OFF_FACTOR`)

    Raises `InputError` unless borders rise and every chain has one.
    """

    chains: Sequence[Compiled]
    up_to: Sequence[int] = ()
    slower: Sequence[float] | None = None

    def __post_init__(self) -> None:
        borders = list(self.up_to)
        if len(borders) != len(self.chains) - 1 or borders != sorted({*borders}) or any(border < 1 for border in borders):
            raise InputError(
                f"a schedule of {len(self.chains)} lengths with borders {borders}: give rising borders between them"
            )
        _require_factors(self.chains, self.slower)

    def __str__(self) -> str:
        return in_words([_length(chain) for chain in self.chains], self.up_to)

    def rounds(self, most: int, acceptance: Acceptance, system: System, workload: Workload) -> Rounds:
        """The tables of the engine, for at most `most` running sequences."""
        chain_of = np.searchsorted(self.up_to, np.arange(most + 1), side="left")[:, None]
        return rounds_table(self.chains, _factors(self.chains, self.slower), chain_of, acceptance, system.one_memory)


@dataclass(frozen=True, eq=False)
class AdaptiveSchedule:
    """Draft lengths that follow the running batch and the counted acceptance: in each iteration, whichever is the fastest.

    `chains`   compiled strategies of one system, such as those of several lengths and an autoregressive one
    `slower`   that of `Schedule`
    `first`    the acceptance rate that is assumed without news
    `fading`   what a replica's counts are multiplied by after each iteration

    A replica counts the guesses of all its sequences. Which length is the fastest is computed as if each guess passed with the
    counted rate, independently of all others. Where nothing is drafted, counts fade until the rate is `first` again, so that
    drafting is tried again: so does `strategies.Adaptive` for one sequence. Raises `InputError` for numbers that are not
    possible.
    """

    chains: Sequence[Compiled]
    slower: Sequence[float] | None = None
    first: float = 0.8
    fading: float = 0.95

    def __post_init__(self) -> None:
        if not self.chains:
            raise InputError("an adaptive schedule chooses from lengths: give at least one chain")
        _require_factors(self.chains, self.slower)
        probability(self.first, "first rate of an adaptive schedule")
        probability(self.fading, "fading of an adaptive schedule")

    def __str__(self) -> str:
        return "adaptive, of " + ", ".join(str(_length(chain) or "off") for chain in self.chains)

    def rounds(self, most: int, acceptance: Acceptance, system: System, workload: Workload) -> Rounds:
        """The tables of the engine, for at most `most` running sequences."""
        factors, held = _factors(self.chains, self.slower), float((workload.input_tokens + workload.output_tokens / 2).mean())
        count = int(np.ceil(EACH_DOUBLING * np.log2(max(most, 2)))) + 1
        batches = np.unique(np.minimum(np.floor(2 ** (np.arange(count) / EACH_DOUBLING)), most)).astype(int)
        rates, fastest = Rate(np.linspace(0, 1, RATES)), list[np.ndarray]()
        for sequences in batches.tolist():
            alone = system.at_batch(sequences, held)
            speeds = [long_run_speed(chain, rates, alone).tokens_per_second for chain in self.chains]
            paces = [np.broadcast_to(speed / factor, RATES) for speed, factor in zip(speeds, factors, strict=True)]
            fastest.append(np.argmax(paces, axis=0))
        chain_of = np.stack(fastest)[np.searchsorted(batches, np.maximum(np.arange(most + 1), 1), side="right") - 1]
        found = rounds_table(self.chains, factors, chain_of, acceptance, system.one_memory)
        return found._replace(first=self.first, fading=self.fading)


Several: TypeAlias = Schedule | AdaptiveSchedule
"""Compiled strategies among which each iteration chooses."""


def in_words(lengths: Sequence[object], up_to: Sequence[int]) -> str:
    """`5 up to 16 running, 2 up to 64 running, off above`; a length of 0 is off."""
    ends = [*(f" up to {border} running" for border in up_to), " above" if up_to else ""]
    return ", ".join(f"{length or 'off'}{end}" for length, end in zip(lengths, ends, strict=True))


def _length(chain: Compiled) -> object:
    """The draft length of a compiled strategy, or its policy; 0 without a draft."""
    return chain.strategy.parameters.get("draft_length", chain.strategy.name) if chain.strategy.drafts else 0


def _factors(chains: Sequence[Compiled], slower: Sequence[float] | None) -> Sequence[float]:
    return [1.0] * len(chains) if slower is None else slower


def _require_factors(chains: Sequence[Compiled], slower: Sequence[float] | None) -> None:
    if slower is not None and len(slower) != len(chains):
        raise InputError("a schedule has one factor for each of its lengths: give as many")
