"""What a replica can do at most, by the compiled chain: no request is simulated.

At n running sequences a replica commits n x s(n) tokens a second, s being the exact speed of the chain with the seconds of a
batch of n. A request also takes the seconds of its prompt from all others. So a replica serves

    1 / (answer / (n s(n)) + prompt seconds)     requests a second,

each of which takes  n / requests a second  (Little's law), and its tokens that over the answer. n is bounded by the batch limit
and by the cache. Waiting is left out, so objectives are judged too kindly: screening only says which candidates are worth
simulating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.objectives import Objective
from sim.stream.chain import Compiled
from sim.stream.speed import long_run_speed
from sim.traffic.schedule import OFF_FACTOR

BATCHES = tuple(sorted({round(2 ** (n / 2)) for n in range(23)}))


@dataclass(frozen=True)
class Demand:
    """The mean request, and where it is held.

    `prompt`      tokens of it that are read
    `cached`      tokens of its prompt that are held already: attended to, not read
    `answer`      tokens that are generated
    `kv_tokens`   tokens that the cache of any replica is said to hold; `None`: as many as its place has
    """

    prompt: float
    answer: float
    kv_tokens: int | None = None
    cached: float = 0.0


def speed_at(candidate: Candidate, sequences: int, demand: Demand) -> float:
    """Tokens per second of one of so many sequences, by the chain that is used at that many."""
    held = demand.cached + demand.prompt + demand.answer / 2
    system = candidate.place.system.at_batch(sequences, held)
    chains, factor = candidate.chains, 1.0
    if not isinstance(chains, Compiled):
        tier = int(np.searchsorted(chains.up_to, sequences, side="left"))
        factor = (chains.slower or [1.0] * len(chains.chains))[tier]
        chains = chains.chains[tier]
    if chains.races:
        chains = replace(chains, system=system)
    return float(long_run_speed(chains, candidate.acceptance, system).tokens_per_second) / factor


def served_at(candidate: Candidate, sequences: int, demand: Demand) -> float:
    """Requests a second of a replica that always runs so many sequences."""
    latency, held = candidate.place.system.latency, demand.cached + demand.prompt + demand.answer
    alone = float(latency.target_seconds(1, sequences, held))
    with_prompt = float(latency.target_seconds(1 + demand.prompt / sequences, sequences, held))
    speed = speed_at(candidate, sequences, demand)
    return 1 / (demand.answer / (sequences * speed) + max(0.0, with_prompt - alone))


def batches_of(candidate: Candidate, demand: Demand) -> list[int]:
    """Numbers of sequences up to the most that a replica has slots and memory for; 1 in any case."""
    most = candidate.max_batch
    kv_tokens = candidate.place.kv_tokens if demand.kv_tokens is None else demand.kv_tokens
    if kv_tokens is not None:
        most = min(most, int(kv_tokens / (demand.prompt + demand.answer / 2)))
    most = max(most, 1)
    return [*(sequences for sequences in BATCHES if sequences < most), most]


def ceiling(candidate: Candidate, demand: Demand, objectives: Sequence[Objective]) -> float:
    """Requests a second that one replica serves at most with a mean TPOT and E2E within their objectives; 0 if none.

    The median of E2E is left out: where a few answers are very long, that of most is far below the mean.
    """
    tokens = [demand.answer * one.seconds for one in objectives if one.quantity == "tpot"]
    whole = [one.seconds for one in objectives if one.quantity == "e2e" and one.statistic != "p50"]
    limit = min((*tokens, *whole), default=np.inf)
    rates = {sequences: served_at(candidate, sequences, demand) for sequences in batches_of(candidate, demand)}
    return max((served for n, served in rates.items() if n / served <= limit), default=0.0)


def best_schedule(candidates: Sequence[Candidate], demand: Demand) -> list[tuple[int, int]]:
    """The fastest length at each of `BATCHES` among candidates of one method: pairs (running sequences, length); 0 is off."""
    off = replace(candidates[0], strategy="autoregressive", draft_length=0)

    def speed(candidate: Candidate, sequences: int) -> float:
        return speed_at(candidate, sequences, demand) / (1 if candidate.draft_length else OFF_FACTOR)

    most = candidates[0].max_batch
    return [
        (sequences, max((*candidates, off), key=lambda one: speed(one, sequences)).draft_length)
        for sequences in BATCHES
        if sequences <= most
    ]
