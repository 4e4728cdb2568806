"""Trials: candidates served by simulation, all on the same requests and the same acceptance draws.

A trial is kept, so nothing is simulated twice. A load that replicas cannot finish is not simulated at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np

from sim.planning.candidates import NOTHING, Candidate
from sim.planning.objectives import Latencies, Objective, per_request
from sim.planning.screen import Demand
from sim.setup.acceptance import Acceptance
from sim.traffic.metrics import Metrics, extrapolated_share, latencies_of, measure
from sim.traffic.record import Served, Server
from sim.traffic.schedule import Schedule
from sim.traffic.serving import capacity_per_second, require_memory, simulate_serving
from sim.traffic.workload import Arrivals, Traffic, Workload, streams
from specdec.errors import InputError
from specdec.machine import available_cores

T = TypeVar("T")
R = TypeVar("R")

HOPELESS = 1.0
"""The load from which on nothing is simulated."""
NEGLIGIBLE = 0.01
"""Share of the time beyond what was measured that changes no tag."""
LONGER, OTHER = 5, 1_000_000
"""How many times the requests the best plan is confirmed with, and how far off their seed is."""
SCOUT, SCOUTED, HOPEFUL = 4, 500, 1.5
"""A quarter of the requests, if that is 500 of them, are tried first. If an objective is missed by half, that is the trial."""
IDLE = 0.02
"""The load of an idle replica."""


@dataclass(frozen=True)
class Trial:
    """How so many replicas of a candidate served the requests.

    `replicas`       how many
    `factor`         times the load that is planned for
    `load`           rho: requests that arrive over those that the replicas can finish
    `pressures`      of each objective: its statistic over its limit, at most 1 if it is met; empty for a hopeless load
    `latencies`      seconds of the requests, and `metrics` of the run; `None` for a hopeless load
    `extrapolated`   share of the time in forwards beyond what was measured
    `unheld`         why no replica can hold some request, which makes the trial hopeless; empty if all can be held
    """

    replicas: int
    load: float
    factor: float = 1.0
    pressures: tuple[float, ...] = ()
    latencies: Latencies | None = None
    metrics: Metrics | None = None
    extrapolated: float = 0.0
    unheld: str = ""

    @property
    def pressure(self) -> float:
        """That of the binding objective; the load where there is no objective, since then only keeping up counts."""
        if self.metrics is None:
            return np.inf
        return max(self.pressures, default=self.load)

    @property
    def met(self) -> bool:
        return self.load < HOPELESS and self.pressure <= 1


@dataclass(frozen=True, eq=False)
class Trials:
    """Requests, objectives and a server to try candidates on.

    `traffic`      the requests, at load 1
    `objectives`   what must be met
    `server`       how an engine is set up; replicas, batch and cache come from each candidate
    `seed`         of requests and acceptance draws
    """

    traffic: Traffic | Workload
    objectives: tuple[Objective, ...]
    server: Server
    seed: int = 0
    _capacities: dict[tuple[Candidate, float], float] = field(default_factory=dict[tuple[Candidate, float], float])
    _runs: dict[tuple[Candidate, int, float, float], Trial] = field(
        default_factory=dict[tuple[Candidate, int, float, float], Trial]
    )

    def __post_init__(self) -> None:
        if self.server.clients is not None or (isinstance(self.traffic, Traffic) and self.traffic.arrivals is None):
            raise InputError("a plan is for requests that arrive by themselves: give --arrivals or --trace, not --concurrency")
        if len(self.workload) < 100:
            raise InputError(f"{len(self.workload)} requests do not show a percentile: give at least 100, better 3000")
        if {one.quantity for one in self.objectives} == {"tpot"} and self.workload.output_tokens.max() < 2:
            raise InputError("an answer of one token has no TPOT, and all are: give an objective of TTFT or E2E, or none")

    @cached_property
    def workload(self) -> Workload:
        return self.at(1.0)

    @cached_property
    def rate(self) -> float:
        """Requests per second."""
        if isinstance(self.traffic, Traffic) and self.traffic.arrivals is not None:
            return self.traffic.arrivals.rate_per_second
        rate = self.workload.rate_per_second
        if rate is None:
            raise InputError(f"{self.workload.source}: all requests arrive at once, so there is no load to plan for")
        return rate

    @cached_property
    def demand(self) -> Demand:
        """The mean request, and the cache that was given."""
        prompt, answer = float(self.workload.input_tokens.mean()), float(self.workload.output_tokens.mean())
        read = max(1.0, (1 - self.server.cached_share) * prompt)
        return Demand(read, answer, self.server.kv_tokens, prompt - read)

    def at(self, factor: float) -> Workload:
        """The requests at `factor` times the load: the same ones, closer together."""
        seed = streams(np.random.SeedSequence(self.seed), 1)[0]
        if isinstance(self.traffic, Workload):
            return replace(self.traffic, arrival_seconds=self.traffic.arrival_seconds / factor)
        assert self.traffic.arrivals is not None
        faster = Arrivals(self.traffic.arrivals.rate_per_second * factor, self.traffic.arrivals.cv)
        return replace(self.traffic, arrivals=faster).workload(seed)

    def redrawn(self, seed: int) -> Trials:
        """The same question with other draws."""
        return replace(self, seed=seed, _runs={})

    def asked(self, traffic: Traffic | Workload) -> Trials:
        """The same question of other requests."""
        return replace(self, traffic=traffic, _capacities={}, _runs={})

    @cached_property
    def longer(self) -> Trials:
        """The same question of `LONGER` times as many requests, with other draws."""
        return replace(self, traffic=self.traffic.repeated(LONGER), seed=self.seed + OTHER, _capacities={}, _runs={})

    def surely_met(self, candidate: Candidate, replicas: int) -> bool:
        """Whether so many replicas meet all objectives with the upper ends of their intervals."""
        trial = self.run(candidate, replicas)
        return trial.met and trial.latencies is not None and all(one.surely_met(trial.latencies) for one in self.objectives)

    def why_not_held(self, candidate: Candidate) -> str:
        """Why a replica cannot hold every request; empty if it can."""
        chains, server = candidate.chains, candidate.server(self.server, 1)
        if server.kv_tokens is None:
            return ""
        schedule = chains if isinstance(chains, Schedule) else Schedule([chains])
        rounds = schedule.rounds(server.max_batch, candidate.acceptance, candidate.place.system, self.workload)
        try:
            require_memory(rounds, self.workload, server)
        except InputError as error:
            return str(error).partition(":")[0]
        return ""

    def capacity(self, candidate: Candidate, odds: float = 1.0) -> float:
        """Requests per second that one replica finishes while more always wait."""
        if (candidate, odds) not in self._capacities:
            acceptance, server = self._acceptance(candidate, odds), candidate.server(self.server, 1)
            found = capacity_per_second(candidate.chains, acceptance, candidate.place.system, self._sample, server)
            self._capacities[candidate, odds] = found
        return self._capacities[candidate, odds]

    @cached_property
    def _sample(self) -> Workload:
        """Some of the requests, spread over all, for capacity."""
        return self.workload.chosen(slice(None, None, max(1, len(self.workload) // 1000)))

    def run(self, candidate: Candidate, replicas: int, factor: float = 1.0, odds: float = 1.0) -> Trial:
        """Serve the requests at `factor` times the load; `odds` multiplies those of every guess."""
        key = candidate, replicas, factor, odds
        if key not in self._runs:
            self._runs[key] = self._tried(candidate, replicas, factor, odds)
        return self._runs[key]

    def served(self, candidate: Candidate, replicas: int, requests: Workload | None = None, odds: float = 1.0) -> Served:
        """The record of such a run, at the planned load unless other requests are given."""
        return simulate_serving(
            candidate.chains,
            self._acceptance(candidate, odds),
            candidate.place.system,
            self.workload if requests is None else requests,
            candidate.server(self.server, replicas),
            streams(np.random.SeedSequence(self.seed), 2)[1],
        )

    def _tried(self, candidate: Candidate, replicas: int, factor: float, odds: float) -> Trial:
        if unheld := self.why_not_held(candidate):
            return Trial(replicas, np.inf, factor, unheld=unheld)
        load = factor * self.rate / (replicas * self.capacity(candidate, odds))
        if load >= HOPELESS:
            return Trial(replicas, load, factor)
        requests = self.at(factor)
        scout = requests.chosen(slice(len(requests) // SCOUT))
        if len(scout) >= SCOUTED:
            scouted = self.measured(candidate, replicas, scout, load, factor, odds)
            if scouted.pressure > HOPEFUL:
                return scouted
        return self.measured(candidate, replicas, requests, load, factor, odds)

    def measured(
        self,
        candidate: Candidate,
        replicas: int,
        requests: Workload,
        load: float,
        factor: float = 1.0,
        odds: float = 1.0,
    ) -> Trial:
        """The trial of these requests, of which `load` is known."""
        served = self.served(candidate, replicas, requests, odds)
        found = latencies_of(served)
        latencies: Latencies = {"ttft": found.ttft, "tpot": found.tpot, "e2e": found.e2e}
        metrics = measure(served, per_request(self.objectives), load=load)
        return Trial(
            replicas,
            load,
            factor,
            tuple(one.pressure(latencies) for one in self.objectives),
            latencies,
            metrics,
            extrapolated_share(served, candidate.place.system.latency),
        )

    def _acceptance(self, candidate: Candidate, odds: float) -> Acceptance:
        if candidate.method.acceptance is None:
            return NOTHING
        return candidate.acceptance if odds == 1 else candidate.acceptance.at_odds(odds)


Found: TypeAlias = tuple[Candidate, Trial]
"""A candidate, and how its replicas served the requests."""


def sustained(trials: Trials, candidate: Candidate, replicas: int, steps: int = 6) -> float:
    """Requests per second up to which so many replicas meet all objectives; 0 if they do at no load.

    Found by halving an interval `steps` times: from the planned load to the capacity if they meet them at the planned load,
    else from nothing to the planned load.
    """
    most = replicas * trials.capacity(candidate) / trials.rate
    low, high = (1.0, most) if trials.run(candidate, replicas).met else (0.0, min(1.0, most))
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if trials.run(candidate, replicas, middle).met else (low, middle)
    return low * trials.rate


def fewest_replicas(trials: Trials, candidate: Candidate, most: int) -> Trial:
    """The trial of the fewest replicas that meet all objectives; if not even `most` do, their trial, which is unmet.

    Begins with as many as can finish the requests, goes up in growing steps, and then halves the interval. Objectives that one
    replica misses while it is idle are met by no number of them: the trial of the idle replica is returned.
    """
    capacity = trials.capacity(candidate)
    idle = trials.run(candidate, 1, min(1.0, IDLE * capacity / trials.rate))
    if not idle.met:
        return idle
    needed = int(np.floor(trials.rate / capacity)) + 1
    if needed > most:
        return Trial(most, trials.rate / (most * capacity))
    failing, step = needed - 1, 1
    trial = trials.run(candidate, needed)
    while not trial.met:
        if trial.replicas >= most:
            return trial
        failing = trial.replicas
        trial = trials.run(candidate, min(most, failing + step))
        step *= 2
    while trial.replicas - failing > 1:
        middle = (trial.replicas + failing) // 2
        tried = trials.run(candidate, middle)
        if tried.met:
            trial = tried
        else:
            failing = middle
    return trial


def each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of a function of trials, on all cores: the simulation leaves the interpreter while it runs."""
    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, items))
