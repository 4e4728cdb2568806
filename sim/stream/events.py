"""One sequence simulated by events: runs a strategy's program on simulated devices, round by round, in SimPy.

    run_stream(strategy, acceptance, system, tokens=..., seed=..., detailed=...)

*Round* mode advances the clock once a round. *Detailed* mode has one process for the draft and one for the target, which take
orders, work and report. It records every span of work with what became of its tokens, for timelines. Both modes read the same
clock.

The length of a race is decided when the race begins, since everything that it depends on is drawn then: the draft ends with the
token that will be in progress when the target answers.

The clock counts whole picoseconds, so that sums do not depend on their order. Every process waits for everything that it asked
for: in SimPy, a `get` that nobody waits for takes an item all the same. One `SeedSequence` is spawned into a stream for
acceptance draws (by position in the answer), one for each model's jitter, and one for what forks foresee (by position); nothing
else is random.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import simpy

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Floats
from sim.setup.system import System
from sim.stream.placeholder import PREFIX, Placeholder, foreseen_at, normalised, serials, verdict, work_done
from sim.stream.run import Fate, Model, Run, Span
from sim.stream.stage import Outcome, Stage, forks_of, stage_of
from specdec.effects import Effect, Fork, Known, Race, Verify, drive
from specdec.errors import StrategyError
from specdec.inputs import at_least_one
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy, require_strategy

TICKS_PER_SECOND = 10**12
MODELS: tuple[Model, ...] = ("draft", "target")
Process: TypeAlias = "Generator[simpy.Event, Any, Any]"


def run_stream(
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
    """Decode until `tokens` tokens are committed, or for `rounds` rounds, whichever comes first.

    `seed` and `request` decide all acceptance draws: equal ones give every strategy the same text to guess. A `detailed` run
    records spans too, and takes longer. Raises `InputError` for a number below 1, `StrategyError` for a strategy whose rounds
    commit nothing or ask for work that cannot be timed.
    """
    at_least_one(tokens=tokens, rounds=1 if rounds is None else rounds)
    require_strategy(strategy)
    machine = (_DetailedMode if detailed else _RoundMode)(acceptance, system.used_by(strategy), tokens, seed, request)
    known = KnownFacts(system.speed_ratio_for(strategy), system.costs if strategy.drafts else None)
    state, _ = normalised(strategy.init(PREFIX, known))
    machine.env.run(machine.env.process(machine.decode(strategy, state, tokens, rounds)))
    return machine.result()


class _Machine:
    """What both modes share: answers to effects, counts, and the loop over rounds. Times are in ticks of the clock."""

    def __init__(self, acceptance: Acceptance, system: System, tokens: int, seed: int, request: int) -> None:
        draws, target, draft, foresight = np.random.SeedSequence([seed, request]).spawn(4)
        self.env = simpy.Environment(initial_time=0)
        self.system = system
        self._acceptance = acceptance
        self._draws = acceptance.draws(np.random.default_rng(draws), tokens + 4096)
        self._jitter = {"target": np.random.default_rng(target), "draft": np.random.default_rng(draft)}
        self._foresight = np.random.default_rng(foresight).random(tokens + 4096)
        self._fork: Fork | None = None
        self._mean = {"target": _Once(system.target_seconds), "draft": _Once(system.draft_seconds)}
        self._mean_fork = _Once(system.fork_seconds)
        self.unused = 0
        self.base = self.serial = self.accepted = self.verifications = self.certain = self.most_tested = 0
        self.busy = {"target": 0, "draft": 0}
        self.ends: list[int] = []
        self.round_tokens: list[int] = []

    def decode(self, strategy: DecodingStrategy, state: Any, tokens: int, rounds: int | None) -> Process:
        """The process of the whole decode."""
        overhead = _ticks(self.system.overhead_seconds)
        while self.base < tokens and len(self.ends) != rounds:
            self._fork = None
            state, growth = normalised((yield from drive(strategy.step(state), self._answer)))
            if growth < 1:
                raise StrategyError(f"a round of {strategy.name} commits nothing: every round must add a verdict's tokens")
            yield from self._close(overhead)
            self.base += growth
            self.round_tokens.append(growth)
            self.ends.append(self.now)

    def _answer(self, effect: Effect[Any]) -> Any:
        self._fork = next(iter(forks_of(effect)), self._fork)
        return self._verdict(effect) if isinstance(effect, Verify) else self._work(effect)

    def _work(self, effect: Effect[Any]) -> Any:
        """The answer to an effect that occupies devices; a generator that returns it, if the clock runs in the meantime."""
        raise NotImplementedError

    def _close(self, overhead: int) -> Process:
        """The end of a round, after so many ticks of overhead."""
        raise NotImplementedError

    def _verdict(self, effect: Verify) -> Any:
        position = self.base + len(effect.scores.committed) - len(PREFIX)
        tests = len(effect.guess)
        accepted = int(self._acceptance.accepted(self._draws, position, tests))
        self.verifications += 1
        self.most_tested = max(self.most_tested, tests)
        self.accepted += accepted
        self.certain += sum(isinstance(drafted, Known) for drafted in effect.guess.drafted)
        return verdict(effect, Outcome(accepted, self._foresees(effect, position, accepted)))

    def _foresees(self, effect: Verify, position: int, accepted: int) -> bool:
        """Whether the last fork prepared for the token that the target adds."""
        fan_out = foreseen_at(effect, accepted, self._fork)
        if not fan_out:
            return False
        chance = self._acceptance.foreseen_at(position, accepted, fan_out, accepted == len(effect.guess))
        return bool(self._foresight[position + accepted] < chance)

    def _done(self, effect: Effect[Any], stage: Stage) -> Any:
        """The answer to an effect; its drafted tokens get the next serial numbers."""
        answer = work_done(effect, self.serial)
        self.serial += serials(stage)
        self.unused += stage.drafted - serials(stage)
        return answer

    @property
    def now(self) -> int:
        return int(self.env.now)

    def _target_alone(self, stage: Stage) -> float:
        """Seconds of the target's forward, jitter drawn."""
        if not stage.positions:
            return 0.0
        seconds, cv = self._mean["target"](stage.positions), self.system.jitter.target_cv
        return seconds * float(self._noise("target", cv)) if cv else seconds

    def _draft_alone(self, stage: Stage) -> float:
        """Seconds of the draft's work, jitter drawn."""
        if not stage.draft_forwards:
            return 0.0
        seconds = self._mean["draft"](stage.draft_steps) if stage.draft_steps else 0.0
        if stage.branches:
            seconds += self._mean_fork(stage.fork_rows, stage.branches, stage.branch_steps)
        cv = self.system.jitter.draft_cv / stage.draft_forwards**0.5
        return seconds * float(self._noise("draft", cv)) if cv else seconds

    def _token_by_token(self, most: int) -> Floats:
        """Seconds of the first token of a draft, of the first two, and so on, alone, jitter drawn for each."""
        seconds = np.array([self._mean["draft"](amount) for amount in range(1, most + 1)])
        cv = self.system.jitter.draft_cv
        return np.cumsum(np.diff(seconds, prepend=0) * self._noise("draft", cv, most)) if cv else seconds

    def _noise(self, model: Model, cv: float, size: int | None = None) -> Any:
        """Lognormal factors of mean 1."""
        spread = np.log1p(cv**2)
        return self._jitter[model].lognormal(-spread / 2, spread**0.5, size)

    def _timed(self, effect: Effect[Any]) -> tuple[Effect[Any], Stage, dict[Model, int]]:
        """The effect, a race as it ends; its stage; each model's ticks of work, the draft's with its network delay."""
        stage = stage_of(effect)
        target = self._target_alone(stage)
        if isinstance(effect, Race):
            seconds = self._token_by_token(stage.draft_steps)
            effect = effect.ended(self.system.tokens_in_race(seconds, target))
            stage = stage_of(effect)
            draft = float(seconds[stage.draft_steps - 1])
        else:
            draft = self._draft_alone(stage)
        draft, target = self.system.busy_seconds(draft, target)
        away = 2 * self.system.network_seconds if stage.draft_forwards else 0.0
        return effect, stage, {"draft": _ticks(draft + away), "target": _ticks(target)}

    @property
    def _away(self) -> int:
        return _ticks(2 * self.system.network_seconds)

    def result(self, spans: tuple[Span, ...] = ()) -> Run:
        return Run(
            np.array(self.ends, float) / TICKS_PER_SECOND,
            np.array(self.round_tokens, np.int64),
            self.verifications,
            self.serial + self.unused + self.certain,
            self.accepted,
            self.busy["target"] / TICKS_PER_SECOND,
            self.busy["draft"] / TICKS_PER_SECOND,
            self.most_tested,
            spans,
        )


class _RoundMode(_Machine):
    """Advances the clock once a round."""

    elapsed = 0

    def _work(self, effect: Effect[Any]) -> Any:
        effect, stage, ticks = self._timed(effect)
        self.elapsed += sum(ticks.values()) if self.system.in_turn else max(ticks.values())
        self.busy["draft"] += ticks["draft"] - (self._away if stage.draft_forwards else 0)
        self.busy["target"] += ticks["target"]
        return self._done(effect, stage)

    def _close(self, overhead: int) -> Process:
        yield self.env.timeout(self.elapsed + overhead)
        self.elapsed = 0


@dataclass(slots=True)
class _Order:
    """Work for one model: `amount` tokens or positions for `ticks`; `done` is triggered at its end."""

    amount: int
    ticks: int
    round: int
    serial: int
    done: simpy.Event


@dataclass(slots=True)
class _Work:
    """A span before the fates of its tokens are known; the tokens are `order.serial`, `order.serial + 1`, ..."""

    model: Model
    start: int
    end: int
    order: _Order = field(repr=False)


class _DetailedMode(_Machine):
    """A process for each model, with a queue of orders of its own. Where models work in turn, both need the same resource."""

    def __init__(self, *setup: Any) -> None:
        super().__init__(*setup)
        device = simpy.Resource(self.env)
        self._device = {"draft": device, "target": device if self.system.in_turn else simpy.Resource(self.env)}
        self._orders = {"draft": simpy.Store(self.env), "target": simpy.Store(self.env)}
        self._spans: list[_Work] = []
        self._fates: dict[int, Fate] = {}
        for model in MODELS:
            self.env.process(self._model(model))

    def _model(self, model: Model) -> Process:
        """The process of a model: take an order, travel, occupy the device, work, travel back, report."""
        away = _ticks(self.system.network_seconds) if model == "draft" else 0
        while True:
            order: _Order = yield self._orders[model].get()
            if away:
                yield self.env.timeout(away)
            with self._device[model].request() as held:
                yield held
                start = self.now
                yield self.env.timeout(order.ticks - (self._away if model == "draft" else 0))
                self.busy[model] += self.now - start
                self._spans.append(_Work(model, start, self.now, order))
            if away:
                yield self.env.timeout(self._away - away)
            order.done.succeed()

    def _work(self, effect: Effect[Any]) -> Process:
        effect, stage, ticks = self._timed(effect)
        waiting: list[simpy.Event] = []
        for model, amount in zip(MODELS, (serials(stage), stage.positions), strict=True):
            if amount:
                order = _Order(amount, ticks[model], len(self.ends), self.serial, self.env.event())
                self._orders[model].put(order)
                waiting.append(order.done)
        answer = self._done(effect, stage)
        yield self.env.all_of(waiting)
        return answer

    def _close(self, overhead: int) -> Process:
        if overhead:
            yield self.env.timeout(overhead)

    def _verdict(self, effect: Verify) -> Any:
        given = super()._verdict(effect)
        for index, drafted in enumerate(effect.guess.drafted[: given.accepted + 1]):
            if isinstance(drafted, Placeholder):
                self._fates[drafted.serial] = "accepted" if index < given.accepted else "rejected"
        return given

    def result(self, spans: tuple[Span, ...] = ()) -> Run:
        return super().result(tuple(self._span(work) for work in sorted(self._spans, key=lambda work: work.start)))

    def _span(self, work: _Work) -> Span:
        at = work.start / TICKS_PER_SECOND, work.end / TICKS_PER_SECOND
        order = work.order
        if work.model == "target":
            return Span("target", *at, order.round, positions=order.amount)
        serials = range(order.serial, order.serial + order.amount)
        fates: tuple[Fate, ...] = tuple(self._fates.get(serial, "wasted") for serial in serials)
        return Span("draft", *at, order.round, fates=fates)


class _Once:
    """Remembers the seconds of each amount, since a latency is written for arrays and slow for one number."""

    def __init__(self, seconds: Callable[..., Any]) -> None:
        self._seconds, self._known = seconds, dict[tuple[int, ...], float]()

    def __call__(self, *amounts: int) -> float:
        if amounts not in self._known:
            self._known[amounts] = float(self._seconds(*amounts))
        return self._known[amounts]


def _ticks(seconds: float) -> int:
    return round(seconds * TICKS_PER_SECOND)
