"""Serving: requests share replicas of an engine, whose iterations `sim.traffic.engine` simulates one by one.

Not modelled: routing by more than the number of requests, a prefix that is cached for some prompts and not for others, and a
race that lasts longer because the batch is large.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.engine import FINISHED, SUBMITTED, advance, set_seed, started
from sim.traffic.journal import is_full
from sim.traffic.record import ONE_REPLICA, Iterations, Served, Server
from sim.traffic.schedule import Schedule, Several
from sim.traffic.state import Limits, Rounds
from sim.traffic.tables import Answers, costs_table, requests_table
from sim.traffic.workload import Workload, streams
from specdec.errors import InputError, StrategyError

UNLIMITED = 2**40
FILLS = 6
"""How many times over the slots of a replica are filled to find out what it can finish."""
ENOUGH = 20_000
"""Requests at most from which that is found out, unless slots are very many."""


def simulate_serving(
    compiled: Compiled | Several,
    acceptance: Acceptance,
    system: System,
    workload: Workload,
    server: Server = ONE_REPLICA,
    seed: int | np.random.SeedSequence = 0,
) -> Served:
    """Serve a workload with a compiled strategy, or with several among which each iteration chooses.

    Two strategies on the same seed and workload meet equal acceptance draws. Raises `InputError` for a request that no replica
    has the memory for and for antiphase without a draft beside the target, `StrategyError` for antiphase with a strategy that
    drafts while it verifies, and for one that was compiled for another system and holds for that one only.
    """
    seed = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    draws, jitter, lots = streams(seed, 3)
    schedule = Schedule([compiled]) if isinstance(compiled, Compiled) else compiled
    rounds = schedule.rounds(server.max_batch, acceptance, system, workload)
    if rounds.twins:
        system.require_forks(schedule.chains[0].strategy.name)
    require_memory(rounds, workload, server)
    if server.antiphase:
        _require_halves(schedule, system, server)
    drafting = next((chain for chain in schedule.chains if chain.strategy.drafts), schedule.chains[0])
    longest = int((workload.input_tokens + workload.output_tokens).max())
    widest = (server.iteration_tokens if server.runtime == "vllm" else longest) + int(rounds.held.max())
    branches, padded = int(max(rounds.branches.max(), rounds.fork_rows.max())), server.runtime == "specdec"
    costs = costs_table(drafting, system, server.max_batch, widest, longest, branches, padded=padded)
    requests, limits = requests_table(workload, server.cached_share), _limits(server, system)
    answers, engine, oldest = Answers(requests, acceptance, rounds, draws, lots), started(len(workload), limits), 0
    times = engine.times
    set_seed(int(jitter.generate_state(1)[0]))
    while engine.counts[FINISHED] < len(workload):
        if is_full(engine.journal):
            engine = engine._replace(journal=engine.journal.larger())
        elif engine.counts[SUBMITTED] == answers.drawn:
            oldest += int(np.argmax(times.finish[oldest:] < 0))
            answers.draw(oldest)
        advance(requests, rounds, costs, limits, engine, answers.draws, answers.drawn)
    ends, log, each = engine.journal.written()
    return Served(
        workload,
        server,
        times.submitted,
        times.admitted,
        times.first,
        times.finish,
        times.replica,
        times.preemptions,
        Iterations(ends, *log, each=each),
    )


def _limits(server: Server, system: System) -> Limits:
    return Limits(
        server.replicas,
        server.max_batch,
        server.iteration_tokens if server.runtime == "vllm" else UNLIMITED,
        0 if server.kv_tokens is None else server.kv_tokens // server.block_tokens,
        server.block_tokens,
        server.clients or 0,
        server.client_seconds,
        server.lag_iterations,
        system.wake_seconds,
        server.routing == "round-robin",
        server.runtime == "specdec",
        server.antiphase,
    )


def _require_halves(schedule: Several, system: System, server: Server) -> None:
    """Raise `InputError` or `StrategyError` where a batch of two halves makes no sense, as `specdec.Batch` does."""
    if server.max_batch < 2:
        raise InputError("antiphase needs two sequences at least: give a max_batch of 2 or more")
    if not any(chain.strategy.drafts for chain in schedule.chains):
        name = schedule.chains[0].strategy.name
        raise InputError(f"antiphase hides the time of a draft, and {name} has none: leave antiphase out")
    if system.in_turn:
        raise InputError("antiphase halves need a draft that works beside the target: give it a device of its own")
    if racing := [chain.strategy.name for chain in schedule.chains if chain.overlaps]:
        raise StrategyError(f"{racing[0]} drafts while it verifies, and needs no antiphase: leave it out, or use speculative")


def require_memory(rounds: Rounds, workload: Workload, server: Server) -> None:
    """Raise `InputError` for requests that no replica can ever hold, and for an iteration too small for a round."""
    ahead = int(rounds.held.max())
    if server.runtime == "vllm" and server.iteration_tokens < int(rounds.scored.max()):
        raise InputError(
            f"iteration_tokens {server.iteration_tokens} is less than one round of one sequence scores: give more, such as 2048"
        )
    if server.kv_tokens is None:
        return
    whole = workload.input_tokens + workload.output_tokens + ahead
    needed = -(-whole // server.block_tokens) * server.block_tokens
    if (too_large := needed > server.kv_tokens // server.block_tokens * server.block_tokens).any():
        request = int(np.argmax(needed))
        raise InputError(
            f"kv_tokens {server.kv_tokens} is too small for {int(too_large.sum())} of {len(workload)} requests, of which "
            f"number {request} needs {needed[request]} (prompt, answer and look-ahead, in whole blocks): give more, or drop it"
        )


def capacity_per_second(
    compiled: Compiled | Several, acceptance: Acceptance, system: System, workload: Workload, server: Server
) -> float:
    """Requests per second that the replicas finish while more of the same requests always wait.

    All replicas are alike, so one is simulated. All requests are there at the beginning, several times over if there are few,
    and evenly spaced ones of them if there are very many.
    Counted is from when the replica was full to when its queue was empty.
    """
    copies = -(-FILLS * server.max_batch // len(workload))
    some = np.linspace(0, len(workload) - 1, min(len(workload), max(ENOUGH, 2 * FILLS * server.max_batch))).astype(int)
    columns = np.tile(workload.input_tokens[some], copies), np.tile(workload.output_tokens[some], copies)
    waiting = Workload(np.zeros(len(columns[0])), *columns)
    one = replace(server, replicas=1, clients=None, client_seconds=0.0)
    served = simulate_serving(compiled, acceptance, system, waiting, one)
    done = served.iterations
    emptied = float(done.end_seconds[done.queued > 0].max(initial=0))
    begun = float(np.quantile(served.finish_seconds, 1 / FILLS))
    if emptied <= begun:  # everything fits at once
        return server.replicas * len(waiting) / float(served.finish_seconds.max())
    counted = (served.finish_seconds > begun) & (served.finish_seconds <= emptied)
    return server.replicas * float(counted.sum()) / (emptied - begun)
