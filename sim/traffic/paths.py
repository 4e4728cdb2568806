"""The rounds of every request, drawn before any clock runs.

What a round commits does not depend on when it runs, so all requests walk through the compiled table at once, as arrays over
requests. Whether a drafted token is accepted is keyed by (request, position in the answer), whatever the strategy: two
strategies on the same seed see the same easy and hard tokens (common random numbers), and their difference is far better known
than either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.setup.acceptance import Acceptance
from sim.stream.chain import Compiled
from sim.traffic.workload import Workload

Counts = NDArray[np.int64]
Narrow = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Rounds of `n` requests one after the other; request `i` has those from `offsets[i]` to `offsets[i + 1]`.

    `totals`         shape (2 + stages, rounds): 1, tokens in the cache, rows scored in each stage: what adds up in a batch
    `draft_steps`    shape (stages, rounds): of which a batch takes the maximum
    `first_commit`   shape (n,): the round of a request that brings its first tokens, 0 unless a round has several verdicts
    `prompt_tokens`  shape (n,), to prefill; the last token of a prompt belongs to the first round
    `kv_tokens`      shape (n,), cache slots for prompt, answer and look-ahead, of target and draft
    """

    offsets: list[int]
    totals: Narrow
    draft_steps: Narrow
    first_commit: Counts
    prompt_tokens: Counts
    kv_tokens: Counts


def draw_paths(compiled: Compiled, acceptance: Acceptance, workload: Workload, seed: np.random.SeedSequence) -> Paths:
    """The rounds of all requests. Luck depends on `seed` and the lengths of the answers alone.

    A round with several verdicts is taken as several, of which only the last one commits (each is charged overhead).
    """
    steps = _walk(compiled, acceptance, _luck(acceptance, workload.output_tokens, seed), workload.output_tokens)
    rounds, first_commit = np.zeros((2, len(workload)), np.int64)
    for requests, _, _ in steps:
        rounds[requests] += 1
    offsets = np.concatenate(([0], np.cumsum(rounds)))
    stages = compiled.target_width.shape[-1]
    edges = np.empty(offsets[-1], np.int32)
    totals = np.ones((2 + stages, offsets[-1]), np.int32)
    begin = np.cumsum(workload.output_tokens) - workload.output_tokens
    before = workload.input_tokens - begin
    for number, (requests, edge, positions) in enumerate(steps):
        at = offsets[requests] + number
        edges[at] = edge
        totals[1, at] = positions + before[requests]
        first_commit[requests] += positions == begin[requests]
    np.take(compiled.target_width.reshape(-1, stages).T.astype(np.int32), edges, axis=1, out=totals[2:])
    draft_steps = np.take(compiled.draft_steps.reshape(-1, stages).T.astype(np.int32), edges, axis=1)
    return Paths(
        offsets.tolist(), totals, draft_steps, first_commit - 1, workload.input_tokens - 1, _kv_tokens(compiled, workload)
    )


def _luck(acceptance: Acceptance, output_tokens: Counts, seed: np.random.SeedSequence) -> NDArray[np.generic]:
    """Luck of every position of every answer; answers that have a hidden state each begin with their own."""
    random = np.random.default_rng(seed)
    if len(acceptance.start) == 1:
        return acceptance.luck(random, int(output_tokens.sum()))
    return np.concatenate([acceptance.luck(random, tokens) for tokens in output_tokens.tolist()])


def _walk(
    compiled: Compiled, acceptance: Acceptance, luck: NDArray[np.generic], output_tokens: Counts
) -> list[tuple[Narrow, Narrow, Narrow]]:
    """Round by round: the requests that are not done, their edges, and where they stand in the tokens of all answers.

    What a round commits beyond the end of an answer is dropped. Luck of the next answer may be looked at there, but changes
    nothing: an outcome that depends on it commits up to the end anyway.
    """
    outcomes, verified = compiled.tokens.shape[1], compiled.verified
    tokens, next_state = compiled.tokens.astype(np.int32).ravel(), compiled.next_state.astype(np.int32).ravel()
    end = np.cumsum(output_tokens).astype(np.int32)
    position = end - output_tokens.astype(np.int32)
    requests, state = np.arange(len(end), dtype=np.int32), np.zeros(len(end), np.int32)
    steps: list[tuple[Narrow, Narrow, Narrow]] = []
    while len(requests):
        edge = state * outcomes + acceptance.accepted(luck, position, verified[state]).astype(np.int32)
        steps.append((requests, edge, position))
        position, state = position + tokens[edge], next_state[edge]
        if (ended := position >= end).any():
            requests, state, position, end = (array[~ended] for array in (requests, state, position, end))
    return steps


def _kv_tokens(compiled: Compiled, workload: Workload) -> Counts:
    """Slots when a request is longest: its text in each model that takes part, and the guesses beyond it."""
    text = workload.input_tokens + workload.output_tokens
    widths, steps = compiled.target_width, compiled.draft_steps
    slots = text + int(widths.max())
    if steps.any():
        slots = slots + text + int((steps + np.maximum(widths - 1, 0)).max(initial=0, where=steps > 0))
    return slots
