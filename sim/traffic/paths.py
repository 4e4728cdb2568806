"""The rounds of every request, drawn before time is simulated.

What a round commits does not depend on when it runs. So all requests walk through the compiled table at once, as arrays over
requests. Acceptance draws belong to a request and a position in its answer, whatever the strategy. Two strategies on the same
seed meet the same easy and hard tokens (common random numbers), so their difference is known far more precisely than the
figures of either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Counts, Int32s
from sim.stream.chain import Compiled
from sim.traffic.workload import Workload


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """The rounds of `n` requests, those of one request after those of another.

    `offsets`         n + 1 numbers of rounds: request `i` has the rounds from `offsets[i]` up to `offsets[i + 1]`, excluded
    `totals`          shape (2 + stages, rounds): 1, tokens in the cache, positions in each stage; a batch adds them up
    `draft_steps`     shape (stages, rounds): draft steps in each stage; a batch takes the maximum
    `first_commit`    shape (n,): the round that brings a request's first tokens; 0 unless a round has several verdicts
    `prompt_tokens`   shape (n,): tokens to prefill; the last token of a prompt belongs to the first round
    `kv_tokens`       shape (n,): KV tokens of prompt, answer and look-ahead, of target and draft together
    """

    offsets: list[int]
    totals: Int32s
    draft_steps: Int32s
    first_commit: Counts
    prompt_tokens: Counts
    kv_tokens: Counts


@dataclass(frozen=True, slots=True, eq=False)
class _Rounds:
    """The rounds in the order in which they are drawn: first all first rounds, then all second ones. Shape (rounds,) each.

    `request`    number of the request
    `round`      number of the round in the request
    `edge`       edge of the compiled table: node x number of outcomes + column
    `position`   where the round begins in the tokens of all answers, one answer after another
    """

    request: Int32s
    round: Int32s
    edge: Int32s
    position: Int32s


def draw_paths(compiled: Compiled, acceptance: Acceptance, workload: Workload, seed: np.random.SeedSequence) -> Paths:
    """The rounds of all requests. Acceptance draws depend on `seed` and the lengths of the answers alone.

    A round with several verdicts is taken as several rounds, of which only the last one commits. Each has overhead.
    """
    rounds = _walk(compiled, acceptance, _draws(acceptance, workload.output_tokens, seed), workload.output_tokens)
    count = np.bincount(rounds.request, minlength=len(workload))
    offsets = np.concatenate(([0], np.cumsum(count)))
    begin = np.cumsum(workload.output_tokens) - workload.output_tokens
    first = rounds.position == begin[rounds.request]
    index = offsets[rounds.request] + rounds.round

    stages = compiled.positions.shape[-1]
    edge = np.empty(len(index), np.int32)
    edge[index] = rounds.edge
    totals = np.ones((2 + stages, len(index)), np.int32)
    totals[1, index] = rounds.position + (workload.input_tokens - begin)[rounds.request]
    np.take(compiled.positions.reshape(-1, stages).T.astype(np.int32), edge, axis=1, out=totals[2:])
    draft_steps = np.take(compiled.draft_steps.reshape(-1, stages).T.astype(np.int32), edge, axis=1)
    return Paths(
        offsets.tolist(),
        totals,
        draft_steps,
        np.bincount(rounds.request[first], minlength=len(workload)) - 1,
        workload.input_tokens - 1,
        _kv_tokens(compiled, workload),
    )


def _draws(acceptance: Acceptance, output_tokens: Counts, seed: np.random.SeedSequence) -> NDArray[np.generic]:
    """The acceptance draw of every position of every answer. With hidden states, each answer begins with its own."""
    random = np.random.default_rng(seed)
    if len(acceptance.start) == 1:
        return acceptance.draws(random, int(output_tokens.sum()))
    return np.concatenate([acceptance.draws(random, tokens) for tokens in output_tokens.tolist()])


def _walk(compiled: Compiled, acceptance: Acceptance, draws: NDArray[np.generic], output_tokens: Counts) -> _Rounds:
    """Walk through the table round by round, with all requests that are not done at once.

    The last round of an answer may read draws of the next answer. That is harmless: whatever they say, the round reaches the
    end, and tokens after it are dropped.
    """
    outcomes, tested, column = len(compiled.outcomes), compiled.tested, compiled.columns().astype(np.int32)
    tokens, next_node = compiled.tokens.astype(np.int32).ravel(), compiled.next_node.astype(np.int32).ravel()
    end = np.cumsum(output_tokens).astype(np.int32)
    position = end - output_tokens.astype(np.int32)
    request, node = np.arange(len(end), dtype=np.int32), np.zeros(len(end), np.int32)
    steps: list[tuple[Int32s, Int32s, Int32s]] = []
    while len(request):
        edge = node * outcomes + column[acceptance.accepted(draws, position, tested[node])]
        steps.append((request, edge, position))
        position, node = position + tokens[edge], next_node[edge]
        if (ended := position >= end).any():
            request, node, position, end = (array[~ended] for array in (request, node, position, end))
    number = np.repeat(np.arange(len(steps), dtype=np.int32), [len(step[0]) for step in steps])
    requests, edges, positions = (np.concatenate(one) for one in zip(*steps, strict=True))
    return _Rounds(requests, number, edges, positions)


def _kv_tokens(compiled: Compiled, workload: Workload) -> Counts:
    """Shape (n,): KV tokens of a request when it is longest: its text in each model that works, and the guesses after it."""
    text = workload.input_tokens + workload.output_tokens
    positions, steps = compiled.positions, compiled.draft_steps
    held = text + int(positions.max())
    if steps.any():
        held = held + text + int((steps + np.maximum(positions - 1, 0)).max(initial=0, where=steps > 0))
    return held
