"""The same strategy objects on simulated devices, round by round in SimPy.

    simulate(strategy, acceptance, system, tokens=..., seed=..., detailed=...)

*Round* mode holds the clock once a round. *Detailed* mode has a process for the draft and one for the target, which take
orders, work and report; every span of work is recorded with what became of its tokens, for timelines. Their clocks are equal.

A race is settled when it begins, since all that decides it is drawn then: the draft ends with the token that will be in
progress when the target answers.

The clock counts whole picoseconds, so that sums do not depend on their order. Every process waits for what it asked for and
nothing is abandoned: a `get` left behind in SimPy swallows an item. One `SeedSequence` is spawned into a stream for luck (by
position in the answer) and one for each model's jitter; nothing else is random.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import simpy

from sim.setup.acceptance import Acceptance
from sim.setup.system import Floats, System
from sim.stream.chain import stage_of
from sim.stream.placeholder import PREFIX, Placeholder, settled, verdict, work_done
from sim.stream.run import Fate, Lane, Run, Span
from specdec import InputError
from specdec.effects import Effect, Known, Race, Verify
from specdec.errors import StrategyError
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy

TICKS_PER_SECOND = 10**12
LANES: tuple[Lane, ...] = ("draft", "target")
Answering: TypeAlias = "Generator[simpy.Event, Any, Any]"


def simulate(
    strategy: DecodingStrategy,
    acceptance: Acceptance,
    system: System,
    *,
    tokens: int,
    seed: int = 0,
    request: int = 0,
    rounds: int | None = None,
    detailed: bool = False,
) -> Run:
    """Decode until `tokens` are committed, or for so many `rounds`.

    `seed` and `request` decide all luck: equal ones give every strategy the same text to guess.
    """
    if tokens < 1 or (rounds is not None and rounds < 1):
        raise InputError(f"{tokens} tokens in {rounds} rounds are nothing to simulate: give at least 1 of each")
    machine = (_Detailed if detailed else _Rounds)(acceptance, system.used_by(strategy), tokens, seed, request)
    state, _ = settled(strategy.init(PREFIX, KnownFacts(system.speed_ratio)))
    machine.env.run(machine.env.process(machine.decode(strategy, state, tokens, rounds)))
    return machine.result()


class _Machine:
    """What both modes share: answers to effects, counts, and the loop over rounds."""

    def __init__(self, acceptance: Acceptance, system: System, tokens: int, seed: int, request: int) -> None:
        luck, target, draft = np.random.SeedSequence([seed, request]).spawn(3)
        self.env = simpy.Environment(initial_time=0)
        self.system = system
        self._acceptance = acceptance
        self._luck = acceptance.luck(np.random.default_rng(luck), tokens + 4096)
        self._jitter = {"target": np.random.default_rng(target), "draft": np.random.default_rng(draft)}
        self._mean = {"target": _Once(system.target_seconds), "draft": _Once(system.draft_seconds)}
        self.base = self.serial = self.accepted = self.verifications = self.certain = 0
        self.busy = {"target": 0, "draft": 0}
        self.ends: list[int] = []
        self.round_tokens: list[int] = []

    def decode(self, strategy: DecodingStrategy, state: Any, tokens: int, rounds: int | None) -> Answering:
        """The process of the whole decode. Like `specdec.effects.drive`, but an answer may take its time."""
        overhead = _ticks(self.system.overhead_seconds)
        while self.base < tokens and len(self.ends) != rounds:
            program, answer = strategy.step(state), None
            try:
                effect = next(program)
                while True:
                    answer = self._verdict(effect) if isinstance(effect, Verify) else (yield from self._work(effect))
                    effect = program.send(answer)
            except StopIteration as finished:
                state, growth = settled(finished.value)
            if growth < 1:
                raise StrategyError(f"a round of {strategy.name} commits nothing: every round must add a verdict's tokens")
            yield from self._close(overhead)
            self.base += growth
            self.round_tokens.append(growth)
            self.ends.append(self.now)

    def _work(self, effect: Effect[Any]) -> Answering:
        raise NotImplementedError

    def _close(self, overhead: int) -> Answering:
        raise NotImplementedError

    def _verdict(self, effect: Verify) -> Any:
        position = self.base + len(effect.scores.committed) - len(PREFIX)
        tests = len(effect.guess)
        accepted = int(self._acceptance.accepted(self._luck, position, tests))
        self.verifications += 1
        self.accepted += accepted
        self.certain += sum(isinstance(cell, Known) for cell in effect.guess.drafted)
        return verdict(effect, accepted)

    def _answer(self, effect: Effect[Any], steps: int) -> Any:
        answer = work_done(effect, self.serial)
        self.serial += steps
        return answer

    @property
    def now(self) -> int:
        return int(self.env.now)

    def _alone(self, lane: Lane, amount: int) -> float:
        """Seconds of a forward of `amount` rows, or of a draft of so many tokens, jitter drawn."""
        if not amount:
            return 0.0
        seconds = self._mean[lane](amount)
        cv = self.system.jitter.target_cv if lane == "target" else self.system.jitter.draft_cv / amount**0.5
        return seconds * float(self._noise(lane, cv)) if cv else seconds

    def _token_by_token(self, most: int) -> Floats:
        """Seconds of the first token of a draft, of the first two, and so on, alone, jitter drawn for each."""
        seconds = np.array([self._mean["draft"](amount) for amount in range(1, most + 1)])
        cv = self.system.jitter.draft_cv
        return np.cumsum(np.diff(seconds, prepend=0) * self._noise("draft", cv, most)) if cv else seconds

    def _noise(self, lane: Lane, cv: float, size: int | None = None) -> Any:
        """Lognormal factors of mean 1."""
        spread = np.log1p(cv**2)
        return self._jitter[lane].lognormal(-spread / 2, spread**0.5, size)

    def _lanes(self, effect: Effect[Any]) -> tuple[Effect[Any], int, int, int, int]:
        """The effect, a race as it ended; draft tokens, target rows, and the ticks that each of the two holds its lane."""
        steps, width = stage_of(effect)
        target = self._alone("target", width)
        if isinstance(effect, Race):
            seconds = self._token_by_token(steps)
            effect = effect.ended(self.system.tokens_in_race(seconds, target))
            steps, _ = stage_of(effect)
            draft = float(seconds[steps - 1])
        else:
            draft = self._alone("draft", steps)
        draft, target = self.system.lanes(draft, target)
        return effect, steps, width, _ticks(draft), _ticks(target)

    @property
    def _away(self) -> int:
        return _ticks(2 * self.system.network_seconds)

    def result(self, spans: tuple[Span, ...] = ()) -> Run:
        return Run(
            np.array(self.ends, float) / TICKS_PER_SECOND,
            np.array(self.round_tokens, np.int64),
            self.verifications,
            self.serial + self.certain,
            self.accepted,
            self.busy["target"] / TICKS_PER_SECOND,
            self.busy["draft"] / TICKS_PER_SECOND,
            spans,
        )


class _Rounds(_Machine):
    """One event a round."""

    elapsed = 0

    def _work(self, effect: Effect[Any]) -> Answering:
        effect, steps, _, draft, target = self._lanes(effect)
        self.elapsed += draft + target if self.system.in_turn else max(draft, target)
        self.busy["draft"] += draft - (self._away if steps else 0)
        self.busy["target"] += target
        yield from ()  # a generator like the other mode's, that never waits
        return self._answer(effect, steps)

    def _close(self, overhead: int) -> Answering:
        yield self.env.timeout(self.elapsed + overhead)
        self.elapsed = 0


@dataclass(slots=True)
class _Order:
    """Work for one lane: `amount` tokens or rows for `ticks`; `done` is triggered at its end."""

    amount: int
    ticks: int
    round: int
    serial: int
    done: simpy.Event


@dataclass(slots=True)
class _Work:
    """A span whose tokens' fates are not known yet; they are `serial`, `serial + 1`, ..."""

    lane: Lane
    start: int
    end: int
    order: _Order = field(repr=False)


class _Detailed(_Machine):
    """A process a model, each with its own queue of orders; on one device in turn both need the one resource."""

    def __init__(self, *setup: Any) -> None:
        super().__init__(*setup)
        device = simpy.Resource(self.env)
        self._device = {"draft": device, "target": device if self.system.in_turn else simpy.Resource(self.env)}
        self._orders = {"draft": simpy.Store(self.env), "target": simpy.Store(self.env)}
        self._spans: list[_Work] = []
        self._fates: dict[int, Fate] = {}
        for lane in LANES:
            self.env.process(self._model(lane))

    def _model(self, lane: Lane) -> Answering:
        """A model's life: take an order, travel, hold the device, work, travel back, report."""
        away = _ticks(self.system.network_seconds) if lane == "draft" else 0
        while True:
            order: _Order = yield self._orders[lane].get()
            if away:
                yield self.env.timeout(away)
            with self._device[lane].request() as turn:
                yield turn
                start = self.now
                yield self.env.timeout(order.ticks - (self._away if lane == "draft" else 0))
                self.busy[lane] += self.now - start
                self._spans.append(_Work(lane, start, self.now, order))
            if away:
                yield self.env.timeout(self._away - away)
            order.done.succeed()

    def _work(self, effect: Effect[Any]) -> Answering:
        effect, steps, width, draft, target = self._lanes(effect)
        waiting: list[simpy.Event] = []
        for lane, amount, ticks in zip(LANES, (steps, width), (draft, target), strict=True):
            if amount:
                order = _Order(amount, ticks, len(self.ends), self.serial, self.env.event())
                self._orders[lane].put(order)
                waiting.append(order.done)
        answer = self._answer(effect, steps)
        yield self.env.all_of(waiting)
        return answer

    def _close(self, overhead: int) -> Answering:
        if overhead:
            yield self.env.timeout(overhead)

    def _verdict(self, effect: Verify) -> Any:
        given = super()._verdict(effect)
        for place, cell in enumerate(effect.guess.drafted[: given.accepted + 1]):
            if isinstance(cell, Placeholder):
                self._fates[cell.serial] = "accepted" if place < given.accepted else "rejected"
        return given

    def result(self, spans: tuple[Span, ...] = ()) -> Run:
        return super().result(tuple(self._span(work) for work in sorted(self._spans, key=lambda work: work.start)))

    def _span(self, work: _Work) -> Span:
        at = work.start / TICKS_PER_SECOND, work.end / TICKS_PER_SECOND
        order = work.order
        if work.lane == "target":
            return Span("target", *at, order.round, width=order.amount)
        serials = range(order.serial, order.serial + order.amount)
        fates: tuple[Fate, ...] = tuple(self._fates.get(serial, "wasted") for serial in serials)
        return Span("draft", *at, order.round, fates=fates)


class _Once:
    """Remembers the seconds of each amount: latencies are written for arrays, and slow for one number."""

    def __init__(self, seconds: Callable[[int], Any]) -> None:
        self._seconds, self._known = seconds, dict[int, float]()

    def __call__(self, amount: int) -> float:
        if amount not in self._known:
            self._known[amount] = float(self._seconds(amount))
        return self._known[amount]


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_SECOND)
