"""Trials, places and flips: what a plan is decided with, apart from any particular answer."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sim.planning import flips
from sim.planning.candidates import Candidate, candidates_of
from sim.planning.methods import Method, Place, apart, methods_of
from sim.planning.objectives import bound_of, objectives_of, statistic_of
from sim.planning.screen import Demand, batches_of, ceiling
from sim.planning.split import served_apart
from sim.planning.study import Limits, confirmed, lengths_of
from sim.planning.trials import Trial, Trials
from sim.planning.verdict import gate
from sim.setup.acceptance import Rate
from sim.setup.arrays import Floats
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic, Workload
from specdec import InputError
from specdec.acceptance import MeasuredAcceptance
from specdec.profile import DraftTiming, PairNames, Profile, TargetTiming

STEP = 0.010
SHARED = System(Constant(0.001, STEP, batches_are_free=True), shared=True)
AR = Candidate(Method("ar", (Place("shared", SHARED),)), Place("shared", SHARED), "autoregressive", 0, max_batch=1)


def trials(rate: float = 2.5, requests: int = 2400, limit: str = "5s") -> Trials:
    traffic = Traffic(Arrivals(rate), Lengths(1), Lengths(100), requests)
    return Trials(traffic, objectives_of({"e2e-p99": limit}), Server())


def test_the_bound_is_the_order_statistic_that_more_requests_might_show() -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    assert statistic_of(seconds, "p99") == 990
    assert bound_of(seconds, "p99") == 996  # 990 + 1.645 x sqrt(1000 x .99 x .01), rounded up
    assert bound_of(seconds[:20], "p99") == seconds[:20].max()
    assert bound_of(np.array([1.0, np.nan, 3.0]), "mean") == pytest.approx(2 + 1.645 / np.sqrt(2))
    assert bound_of(np.array([2.0, 2.0]), "mean") == 2
    (objective,) = objectives_of({"ttft-p99": 0.993})
    latencies = dict.fromkeys(("ttft", "tpot", "e2e"), seconds / 1000)
    assert objective.pressure(latencies) <= 1  # type: ignore[arg-type]
    assert not objective.surely_met(latencies)  # type: ignore[arg-type]


def test_replicas_of_a_pool_share_the_drafts_devices() -> None:
    own, pool = apart(SHARED, 1000, gpus=2, draft_gpus=1)
    assert [own.gpus_of(n) for n in (1, 4, 5)] == [3, 12, 15]
    assert [pool.gpus_of(n) for n in (1, 4, 5)] == [3, 9, 12]
    assert (own.most_replicas(12), pool.most_replicas(12), pool.most_replicas(2)) == (4, 5, 0)
    assert own.system.network_seconds > 0
    assert not pool.system.in_turn


def test_the_draft_of_a_pool_works_for_all_its_replicas_at_once() -> None:
    class Growing(Constant):
        def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            return np.asarray(tokens) * 0.001 * np.asarray(batch)

    own, pool = apart(System(Growing(0.001, STEP), shared=True), None, 1, 1)
    assert float(pool.system.latency.draft_seconds(3, 2)) == pytest.approx(4 * float(own.system.latency.draft_seconds(3, 2)))
    assert float(pool.system.latency.target_seconds(3, 2)) == float(own.system.latency.target_seconds(3, 2))


def profile(name: str, **more: object) -> Profile:
    draft = () if name == "ar" else (DraftTiming(1, 0, 0.001),)
    acceptance = MeasuredAcceptance(by_position=(0.8, 0.7)) if draft else MeasuredAcceptance()
    made = Profile((TargetTiming(1, 1, 0, STEP),), draft, pair=PairNames("t", name), together=None, acceptance=acceptance)
    return replace(made, **more)  # type: ignore[arg-type]


def test_a_draft_elsewhere_leaves_the_target_the_whole_cache() -> None:
    profiles = {"ar": profile("ar", kv_tokens=900), "draft_model": profile("draft_model", kv_tokens=500)}
    ar, draft = methods_of(profiles | {"eagle3": profile("eagle3", kv_tokens=700)})[:2]
    assert ar.places[0].kv_tokens == 900
    assert {place.name: place.kv_tokens for place in draft.places} == {"shared": 500, "own device": 900, "draft pool": 900}
    assert draft.longest == 2
    head = methods_of({"eagle3": profile("eagle3")})[1]
    assert [place.name for place in head.places] == ["shared"]
    with pytest.raises(InputError, match="for one target"):
        methods_of({"ar": profile("ar"), "eagle3": profile("eagle3", pair=PairNames("other", "head"))})


def test_candidates_overlap_only_where_both_models_can_work_at_once() -> None:
    method = Method("draft_model", (Place("shared", SHARED), *apart(SHARED, None, 1, 1)), Rate(0.8), 2, "d")
    found = {(one.strategy, one.place.name, one.draft_length) for one in candidates_of([method])}
    assert {place for strategy, place, _ in found if strategy == "pearl"} == {"own device", "draft pool"}
    assert {length for *_, length in found} == {1, 2}
    assert len(found) == 2 * (3 + 2)


def test_names_hold_the_batch_limit_where_several_are_tried() -> None:
    method = Method("eagle3", (Place("shared", SHARED),), Rate(0.8), 1, "head")
    assert [one.name for one in candidates_of([method], ["speculative"], [4])] == ["eagle3 k=1"]
    found = [one.name for one in candidates_of([AR.method, method], ["speculative"], [4, 8])]
    assert found == ["ar, batch 4", "ar, batch 8", "eagle3 k=1, batch 4", "eagle3 k=1, batch 8"]


def test_the_ceiling_counts_answers_and_prompts() -> None:
    assert ceiling(AR, Demand(1, 100), ()) == pytest.approx(1 / (100 * STEP))

    class Rows(Constant):
        def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
            return np.asarray(width, float) * np.asarray(batch) * STEP

    slow = replace(AR, place=Place("shared", System(Rows(0.001, STEP), shared=True)))
    assert ceiling(slow, Demand(50, 100), ()) == pytest.approx(1 / (150 * STEP))
    assert ceiling(AR, Demand(1, 100), objectives_of({"tpot-p99": "9ms"})) == 0
    assert ceiling(AR, Demand(1, 100), objectives_of({"e2e-mean": "1010ms"})) > 0
    assert ceiling(AR, Demand(1, 100), objectives_of({"e2e-mean": "990ms"})) == 0
    assert ceiling(slow, Demand(50, 100), objectives_of({"e2e-p99": "1490ms"})) == 0  # 1 s of tokens, and 0.5 s of the prompt


@pytest.mark.parametrize(("most", "batches"), [(1, [1]), (3, [1, 2, 3]), (7, [1, 2, 3, 4, 6, 7]), (3000, [2048, 3000])])
def test_the_ceiling_is_looked_for_up_to_the_batch_limit(most: int, batches: list[int]) -> None:
    one, demand = replace(AR, max_batch=most), Demand(1, 100)
    found = batches_of(one, demand)
    assert found[-len(batches) :] == batches
    assert found == sorted({*found})
    assert ceiling(one, demand, ()) == pytest.approx(most / (100 * STEP))


def test_a_cache_that_is_given_bounds_screening_as_it_bounds_simulation() -> None:
    """A request holds 500 tokens on average: 8 fit beside each other by the place, 4 by what was given."""
    place = Place("shared", SHARED, kv_tokens=4000)
    one = replace(AR, place=place, max_batch=8)
    traffic = Traffic(Arrivals(2.5), Lengths(450), Lengths(100), 100)
    for given, batch in ((None, 8), (2000, 4), (9000, 8)):
        asked = Trials(traffic, (), Server(kv_tokens=given))
        assert batches_of(one, asked.demand)[-1] == batch
        assert ceiling(one, asked.demand, ()) == pytest.approx(batch / (100 * STEP))


def test_a_hopeless_beginning_is_the_whole_trial() -> None:
    asked = trials(rate=0.97, limit="1.2s")  # one replica at 97 %: waits of many seconds
    trial = asked.run(AR, 1)
    assert trial.latencies is not None
    assert len(trial.latencies["e2e"]) < 600
    assert not trial.met
    patient = trials(rate=0.97, limit="900s").run(AR, 1)
    assert len((patient.latencies or {})["e2e"]) == 0.9 * 2400


def test_a_plan_that_more_requests_refute_gets_replicas_or_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = trials()
    good = [(AR, asked.run(AR, 3)), (replace(AR, max_batch=2), asked.run(replace(AR, max_batch=2), 6))]
    monkeypatch.setattr(Trials, "surely_met", lambda _, candidate, replicas: replicas >= 5)
    found, failed = confirmed(asked, good, Limits(gpus=64))
    assert [(one.max_batch, trial.replicas) for one, trial in found] == [(1, 5), (2, 6)]
    assert not failed
    found, failed = confirmed(asked, good, Limits(gpus=4))
    assert [one.max_batch for one, _ in failed] == [1]
    assert [one.max_batch for one, _ in found] == [2]


def test_confirmation_asks_more_requests_with_other_draws() -> None:
    asked = trials(requests=400)
    assert len(asked.longer.workload) == 2000
    assert asked.longer.workload.output_tokens.sum() == 5 * asked.workload.output_tokens.sum()
    assert asked.longer.workload.arrival_seconds[0] != asked.workload.arrival_seconds[0]


def tight() -> tuple[Trials, list[Candidate]]:
    """Requests that a cache holds with two guesses and not with three; and the lengths from one to four."""
    asked = Trials(Traffic(Arrivals(2.5), Lengths(20), Lengths(40, cv=0.5), 300), objectives_of({"e2e-p99": "9s"}), Server())
    longest = int((asked.workload.input_tokens + asked.workload.output_tokens).max())
    asked = replace(asked, server=Server(block_tokens=1, kv_tokens=longest + 3))  # look-ahead is a token more than guesses
    method = Method("eagle3", (Place("shared", SHARED),), Rate(0.8), 4, "head")
    return asked, list(candidates_of([method], ["speculative"], [8]))


def test_a_request_that_no_replica_holds_makes_a_trial_hopeless_and_no_error() -> None:
    asked, lengths = tight()
    trials_of = [asked.run(one, 4) for one in lengths]
    assert [trial.met for trial in trials_of] == [True, True, False, False]
    assert gate(asked, trials_of[2], 64).startswith("kv_tokens ")
    assert "too small for 1 of 300 requests" in gate(asked, trials_of[2], 64)
    assert [one.draft_length for one in lengths_of(asked, (lengths[1], trials_of[1]))] == [1, 2]
    assert served_apart(asked, (lengths[0], lengths[2]), (4, 4), 0.5) is None


def test_a_plan_that_cannot_hold_more_requests_fails_with_its_reason() -> None:
    asked, (_, best, *_) = tight()
    found, failed = confirmed(asked, [(best, asked.run(best, 4))], Limits(gpus=64))
    assert not found
    ((one, trial),) = failed
    assert one is best
    assert re.search("too small for [0-9]+ of 1500 requests", gate(asked, trial, 64))


def test_load_flips_are_where_another_needs_fewer_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas of 1 GPU that sustain 1 a second each, against replicas of 2 GPUs that sustain 2.1."""
    pair = replace(AR, place=Place("shared", SHARED, 2))
    held = {AR: 3.0, pair: 4.2}
    monkeypatch.setattr(flips, "sustained", lambda _, one, replicas: held[one])
    asked = trials(rate=2.5)
    found = list(flips.load_flips(asked, (AR, Trial(3, 0.8)), [(pair, Trial(2, 0.6))]))
    assert [flip.beyond for flip in found] == ["above", "below"]
    assert found[0].at == pytest.approx(4.0, rel=0.02)  # beyond it 5 GPUs of the one, 2 x 2 of the other
    assert found[1].at == pytest.approx(2.1, rel=0.02)  # below it 3 GPUs of the one, 2 of the other
    assert not list(flips.load_flips(asked, (AR, Trial(3, 0.8)), []))


def test_a_workload_is_repeated_one_mean_gap_apart() -> None:
    once = Workload(np.array([0.0, 1.0, 4.0]), np.array([1, 2, 3]), np.array([4, 5, 6]))
    twice = once.repeated(2)
    assert twice.arrival_seconds.tolist() == [0, 1, 4, 6, 7, 10]
    assert twice.input_tokens.tolist() == [1, 2, 3, 1, 2, 3]
    assert once.chosen(slice(1)).output_tokens.tolist() == [4]


def test_an_objective_that_no_request_can_have_is_refused() -> None:
    def asked(answer: int) -> Trials:
        return Trials(Traffic(Arrivals(1.0), Lengths(10), Lengths(answer), 100), objectives_of({"tpot-p99": "40ms"}), Server())

    assert len(asked(2).workload) == 100
    with pytest.raises(InputError, match="an answer of one token has no TPOT"):
        asked(1)
