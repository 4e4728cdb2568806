"""What strategies ought to reach, by an installed predictor."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from types import SimpleNamespace
from typing import Any

import pytest
from small_benchmarks import MEASURED, TEXTS, finished, small

from specdec import DecodingStrategy, Pair, Statistics, create, decode
from specdec.acceptance import MeasuredAcceptance
from specdec.bench import BASELINE, report_of
from specdec.bench.prediction import Question, can_predict, predictor, profile_at, steps_of
from specdec.bench.values import Steps
from specdec.errors import StrategyError
from specdec.measure import measure_acceptance
from specdec.profile import Profile
from specdec.testing.models import fresh_logits


def test_the_acceptance_of_a_run_is_that_of_its_tests(pair: Pair) -> None:
    """Guesses behind a rejected one were never tested: of three rounds of 2 guesses with 0, 1, 2 accepted, 5 were."""
    statistics = Statistics()
    for accepted in range(3):
        statistics.count_round(accepted, 2, certain=0)
    assert statistics.acceptance_rate == pytest.approx(3 / 5)
    total = Statistics()
    for seed in range(12):
        options: dict[str, Any] = {"max_new_tokens": 100, "temperature": 1, "seed": seed}
        total += decode(pair, create("speculative", draft_length=4), TEXTS[seed % 3], **options).statistics
    rate = measure_acceptance(pair, TEXTS, new_tokens=400).rate
    assert total.tested_tokens == sum(n * min(k + 1, 4) for k, n in total.accepted_in_round.items())
    assert abs(total.acceptance_rate - rate) < 0.04
    assert abs(total.draft_acceptance_rate - rate) > 0.08


def test_greedy_acceptance_is_how_often_the_draft_agrees(pair: Pair) -> None:
    agreed: list[bool] = []
    for text in TEXTS:
        tokens = list(text)
        for _ in range(20):
            target, draft = (int(fresh_logits(model, tokens)[-1].argmax()) for model in (pair.target, pair.draft))
            agreed.append(target == draft)
            tokens.append(target)
    assert 0 < sum(agreed) < len(agreed)
    assert measure_acceptance(pair, TEXTS, new_tokens=20, temperature=0).rate == sum(agreed) / len(agreed)


def test_steps_of_a_run() -> None:
    statistics = Statistics(drafted_tokens=60, draft_steps=8, draft_busy_seconds=2.0)
    for width, seconds in ((1, 1.0), (3, 2.0), (3, 4.0)):
        statistics.count_forward(width, seconds)
    for accepted in (0, 2, 2):
        statistics.count_round(accepted, 2, certain=0)
    assert steps_of(statistics) == Steps(target_window_seconds={1: 1.0, 3: 3.0}, draft_step_seconds=0.25, acceptance_rate=0.8)
    assert steps_of(Statistics()).draft_step_seconds is None


def test_runs_of_a_temperature_make_its_prediction() -> None:
    before = replace(MEASURED, run_lengths_by_temperature={"1": {0: 3, 2: 1}})
    assert profile_at(before.at(1.0), None, 100).acceptance == MeasuredAcceptance(0.5, {0: 3, 2: 1})
    assert profile_at(before.at(0.0), None, 100).acceptance == MeasuredAcceptance(0.25)


@pytest.mark.parametrize(
    ("strategy", "verification", "rate", "possible"),
    [
        ("pearl", "token", 0.5, True),
        ("pearl", "synthetic:0.5", 0.5, True),
        ("pearl", "match", 0.5, False),
        ("pearl", "token", None, False),
        (BASELINE, "token", None, True),
        ("prompt_lookup", "token", 0.5, False),
    ],
)
def test_what_can_be_predicted(strategy: str, verification: str, rate: float | None, possible: bool) -> None:
    question = Question(create(strategy), verification, context=10, tokens=10)
    steps = Steps(target_window_seconds={1: 0.5}, draft_step_seconds=0.1, acceptance_rate=rate)
    assert can_predict(question, steps) == possible
    never = Steps(target_window_seconds={}, draft_step_seconds=0.1, acceptance_rate=rate)
    assert not can_predict(question, never)


def rate_and_window(strategy: DecodingStrategy, profile: Profile, context: int, tokens: int) -> float:
    """Stands for a predictor: a number that shows what it was given."""
    if strategy.parameters.get("draft_length") == 3:
        raise StrategyError("cannot be compiled")
    assert strategy.parameters.get("draft_length") != "auto"
    timed = bool(profile.date)
    assert (profile.round_overhead_seconds > 0) == timed
    assert timed or {row.context for row in (*profile.target_seconds, *profile.draft_seconds)} == {context}
    widest = max(profile.target_seconds, key=lambda row: row.width)
    assert profile.acceptance.rate is not None
    return profile.acceptance.rate + 10 * widest.mean + 100 * profile.draft_seconds[0].mean + 1000 * tokens


def with_predictor(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    with_predictors(monkeypatch, *(EntryPoint(name, f"{__name__}:rate_and_window", "specdec.predictors") for name in names))


def with_predictors(monkeypatch: pytest.MonkeyPatch, *predictors: EntryPoint) -> None:
    """Install these instead of the simulator's own."""
    real = entry_points()
    others = [entry for group in real.groups if group != "specdec.predictors" for entry in real.select(group=group)]
    installed = EntryPoints([*others, *predictors])
    monkeypatch.setattr("specdec.plugins.entry_points", lambda **wanted: installed.select(**wanted))


def test_predictions_are_made_from_the_steps_before_and_from_the_runs_own(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with_predictor(monkeypatch, "shown")
    lined_up = [create(BASELINE), create("pearl"), create("pearl", draft_length=3), create("prompt_lookup")]
    done = report_of(finished(small(pair, strategies=lined_up, repeats=1)))
    before = done.measured
    assert before is not None
    timed = before.profile
    assert timed is not None
    for found in done.results:
        drafts, own = found.strategy == "pearl", found.measured
        assert own is not None
        if found.parameters.get("draft_length") in (3, 8):  # what the predictor refuses, and what guesses without the draft
            assert found.predicted_tokens_per_second is found.closed_form_tokens_per_second is None
            continue
        rate = before.acceptance_rate_by_temperature[f"{found.temperature:g}"]
        expected = rate + 10 * timed.target_seconds[-1].mean + 100 * timed.draft_seconds[0].mean + 6000
        assert found.predicted_tokens_per_second == pytest.approx(expected, rel=0, abs=1e-9)
        window = [*own.target_window_seconds.values()][-1]
        expected = (own.acceptance_rate or 0) + 10 * window + 100 * (own.draft_step_seconds or window) + 6000
        assert found.closed_form_tokens_per_second == pytest.approx(expected, rel=0, abs=1e-9)
        assert (own.acceptance_rate is not None) == (own.draft_step_seconds is not None) == drafts


def test_nothing_is_predicted_for_other_rules_or_without_a_predictor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with_predictor(monkeypatch, "shown")
    benchmark = finished(small(pair, repeats=1, verification="match"))
    assert {found.predicted_tokens_per_second for found in report_of(benchmark).results} == {None}
    benchmark.verification = "token"
    assert None not in {found.predicted_tokens_per_second for found in report_of(benchmark).results[:2]}
    with_predictor(monkeypatch)
    assert {found.closed_form_tokens_per_second for found in report_of(benchmark).results} == {None}


def test_a_strangers_predictor_comes_before_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{__name__}:rate_and_window"
    ours: Any = EntryPoint("chain", "sim.study.predict:predict", "specdec.predictors")
    ours = ours._for(SimpleNamespace(name="pearl-specdec"))
    with_predictors(monkeypatch, ours, EntryPoint("mine", where, "specdec.predictors"))
    found = predictor()
    assert found is not None
    assert found.__name__ == "rate_and_window"


def test_a_predictor_that_cannot_be_loaded_leaves_the_place_to_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours: Any = EntryPoint("chain", "sim.study.predict:predict", "specdec.predictors")
    ours = ours._for(SimpleNamespace(name="pearl-specdec"))
    with_predictors(monkeypatch, ours, EntryPoint("mine", "nowhere:predict", "specdec.predictors"))
    with pytest.warns(RuntimeWarning, match="left out: mine of specdec.predictors cannot be loaded"):
        found = predictor()
    assert found is not None
    assert found.__name__ == "predict"
