"""The compiler: a strategy, run once per outcome in each distinct state, becomes a finite Markov renewal chain.

`step` is driven with placeholder text and forked at every `Verify` of n guesses on its n + 1 outcomes. States are compared
after the committed prefix is dropped, so the set of shapes is found by itself (PEARL has two). Nothing about a particular
strategy is known here: whoever writes `step` has a simulator too.

The table has one *node* for each point where a verdict is awaited: a round with one `Verify` is one node, a round with two goes
through a node more. From a node with n tests lead n + 1 *edges*, one for each number of accepted guesses. Probabilities and
seconds are not in the table; `sim.stream.rates` and the serving simulation bring them. Only the length of a draft that races
the target depends on time: it is settled here, by the mean seconds of the system (with jitter, an approximation).

A draft's `stop` rule looks at `q`, which is not known here: drafts run to their full length. Memory that never repeats (the
counts of a bandit) does not close, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.placeholder import PREFIX, settled, verdict, work_done
from specdec.effects import Both, Draft, Effect, Known, Race, Score, Verify, drive_at_once
from specdec.errors import StrategyError
from specdec.state import KnownFacts
from specdec.strategy import DecodingStrategy

Counts = NDArray[np.int64]
Stage = tuple[int, int]
MOST_EDGES = 5000
RATIO_3 = System(Constant(1.0, 3.0))


@dataclass(frozen=True, eq=False)
class Compiled:
    """The renewal chain of a strategy. Decoding starts at node 0; `[s, k]` is the edge of node `s` when `k` guesses pass.

    `strategy`      what was compiled
    `races`         whether a draft raced the target: the table then holds for the system it was compiled for, and no other
    `verified`      shape (nodes,): guesses tested at a node, n; edges beyond k = n do not exist and hold zeros
    `bonus`         shape (nodes,): whether a full acceptance is followed by a token of the target's
    `next_state`    shape (nodes, outcomes): where the edge leads
    `tokens`        shape (nodes, outcomes): committed when the round ends with this edge, else 0
    `ends_round`    shape (nodes, outcomes): whether it does; always, when rounds hold a single `Verify`
    `accepted`      shape (nodes, outcomes): guesses that passed, of this verdict
    `drafted`       shape (nodes, outcomes): guesses made on the way, those of the draft and certain ones
    `draft_steps`   shape (nodes, outcomes, stages): tokens the draft makes in each stage of the edge, 0 if it has none
    `target_width`  shape (nodes, outcomes, stages): rows the target scores in that stage in one forward, 0 if it has none

    Stages follow one another; within one, draft and target work side by side.
    """

    strategy: DecodingStrategy
    races: bool
    verified: Counts
    bonus: NDArray[np.bool_]
    next_state: Counts
    tokens: Counts
    ends_round: NDArray[np.bool_]
    accepted: Counts
    drafted: Counts
    draft_steps: Counts
    target_width: Counts

    def __len__(self) -> int:
        return len(self.verified)


@dataclass
class _Edge:
    """One outcome: what happened since the verdict before, and up to the end of the round if it ends there."""

    node: Any
    next_node: Any = None
    tests: int = 0
    bonus: bool = False
    accepted: int = 0
    drafted: int = 0
    tokens: int = 0
    ends_round: bool = False
    raced: bool = False
    stages: list[Stage] = field(default_factory=list[Stage])


class _Round:
    """Answers the effects of one round along one path: `path` holds how many guesses pass at each `Verify`; then none do."""

    def __init__(self, state: Any, path: Sequence[int], system: System) -> None:
        self._state, self._script, self._system = state, path, system
        self.path: tuple[int, ...] = ()
        self.edges = [_Edge((state, ()))]

    def run(self, strategy: DecodingStrategy) -> list[_Edge]:
        """The edges of this path; the last one ends the round."""
        after, tokens = settled(drive_at_once(strategy.step(self._state), self.answer))
        if tokens < 1 or not self.path:
            raise StrategyError(f"a round of {strategy.name} commits nothing: every round must add a verdict's tokens")
        *edges, rest = self.edges
        last = edges[-1]  # what follows the last verdict belongs to its edge
        last.drafted += rest.drafted
        last.stages += rest.stages
        last.raced |= rest.raced
        last.ends_round, last.tokens, last.next_node = True, tokens, (after, ())
        return edges

    def answer(self, effect: Effect[Any]) -> Any:
        if isinstance(effect, Verify):
            return self._verify(effect)
        if isinstance(effect, Race):
            effect = self._ended(effect)
        stage = stage_of(effect)
        self.edges[-1].stages.append(stage)
        self.edges[-1].drafted += stage[0]
        return work_done(effect)

    def _ended(self, race: Race[Any]) -> Effect[Any]:
        most, width = stage_of(race)
        step, target = self._system.draft_seconds(1), self._system.target_seconds(width)
        if np.size(step) > 1 or np.size(target) > 1:
            raise StrategyError(
                "a draft that races the target has no one length on a grid of speeds: compile each system alone"
            )
        self.edges[-1].raced = True
        return race.ended(self._system.tokens_in_race(self._system.draft_seconds(np.arange(1, most + 1)), float(target)))

    def _verify(self, effect: Verify) -> Any:
        accepted = self._script[len(self.path)] if len(self.path) < len(self._script) else 0
        self.path += (accepted,)
        edge = self.edges[-1]
        edge.tests, edge.bonus, edge.accepted = len(effect.guess), effect.bonus, accepted
        edge.drafted += sum(isinstance(cell, Known) for cell in effect.guess.drafted)
        edge.next_node = (self._state, self.path)
        self.edges.append(_Edge(edge.next_node))
        return verdict(effect, accepted)


def stage_of(effect: Effect[Any]) -> Stage:
    """Draft tokens and target rows of an effect that occupies devices; of a race, the most there can be."""
    match effect:
        case Draft():
            return effect.length, 0
        case Score():
            return 0, len(effect.guess) + 1
        case Both(left, right) | Race(left, right):
            (drafts, width), (more, wider) = stage_of(left), stage_of(right)
            if width and wider:
                raise StrategyError("two Scores side by side cannot be timed: there is one target, score in turn")
            return drafts + more, width + wider
        case _:
            raise StrategyError(f"the simulator cannot time {type(effect).__name__}")


def compile_strategy(strategy: DecodingStrategy, system: System = RATIO_3, speed_ratio: float | None = None) -> Compiled:
    """The chain of any strategy on a system, for what of it depends on speed: a draft that races the target.

    `speed_ratio` (target step / draft step) is what `draft_length="auto"` is told, the system's unless given. Raises
    `StrategyError` when more than 5000 edges are found: the strategy's memory does not repeat itself.
    """
    facts = KnownFacts(system.speed_ratio if speed_ratio is None else speed_ratio)
    start, _ = settled(strategy.init(PREFIX, facts))
    numbers: dict[Any, int] = {(start, ()): 0}
    edges: dict[tuple[int, int], _Edge] = {}
    todo = [start]
    while todo:
        state = todo.pop(0)
        for edge in _edges_of(strategy, state, system):
            if _number(strategy, edge.next_node, numbers) and edge.ends_round:
                todo.append(edge.next_node[0])
            edges[numbers[edge.node], edge.accepted] = edge
        if len(edges) > MOST_EDGES:
            raise StrategyError(
                f"{strategy.name} has more than {MOST_EDGES} outcomes and cannot be compiled: its memory does not repeat; "
                "simulate it by events, or use a draft length that settles"
            )
    return _table(strategy, numbers, edges)


def _number(strategy: DecodingStrategy, node: Any, numbers: dict[Any, int]) -> bool:
    """Give `node` the next number; whether it is new."""
    known = len(numbers)
    try:
        return numbers.setdefault(node, known) == known
    except TypeError as error:
        raise StrategyError(f"the state of {strategy.name} cannot be hashed ({error}): use frozen values in it") from error


def _edges_of(strategy: DecodingStrategy, state: Any, system: System) -> list[_Edge]:
    """All edges of the rounds that begin in `state`, parents before children, each once."""
    found: dict[tuple[int, ...], _Edge] = {}
    open_paths: list[tuple[int, ...]] = [()]
    while open_paths:
        script = open_paths.pop()
        run = _Round(state, script, system)
        for depth, edge in enumerate(run.run(strategy)):
            found.setdefault(run.path[: depth + 1], edge)
            if depth >= len(script):  # a verdict not seen before: all its other outcomes are to be run
                open_paths += [(*run.path[:depth], accepted) for accepted in range(1, edge.tests + 1)]
    return [found[path] for path in sorted(found, key=len)]


def _table(strategy: DecodingStrategy, numbers: dict[Any, int], edges: dict[tuple[int, int], _Edge]) -> Compiled:
    shape = len(numbers), 1 + max(edge.tests for edge in edges.values())
    stages = max(len(edge.stages) for edge in edges.values())
    table = Compiled(
        strategy,
        any(edge.raced for edge in edges.values()),
        np.zeros(shape[0], np.int64),
        np.zeros(shape[0], np.bool_),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.bool_),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros((*shape, stages), np.int64),
        np.zeros((*shape, stages), np.int64),
    )
    for (node, accepted), edge in edges.items():
        at = node, accepted
        table.verified[node], table.bonus[node] = edge.tests, edge.bonus
        table.next_state[at] = numbers[edge.next_node]
        table.tokens[at], table.ends_round[at] = edge.tokens, edge.ends_round
        table.accepted[at], table.drafted[at] = edge.accepted, edge.drafted
        for stage, (steps, width) in enumerate(edge.stages):
            table.draft_steps[*at, stage], table.target_width[*at, stage] = steps, width
    return table
