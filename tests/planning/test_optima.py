"""Deployments whose best plan can be computed by hand, and the numbers at which the answer changes.

A replica that runs one sequence at a time (batch limit 1) and reads prompts of one token serves 1 / seconds-of-an-answer
requests a second. With `load` as the only question, it takes floor(rate x seconds) + 1 replicas.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sim.planning.candidates import candidates_of
from sim.planning.check import check
from sim.planning.emit import emit
from sim.planning.methods import Method, Place, apart, methods_on_gpu
from sim.planning.objectives import objectives_of
from sim.planning.report import Plan
from sim.planning.study import Limits, plan
from sim.planning.trials import Trials
from sim.setup.acceptance import PerPosition, Rate
from sim.setup.arrays import Floats
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.record import Server
from sim.traffic.workload import Arrivals, Lengths, Traffic
from specdec import InputError
from specdec.acceptance import Foresight

TARGET = 0.010
ANSWER = 100
ONE_AT_A_TIME = Server(max_batch=1)


def system(draft: float) -> System:
    return System(Constant(draft, TARGET, batches_are_free=True), shared=True)


def ar(gpus: int = 1) -> Method:
    return Method("ar", (Place("shared", system(0.001), gpus),))


def drafting(name: str, rate: float, draft: float, longest: int = 6, gpus: int = 1) -> Method:
    return Method(name, (Place("shared", system(draft), gpus),), Rate(rate), longest, f"{name}-model")


def planned(methods: list[Method], rate: float, objectives: Mapping[str, str] | None = None, **more: object) -> Plan:
    traffic = Traffic(Arrivals(rate), Lengths(1), Lengths(ANSWER), 600)
    return plan(methods, traffic, objectives or {}, batches=(1,), server=ONE_AT_A_TIME, **more)  # type: ignore[arg-type]


def tokens_of_a_round(rate: float, length: int) -> float:
    return float(np.sum(rate ** np.arange(length + 1)))


def test_a_bad_draft_loses_to_none() -> None:
    """k = 1 at acceptance .1 and a draft step of half a target's: 1.1 tokens in 15 ms, slower than 10 ms each."""
    found = planned([ar(), drafting("draft_model", 0.1, 0.005)], rate=2.5)
    best = found.plans[0]
    assert (best.method, best.replicas) == ("ar", 3)  # an answer takes 1 s: 2.5 of 3 replicas busy
    assert best.load == pytest.approx(2.5 / 3, rel=0.02)


def test_a_good_draft_saves_replicas_and_the_length_is_the_best_one() -> None:
    found = planned([ar(), drafting("draft_model", 0.8, 0.001)], rate=9.3)
    best = found.plans[0]
    seconds = {k: (TARGET + k * 0.001) / tokens_of_a_round(0.8, k) for k in range(1, 7)}
    length = min(seconds, key=lambda k: seconds[k])
    assert best.draft_length == length
    assert best.replicas == int(9.3 * ANSWER * seconds[length] * 1.01) + 1
    flip = next(flip for flip in found.flips if flip.parameter == "acceptance")
    assert (flip.to, flip.beyond) == ("ar", "below")


def test_the_acceptance_at_which_the_draft_stops_paying() -> None:
    """k = 1 at a step of .3: a round is 13 ms for 1 + a tokens, and 10 ms for one without it, so they are equal at a = .3."""
    found = planned([ar(), drafting("draft_model", 0.9, 0.003, longest=1)], rate=3.9)
    assert (found.plans[0].method, found.plans[0].replicas) == ("draft_model", 3)
    flip = next(flip for flip in found.flips if flip.parameter == "acceptance")
    assert flip.at == pytest.approx(0.3, abs=0.02)


def test_the_verdict_compares_equal_plans_and_says_what_of_the_first_token_is_reading() -> None:
    """One replica is enough for either. Guesses are twice as dear as steps here, so the target alone has more headroom."""
    found = planned([ar(), drafting("draft_model", 0.1, 0.020, longest=1)], 0.05, {"ttft-p99": "20s", "tpot-p99": "500ms"})
    assert found.plans[0].method == "ar"
    assert "To read the P99 prompt (1 tokens) takes 10.0 ms on an idle replica." in found.verdict
    assert "Meets them up to" in found.verdict
    equal = re.search(r"k = 1: as many GPUs, less headroom \(\d+ %\), mean TPOT (\S+) ms against (\S+) ms\.", found.verdict)
    assert equal is not None, found.verdict
    assert float(equal[2]) == pytest.approx(10.0, rel=0.05)
    assert float(equal[1]) == pytest.approx(30 / 1.1, rel=0.15)


def test_answers_of_one_token_have_no_tpot_and_a_plan_all_the_same() -> None:
    methods = [ar(), drafting("draft_model", 0.8, 0.001, longest=1)]
    traffic = Traffic(Arrivals(2.5), Lengths(1), Lengths(1), 600)
    found = plan(methods, traffic, {"ttft-p99": "1s", "tpot-p99": "40ms"}, batches=(1,), server=ONE_AT_A_TIME)
    assert [one.tpot_ms for one in found.plans] == [None, None]
    assert "P99 TPOT - of 40.0 ms" in found.verdict
    assert "as many GPUs, less headroom (98 %)." in found.verdict
    assert re.search(r"\n ar +1 +1 +\S+ +- ", str(found))
    assert Plan.from_dict(found.to_dict(), "itself") == found


def test_the_verdict_names_the_strategy_of_the_next_plan_and_no_objective_that_was_not_given() -> None:
    """The draft's own device is the second GPU, so PEARL is the next plan and not the best one."""
    method = Method("draft_model", tuple(apart(system(0.002), None, 1, 1)[:1]), Rate(0.85), 2, "draft")
    found = planned([ar(), method], 0.5, strategies=("pearl",))
    assert found.plans[0].method == "ar"
    assert "Keeps up with at most" in found.verdict
    assert "Meets them" not in found.verdict
    assert "draft model draft with PEARL, k = 2, own device: 2 GPUs" in found.verdict


def test_a_cheap_head_beats_a_better_draft_model() -> None:
    head = Method("eagle3", (Place("shared", system(0.0003)),), PerPosition((0.75, 0.7, 0.6)), 3, "head")
    found = planned([ar(), drafting("draft_model", 0.85, 0.004), head], rate=9.3)
    assert found.plans[0].method == "eagle3"
    assert found.plans[0].draft_length <= 3
    assert all(one.draft_length <= 3 for one in found.plans if one.method == "eagle3")


def test_pearl_wins_where_its_device_costs_less_than_it_saves() -> None:
    """Eight GPUs for the target, one for the draft: PEARL must be 9/8 times as fast as speculative decoding to pay."""
    shared = system(0.002)
    places = (Place("shared", shared, 8), *apart(shared, None, 8, 1, exchange_seconds=0.0))
    method = Method("draft_model", places, Rate(0.85), 8, "draft")
    found = planned([ar(8), method], rate=9.6, limits=Limits(gpus=512))
    best = found.plans[0]
    assert (best.strategy, best.draft_gpus) == ("pearl", 1)
    assert "No production engine serves PEARL" in found.verdict
    dear = Method("draft_model", (places[0], *apart(shared, None, 8, 8, exchange_seconds=0.0)[:1]), Rate(0.85), 8, "draft")
    assert planned([ar(8), dear], rate=9.6, limits=Limits(gpus=512)).plans[0].strategy == "speculative"


def test_forks_win_where_the_draft_foresees_what_the_target_adds() -> None:
    """A miss costs a draft while the target waits: k x 2 ms, in one round of ten; PEARL loses more by its rejections."""
    place = Place("own device", System(Constant(0.002, TARGET, batches_are_free=True)), 8, 1)
    sure = Rate(0.8).foreseeing(Foresight((0.9,), (0.9,)))

    def both(*places: Place, acceptance: Rate = sure) -> Plan:
        method = Method("draft_model", places, acceptance, 6, "draft", {"step": "measured", "acceptance": "measured"})
        limits = Limits(gpus=512)
        return planned([ar(8), method], rate=9.6, limits=limits, strategies=("speculative", "pearl", "saguaro"))

    found = both(place)
    best = found.plans[0]
    rounds = {k: max(TARGET, (k + 1) * 0.002) + 0.1 * k * 0.002 for k in range(1, 7)}
    seconds = {k: rounds[k] / tokens_of_a_round(0.8, k) for k in rounds}
    length = min(seconds, key=lambda k: seconds[k])
    assert (best.strategy, best.draft_length) == ("saguaro", length)
    assert best.replicas == int(9.6 * ANSWER * seconds[length] * 1.01) + 1
    assert "No production engine serves saguaro yet: specdec itself does." in found.verdict
    with pytest.raises(InputError, match="vLLM does not serve saguaro: plan with --strategy speculative"):
        emit(replace(found, target="org/target"), "vllm")
    assert ("foresight" in best.tags, "foresight assumed" in found.verdict) == (False, False)
    guessed = both(place, acceptance=Rate(0.8))
    assert guessed.plans[0].tags["foresight"] == "assumed"
    assert "foresight assumed" in guessed.verdict
    shared = both(Place("shared", system(0.002), 8))
    assert {one.strategy for one in shared.plans} <= {"autoregressive", "speculative"}  # both models in turn: nothing is hidden
    with pytest.raises(InputError, match="saguaro forks, and what a draft step over several branches takes is not known"):
        list(candidates_of([Method("draft_model", (replace(place, system=System(Crowded())),), sure, 2)], ["saguaro"]))


def test_nothing_meets_an_objective_below_the_step() -> None:
    found = planned([ar()], rate=0.5, objectives={"tpot-p99": "9ms"})
    assert not found.plans
    assert found.rejected[0].gate == "tpot-p99 10.0 of 9.00 ms on an idle replica already"
    assert "Nearest is ar" in found.verdict


def test_too_few_gpus_are_said() -> None:
    found = planned([ar()], rate=50, limits=Limits(gpus=4))
    assert not found.plans
    assert found.rejected[0].gate == "load: 1248 % of what 4 GPUs finish"  # 50 x 1 s / 4, but for the first token


class Crowded:
    """Eight rows of a forward are free, and every further one costs as much as an eighth of a forward."""

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return np.asarray(tokens, float) * 0.0005

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        rows = np.asarray(width, float) * np.asarray(batch)
        return np.where(rows > 0, TARGET * np.maximum(1.0, rows / 8), 0.0)


def crowded_methods(chance: float, longest: int) -> list[Method]:
    """Without guesses, 8 sequences share a forward: 800 tokens a second, 10 ms each."""
    shared = System(Crowded(), shared=True)
    head = Method("eagle3", (Place("shared", shared),), Rate(chance), longest, "head")
    return [Method("ar", (Place("shared", shared),)), head]


def crowded(limits: Mapping[str, str], rate: float, chance: float, longest: int, most: int = 64) -> Plan:
    traffic = Traffic(Arrivals(rate), Lengths(1), Lengths(ANSWER), 600)
    return plan(crowded_methods(chance, longest), traffic, limits, batches=(8,), limits=Limits(gpus=most))


def test_guesses_stop_where_rows_are_no_longer_free() -> None:
    """A schedule: 3 guesses for up to 2 sequences, fewer for 4, none for 8, where every row is needed."""
    best = crowded({"tpot-mean": "7.5ms"}, 20.0, 0.7, 3).plans[0]
    lengths = [tier.draft_length for tier in best.schedule]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (3, 0)
    assert best.schedule[0].up_to in (2, 3)


def test_two_deployments_win_where_the_mean_must_be_fast() -> None:
    """One guess gives 1.3 tokens in 10.5 ms for 4 sequences: 8.1 ms a token, 495 tokens a second.

    Alone it keeps 9.2 ms with 4.6 sequences, 500 tokens a second. Half of the requests with it and half without have a mean of
    9.05 ms: 610 tokens a second of a replica.
    """
    found = crowded({"tpot-mean": "9.2ms"}, 60.0, 0.3, 1)
    best, single = found.plans[0], found.plans[1]
    assert {part.method for part in best.parts} == {"eagle3", "ar"}
    assert best.gpus < single.gpus
    assert sum(part.gpus for part in best.parts) == best.gpus
    assert sum(part.share for part in best.parts) == pytest.approx(1)
    assert (best.tpot_ms or np.inf) <= 9.2
    assert found.verdict.startswith(f"Two deployments, {best.gpus} GPUs: ")
    assert emit(replace(found, target="org/target"), "vllm").count("vllm bench serve") == 2
    assert not crowded({"tpot-p99": "10.5ms"}, 60.0, 0.3, 1).plans[0].parts  # all of them must be fast: one deployment


def test_two_deployments_are_found_where_no_single_one_is_and_checked_like_one() -> None:
    limits = {"tpot-mean": "9.2ms"}
    found = crowded(limits, 60.0, 0.3, 1, most=13)
    assert found.plans[0].parts
    assert len(found.plans) == 1
    assert "One alone: No plan meets" in found.verdict
    more = Trials(Traffic(Arrivals(60.0), Lengths(1), Lengths(ANSWER), 6000), objectives_of(limits), Server(), seed=9)
    checked = check(found, more, crowded_methods(0.3, 1), ("speculative",), (8,))
    assert checked.holds
    assert checked.again is not None
    assert len(checked.again.parts) == 2


def test_a_length_that_only_a_few_sequences_like_is_found() -> None:
    """On a GPU, short drafts serve the most requests, and 7 or 8 guesses the few ones fastest: only from 5 on is E2E met."""
    methods = methods_on_gpu("H100", "qwen3-8b", "qwen3-0.6b", Rate(0.95))
    traffic = Traffic(Arrivals(4.0), Lengths(150), Lengths(200), 600)

    def best(objectives: Mapping[str, str]) -> tuple[int, float]:
        found = plan(methods, traffic, objectives, strategies=["speculative"], schedules=False)
        shared = [one for one in found.plans if one.placement == "shared" and one.draft_length]
        return shared[0].draft_length, shared[0].headroom

    assert best({"e2e-mean": "575ms"})[0] in (7, 8)
    length, headroom = best({"ttft-p99": "500ms", "tpot-p99": "40ms"})
    asked = Trials(traffic, objectives_of({"ttft-p99": "500ms", "tpot-p99": "40ms"}), Server())
    places = [one for one in candidates_of(methods, ["speculative"]) if one.place.name == "shared"]
    most = max(1 - asked.run(one, 1).pressure for one in places)
    assert headroom == pytest.approx(most, abs=1e-3)
    assert length >= 5


def test_a_plan_needs_a_method_and_a_price_that_tells_plans_apart() -> None:
    with pytest.raises(InputError, match="no method is given"):
        planned([], rate=2.5)
    with pytest.raises(InputError, match="a price of inf does not tell plans apart"):
        Limits(price=float("inf"))
