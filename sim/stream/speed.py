"""Exact speed of a compiled strategy: means over its edges in the long run, and the seconds of an answer of given length.

Acceptance and latency may be grids: arrays that broadcast against each other. The answers then have the grid's shape. No
strategy is known here, and no random number is drawn.

Axes of arrays are, in this order: node, outcome, the grid's (any number), hidden state (one or two). `_aligned` gives arrays
with grids of different numbers of axes the same number, so that formulas can multiply them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Floats
from sim.setup.system import System
from sim.stream.chain import Compiled
from specdec.errors import StrategyError


@dataclass(frozen=True, eq=False)
class Speed:
    """Long-run means of a strategy on a system: arrays of the grid's shape, () without a grid.

    `tokens_per_second`        committed tokens
    `target_idle_share`        share of time in which the target does nothing
    `draft_idle_share`         the same of the draft
    `tokens_per_round`         tokens committed in a `step`
    `seconds_per_round`        seconds of a `step`
    `mean_acceptance_length`   1 + accepted guesses of a verification
    `draft_acceptance_rate`    accepted guesses over all that were made, the wasted ones too; 0 where none are made

    Definitions are those of `specdec.Statistics`.
    """

    tokens_per_second: Floats
    target_idle_share: Floats
    draft_idle_share: Floats
    tokens_per_round: Floats
    seconds_per_round: Floats
    mean_acceptance_length: Floats
    draft_acceptance_rate: Floats


@dataclass(frozen=True, eq=False)
class EdgeCosts:
    """Mean seconds of every edge of a table, and those in which draft and target work; shape (nodes, outcomes, *grid)."""

    seconds: Floats
    draft_busy: Floats
    target_busy: Floats


def long_run_speed(compiled: Compiled, acceptance: Acceptance, system: System) -> Speed:
    """Long-run speed of a compiled strategy, exactly.

    Raises `StrategyError` if the chain holds for another system only, or if chance decides which of several parts of it a
    decode stays in, so that there is no one long run.
    """
    flow = _flow(compiled, acceptance)
    cost = edge_costs(compiled, system)

    def mean(values: NDArray[Any]) -> Floats:
        """Of the values of all edges, over verifications."""
        share, values = _aligned(flow, values)
        return (share * values).sum(axis=(0, 1))

    rounds, tokens, seconds = mean(compiled.ends_round), mean(compiled.tokens), mean(cost.seconds)
    drafted, accepted = mean(compiled.drafted), mean(compiled.accepted[None])
    return Speed(
        tokens / seconds,
        1 - mean(cost.target_busy) / seconds,
        1 - mean(cost.draft_busy) / seconds,
        tokens / rounds,
        seconds / rounds,
        1 + accepted,
        np.divide(accepted, drafted, out=np.zeros_like(accepted), where=drafted > 0),
    )


def expected_seconds(compiled: Compiled, acceptance: Acceptance, system: System, tokens: int) -> Floats:
    """Mean seconds until `tokens` tokens are committed, from the start of a decode; of the grid's shape.

    The last round counts in full. Raises `StrategyError` if the chain holds for another system only. Exact, by a dynamic
    programme over the tokens that are left to commit, in O(tokens x edges).
    """
    cost, weights = _aligned(edge_costs(compiled, system).seconds[..., None, None], _weights(compiled, acceptance))
    grid, hidden = np.broadcast_shapes(weights.shape[2:-2], cost.shape[2:-2]), weights.shape[-1]
    left = np.zeros((tokens + 1, len(compiled), *grid, hidden, 1))  # seconds, by what is left to commit
    for open_tokens in range(1, tokens + 1):
        for node in reversed(range(len(compiled))):  # edges without tokens lead to later nodes: those are known by now
            rest = np.maximum(open_tokens - compiled.tokens[node], 0)
            value = cost[node] + left[rest, compiled.next_node[node]]
            left[open_tokens, node] = (weights[node] @ value).sum(axis=0)
    return left[tokens, 0, ..., 0] @ acceptance.start


def plain_tokens_per_second(system: System) -> Floats:
    """Tokens per second of autoregressive decoding on the same target, which speed-ups are over; of the grid's shape."""
    return 1 / (system.target_seconds(1) + system.overhead_seconds)


def edge_costs(compiled: Compiled, system: System) -> EdgeCosts:
    """Seconds of every edge; each distinct stage is computed once."""
    system = compiled.used_on(system)
    stages = np.concatenate((compiled.draft_steps[..., None], compiled.positions[..., None], compiled.forks), axis=-1)
    distinct, which = np.unique(stages.reshape(-1, 5), axis=0, return_inverse=True)
    costs = [system.stage(*stage) for stage in distinct.tolist()]
    seconds, draft, target = (
        np.stack(np.broadcast_arrays(*column))[which.reshape(compiled.draft_steps.shape)].sum(axis=2)
        for column in zip(*costs, strict=True)
    )
    overhead, seconds = _aligned(system.overhead_seconds * compiled.ends_round, seconds)
    return EdgeCosts(seconds + overhead, draft, target)


def _aligned(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """The arrays with equally many axes: a smaller grid gets axes of length 1 before its own, as broadcasting does."""
    axes = max(array.ndim for array in arrays)
    return [array.reshape(*array.shape[:2], *(1,) * (axes - array.ndim), *array.shape[2:]) for array in arrays]


def _weights(compiled: Compiled, acceptance: Acceptance) -> Floats:
    """Shape (nodes, outcomes, *grid, hidden, hidden): chance of each outcome and of where the hidden state goes."""
    passed = [np.eye(len(acceptance.start)) + 0 * acceptance.accept(0)]  # the first 0, 1, 2, ... guesses pass
    for index in range(compiled.accepted.max()):
        passed.append(passed[-1] @ acceptance.accept(index))
    weights = np.zeros((*compiled.next_node.shape, *passed[0].shape))
    for column, outcome in enumerate(compiled.outcomes):
        accepted = outcome.accepted
        accept, reject = acceptance.accept(accepted), acceptance.reject(accepted)
        complete = compiled.tested == accepted
        weights[compiled.tested > accepted, column] = passed[accepted] @ reject
        weights[complete & ~compiled.bonus, column] = passed[accepted]
        weights[complete & compiled.bonus, column] = passed[accepted] @ (accept + reject)
        for node, fan_out in enumerate(_fan_outs(compiled, accepted)):
            hit = acceptance.foreseen(accepted, fan_out, bool(complete[node])) if fan_out else np.zeros(())
            weights[node, column] = (hit if outcome.foreseen else 1 - hit)[..., None, None] * weights[node, column]
    return weights


def _fan_outs(compiled: Compiled, accepted: int) -> list[int]:
    """How many tokens each node foresees where so many guesses are accepted."""
    columns = [column for column, outcome in enumerate(compiled.outcomes) if outcome.accepted == accepted]
    return compiled.fan_out[:, columns].max(axis=1).tolist()


def _flow(compiled: Compiled, acceptance: Acceptance) -> Floats:
    """Shape (nodes, outcomes, *grid): the share of all verifications that each edge has in the long run."""
    weights = _weights(compiled, acceptance)
    nodes, grid, hidden = len(compiled), weights.shape[2:-2], weights.shape[-1]
    moves = np.zeros((*grid, nodes, hidden, nodes, hidden))
    for node, outcome in np.ndindex(*compiled.next_node.shape):
        moves[..., node, :, compiled.next_node[node, outcome], :] += weights[node, outcome]
    size = nodes * hidden
    balance = np.swapaxes(moves.reshape(*grid, size, size), -1, -2) - np.eye(size)
    balance[..., -1, :] = 1  # one equation of balance follows from the others: the shares add up to 1 instead
    one = np.zeros((size, 1))
    one[-1] = 1
    try:
        share = np.linalg.solve(balance, np.broadcast_to(one, (*grid, size, 1)))[..., 0]
    except np.linalg.LinAlgError as error:
        raise StrategyError(
            f"{compiled.strategy.name} has no single long run at this acceptance: where it ends up depends on chance"
        ) from error
    share = share.reshape(*grid, nodes, hidden)
    return np.stack([(share[..., node, None, :] @ weights[node]).sum(axis=(-1, -2)) for node in range(nodes)])
