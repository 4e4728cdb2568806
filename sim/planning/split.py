"""Two deployments: a share of the requests, taken at random, goes to one, and all others to the other.

All replicas of one deployment see the same load. So a percentile near the end of the law gains nothing from a second one: each
part must meet it. A median, a mean or P90 may: the share that needs it is decoded with guesses by few sequences a replica, and
the rest in large batches without. Hence only such objectives are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.objectives import QUANTITIES, Latencies
from sim.planning.screen import ceiling, speed_at
from sim.planning.trials import HOPELESS, Trial, Trials, each

SHARES = (0.25, 0.5, 0.6, 0.75, 0.9)
EARLY = ("mean", "p50", "p90")
"""Statistics that a part of the requests may miss."""
MOST_GPUS = 16
"""GPUs of the best single deployment up to which a split is looked for."""


@dataclass(frozen=True, eq=False)
class Split:
    """Two deployments that meet all objectives together.

    `candidates`   the two
    `replicas`     of each
    `shares`       of the requests, of each; they add up to 1
    `trials`       how each served its requests
    `pressures`    of each objective, over all requests
    """

    candidates: tuple[Candidate, Candidate]
    replicas: tuple[int, int]
    shares: tuple[float, float]
    trials: tuple[Trial, Trial]
    latencies: Latencies
    pressures: tuple[float, ...]

    @property
    def gpus(self) -> int:
        return sum(one.place.gpus_of(count) for one, count in zip(self.candidates, self.replicas, strict=True))

    @property
    def together(self) -> Trial:
        """Both as one trial, over all requests."""
        load = max(one.load for one in self.trials)
        return Trial(sum(self.replicas), load, 1.0, self.pressures, self.latencies)

    @property
    def name(self) -> str:
        first, second = self.candidates
        return f"{first.name} for {100 * self.shares[0]:.0f} % of requests, {second.name} for the others"


def best_split(trials: Trials, candidates: Sequence[Candidate], fewer_than: int) -> Split | None:
    """The two deployments with the fewest GPUs, if that is less than `fewer_than`; `None` if there are none, or none can be."""
    found = None
    if not any(one.statistic in EARLY for one in trials.objectives) or not 2 < fewer_than <= MOST_GPUS + 1:
        return None
    pairs = list(_pairs(trials, candidates))
    for gpus in range(min(fewer_than - 1, MOST_GPUS), 1, -1):
        asked = [one for one in _divided(pairs, gpus) if _may_hold(trials, one[0], one[1], one[2])]
        good = [one for one in each(lambda one: served_apart(trials, one[0], one[1], one[2]), asked) if one is not None]
        sure = (one for one in sorted(good, key=lambda one: max(one.pressures)) if _confirmed(trials, one))
        better = next(sure, None)
        if better is None:
            return found
        found = better
    return found


def _confirmed(trials: Trials, split: Split) -> bool:
    """Whether it meets the objectives over more requests too, with other draws."""
    return served_apart(trials.longer, split.candidates, split.replicas, split.shares[0]) is not None


def _pairs(trials: Trials, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
    """For each method the candidate that is fastest alone, with the candidate of another method that serves most."""
    shared = [one for one in candidates if not one.place.draft_gpus and not one.schedule]
    methods = {one.method.name: [other for other in shared if other.method is one.method] for one in shared}
    fastest = {name: max(ours, key=lambda one: speed_at(one, 1, trials.demand)) for name, ours in methods.items()}
    fullest = {name: max(ours, key=lambda one: ceiling(one, trials.demand, ())) for name, ours in methods.items()}
    yield from ((one, fullest[other]) for name, one in fastest.items() for other in fullest if other != name)


def _divided(
    pairs: Sequence[tuple[Candidate, Candidate]], gpus: int
) -> Iterator[tuple[tuple[Candidate, Candidate], tuple[int, int], float]]:
    """Every division of so many GPUs and of the requests."""
    for one, other in pairs:
        for count in range(1, gpus // one.place.gpus + 1):
            rest, over = divmod(gpus - one.place.gpus_of(count), other.place.gpus)
            if rest >= 1 and not over:
                yield from (((one, other), (count, rest), share) for share in SHARES)


def _may_hold(trials: Trials, pair: tuple[Candidate, Candidate], replicas: tuple[int, int], share: float) -> bool:
    """Whether both parts can hold every request, and finish theirs."""
    if any(trials.why_not_held(one) for one in pair):
        return False
    parts = zip(pair, replicas, (share, 1 - share), strict=True)
    return all(_load(trials, one, count, part) < HOPELESS for one, count, part in parts)


def _load(trials: Trials, candidate: Candidate, replicas: int, share: float) -> float:
    return share * trials.rate / (replicas * trials.capacity(candidate))


def served_apart(trials: Trials, pair: tuple[Candidate, Candidate], replicas: tuple[int, int], share: float) -> Split | None:
    """Two deployments, of which the first gets that share of the requests; `None` if they miss an objective together."""
    if not _may_hold(trials, pair, replicas, share):
        return None
    lot = np.random.default_rng(trials.seed).random(len(trials.workload))
    parts = [trials.workload.chosen(taken) for taken in (lot < share, lot >= share)]
    found = tuple(
        trials.measured(pair[i], replicas[i], parts[i], _load(trials, pair[i], replicas[i], (share, 1 - share)[i]))
        for i in range(2)
    )
    latencies: Latencies = {
        quantity: np.concatenate([trial.latencies[quantity] for trial in found if trial.latencies is not None])
        for quantity in QUANTITIES
    }
    pressures = tuple(one.pressure(latencies) for one in trials.objectives)
    if max(pressures) > 1:
        return None
    return Split(pair, replicas, (share, 1 - share), (found[0], found[1]), latencies, pressures)
