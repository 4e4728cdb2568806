"""An engine that serves step by step, one object a sequence: nothing is shared with `sim.traffic` but the values that go in.

Costs come from the latency itself, and rounds from the strategy's chain. AR and chains of one node only need `tokens` and
`positions`, so an error in the tables of `sim.traffic` is seen here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from sim.setup.acceptance import Acceptance
from sim.setup.arrays import Floats
from sim.setup.latency import fork_seconds
from sim.setup.system import System
from sim.stream.chain import Compiled
from sim.traffic.record import Server
from sim.traffic.workload import Workload

Replica: TypeAlias = dict[str, Any]
Found: TypeAlias = dict[str, Floats]


@dataclass
class Sequence:
    number: int
    sent: float
    unread: int
    prompt: int
    node: int = 0
    done: int = 0
    blocks: int = 0
    may_join: int = 0
    chunk: int = 0
    column: int = -1
    place: int = 0


def serve(
    chains: list[Compiled],
    choose: Callable[[int, float, float], Compiled],
    fading: float,
    acceptance: Acceptance,
    system: System,
    workload: Workload,
    server: Server,
    draws: list[Floats],
    lots: Any,
) -> Found:
    """The times of every request. `draws[i]` are the acceptance draws of request `i`.

    `choose(n, accepted, tested)` is the chain that is used while `n` run, after so many guesses of the replica; after each step
    these counts fade. `lots` are those of forks, one for each position of all answers.
    """
    begins = np.cumsum(workload.output_tokens) - workload.output_tokens

    def column_of(one: Sequence, chain: Compiled) -> int:
        """The outcome of the round; a lot decides whether the token that ends it was foreseen."""
        tested, own_lots = int(chain.tested[one.node]), lots[begins[one.number] :][: workload.output_tokens[one.number]]
        accepted = int(acceptance.accepted(draws[one.number], one.done, tested))
        outcomes = [number for number, outcome in enumerate(chain.outcomes) if outcome.accepted == accepted]
        fan_out = int(chain.fan_out[one.node, outcomes[0]])
        chance = float(acceptance.foreseen(accepted, fan_out, accepted == tested)) if fan_out else 0.0
        hit = bool(own_lots[min(one.done + accepted, len(own_lots) - 1)] < chance)
        return next(number for number in outcomes if chain.outcomes[number].foreseen == hit)

    system = system.used_by(max((chain.strategy for chain in chains), key=lambda strategy: strategy.drafts))
    pool = server.kv_tokens // server.block_tokens if server.kv_tokens else 10**9
    replicas: list[Replica] = [
        {"end": np.inf, "step": 0, "queue": [], "running": [], "free": pool, "busy": False, "guesses": (0.0, 0.0)}
        for _ in range(server.replicas)
    ]
    found = {name: np.full(len(workload), np.nan) for name in ("submitted", "first", "finish", "replica")}
    found["preemptions"] = np.zeros(len(workload))
    clients = [0.0] * (server.clients or len(workload))
    sent = 0
    while np.isnan(found["finish"]).any():
        next_sent = np.inf
        if sent < len(workload) and clients:
            next_sent = max(workload.arrival_seconds[sent], clients[0] if server.clients else 0.0)
        replica = min(replicas, key=lambda one: one["end"])
        if next_sent + server.client_seconds <= replica["end"]:
            clients.pop(0)
            loads = [len(one["queue"]) + len(one["running"]) for one in replicas]
            target = sent % server.replicas if server.routing == "round-robin" else loads.index(min(loads))
            found["submitted"][sent], found["replica"][sent] = next_sent, target
            prompt = int(workload.input_tokens[sent])
            one = replicas[target]
            one["queue"].append(Sequence(sent, next_sent, prompt, prompt, may_join=one["step"] + server.lag_iterations))
            if one["end"] == np.inf:
                one["end"] = next_sent + server.client_seconds + system.wake_seconds
            sent += 1
            continue
        now = replica["end"]
        if replica["busy"]:
            replica["busy"] = False
            finished = deliver(replica, workload, found, now, fading)
            if server.clients:
                clients += [now] * finished
            if finished and server.client_seconds == 0:
                continue
        if not replica["running"] and not replica["queue"]:
            replica["end"] = np.inf
            continue
        chain = choose(len(replica["running"]), *replica["guesses"])
        schedule(replica, chain, len(chains) > 1, system.one_memory, server, found, column_of)
        drafts = any(chain.strategy.drafts for chain in chains)
        if server.runtime == "specdec":
            seconds = seconds_in_specdec(replica, chain, system, drafts, server.antiphase)
        elif server.antiphase and len(replica["running"]) > 1:
            seconds = seconds_in_halves(replica, chain, system, drafts)
        else:
            seconds = seconds_of(replica, chain, system, drafts)
        replica["end"] = now + seconds
        replica["step"] += 1
        replica["busy"] = True
        replica["chain"] = chain
    return found


def schedule(
    replica: Replica,
    chain: Compiled,
    several: bool,
    one_memory: bool,
    server: Server,
    found: Found,
    column_of: Callable[[Sequence, Compiled], int],
) -> None:
    own = server.runtime == "specdec"
    left, lost, index = 10**9 if own else server.iteration_tokens, False, 0
    while index < len(replica["running"]):
        one: Sequence = replica["running"][index]
        one.chunk, one.column = 0, -1
        if one.unread:
            one.chunk = wanted = min(one.unread, left)
            tokens = one.prompt + one.done - one.unread + one.chunk
        else:
            if several:
                one.node = 0
            one.column = column_of(one, chain)
            wanted = int(chain.positions[one.node, one.column].sum())
            tokens = one.prompt + one.done + int(chain.positions[one.node, one.column].max())
            if one_memory:
                tokens += sum(branches * steps for _, branches, steps in chain.forks[one.node, one.column].tolist())
        if wanted > left:
            one.column, tokens, wanted = -1, 0, 0
        need = -(-tokens // server.block_tokens) - one.blocks if server.kv_tokens else 0
        while need > replica["free"]:
            last: Sequence = replica["running"].pop()
            replica["free"] += last.blocks
            last.blocks, last.node, last.unread = 0, 0, last.prompt + last.done
            replica["queue"].insert(0, last)
            found["preemptions"][last.number] += 1
            lost = True
            if last is one:
                return
        if need > 0:
            replica["free"] -= need
            one.blocks += need
        left -= wanted
        index += 1
    while replica["queue"] and not lost and len(replica["running"]) < server.max_batch and left > 0:
        one = replica["queue"][0]
        if replica["running"] and one.may_join > replica["step"]:
            return
        chunk = min(one.unread, left)
        need = -(-chunk // server.block_tokens) if server.kv_tokens else 0
        if need > replica["free"]:
            return
        replica["free"] -= need
        one.blocks, one.chunk, one.column = need, chunk, -1
        if own:
            one.unread, one.column = 0, column_of(one, chain)
            one.place = min({*range(server.max_batch)} - {other.place for other in replica["running"]})
        left -= chunk
        replica["running"].append(replica["queue"].pop(0))


def seconds_in_specdec(replica: Replica, chain: Compiled, system: System, drafts: bool, antiphase: bool) -> float:
    """Prompts first, each alone; then a round whose forwards are padded. In antiphase, two rounds of half as many."""
    running, latency = replica["running"], system.latency
    works: list[tuple[float, float]] = []
    for one in running:
        if one.chunk:
            read = float(latency.target_seconds(one.chunk, 1, 0))
            works.append((read / system.speed_ratio if drafts else 0.0, read))
    places = [one.place for one in running]
    span, context = max(places) - min(places) + 1, max(one.prompt + one.done for one in running)
    halves = antiphase and len(running) > 1
    stages: list[tuple[float, float]] = []
    for stage in range(chain.positions.shape[-1]):
        width = max(int(chain.positions[one.node, one.column, stage]) for one in running)
        steps = max(int(chain.draft_steps[one.node, one.column, stage]) for one in running)
        forks = chain.forks[[one.node for one in running], [one.column for one in running], stage]
        size = max(1.0, span / 2) if halves else span
        drafting = [place for place, one in zip(places, running, strict=True) if drafts_in(one, chain, stage)]
        at_once = max(drafting) - min(drafting) + 1 if drafting else 0
        at_once = max(1.0, at_once / 2) if halves else at_once
        draft = float(latency.draft_seconds(steps, at_once, context)) if steps else 0.0
        if forks[:, 1].any():
            draft += float(fork_seconds(latency, forks[:, 0].max(), forks[:, 1].max(), forks[:, 2].max(), at_once, context))
        stages.append((draft, float(latency.target_seconds(width, size, context)) if width else 0.0))
    works += 2 * [tuple(map(sum, zip(*stages, strict=True)))] if halves else stages  # type: ignore[list-item]
    total = system.overhead_seconds * len(running)
    for work in works:
        draft, target = (float(busy) for busy in system.busy_seconds(*work))
        away = 2 * system.network_seconds if draft else 0.0
        total += draft + target if system.in_turn else max(draft + away, target)
    return total


def drafts_in(one: Sequence, chain: Compiled, stage: int) -> bool:
    return bool(chain.draft_steps[one.node, one.column, stage] or chain.forks[one.node, one.column, stage, 1])


def seconds_of(replica: Replica, chain: Compiled, system: System, drafts: bool) -> float:
    decoding = [one for one in replica["running"] if one.column >= 0]
    reading = [one for one in replica["running"] if one.column < 0 and one.chunk]
    context = sum(one.prompt + one.done for one in decoding)
    context += sum(one.prompt + one.done - one.unread for one in reading)
    prompt = sum(one.chunk for one in reading)
    latency, total, extra, read = system.latency, system.overhead_seconds, 0.0, False
    owes = bool(reading) and drafts
    for stage in range(chain.positions.shape[-1]):
        widths = [int(chain.positions[one.node, one.column, stage]) for one in decoding]
        steps = [int(chain.draft_steps[one.node, one.column, stage]) for one in decoding]
        forks = np.array([chain.forks[one.node, one.column, stage] for one in decoding]).reshape(-1, 3)
        scoring, drafting, forking = sum(w > 0 for w in widths), sum(s > 0 for s in steps), int((forks[:, 1] > 0).sum())
        last = stage == chain.positions.shape[-1] - 1
        target = float(latency.target_seconds(sum(widths) / scoring, scoring, context / scoring)) if scoring else 0.0
        if reading and not read and (scoring or last):
            n = scoring + len(reading)
            whole = float(latency.target_seconds((sum(widths) + prompt) / n, n, context / n))
            extra, target, read = whole - target, whole, True
        draft = float(latency.draft_seconds(max(steps), drafting, context / len(decoding))) if drafting else 0.0
        if forking:
            rows, branches = forks[:, 0].sum() / forking, forks[:, 1].sum() / forking
            draft += float(fork_seconds(latency, rows, branches, forks[:, 2].max(), forking, context / len(decoding)))
        if owes and extra > 0 and (drafting or forking or last):
            draft, owes = draft + extra / system.speed_ratio, False
        draft, target = system.busy_seconds(draft, target)
        away = 2 * system.network_seconds if draft else 0.0
        total += float(draft + target) if system.in_turn else max(float(draft) + away, float(target))
    return total


def seconds_in_halves(replica: Replica, chain: Compiled, system: System, drafts: bool) -> float:
    """Half the batch is drafted while the other half is verified: twice the longer of what half a batch costs each model."""
    works: list[tuple[float, float]] = []

    class Half:
        speed_ratio, network_seconds, overhead_seconds, in_turn = system.speed_ratio, 0.0, 0.0, False

        class latency:
            @staticmethod
            def draft_seconds(steps: float, batch: float, context: float) -> Floats:
                return system.latency.draft_seconds(steps, max(1.0, batch / 2), context)

            @staticmethod
            def fork_seconds(rows: float, branches: float, steps: float, batch: float, context: float) -> Floats:
                return fork_seconds(system.latency, rows, branches, steps, max(1.0, batch / 2), context)

            @staticmethod
            def target_seconds(width: float, batch: float, context: float) -> Floats:
                return system.latency.target_seconds(width, max(1.0, batch / 2), context)

        @staticmethod
        def busy_seconds(draft: float, target: float) -> tuple[float, float]:
            works.append((draft, target))
            return draft, target

    seconds_of(replica, chain, Half, drafts)  # type: ignore[arg-type]
    draft, target = system.busy_seconds(*(sum(work[i] for work in works) for i in range(2)))
    return 2 * max(draft + (2 * system.network_seconds if draft else 0.0), target) + system.overhead_seconds


def deliver(replica: Replica, workload: Workload, found: Found, now: float, fading: float) -> int:
    finished = 0
    replica["guesses"] = tuple(fading * count for count in replica["guesses"])
    for one in list(replica["running"]):
        if one.column >= 0:
            chain = replica["chain"]
            passed, most = chain.outcomes[one.column].accepted, int(chain.tested[one.node])
            accepted, tested = replica["guesses"]
            replica["guesses"] = accepted + passed, tested + min(passed + 1, most)
            if one.done == 0:
                found["first"][one.number] = now
            one.done += int(chain.tokens[one.node, one.column])
            one.node = int(chain.next_node[one.node, one.column])
        elif one.chunk:
            one.unread -= one.chunk
            if one.unread == 0:
                if one.done == 0:
                    found["first"][one.number] = now
                one.done += 1
        if one.done >= workload.output_tokens[one.number]:
            found["finish"][one.number] = now
            replica["free"] += one.blocks
            replica["running"].remove(one)
            finished += 1
    return finished
