"""The curves of a plan: facts that must hold between them, the plan, and each other."""

import numpy as np
import pytest
from plan_worlds import AR, DRAFT, decided, world

from sim.planning.candidates import Candidate
from sim.planning.curves import ROUNDS, curves
from sim.planning.objectives import statistic_of
from sim.planning.sensitivity import Changed, Sensitivity, odds_of, sensitivity
from sim.planning.study import reported
from sim.planning.trials import Trials
from sim.planning.under_load import around, cache_use
from sim.setup.acceptance import Acceptance, Rate, marginal, recorded
from sim.traffic.record import Server
from sim.traffic.trace import Workload
from sim.traffic.workload import Arrivals, Lengths, Traffic


def test_a_load_curve_passes_through_the_plan() -> None:
    _, plan, found = world()
    by_name = {one.name: one for one in plan.plans}
    assert found.loads
    for curve in found.loads:
        ours = by_name[curve.plan.name]
        at_plan = next(point for point in curve.points if point.rate == plan.rate)
        assert [1e3 * one.value for one in at_plan.seconds] == [ours.ttft_ms, ours.e2e_ms]
        assert at_plan.goodput.value == ours.goodput
        assert (curve.plan.replicas, curve.plan.gpus) == (ours.replicas, ours.gpus)
    assert found.loads[0].sustained == plan.sustained


def test_loads_rise_to_what_can_be_finished_and_intervals_hold_their_values() -> None:
    _, plan, found = world()
    for curve in found.loads:
        rates = [point.rate for point in curve.points]
        assert rates == sorted(set(rates))
        assert rates[0] < 0.5 * plan.rate
        assert rates[-1] < curve.capacity
        numbers = [number for point in curve.points for number in (*point.seconds, point.goodput)]
        assert all(one.low <= one.value <= one.high for one in numbers)
        assert any(one.low < one.high for one in numbers)  # other draws were made
        first, last = (curve.points[at].seconds[1].value for at in (0, -1))
        assert last > first


def test_the_knee_is_where_an_objective_is_missed() -> None:
    found, _, drawn = world()
    limits = [one.seconds for one in found.trials.objectives]
    for curve in drawn.loads:
        for point in curve.points:
            met = all(number.value <= limit for number, limit in zip(point.seconds, limits, strict=True))
            if abs(point.rate / curve.sustained - 1) > 0.05:
                assert met == (point.rate < curve.sustained), (curve.plan.name, point.rate)


def test_attainment_never_falls_with_replicas_and_knows_the_plan() -> None:
    _, plan, found = world()
    replicas = {one.name: one.replicas for one in plan.plans}
    assert len(found.attained) == 3
    for line in found.attained:
        shares = [one.share for one in line]
        assert shares == sorted(shares)
        assert [one.plan.gpus for one in line] == sorted({one.plan.gpus for one in line})
        fewest = min(one.plan.replicas for one in line if one.met)
        assert fewest == replicas[line[0].plan.name]
        assert all(one.share == 0 for one in line if one.load >= 1)


def test_replicas_around_a_number() -> None:
    assert around(1, 8) == [1, 2, 3]
    assert around(4, 5) == [2, 3, 4, 5]
    assert around(40, 100) == [20, 30, 36, 39, 40, 44, 50, 60]


def test_a_frontier_holds_what_nothing_beats() -> None:
    _, _, found = world()
    plain = next(one for one in found.frontiers if one.method == "ar")
    assert (plain.points[-1].per_user, plain.points[-1].per_gpu) == (
        pytest.approx(100),
        pytest.approx(400),
    )  # 4 x 10 ms a token
    assert {(one.method, one.strategy, one.placement) for one in found.frontiers} == {
        ("ar", "autoregressive", "shared"),
        ("draft_model", "speculative", "shared"),
        ("draft_model", "speculative", "own device"),
        ("draft_model", "pearl", "own device"),
    }
    for one in found.frontiers:
        pairs = [(point.per_user, point.per_gpu) for point in one.points]
        assert pairs == sorted(pairs, key=lambda pair: (-round(pair[0], 6), pair[1]))
        assert [gpu for _, gpu in pairs] == sorted({gpu for _, gpu in pairs})


def test_lengths_are_the_plan_s_and_the_chain_is_above_them() -> None:
    _, plan, found = world()
    assert found.lengths is not None
    assert found.lengths.simulated == plan.lengths
    assert found.lengths.plan == plan.plans[0].name
    for one, closed in zip(found.lengths.simulated, found.lengths.closed, strict=True):
        assert 0.5 * closed < one.requests_per_second < closed


def test_the_regret_of_a_length_is_the_share_that_it_serves_less_than_the_best() -> None:
    _, plan, _ = world()
    rates = [one.requests_per_second for one in plan.lengths]
    assert [one.draft_length for one in plan.lengths] == list(range(1, len(rates) + 1))
    assert [one.regret for one in plan.lengths] == pytest.approx([1 - rate / max(rates) for rate in rates])
    assert max(one.regret for one in plan.lengths) > 0.01


def test_rounds_of_both_last_as_long() -> None:
    _, _, found = world()
    ours, plain = found.timelines
    assert (ours.strategy, len(ours.round_tokens)) == ("speculative", ROUNDS)
    assert ours.seconds == pytest.approx(ROUNDS * (3 * 0.001 + 0.010))
    assert (plain.strategy, set(plain.round_tokens)) == ("autoregressive", {1})
    assert plain.seconds == pytest.approx(ours.seconds, abs=0.010)


def test_operating_points_follow_little_and_tpot() -> None:
    found, plan, drawn = world()
    for one, (candidate, trial), ours in zip(drawn.operating[:1], found.good, plan.plans, strict=False):
        assert one.plan.name == candidate.name
        assert one.per_gpu == pytest.approx(ours.output_tokens_per_second / ours.gpus)
        assert trial.latencies is not None
        assert one.per_user == pytest.approx(1 / statistic_of(trial.latencies["tpot"], "mean"))
        assert 1 < one.running < 4  # 18 requests/s of about .29 s on two replicas
        assert one.running == pytest.approx(18 * 0.29 / 2, rel=0.15)


def test_the_cache_in_use_lies_within_its_pool_and_has_the_plan_s_mean() -> None:
    _, plan, found = world()
    best = found.caches[0]
    assert best.pool == plan.plans[0].kv_tokens == 480
    mean, most = np.array(best.mean), np.array(best.most)
    assert (mean <= most).all()
    assert most.max() <= best.pool
    assert most.max() > 1.2 * mean.mean()
    assert mean.mean() / best.pool == pytest.approx(plan.plans[0].kv_share, rel=0.05)  # the plan leaves out its warm-up


def test_the_cache_in_use_is_that_of_all_iterations_where_the_log_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(Traffic(Arrivals(18.0), Lengths(20), Lengths(60), 3000), (), Server())
    one = Candidate(AR, AR.places[0], "autoregressive", 0, max_batch=4)
    whole = np.mean(cache_use(trials, one, 3).mean)
    monkeypatch.setattr("sim.traffic.journal.LONGEST", 2**14)
    assert np.mean(cache_use(trials, one, 3).mean) == pytest.approx(whole, rel=0.03)


# --- sensitivity: one sequence at a time and only the load as a question, so that pressure is rho


def alone(rate: float = 2.4) -> tuple[Trials, Candidate]:
    trials = Trials(Traffic(Arrivals(rate), Lengths(1), Lengths(100), 300), (), Server())
    return trials, Candidate(AR, AR.places[0], "autoregressive", 0, max_batch=1)


def changed(trials: Trials, candidate: Candidate, replicas: int = 3, most: int = 8) -> Sensitivity:
    return sensitivity(trials, (candidate, trials.run(candidate, replicas)), candidate.place.gpus_of(most))


def test_what_a_fifth_does_can_be_computed_by_hand() -> None:
    """An answer takes 1 s: 2.4 requests/s on three replicas are a load of .8."""
    found = changed(*alone())
    assert (found.pressure, found.gpus) == (pytest.approx(0.8, rel=0.01), 3)
    changes = {(one.parameter, one.factor): one for one in found.changes}
    assert {parameter for parameter, _ in changes} == {"target step", "prompt length", "answer length", "load"}
    for parameter in ("target step", "answer length", "load"):
        less, more = changes[parameter, 0.8], changes[parameter, 1.2]
        assert (less.pressure, less.gpus) == (pytest.approx(0.64, rel=0.02), 3)
        assert (more.pressure, more.gpus) == (pytest.approx(0.96, rel=0.02), 3)
    assert changes["prompt length", 1.2].pressure == pytest.approx(0.8, rel=0.01)  # prompts are free here
    assert changes["load", 1.2].value == pytest.approx(2.88)


def test_a_load_that_cannot_be_finished_has_no_pressure_and_needs_more() -> None:
    found = changed(*alone(2.9))
    more = next(one for one in found.changes if (one.parameter, one.factor) == ("load", 1.2))
    assert (more.pressure, more.gpus) == (None, 4)
    capped = changed(*alone(2.9), most=3)
    assert next(one for one in capped.changes if (one.parameter, one.factor) == ("load", 1.2)).gpus is None


def test_a_trace_is_changed_too() -> None:
    trials, candidate = alone()
    work = trials.workload
    trace = Trials(Workload(work.arrival_seconds, work.input_tokens, work.output_tokens), (), Server())
    found = {(one.parameter, one.factor): one for one in changed(trace, candidate).changes}
    planned = trace.run(candidate, 3).pressure
    for parameter in ("answer length", "load"):
        assert found[parameter, 1.2].pressure == pytest.approx(1.2 * planned, rel=0.02)


def test_requests_that_no_cache_holds_are_no_crash() -> None:
    tight = Candidate(AR, AR.places[0], "autoregressive", 0, max_batch=4)
    trials = Trials(Traffic(Arrivals(1.0), Lengths(300), Lengths(300), 100), (), Server())  # 600 of 640 tokens
    longer = next(one for one in changed(trials, tight, 4, 5).changes if (one.parameter, one.factor) == ("prompt length", 1.2))
    assert (longer.pressure, longer.gpus) == (None, None)


def test_draft_parameters_move_the_way_they_must() -> None:
    _, found, _ = world()
    assert found.sensitivity is not None
    by = {(one.parameter, one.factor): one.pressure or 9.0 for one in found.sensitivity.changes}
    assert by["acceptance", 1.2] < found.sensitivity.pressure < by["acceptance", 0.8]
    assert by["draft step", 0.8] < found.sensitivity.pressure < by["draft step", 1.2]
    assert by["target step", 0.8] < by["draft step", 0.8]  # a round is three draft steps of 1 ms and a target step of 10


def test_what_a_plan_hangs_on_is_said() -> None:
    _, plan, _ = world()
    assert f"  {plan.sensitivity}" in str(plan)
    less, more = Changed("load", 0.8, 8.0, 0.5, 2), Changed("load", 1.2, 12.0, 1.2, 3)
    found = Sensitivity(0.7, 2, (less, more, Changed("acceptance", 0.8, 0.6, None, None)))
    assert str(found) == "With one input 20 % off, it needs more than 2 GPUs: load +20 %: 3, acceptance -20 %: too many"
    alike = Sensitivity(0.7, 1, (Changed("load", 0.8, 8.0, 0.5, 1),))
    assert str(alike) == "Hangs on no single input: with any of them 20 % off, it still needs 1 GPU"


@pytest.mark.parametrize("acceptance", [Rate(0.6), marginal((0.7, 0.5, 0.2)), recorded({0: 4, 3: 3, 7: 1})])
def test_odds_make_the_acceptance_that_is_asked_for(acceptance: Acceptance) -> None:
    reached, odds = odds_of(acceptance, 1.2)
    assert reached == pytest.approx(1.2 * acceptance.mean_rate, rel=1e-5)
    assert acceptance.at_odds(odds).mean_rate == reached


def test_odds_come_as_near_as_they_can() -> None:
    assert odds_of(Rate(0.6), 9.0)[0] == pytest.approx(0.99)
    assert odds_of(recorded({0: 1, 3: 1}), 9.0)[0] == pytest.approx(0.75, rel=1e-4)  # no run is longer than three
    assert odds_of(Rate(1.0), 0.8)[0] == 1


def test_without_a_plan_the_frontiers_and_the_nearest_candidate_stay() -> None:
    nothing = decided((AR, DRAFT), gpus=1)  # one replica of AR finishes 6.7 of 18 requests/s
    plan, found = reported(nothing), curves(nothing)
    assert not plan.plans
    assert found.frontiers
    assert (found.attained, found.caches, found.timelines, found.operating) == ((), (), (), ())
    assert found.lengths is None
    assert plan.sensitivity is None
    assert found.loads[0].plan.replicas == 1
    assert all(point.rate < plan.rate for point in found.loads[0].points)
