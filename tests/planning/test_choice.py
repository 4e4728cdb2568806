"""What decides between plans: their order, the price of speculation that is off, and where an acceptance flips them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sim.planning import study
from sim.planning.candidates import Candidate, Tier
from sim.planning.entries import planned_split
from sim.planning.flips import acceptance_flip
from sim.planning.methods import Method, Place
from sim.planning.objectives import objectives_of
from sim.planning.screen import Demand, best_schedule
from sim.planning.split import served_apart
from sim.planning.study import Limits, confirmed, decide, reported
from sim.planning.trials import Trial, Trials
from sim.planning.verdict import of_split
from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.record import Server
from sim.traffic.schedule import OFF_FACTOR
from sim.traffic.workload import Arrivals, Lengths, Traffic

STEP = 0.010


def place(gpus: int = 1, draft: float = 0.001) -> Place:
    return Place("shared", System(Constant(draft, STEP, batches_are_free=True), shared=True), gpus)


def drafting(length: int = 1, rate: float = 0.8, draft: float = 0.001, gpus: int = 1) -> Candidate:
    where = place(gpus, draft)
    return Candidate(Method("eagle3", (where,), Rate(rate), length, "head"), where, "speculative", length, max_batch=1)


def alone(gpus: int = 1) -> Candidate:
    return Candidate(Method("ar", (place(gpus),)), place(gpus), "autoregressive", 0, max_batch=1)


def asked(rate: float = 2.5) -> Trials:
    return Trials(Traffic(Arrivals(rate), Lengths(1), Lengths(100), 600), objectives_of({"e2e-p99": "5s"}), Server())


def tried(replicas: int, pressure: float) -> Trial:
    served: Any = object()
    return Trial(replicas, 0.5, 1.0, (pressure,), None, served)


def test_plans_are_in_order_of_gpus_then_headroom_then_simplicity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headroom that differs by less than a thousandth is the same; equal plans stay in the order of their promise."""
    scheduled = replace(drafting(3), schedule=(Tier(4, 3), Tier(None, 1)))
    trials_of = {
        drafting(1): tried(3, 0.1),
        scheduled: tried(2, 0.7001),
        drafting(4): tried(2, 0.8),
        drafting(3): tried(2, 0.7004),
        drafting(2): tried(2, 0.7003),
        alone(2): tried(1, 0.9),
        drafting(5): tried(1, 1.2),
    }
    monkeypatch.setattr(study, "screened", lambda *_, **__: (list(trials_of), []))
    monkeypatch.setattr(study, "fewest_replicas", lambda _, one, most: trials_of[one])
    monkeypatch.setattr(study, "best_split", lambda *_: None)
    monkeypatch.setattr(study, "gate", lambda *_: "")
    monkeypatch.setattr(Trials, "surely_met", lambda *_: True)
    order = [one for one, _ in decide(asked(), ()).good]
    names = list(trials_of)
    assert [names.index(one) for one in order] == [3, 4, 1, 2, 5, 0]


def test_what_comes_nearest_is_first_of_what_is_unmet(monkeypatch: pytest.MonkeyPatch) -> None:
    """By how far it misses an objective; then what cannot keep up, by its load."""
    trials_of = {
        drafting(1): Trial(64, 2.0),
        drafting(2): tried(3, 3.0),
        drafting(3): Trial(64, 1.5),
        drafting(4): tried(3, 1.2),
    }
    monkeypatch.setattr(study, "screened", lambda *_, **__: (list(trials_of), []))
    monkeypatch.setattr(study, "fewest_replicas", lambda _, one, most: trials_of[one])
    monkeypatch.setattr(study, "gate", lambda *_: "a gate")
    found = decide(asked(), ())
    assert [one.draft_length for one, _ in found.unmet] == [4, 2, 3, 1]
    assert reported(found).verdict.endswith("Nearest is eagle3 k=4: a gate.")


def test_candidates_are_all_tried_whatever_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [drafting() for _ in range(9)]
    monkeypatch.setattr(study, "screened", lambda *_, **__: (alike, []))
    monkeypatch.setattr(study, "fewest_replicas", lambda *_: tried(3, 0.5))
    monkeypatch.setattr(Trials, "surely_met", lambda *_: True)
    assert [one for one, _ in decide(asked(), ()).good] == alike


def test_a_candidate_whose_every_batch_is_too_slow_is_rejected_and_not_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first four meet the limit. The fifth, of the same kind, takes 11 ms for a token."""
    good, slow = [drafting(length) for length in (1, 2, 3, 4)], drafting(1, rate=0.0)
    asked = Trials(Traffic(Arrivals(2.5), Lengths(1), Lengths(100), 600), objectives_of({"tpot-p99": "9ms"}), Server())
    monkeypatch.setattr(study, "screened", lambda *_, **__: ([*good, slow], []))
    monkeypatch.setattr(study, "fewest_replicas", lambda *_: tried(3, 0.5))
    monkeypatch.setattr(Trials, "surely_met", lambda *_: True)
    found = decide(asked, ())
    assert [one for one, _ in found.good] == good
    assert [one.gate for one in found.rejected] == ["tpot: no batch meets its limit"]


@pytest.mark.parametrize(
    ("refuted", "best", "gates"), [(True, 4, []), (False, 0, ["cost: at least 2 GPUs, and another plan needs 1"])]
)
def test_what_was_too_dear_is_tried_once_cheaper_plans_are_refuted(
    refuted: bool, best: int, gates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four plans of one GPU each need three by more requests. A fifth needs two, and was not simulated before that."""
    tried_ones = [*(drafting(length) for length in (1, 2, 3, 4)), drafting(5, gpus=2)]
    monkeypatch.setattr(study, "screened", lambda *_, **__: (tried_ones, []))
    monkeypatch.setattr(study, "fewest_replicas", lambda *_: tried(1, 0.5))
    monkeypatch.setattr(study, "best_split", lambda *_: None)
    monkeypatch.setattr(Trials, "run", lambda _, one, replicas: tried(replicas, 0.5))
    monkeypatch.setattr(Trials, "why_not_held", lambda *_: "")
    monkeypatch.setattr(Trials, "surely_met", lambda _, one, replicas: not refuted or one.place.gpus == 2 or replicas > 2)
    light = Trials(Traffic(Arrivals(0.5), Lengths(1), Lengths(100), 600), objectives_of({"e2e-p99": "5s"}), Server())
    found = decide(light, ())
    assert found.good[0][0] == tried_ones[best]
    assert [one.gate for one in found.rejected] == gates


@pytest.mark.parametrize(("rate", "short"), [(100.0, True), (1.0, False)])
def test_numbers_of_a_run_that_has_not_settled_are_said_to_be_so(rate: float, short: bool) -> None:
    """Answers take 10 s, and 300 requests arrive within 3 s or 300 s."""
    traffic = Traffic(Arrivals(rate), Lengths(1), Lengths(1000), 300)
    trials = Trials(traffic, objectives_of({"e2e-p99": "60s"}), Server())
    found = decide(trials, [alone().method])
    plan = reported(found)
    assert (plan.plans[0].short, "has not settled" in plan.verdict) == (short, short)
    pair = found.good[0][0], found.good[0][0]
    split = served_apart(trials, pair, (4, 4), 0.5)
    assert split is not None
    assert (planned_split(trials, split, None).short, "has not settled" in of_split(trials, split, None, "")) == (short, short)


def test_a_plan_that_gets_a_replica_more_takes_its_new_place(monkeypatch: pytest.MonkeyPatch) -> None:
    best, second = drafting(2), drafting(1)
    monkeypatch.setattr(Trials, "surely_met", lambda _, one, replicas: one is second or replicas > 5)
    monkeypatch.setattr(Trials, "run", lambda _, one, replicas: tried(replicas, 0.5))
    found, failed = confirmed(asked(), [(best, tried(2, 0.5)), (second, tried(3, 0.6))], Limits())
    assert [(one is best, trial.replicas) for one, trial in found] == [(False, 3), (True, 4)]
    assert not failed


@pytest.mark.parametrize(("draft", "length"), [(0.5, 1), (1.5, 0)])
def test_guesses_go_on_until_they_cost_more_than_what_being_off_costs(draft: float, length: int) -> None:
    """A guess that never helps costs half of what speculation costs that is configured and off, or half as much again."""
    guessing = drafting(1, rate=0.0, draft=draft * (OFF_FACTOR - 1) * STEP)
    assert {found for _, found in best_schedule([guessing], Demand(1, 100))} == {length}


def test_a_draft_that_wins_at_any_acceptance_flips_nowhere() -> None:
    """Replicas without a draft need two GPUs each. With one that is never right, two of one GPU each serve more."""
    trials, ours, theirs = asked(), drafting(), alone(gpus=2)
    found = [(one, trials.run(one, count)) for one, count in ((ours, 2), (theirs, 3))]
    assert all(trial.met for _, trial in found)
    assert not list(acceptance_flip(trials, found[0], found[1:]))
    as_dear = (alone(), trials.run(alone(), 3))
    (flip,) = acceptance_flip(trials, found[0], [as_dear])
    assert (flip.parameter, flip.beyond, flip.to) == ("acceptance", "below", "ar")
    slow = drafting(draft=1.5 * STEP)  # even if it is always right: two tokens in 25 ms
    assert not list(acceptance_flip(trials, as_dear, [(slow, trials.run(slow, 4))]))
