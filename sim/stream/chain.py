"""The compiler: turns a strategy into a finite Markov renewal chain, by running each round once for every outcome.

`step` runs on placeholder text, once for each outcome of every `Verify`. A `Verify` of n guesses has n + 1 outcomes. Where a
`Fork` prepares for one of them, that one is two: the target's token was foreseen, or not. The state that `step` returns is
normalised and compared with those seen before, until no new one appears (PEARL has two). No particular strategy is known here.

The table has one *node* for each point where a verdict is awaited: a round with two `Verify` effects passes two nodes. One
*edge* leaves a node for each outcome of its verification. Probabilities and seconds are not in the table: `sim.stream.speed`
and the simulation of serving add them. Only the length of a draft that races the target depends on time. The mean seconds of
the system decide it here (with jitter, an approximation).

A draft that a `stop` rule may end is refused, since the rule looks at `q`, which is not known here. A strategy whose memory
never repeats (the counts of a bandit) has no finite table, and is refused too: events simulate it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sim.setup.arrays import Counts, Flags
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.placeholder import PREFIX, foreseen_at, normalised, verdict, work_done
from sim.stream.stage import Outcome, Stage, forks_of, stage_of
from specdec.effects import Effect, Fork, Known, Race, Verify, drive_at_once
from specdec.errors import StrategyError
from specdec.state import SPEED_RATIO, KnownFacts
from specdec.strategy import DecodingStrategy, require_strategy

MOST_EDGES = 5000
RATIO_3 = System(Constant(1.0, SPEED_RATIO))
NONE_PASSES = Outcome(0)


@dataclass(frozen=True, eq=False)
class Compiled:
    """The renewal chain of a strategy, as a table. Decoding starts at node 0; `[node, outcome]` is an edge.

    `strategy`      what was compiled
    `system`        the system it was compiled for
    `races`         whether a draft races the target: the table then holds for this system, and for no other
    `outcomes`      the outcome of each column
    `tested`        shape (nodes,): guesses tested at a node; outcomes that accept more have no edge there, and hold zeros
    `bonus`         shape (nodes,): whether a full acceptance is followed by a token of the target's
    `next_node`     shape (nodes, outcomes): the node that the edge leads to
    `tokens`        shape (nodes, outcomes): committed when the round ends with this edge, else 0
    `ends_round`    shape (nodes, outcomes): whether it does; always, when rounds hold a single `Verify`
    `drafted`       shape (nodes, outcomes): guesses made on the way, those of the draft and certain ones
    `draft_steps`   shape (nodes, outcomes, stages): tokens that the draft makes in each stage of the edge
    `positions`     shape (nodes, outcomes, stages): positions that the target scores in each stage, in one forward
    `forks`         shape (nodes, outcomes, stages, 3): `fork_rows`, `branches` and `branch_steps` of each `Stage`
    `fan_out`       shape (nodes, outcomes): how many tokens of the target's are foreseen there; 0 where no fork prepares

    Stages follow one another. Within a stage, draft and target work at the same time.
    """

    strategy: DecodingStrategy
    system: System
    races: bool
    outcomes: tuple[Outcome, ...]
    tested: Counts
    bonus: Flags
    next_node: Counts
    tokens: Counts
    ends_round: Flags
    drafted: Counts
    draft_steps: Counts
    positions: Counts
    forks: Counts
    fan_out: Counts

    def __len__(self) -> int:
        return len(self.tested)

    @property
    def accepted(self) -> Counts:
        """Shape (outcomes,): guesses that pass in the outcome of each column."""
        return np.array([outcome.accepted for outcome in self.outcomes], np.int64)

    @property
    def overlaps(self) -> bool:
        """Whether some stage has both models at work."""
        drafting = (self.draft_steps > 0) | (self.forks[..., 1] > 0)
        return bool((drafting & (self.positions > 0)).any())

    def columns(self, foreseen: bool = False) -> Counts:
        """Shape (most accepted + 1,): at index `k`, the column of the outcome with `k` accepted guesses.

        With `foreseen`, that of the outcome that a fork prepared for, if there is one.
        """
        column = {outcome: number for number, outcome in enumerate(self.outcomes)}
        plain = [Outcome(accepted) for accepted in range(int(self.accepted.max()) + 1)]
        return np.array([column.get(replace(one, foreseen=foreseen), column[one]) for one in plain])

    def used_on(self, system: System) -> System:
        """`system.used_by` for this strategy. Raises `StrategyError` for a system that the table does not hold for."""
        if self.races and system is not self.system:
            raise StrategyError(
                f"the draft of {self.strategy.name} races the target, so its table holds only for the system it was compiled "
                "for: compile the strategy for this system"
            )
        return system.used_by(self.strategy)


@dataclass
class _Edge:
    """One outcome of a verification, with the work since the last verdict; the last edge of a round has the rest of it too."""

    node: Any
    next_node: Any = None
    outcome: Outcome = NONE_PASSES
    tests: int = 0
    bonus: bool = False
    fan_outs: tuple[int, ...] = ()
    drafted: int = 0
    tokens: int = 0
    ends_round: bool = False
    raced: bool = False
    stages: list[Stage] = field(default_factory=list[Stage])

    @property
    def others(self) -> list[Outcome]:
        """All outcomes of this verification but `NONE_PASSES`."""
        misses = [Outcome(accepted) for accepted in range(1, self.tests + 1)]
        return misses + [Outcome(accepted, True) for accepted, fan_out in enumerate(self.fan_outs) if fan_out]


class _Round:
    """One round along one path: `script` holds the outcomes of the first verifications; in later ones, no guess passes."""

    def __init__(self, state: Any, script: Sequence[Outcome], system: System) -> None:
        self._state, self._script, self._system = state, script, system
        self.path: tuple[Outcome, ...] = ()
        self.edges = [_Edge((state, ()))]
        self._fork: Fork | None = None

    def run(self, strategy: DecodingStrategy) -> list[_Edge]:
        """The edges of this path; the last one ends the round."""
        after, tokens = normalised(drive_at_once(strategy.step(self._state), self.answer))
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
        self.edges[-1].drafted += stage.drafted
        self._fork = next(iter(forks_of(effect)), self._fork)
        return work_done(effect)

    def _ended(self, race: Race[Any]) -> Effect[Any]:
        longest = stage_of(race)
        step, target = self._system.draft_seconds(1), self._system.target_seconds(longest.positions)
        if np.size(step) > 1 or np.size(target) > 1:
            raise StrategyError(
                "a draft that races the target has no one length on a grid of speeds: compile each system alone"
            )
        self.edges[-1].raced = True
        draft = self._system.draft_seconds(np.arange(1, longest.draft_steps + 1))
        return race.ended(self._system.tokens_in_race(draft, float(target)))

    def _verify(self, effect: Verify) -> Any:
        outcome = self._script[len(self.path)] if len(self.path) < len(self._script) else NONE_PASSES
        self.path += (outcome,)
        edge = self.edges[-1]
        edge.outcome, edge.tests, edge.bonus = outcome, len(effect.guess), effect.bonus
        edge.fan_outs = tuple(foreseen_at(effect, accepted, self._fork) for accepted in range(edge.tests + 1))
        edge.drafted += sum(isinstance(drafted, Known) for drafted in effect.guess.drafted)
        edge.next_node = (self._state, self.path)
        self.edges.append(_Edge(edge.next_node))
        return verdict(effect, outcome)


def compile_strategy(strategy: DecodingStrategy, system: System = RATIO_3) -> Compiled:
    """The chain of a strategy.

    The system decides two things: the length of a draft that races the target, and the `speed_ratio` (target step / draft step)
    that `draft_length="auto"` reads. Raises `StrategyError` for a strategy with more than 5000 edges, since its memory does not
    repeat, and for one whose rounds commit nothing or ask for work that cannot be timed.
    """
    require_strategy(strategy)
    start, _ = normalised(strategy.init(PREFIX, KnownFacts(system.speed_ratio_for(strategy))))
    numbers: dict[Any, int] = {(start, ()): 0}
    edges: dict[tuple[int, Outcome], _Edge] = {}
    todo = [start]
    while todo:
        state = todo.pop(0)
        for edge in _edges_of(strategy, state, system):
            if _number(strategy, edge.next_node, numbers) and edge.ends_round:
                todo.append(edge.next_node[0])
            edges[numbers[edge.node], edge.outcome] = edge
        if len(edges) > MOST_EDGES:
            raise StrategyError(
                f"{strategy.name} has more than {MOST_EDGES} outcomes and cannot be compiled: its memory does not repeat; "
                "simulate it by events, or use a fixed draft length"
            )
    return _table(strategy, system, numbers, edges)


def _number(strategy: DecodingStrategy, node: Any, numbers: dict[Any, int]) -> bool:
    """Give `node` the next number; whether it is new."""
    known = len(numbers)
    try:
        return numbers.setdefault(node, known) == known
    except TypeError as error:
        raise StrategyError(f"the state of {strategy.name} cannot be hashed ({error}): use frozen values in it") from error


def _edges_of(strategy: DecodingStrategy, state: Any, system: System) -> list[_Edge]:
    """All edges of the rounds that begin in `state`, parents before children, each once."""
    found: dict[tuple[Outcome, ...], _Edge] = {}
    open_paths: list[tuple[Outcome, ...]] = [()]
    while open_paths:
        script = open_paths.pop()
        run = _Round(state, script, system)
        for depth, edge in enumerate(run.run(strategy)):
            found.setdefault(run.path[: depth + 1], edge)
            if depth >= len(script):  # a verdict not seen before: all its other outcomes are to be run
                open_paths += [(*run.path[:depth], outcome) for outcome in edge.others]
    return [found[path] for path in sorted(found, key=len)]


def _table(
    strategy: DecodingStrategy, system: System, numbers: dict[Any, int], edges: dict[tuple[int, Outcome], _Edge]
) -> Compiled:
    outcomes = sorted({outcome for _, outcome in edges})
    column = {outcome: number for number, outcome in enumerate(outcomes)}
    stages = max(len(edge.stages) for edge in edges.values())

    def of_edges(value: Callable[[_Edge], Any], *inner: int) -> Counts:
        """Shape (nodes, outcomes, *inner); lists shorter than `inner` are filled up with zeros."""
        found = np.zeros((len(numbers), len(outcomes), *inner), np.int64)
        for (node, outcome), edge in edges.items():
            given = np.asarray(value(edge))
            found[(node, column[outcome], *map(slice, given.shape))] = given
        return found

    nodes = {node: edge for (node, _), edge in edges.items()}
    return Compiled(
        strategy=strategy,
        system=system,
        races=any(edge.raced for edge in edges.values()),
        outcomes=tuple(outcomes),
        tested=np.array([nodes[node].tests for node in range(len(numbers))]),
        bonus=np.array([nodes[node].bonus for node in range(len(numbers))]),
        next_node=of_edges(lambda edge: numbers[edge.next_node]),
        tokens=of_edges(lambda edge: edge.tokens),
        ends_round=of_edges(lambda edge: edge.ends_round).astype(bool),
        drafted=of_edges(lambda edge: edge.drafted),
        draft_steps=of_edges(lambda edge: [stage.draft_steps for stage in edge.stages], stages),
        positions=of_edges(lambda edge: [stage.positions for stage in edge.stages], stages),
        forks=of_edges(
            lambda edge: [(stage.fork_rows, stage.branches, stage.branch_steps) for stage in edge.stages] or [(0, 0, 0)],
            stages,
            3,
        ),
        fan_out=of_edges(lambda edge: edge.fan_outs[edge.outcome.accepted]),
    )
