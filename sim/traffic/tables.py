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
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.state import Costs, Requests, Rounds
from sim.traffic.workload import Workload, streams
from specdec import InputError

DRAWN_AT_ONCE = 1_000_000
"""Positions whose acceptance is drawn in one go."""


def requests_table(
    workload: Workload, acceptance: Acceptance, most_tested: int, cached_share: float, seed: np.random.SeedSequence
) -> Requests:
    """The requests, with how many guesses in a row pass from each position of their answers on.

    `most_tested` is the most guesses that are tested at once. Of each prompt, `cached_share` is not read, but one token always
    is.
    """
    output, prompt = workload.output_tokens, workload.input_tokens
    ends = np.cumsum(output)
    kind = np.int8 if most_tested < 127 else np.int32
    passes = np.zeros(int(ends[-1]) + 1, kind)
    first = 0
    groups = [*(np.flatnonzero(np.diff((ends - 1) // DRAWN_AT_ONCE)) + 1).tolist(), len(ends)]
    for last, stream in zip(groups, streams(seed, len(groups)), strict=True):
        begin, end = int(ends[first] - output[first]), int(ends[last - 1])
        draws = _draws(acceptance, output[first:last], stream)
        passes[begin:end] = acceptance.accepted(draws, np.arange(end - begin), most_tested)
        first = last
    read = np.maximum(1, prompt - np.floor(cached_share * prompt).astype(np.int64))
    return Requests(workload.arrival_seconds, read, output, ends - output, passes)


def _draws(acceptance: Acceptance, output_tokens: Counts, seed: np.random.SeedSequence) -> NDArray[Any]:
    """The acceptance draw of every position of every answer. With hidden states, each answer begins with its own."""
    random = np.random.default_rng(seed)
    if len(acceptance.start) == 1:
        return acceptance.draws(random, int(output_tokens.sum()))
    return np.concatenate([acceptance.draws(random, tokens) for tokens in output_tokens.tolist()])


def rounds_table(chains: Sequence[Compiled], slower: Sequence[float], chain_of: Counts) -> Rounds:
    """The chains one after another. `chain_of[n]` is the number of the chain that is used while `n` sequences run.

    `slower` is a factor of the target's seconds for each chain. A round with several verdicts is taken as several rounds, each
    in an iteration of its own, of which only the last one commits. Raises `InputError` for several chains of which one has a
    memory: the running batch may change at any time, and a chain begins anew then.
    """
    if len(chains) > 1 and any(len(chain) > 1 for chain in chains):
        name = next(chain.strategy.name for chain in chains if len(chain) > 1)
        raise InputError(f"{name} remembers a round, so the batch cannot choose its length: give one length")
    most = max(int(chain.tested.max(initial=0)) for chain in chains)
    columns = max(len(chain.outcomes) for chain in chains)
    stages = max(chain.positions.shape[-1] for chain in chains)
    first = np.cumsum([0, *[len(chain) for chain in chains]])
    nodes = int(first[-1])
    next_node, tokens = (np.zeros((nodes, columns), np.int64) for _ in range(2))
    positions, draft_steps = (np.zeros((nodes, columns, stages), np.int64) for _ in range(2))
    column = np.zeros(most + 1, np.int64)
    for chain, begin in zip(chains, first, strict=False):
        part = np.s_[begin : begin + len(chain), : len(chain.outcomes)]
        next_node[part], tokens[part] = begin + chain.next_node, chain.tokens
        # Stages are counted from the last: the target's forward of every chain falls into the same one.
        positions[part][..., stages - chain.positions.shape[-1] :] = chain.positions
        draft_steps[part][..., stages - chain.positions.shape[-1] :] = chain.draft_steps
        known = chain.columns()
        column[: len(known)] = np.maximum(column[: len(known)], known)
    return Rounds(
        chain_of,
        first[:-1],
        np.array(slower, float),
        np.concatenate([chain.tested for chain in chains]),
        column,
        next_node,
        tokens,
        positions,
        draft_steps,
        positions.sum(axis=-1),
        positions.max(axis=-1),
    )


def costs_table(compiled: Compiled, system: System, most_sequences: int, most_rows: int, longest: int) -> Costs:
    """The seconds of a system on a grid of sequences, mean width and mean context, up to the given sizes.

    The grid has every width up to 64, and then 8 knots for each doubling; sequences and contexts have 4 for each doubling.
    Between knots, seconds are linear. Raises `InputError` where a latency gives a time that is negative or not finite.
    """
    system = compiled.used_on(system)
    latency = system.latency
    sequences = _knots(1, most_sequences, 4)
    width = np.unique(np.concatenate((np.arange(1.0, 65.0), _knots(64, max(most_rows, 65), 8))))
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
    together, turns = system.together, system.turns
    return Costs(
        sequences,
        width,
        context,
        target,
        step,
        float((one - step).mean()),
        1 / system.speed_ratio if compiled.strategy.drafts else 0.0,
        system.in_turn,
        (together.draft_factor, together.target_factor) if together else (1.0, 1.0),
        (turns.draft_factor, turns.target_factor),
        2 * system.network_seconds,
        system.overhead_seconds,
        (system.jitter.draft_cv, system.jitter.target_cv),
    )


def _knots(first: int, last: int, each_doubling: int) -> Floats:
    """Whole numbers from `first` to at least `last`, evenly spaced on a logarithmic scale."""
    count = int(np.ceil(each_doubling * np.log2(max(last, first + 1) / first))) + 1
    return np.unique(np.ceil(first * 2 ** (np.arange(count) / each_doubling)))


def _check(seconds: Floats, source: str, what: str, **axes: Floats) -> None:
    """Refuse a time that cannot be, and say where on the grid it is."""
    bad = ~(np.isfinite(seconds) & (seconds >= 0))
    if bad.any():
        at = np.unravel_index(int(np.argmax(bad)), bad.shape)
        where = ", ".join(f"{name} {knots[i]:g}" for (name, knots), i in zip(axes.items(), at, strict=True))
        raise InputError(f"{source} gives {seconds[at]:g} s for {what} at {where}: correct the latency, give 0 or more")
