"""The rounds of every request, drawn before any clock runs.

What a round commits does not depend on when it runs, so all requests walk through the compiled table at once, as arrays over
requests. Whether a drafted token is accepted is keyed by request and position in the answer, whatever the strategy. Two
strategies on the same seed see the same easy and hard tokens (common random numbers), and their difference is known far better
than either.
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
    """Rounds of `n` requests one after the other; request `i` has those from `offsets[i]` to `offsets[i + 1]`.

    `totals`         shape (2 + stages, rounds): 1, tokens in the cache, positions scored in each stage: what adds up in a batch
    `draft_steps`    shape (stages, rounds): of which a batch takes the maximum
    `first_commit`   shape (n,): the round of a request that brings its first tokens, 0 unless a round has several verdicts
    `prompt_tokens`  shape (n,), to prefill; the last token of a prompt belongs to the first round
    `kv_tokens`      shape (n,), KV tokens of prompt, answer and look-ahead, of target and draft
    """

    offsets: list[int]
    totals: Int32s
    draft_steps: Int32s
    first_commit: Counts
    prompt_tokens: Counts
    kv_tokens: Counts


@dataclass(frozen=True, slots=True, eq=False)
class _Rounds:
    """A table with a line for each round of each request: first all first rounds, then all second ones. Shape (rounds,) each.

    `request`   whose round it is
    `round`     its number in the request
    `edge`      of the compiled table: node x number of outcomes + column
    `position`  where the round begins in the tokens of all answers
    """

    request: Int32s
    round: Int32s
    edge: Int32s
    position: Int32s


def draw_paths(compiled: Compiled, acceptance: Acceptance, workload: Workload, seed: np.random.SeedSequence) -> Paths:
    """The rounds of all requests. Acceptance draws depend on `seed` and the lengths of the answers alone.

    A round with several verdicts is taken as several, of which only the last one commits (each is charged overhead).
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
    """The draw of every position of every answer; answers that have a hidden state each begin with their own."""
    random = np.random.default_rng(seed)
    if len(acceptance.start) == 1:
        return acceptance.draws(random, int(output_tokens.sum()))
    return np.concatenate([acceptance.draws(random, tokens) for tokens in output_tokens.tolist()])


def _walk(compiled: Compiled, acceptance: Acceptance, draws: NDArray[np.generic], output_tokens: Counts) -> _Rounds:
    """Round by round through the table, all requests that are not done at once.

    The last round of an answer may read draws of the next answer. That is harmless: whatever they say, the round reaches the
    end, and tokens behind it are dropped.
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
    """When a request is longest: its text in each model that takes part, and the guesses beyond it."""
    text = workload.input_tokens + workload.output_tokens
    positions, steps = compiled.positions, compiled.draft_steps
    held = text + int(positions.max())
    if steps.any():
        held = held + text + int((steps + np.maximum(positions - 1, 0)).max(initial=0, where=steps > 0))
    return held
