"""Checks of saved plans: whether they hold on more requests, and whether one replica fewer would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plan_worlds import AR, DRAFT, OBJECTIVES, world

from sim.planning.check import check
from sim.planning.entries import planned_split
from sim.planning.split import served_apart
from sim.planning.study import decide, reported
from sim.planning.trials import Trial, Trials
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic


def more(seed: int = 9) -> Trials:
    return Trials(Traffic(Arrivals(18.0), Lengths(20), Lengths(60), 3000), OBJECTIVES, Server(), seed=seed)


def test_a_plan_with_a_replica_to_spare_is_told_from_one_without() -> None:
    _, plan, _ = world()
    best = plan.plans[0]
    assert best.replicas > 1
    tight = check(plan, more(), (AR, DRAFT), ("speculative", "pearl"), (4,))
    assert (tight.holds, tight.fewer_holds) == (True, False)
    assert tight.words.endswith("One replica fewer would not.")
    ample = replace(plan, plans=(replace(best, replicas=best.replicas + 1), *plan.plans[1:]))
    assert check(ample, more(), (AR, DRAFT), ("speculative", "pearl"), (4,)).fewer_holds


def test_two_deployments_have_the_weakest_tags_of_both() -> None:
    found, _, _ = world()
    plans = {one.method.name: one for one, _ in reversed(found.good)}
    split = served_apart(found.trials, (plans["ar"], plans["draft_model"]), (8, 8), 0.5)
    assert split is not None
    beyond = replace(split, trials=(split.trials[0], replace(split.trials[1], extrapolated=0.5)))
    both = planned_split(found.trials, beyond, None)
    assert both.tags == {"step": "extrapolated", "acceptance": "fitted", "traffic": "assumed"}
    assert both.extrapolated_share == 0.5


def test_each_part_is_checked_at_its_own_batch_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sim.planning.check.served_apart", lambda _, pair, *__: asked.append(pair))
    tried = decide(Trials(Traffic(Arrivals(18.0), Lengths(20), Lengths(60), 300), (), Server()), (AR,), batches=(2, 4))
    plan = reported(tried)
    one, other = sorted(plan.plans, key=lambda part: part.max_batch)
    assert (one.name, other.name) == ("ar, batch 2", "ar, batch 4")
    assert check(plan, more(), (AR,), (), (2, 4)).words.startswith(f"{plan.plans[0].name} on ")
    check(replace(plan, plans=(replace(other, parts=(other, one)),)), more(), (AR,), (), (2, 4))
    assert {tuple(part.max_batch for part in pair) for pair in asked} == {(4, 2)}


def test_a_plan_that_cannot_hold_the_requests_of_a_check_does_not_hold() -> None:
    _, plan, _ = world()
    longer = Trials(Traffic(Arrivals(1.0), Lengths(300), Lengths(300), 300), OBJECTIVES, Server())  # 600 of 480 tokens
    found = check(plan, longer, (AR, DRAFT), ("speculative", "pearl"), (4,))
    assert not found.holds
    assert "does not hold over 300 requests: kv_tokens 480 is too small for 300 of 300 requests" in found.words


def test_each_request_goes_to_one_of_two_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = world()
    trials, served = more(), list[int]()
    measured = Trials.measured

    def watched(self: Trials, candidate: Any, replicas: int, workload: Any, load: float) -> Trial:
        served.append(len(workload))
        return measured(self, candidate, replicas, workload, load)

    monkeypatch.setattr(Trials, "measured", watched)
    pair = found.good[0][0], found.good[1][0]
    served_apart(trials, pair, (8, 8), 0.25)
    assert sum(served) == len(trials.workload) == 3000
    assert served[0] == pytest.approx(750, abs=100)
