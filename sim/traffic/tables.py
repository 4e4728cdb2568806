"""What the loop of `sim.traffic.engine` reads, made of the values that people have: chains, acceptance, systems, workloads.

Acceptance draws belong to a request and a position in its answer, whatever the strategy. Two strategies on the same seed meet
the same easy and hard tokens (common random numbers), so their difference is known far more precisely than the figures of
either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Counts, Floats
from sim.setup.latency import Latency, fork_seconds
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.state import Costs, Draws, Requests, Rounds
from sim.traffic.workload import Workload, streams
from specdec import InputError

DRAWN_AT_ONCE = 1_000_000
"""Positions whose acceptance is drawn in one go."""
TABLED = 2**16
"""Whole numbers whose interval of knots is in a table."""


def requests_table(workload: Workload, cached_share: float) -> Requests:
    """The requests. Of each prompt, `cached_share` is not read, but one token always is."""
    output, prompt = workload.output_tokens, workload.input_tokens
    read = np.maximum(1, prompt - np.floor(cached_share * prompt).astype(np.int64))
    return Requests(workload.arrival_seconds, read, prompt - read, output, np.cumsum(output) - output)


class Answers:
    """Acceptance draws of all positions of all answers, made as requests come, and forgotten as answers are complete.

    `draws`    of the positions that are known
    `drawn`    requests whose draws were made

    `rounds` says how many guesses are tested at once at most, and whether a strategy forks: `lots` are then drawn too.
    """

    def __init__(
        self,
        requests: Requests,
        acceptance: Acceptance,
        rounds: Rounds,
        seed: np.random.SeedSequence,
        lots: np.random.SeedSequence,
    ) -> None:
        self._output, self._offset, self._acceptance, self._rounds = requests.output, requests.offset, acceptance, rounds
        last = requests.offset + requests.output - 1
        self._groups = [*(np.flatnonzero(np.diff(last // DRAWN_AT_ONCE)) + 1).tolist(), len(last)]
        self._streams, self._lots = (streams(one, len(self._groups)) for one in (seed, lots))
        self._next = 0
        self.draws, self.drawn = Draws(np.zeros(0, np.int16), np.zeros(0, np.float32), 0), 0

    def draw(self, oldest: int) -> None:
        """The next requests; at least as many positions as answers have that are not complete, the first of which is `oldest`.

        So what is kept is copied rarely.
        """
        begin = int(self._offset[oldest if oldest < self.drawn else self.drawn])
        kept = begin - self.draws.before if oldest < self.drawn else len(self.draws.passes)
        passes, lots = [self.draws.passes[kept:]], [self.draws.lots[kept:]]
        held, new = len(passes[0]), 0
        while self.drawn < len(self._output) and (new == 0 or new < held):
            group = self._output[self.drawn : self._groups[self._next]]
            draws, count = _draws(self._acceptance, group, self._streams[self._next]), int(group.sum())
            passes.append(self._acceptance.accepted_from_each(draws, self._rounds.most).astype(np.int16))
            if self._rounds.twins:
                lots.append(np.random.default_rng(self._lots[self._next]).random(count, np.float32))
            new, self.drawn, self._next = new + count, self._groups[self._next], self._next + 1
        self.draws = Draws(np.concatenate(passes), np.concatenate(lots), begin)


def _draws(acceptance: Acceptance, output_tokens: Counts, seed: np.random.SeedSequence) -> NDArray[Any]:
    """The acceptance draw of every position of every answer."""
    random = np.random.default_rng(seed)
    if not acceptance.begins_anew:
        return acceptance.draws(random, int(output_tokens.sum()))
    return np.concatenate([acceptance.draws(random, tokens) for tokens in output_tokens.tolist()])


def rounds_table(
    chains: Sequence[Compiled], slower: Sequence[float], chain_of: Counts, acceptance: Acceptance, one_memory: bool = True
) -> Rounds:
    """The chains one after another.

    `chain_of`, shape (most sequences + 1, rates), has the number of the chain for the sequences that run and the counted
    acceptance rate, from 0 to 1 in equal steps. With one column, acceptance is not counted.

    `slower` is a factor of the target's seconds for each chain; `one_memory` says whether a fork's branches take room in the
    target's cache. A round with several verdicts is taken as several rounds, each in an iteration of its own, of which only the
    last one commits. Raises `InputError` for several chains of which one has a memory: the running batch may change at any
    time, and a chain begins anew then.
    """
    if len(chains) > 1 and any(len(chain) > 1 for chain in chains):
        name = next(chain.strategy.name for chain in chains if len(chain) > 1)
        raise InputError(f"{name} remembers a round, so the batch cannot choose its length: give one length")
    most = max(int(chain.tested.max(initial=0)) for chain in chains)
    stages = max(chain.positions.shape[-1] for chain in chains)
    first = np.cumsum([0, *[len(chain) for chain in chains]])
    forking = any(chain.fan_out.any() for chain in chains)
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in EDGES}
    for foreseen in (False, True) if forking else (False,):
        for chain, begin in zip(chains, first, strict=False):
            for name, values in _edges(chain, int(begin), most, stages, foreseen, acceptance).items():
                found[name].append(values)
    edges = {name: _with_idle(values) for name, values in found.items()}
    by_stage = {name: np.ascontiguousarray(edges[name].T) for name in BY_STAGE}
    branches = (edges["branches"] * edges["branch_steps"]).sum(axis=1) if one_memory else 0
    idle = len(edges["tokens"]) - 1
    return Rounds(
        chain=chain_of,
        start=first[:-1],
        slower=np.array(slower, float),
        first=0.0,
        fading=0.0,
        most=most,
        idle=idle,
        twins=idle // 2 if forking else 0,
        scored=edges["positions"].sum(axis=1),
        held=edges["positions"].max(axis=1) + branches,
        **{name: edges[name] for name in EDGES if name not in BY_STAGE},  # type: ignore[arg-type]
        **by_stage,
    )


BY_STAGE = ("positions", "draft_steps", "fork_rows", "branches", "branch_steps")
EDGES = ("next_node", "tokens", "accepted", "tested", "foreseen", *BY_STAGE)


def _edges(
    chain: Compiled, begin: int, most: int, stages: int, foreseen: bool, acceptance: Acceptance
) -> dict[str, NDArray[Any]]:
    """The edges of a chain whose nodes are numbered from `begin` on: those that a fork prepared for, or the others."""
    node, passing = np.mgrid[: len(chain), : most + 1].reshape(2, -1)
    accepted = np.minimum(passing, chain.tested[node])
    edge = node, chain.columns(foreseen)[accepted]
    fan_out = chain.fan_out[node, chain.columns()[accepted]]
    chances = [
        float(acceptance.foreseen(k, fan, k == tested)) if fan and not foreseen else 0.0
        for k, fan, tested in zip(accepted.tolist(), fan_out.tolist(), chain.tested[node].tolist(), strict=True)
    ]
    # Stages are counted from the last: the target's forward of every chain falls into the same one.
    absent = (0, 0), (stages - chain.positions.shape[-1], 0)
    work = chain.positions, chain.draft_steps, *np.moveaxis(chain.forks, -1, 0)
    by_stage = {name: np.pad(values[edge], absent) for name, values in zip(BY_STAGE, work, strict=True)}
    return {
        "next_node": begin + chain.next_node[edge],
        "tokens": chain.tokens[edge],
        "accepted": accepted,
        "tested": np.minimum(accepted + 1, chain.tested[node]),
        "foreseen": np.array(chances),
        **by_stage,
    }


def _with_idle(edges: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The edges of all chains, and one without work behind them."""
    every = np.concatenate(edges)
    return np.concatenate((every, np.zeros_like(every[:1])))


def costs_table(
    compiled: Compiled,
    system: System,
    most_sequences: int,
    most_rows: int,
    longest: int,
    most_branches: int,
    *,
    padded: bool = False,
) -> Costs:
    """The seconds of a system on a grid of sequences, mean width and mean context, up to the given sizes.

    `padded` is that of `sim.traffic.state.Limits`. In that runtime the overhead of a round counts for each sequence, unless
    batches were measured.

    The grid has every width up to 64, and then 8 knots for each doubling; sequences and contexts have 4 for each doubling, and
    branches those of widths, up to `most_branches`, which is 0 where nothing forks. Between knots, seconds are linear. Raises
    `InputError` where a latency gives a time that is negative or not finite.
    """
    system = compiled.used_on(system)
    latency = system.latency
    sequences = _knots(1, most_sequences, 4)
    width, branches = _widths(max(most_rows, 65)), _widths(max(most_branches, 2))
    context = np.concatenate(([0.0], _knots(64, max(longest, 65), 4)))
    n, w, c = np.meshgrid(sequences, width, context, indexing="ij")
    target = np.broadcast_to(latency.target_seconds(w, n, c), n.shape).astype(float)
    pair = np.meshgrid(sequences, context, indexing="ij")
    most = (1, 2) if compiled.strategy.drafts else (0, 0)
    one, two = (np.broadcast_to(latency.draft_seconds(steps, *pair), pair[0].shape) for steps in most)
    step = (two - one).astype(float)
    name = type(latency).__name__
    _check(target, name, "a forward", batch=sequences, width=width, context=context)
    _check(step, name, "a draft step", batch=sequences, context=context)
    fork_first, fork_step = _forks(latency, np.meshgrid(sequences, branches, context, indexing="ij"), most_branches)
    _check(fork_first, name, "a fork's first forward", batch=sequences, rows=branches, context=context)
    _check(fork_step, name, "a fork's step", batch=sequences, branches=branches, context=context)
    return Costs(
        sequences,
        width,
        context,
        branches,
        (_intervals(sequences), _intervals(width), _intervals(context), _intervals(branches)),
        target,
        step,
        float((one - step).mean()),
        fork_first,
        fork_step,
        1 / system.speed_ratio if compiled.strategy.drafts else 0.0,
        system.in_turn,
        *system.slowdowns(sequences),
        2 * system.network_seconds,
        system.overheads(sequences, padded=padded),
        (system.jitter.draft_cv, system.jitter.target_cv),
    )


def _forks(latency: Latency, grid: Sequence[Floats], most_branches: int) -> tuple[Floats, Floats]:
    """Seconds of a fork's first forward, and of one more step over all branches; zeros where nothing forks."""
    n, number, held = grid
    if not most_branches:
        return np.zeros(n.shape), np.zeros(n.shape)
    one, two = (fork_seconds(latency, 1, number, steps, n, held) for steps in (1, 2))
    step = np.broadcast_to(two - one, n.shape).astype(float)
    begun = fork_seconds(latency, number, 1, 1, n, held) - step[:, :1]
    return np.broadcast_to(begun, n.shape).astype(float), step


def _widths(most: int) -> Floats:
    """Every whole number up to 64 and, if there are more, 8 knots for each doubling up to `most`."""
    few = np.arange(1.0, min(most, 64) + 1)
    return few if most <= 64 else np.unique(np.concatenate((few, _knots(64, most, 8))))


def _knots(first: int, last: int, each_doubling: int) -> Floats:
    """Whole numbers from `first` to at least `last`, evenly spaced on a logarithmic scale."""
    count = int(np.ceil(each_doubling * np.log2(max(last, first + 1) / first))) + 1
    return np.unique(np.ceil(first * 2 ** (np.arange(count) / each_doubling)))


def _intervals(knots: Floats) -> Counts:
    """For each whole number up to the last knot, or up to `TABLED`, the interval of knots that holds it."""
    whole = np.arange(min(int(knots[-1]) + 1, TABLED))
    return np.clip(np.searchsorted(knots, whole, side="right") - 1, 0, len(knots) - 2)


def _check(seconds: Floats, source: str, what: str, **axes: Floats) -> None:
    """Refuse a time that cannot be, and say where on the grid it is."""
    bad = ~(np.isfinite(seconds) & (seconds >= 0))
    if bad.any():
        at = np.unravel_index(int(np.argmax(bad)), bad.shape)
        where = ", ".join(f"{name} {knots[i]:g}" for (name, knots), i in zip(axes.items(), at, strict=True))
        raise InputError(f"{source} gives {seconds[at]:g} s for {what} at {where}: correct the latency, give 0 or more")
