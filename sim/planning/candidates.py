"""Candidates of a plan: a method at a draft length or a schedule of lengths, in a place, with a strategy and a batch limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from sim.planning.methods import Method, Place
from sim.setup.acceptance import Acceptance, Rate
from sim.stream.chain import Compiled, compile_strategy
from sim.traffic.record import Server
from sim.traffic.schedule import OFF_FACTOR, Schedule, in_words
from specdec.errors import InputError
from specdec.report import Report
from specdec.strategy import DraftingStrategy, create

STRATEGIES, BATCHES = ("speculative", "pearl"), (256,)
"""What is tried with a draft, and the batch limits, unless others are given."""
NOTHING = Rate(0.0)


@dataclass(frozen=True)
class Tier(Report):
    """A part of a schedule: up to `up_to` running sequences (`None`: any), `draft_length` guesses; 0 is off."""

    up_to: int | None
    draft_length: int


@dataclass(frozen=True, eq=False)
class Candidate:
    """What could be deployed.

    `method`, `place`   what drafts, and where
    `strategy`          name of the strategy
    `draft_length`      guesses of a round; 0 for autoregressive decoding; the longest of a schedule
    `schedule`          lengths by running batch; empty for one length
    `max_batch`         sequences that a replica runs at once
    `one_of_several`    whether other limits are tried too, so that its name holds its own
    """

    method: Method
    place: Place
    strategy: str
    draft_length: int
    schedule: tuple[Tier, ...] = ()
    max_batch: int = 256
    one_of_several: bool = False

    @property
    def name(self) -> str:
        """For tables and gates: `eagle3 k=4`, `draft_model pearl k=6, own device`."""
        if not self.draft_length:
            return f"ar{self.where}"
        kind = "" if self.strategy == "speculative" else f" {self.strategy}"
        length = f"k={self.draft_length}" if not self.schedule else f"k={self.lengths}"
        return f"{self.method.name}{kind} {length}{self.where}"

    @property
    def where(self) -> str:
        """Where the draft runs, unless it shares the target's GPUs; those and the batch limit, where several are tried.

        It follows a name: `, own device, TP 4, batch 64` (tensor parallelism over 4 GPUs).
        """
        several = len({place.gpus for place in self.method.places}) > 1
        draft = "" if self.place.name == "shared" else f", {self.place.name}"
        gpus = f", TP {self.place.gpus}" if several else ""
        return draft + gpus + (f", batch {self.max_batch}" if self.one_of_several else "")

    @property
    def lengths(self) -> str:
        """A schedule in words: `5 up to 16 running, 2 up to 64 running, off above`."""
        return in_words([tier.draft_length for tier in self.schedule], [tier.up_to for tier in self.schedule if tier.up_to])

    def __str__(self) -> str:
        return self.name

    @property
    def acceptance(self) -> Acceptance:
        return self.method.acceptance or NOTHING

    @property
    def assumes_foresight(self) -> bool:
        """Whether its draft prepares for outcomes, and how often it foresees them was not measured. Schedules never do."""
        chain = self.chains
        return isinstance(chain, Compiled) and bool(chain.fan_out.any()) and self.acceptance.foresight is None

    @cached_property
    def chains(self) -> Compiled | Schedule:
        """The compiled strategy, or the schedule of several."""
        if not self.schedule:
            return self._chain(self.draft_length)
        borders = [tier.up_to for tier in self.schedule if tier.up_to is not None]
        factors = [1.0 if tier.draft_length else OFF_FACTOR for tier in self.schedule]
        return Schedule([self._chain(tier.draft_length) for tier in self.schedule], borders, factors)

    def _chain(self, draft_length: int) -> Compiled:
        made = create(self.strategy, draft_length=draft_length) if draft_length else create("autoregressive")
        return compile_strategy(made, self.place.system)

    def server(self, base: Server, replicas: int) -> Server:
        """The server of so many replicas, with this candidate's batch limit and, where it is known, its cache."""
        kv_tokens = self.place.kv_tokens if base.kv_tokens is None else base.kv_tokens
        return replace(base, replicas=replicas, max_batch=self.max_batch, kv_tokens=kv_tokens)


def candidates_of(
    methods: Sequence[Method], strategies: Sequence[str] = STRATEGIES, batches: Sequence[int] = BATCHES
) -> Iterator[Candidate]:
    """Every method at every known draft length, in every place where the strategy makes sense.

    A strategy that lets both models work at once is tried where they can. Raises `InputError` for a strategy that is unknown or
    has no draft length, and for one that forks where nobody knows what branches take.
    """
    for name in strategies:
        if not isinstance(create(name), DraftingStrategy):
            raise InputError(f"--strategy {name} has no draft length to plan: give speculative or pearl")
    several = len({*batches}) > 1
    for method in methods:
        for place in method.places:
            for batch in batches:
                if method.name == "ar":
                    yield Candidate(method, place, "autoregressive", 0, (), batch, several)
                    continue
                for strategy in strategies:
                    if place.system.in_turn and _chain(strategy).overlaps:
                        continue
                    if _chain(strategy).fan_out.any():
                        place.system.require_forks(strategy)
                    for length in range(1, method.longest + 1):
                        yield Candidate(method, place, strategy, length, (), batch, several)


@cache
def _chain(strategy: str) -> Compiled:
    """What a strategy does at its own draft length."""
    return compile_strategy(create(strategy))
