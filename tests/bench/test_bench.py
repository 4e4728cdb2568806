"""The benchmark: fair order, paired comparisons, what is reported, and what is left when it ends early."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from specdec import (
    Committed,
    DecodingStrategy,
    Draft,
    Guess,
    InputError,
    Pair,
    Program,
    State,
    Statistics,
    Verdict,
    create,
    prompts,
)
from specdec.batch import Result
from specdec.bench import BASELINE, Benchmark, Contender, Ours, Speed, compared, hugging_face, line_up, report
from specdec.bench.chart import speedup_chart
from specdec.bench.peers import Forward, HuggingFaceAssisted, HuggingFaceGenerate, counted
from specdec.bench.prediction import steps
from specdec.bench.report import difference
from specdec.decoding import decode
from specdec.errors import StrategyError
from specdec.profile import acceptance
from specdec.testing.models import fresh_logits, minuscule, resembling

PUBLISHED = Path(__file__).resolve().parents[2] / "shared/data/prompts"
"""The files of HumanEval, GSM8K and MT-bench, where there is a folder of them beside the repository."""

TEXTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
MEASURED: dict[str, Any] = {
    "target_step_seconds": 0.5,
    "target_window_seconds": {"1": 0.5, "4": 0.75},
    "draft_step_seconds": 0.125,
    "speed_ratio": 4.0,
    "acceptance_rate": 0.5,
    "acceptance_rate_by_temperature": {"0": 0.25, "1": 0.5},
}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    target = minuscule(64, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as made:
        yield made


def strategies() -> list[DecodingStrategy]:
    return [create(BASELINE), create("speculative", draft_length=2), create("pearl", draft_length=3)]


def small(pair: Pair, **options: Any) -> Benchmark:
    settings: dict[str, Any] = {"temperatures": (0.0, 1.0), "max_new_tokens": 6, "repeats": 2, **options}
    return Benchmark(pair, settings.pop("strategies", strategies()), settings.pop("texts", TEXTS), **settings)


def finished(benchmark: Benchmark) -> Benchmark:
    for _ in benchmark:
        pass
    return benchmark


@pytest.fixture(scope="module")
def measurement(pair: Pair) -> dict[str, Any]:
    return json.loads(json.dumps(report(finished(small(pair)))))


# --- ratios and intervals


def speeds(seconds: Any, faster: float = 1.0) -> Speed:
    seconds = np.asarray(seconds, float)
    return Speed(np.full(seconds.shape, 10.0), seconds / faster)


def test_a_machine_that_slows_down_between_repeats_changes_no_ratio() -> None:
    slow = np.array([[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]])
    ratio, interval = compared(speeds(slow, faster=1.5), speeds(slow))
    assert ratio == pytest.approx(1.5)
    assert interval == pytest.approx([1.5, 1.5])


def test_one_disturbed_repeat_changes_no_ratio() -> None:
    """Comparing each one's median repeat would say 0.9: the hiccup in the third makes the slow second ours, not theirs."""
    slow = np.array([[1.0], [5.0], [3.0]])
    hiccup = np.array([[1.0], [1.0], [10.0]])
    assert compared(speeds(slow * hiccup, faster=1.5), speeds(slow))[0] == pytest.approx(1.5)


def test_the_ratio_is_that_of_all_tokens_over_all_seconds() -> None:
    """Averaging the ratios of prompts instead would say 1.25: the long prompt counts for more."""
    ratio, _ = compared(speeds([[1.0, 9.0]]), speeds([[2.0, 4.5]]))
    assert ratio == pytest.approx(0.65)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        ours, theirs = (random.lognormal(0, 0.2, (5, 12)) for _ in range(2))
        low, high = compared(speeds(ours, faster=1.2), speeds(theirs))[1]
        held += low < 1.2 < high
    assert 85 <= held <= 100


def test_the_interval_shrinks_with_less_noise() -> None:
    random = np.random.default_rng(2)

    def width(noise: float) -> float:
        low, high = compared(speeds(random.lognormal(0, noise, (3, 8))), speeds(random.lognormal(0, noise, (3, 8))))[1]
        return high - low

    assert width(0.02) < width(0.4) / 4


# --- who runs when


def test_every_cell_has_every_contender_in_turn_on_the_same_prompt_and_seed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def recorded(pair: Pair, strategy: DecodingStrategy, prompt: Any, **options: Any) -> Result:
        asked.append(
            (Contender(Ours(strategy), options["temperature"]), tuple(prompt), options["seed"], options["max_new_tokens"])
        )
        return decode(pair, strategy, prompt, **options)

    monkeypatch.setattr("specdec.bench.run.decode", recorded)
    benchmark = finished(small(pair))
    n = len(benchmark.contenders)
    warm_up, cells = asked[:n], [asked[i : i + n] for i in range(n, len(asked), n)]
    assert len(asked) + 1 == len(benchmark)
    assert {contender for contender, *_ in warm_up} == {*benchmark.contenders}
    assert len(cells) == 2 * len(TEXTS)
    for cell in cells:
        assert {contender for contender, *_ in cell} == {*benchmark.contenders}
        assert len({rest for _, *rest in ((c, p, s, m) for c, p, s, m in cell) for rest in [tuple(rest)]}) == 1
    assert [cell[0][1] for cell in cells] == [tuple(text) for text in TEXTS] * 2
    assert len({cell[0][2] for cell in cells}) == len(cells)  # no two cells draw the same random numbers
    assert all(a[0][0] != b[0][0] for a, b in pairwise(cells))  # nobody always begins


def test_contenders_of_the_default_line_up(pair: Pair) -> None:
    fast = SimpleNamespace(draft=pair.draft, speed_ratio=6.2)
    lengths = lengths_by_name(line_up(fast))  # type: ignore[arg-type]
    assert lengths[BASELINE] == [None]
    assert lengths["speculative"] == [1, 2, 3, 4, 6]
    assert lengths["pearl"] == ["auto", 3, 5, 7]
    assert lengths["prompt_lookup"] == [8]
    slow = SimpleNamespace(draft=pair.draft, speed_ratio=0.9)
    assert lengths_by_name(line_up(slow))["pearl"] == ["auto", 2]  # type: ignore[arg-type]


def lengths_by_name(lined_up: list[DecodingStrategy]) -> dict[str, list[Any]]:
    names = dict.fromkeys(strategy.name for strategy in lined_up)
    return {name: [s.parameters.get("draft_length") for s in lined_up if s.name == name] for name in names}


def test_chosen_contenders(pair: Pair) -> None:
    full = lengths_by_name(line_up(pair, full=True))
    assert full["speculative"] == [*range(1, 9)]
    assert full["pearl"] == ["auto", *range(1, 9)]
    chosen = lengths_by_name(line_up(pair, ["pearl"], [2, 5]))
    assert chosen == {BASELINE: [None], "pearl": ["auto", 2, 5]}


def test_without_a_draft_only_what_needs_none_is_measured(pair: Pair) -> None:
    alone = Pair(pair.target)
    assert {*lengths_by_name(line_up(alone))}.isdisjoint({"pearl", "speculative"})
    measured = report(finished(small(alone, strategies=line_up(alone, ["prompt_lookup"]), temperatures=(0.0,))))
    assert measured["measured"]["draft_step_seconds"] is None
    assert measured["settings"]["draft_lane"] is None
    assert [row["strategy"] for row in measured["results"]] == [BASELINE, "prompt_lookup"]


# --- what is reported


def test_the_report_has_the_agreed_shape(measurement: dict[str, Any]) -> None:
    assert measurement.keys() >= {"pair", "hardware", "settings", "measured", "results"}
    assert measurement["measured"].keys() == {
        "target_step_seconds",
        "target_window_seconds",
        "draft_step_seconds",
        "speed_ratio",
        "acceptance_rate",
        "acceptance_rate_by_temperature",
        "profile",
    }
    assert measurement["measured"]["target_window_seconds"].keys() == {"1", "2", "4", "8"}
    assert measurement["hardware"].keys() >= {"cpu", "cores", "devices", "torch", "date"}
    for row in measurement["results"]:
        assert row.keys() >= {
            "strategy",
            "parameters",
            "temperature",
            "tokens_per_second",
            "speedup_over_ar",
            "speedup_over_ar_interval",
            "mean_acceptance_length",
            "draft_acceptance_rate",
            "acceptance_histogram",
            "target_idle_share",
            "draft_idle_share",
            "overhead_share",
            "predicted_tokens_per_second",
            "closed_form_tokens_per_second",
            "rounds",
            "new_tokens",
        }


def test_the_numbers_are_those_of_the_decodes(pair: Pair, measurement: dict[str, Any]) -> None:
    assert len(measurement["results"]) == 2 * len(strategies())
    for row in measurement["results"]:
        strategy = create(row["strategy"], **row["parameters"])
        total = Statistics()
        for repeat in range(2):
            for number, text in enumerate(TEXTS):
                seed = repeat * len(TEXTS) + number
                total += decode(pair, strategy, text, max_new_tokens=6, temperature=row["temperature"], seed=seed).statistics
        assert row["rounds"] == total.rounds == sum(row["acceptance_histogram"].values())
        assert row["new_tokens"] == total.new_tokens == 36
        assert row["mean_acceptance_length"] == total.mean_acceptance_length
        assert row["draft_acceptance_rate"] == total.draft_acceptance_rate
        assert row["tokens_per_second"] > 0
        low, high = row["speedup_over_ar_interval"]
        assert 0 < low <= high
        if row["strategy"] == BASELINE:
            assert [low, high, row["speedup_over_ar"]] == [1, 1, 1]


def test_the_pair_is_measured(pair: Pair, measurement: dict[str, Any]) -> None:
    measured = measurement["measured"]
    assert 0 < measured["target_step_seconds"] < 1
    assert 0 < measured["draft_step_seconds"] < 1
    assert measured["speed_ratio"] == pair.speed_ratio()
    assert 0 < measured["acceptance_rate"] < 1
    twins = Pair(pair.target, pair.target, lane="inline")
    assert report(finished(small(twins)))["measured"]["acceptance_rate"] == pytest.approx(1)


def made_up(pair: Pair, lined_up: list[DecodingStrategy], seconds: tuple[float, ...], **options: Any) -> Benchmark:
    """A benchmark of three repeats in which each contender took the given seconds for two tokens."""
    benchmark = small(pair, strategies=lined_up, temperatures=(1.0,), texts=[[1]], repeats=3, **options)
    benchmark.measured = MEASURED
    for _ in range(3):
        cell: dict[Contender, Result] = {}
        for contender, taken in zip(benchmark.contenders, seconds, strict=True):
            statistics = Statistics(new_tokens=2, decode_seconds=taken)
            statistics.count_forward(2, taken)
            cell[contender] = Result((1, 2), "", "length", statistics)
        benchmark.cells.append(cell)
    return benchmark


def test_the_ranking_compares_the_best_of_each_strategy(pair: Pair) -> None:
    """Made-up seconds: pearl's second setting is the fastest, and speculative's first is its best."""
    lined_up = [create(BASELINE), *(create(n, draft_length=k) for n in ("speculative", "pearl") for k in (1, 2))]
    done = report(made_up(pair, lined_up, (8.0, 4.0, 5.0, 3.0, 2.0)))
    assert [row["tokens_per_second"] for row in done["results"]] == [0.25, 0.5, 0.4, pytest.approx(2 / 3), 1.0]
    assert [row["speedup_over_ar"] for row in done["results"]] == pytest.approx([1, 2, 1.6, 8 / 3, 4])
    assert done["ranking"] == [
        {
            "temperature": 1.0,
            "fastest": {"strategy": "pearl", "parameters": {"draft_length": 2}},
            "against": [
                {
                    "strategy": "speculative",
                    "parameters": {"draft_length": 1},
                    "times_as_fast": 2.0,
                    "interval": [2.0, 2.0],
                },
                {"strategy": BASELINE, "parameters": {}, "times_as_fast": 4.0, "interval": [4.0, 4.0]},
            ],
        }
    ]


# --- greedy outputs


@dataclass(frozen=True)
class Hasty(DecodingStrategy):
    """Commits a drafted token that nobody verified."""

    name: ClassVar[str] = "hasty"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 1)
        return state.then(Verdict(Committed(guess.tokens), 1, True))


def test_greedy_outputs_are_checked_token_for_token(pair: Pair) -> None:
    good = report(finished(small(pair, temperatures=(0.0,))))["greedy_check"]
    assert good == {"prompts": 3, "equal": True, "differences": []}
    bad = report(finished(small(pair, strategies=[*strategies(), Hasty()], max_new_tokens=24)))["greedy_check"]
    assert bad["equal"] is False
    assert {found["strategy"] for found in bad["differences"]} == {"hasty"}
    assert not any(found["tie"] for found in bad["differences"])


def test_a_difference_at_equal_logits_is_a_tie(pair: Pair) -> None:
    flat = minuscule(64, seed=3)
    with torch.no_grad():
        flat.get_output_embeddings().weight[5] = flat.get_output_embeddings().weight[6]
    tied = difference(Pair(flat), [1, 2], [7, 5, 3], [7, 6, 3])
    assert tied["position"] == 1
    assert tied["logit_margin"] < 1e-12
    assert tied["tie"]
    assert not difference(Pair(flat), [1, 2], [7, 5, 3], [7, 8, 3])["tie"]


def test_sampling_alone_has_no_greedy_check(pair: Pair) -> None:
    assert report(finished(small(pair, temperatures=(1.0,), repeats=1)))["greedy_check"] is None


# --- what ours ought to reach


def test_the_acceptance_of_a_run_is_that_of_its_tests(pair: Pair) -> None:
    """Guesses behind a rejected one were never tested: of three rounds of 2 guesses with 0, 1, 2 accepted, 5 were."""
    statistics = Statistics()
    for accepted in range(3):
        statistics.count_round(accepted, 2, certain=0)
    assert statistics.acceptance_rate == pytest.approx(3 / 5)
    total = Statistics()
    for seed in range(12):
        options: dict[str, Any] = {"max_new_tokens": 100, "seed": seed}
        total += decode(pair, create("speculative", draft_length=4), TEXTS[seed % 3], **options).statistics
    rate = acceptance(pair, TEXTS, new_tokens=400).rate
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
    assert acceptance(pair, TEXTS, new_tokens=20, temperature=0).rate == sum(agreed) / len(agreed)


def test_steps_of_a_run() -> None:
    statistics = Statistics(drafted_tokens=8, draft_busy_seconds=2.0)
    for width, seconds in ((1, 1.0), (3, 2.0), (3, 4.0)):
        statistics.count_forward(width, seconds)
    for accepted in (0, 2, 2):
        statistics.count_round(accepted, 2, certain=0)
    assert steps(statistics) == {
        "target_window_seconds": {"1": 1.0, "3": 3.0},
        "draft_step_seconds": 0.25,
        "acceptance_rate": 0.8,
    }
    assert steps(Statistics())["draft_step_seconds"] is None


def rate_and_window(strategy: DecodingStrategy, profile: dict[str, Any], context: int, tokens: int) -> float:
    """Stands for a predictor: a number that shows what it was told."""
    if strategy.parameters.get("draft_length") == 3:
        raise StrategyError("cannot be compiled")
    assert strategy.parameters.get("draft_length") != "auto"
    timed = "in_turn" in profile
    assert (profile["round_overhead_seconds"] > 0) == timed
    assert timed or {row["context"] for row in (*profile["target_seconds"], *profile["draft_seconds"])} == {context}
    widest = max(profile["target_seconds"], key=lambda row: row["width"])
    return profile["acceptance"]["rate"] + 10 * widest["mean"] + 100 * profile["draft_seconds"][0]["mean"] + 1000 * tokens


def with_predictor(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    installed = EntryPoints(EntryPoint(name, f"{__name__}:rate_and_window", "specdec.predictors") for name in names)
    monkeypatch.setattr("specdec.bench.prediction.entry_points", lambda **wanted: installed.select(**wanted))


def test_predictions_are_made_from_the_steps_before_and_from_the_runs_own(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with_predictor(monkeypatch, "shown")
    lined_up = [create(BASELINE), create("pearl"), create("pearl", draft_length=3), create("prompt_lookup")]
    benchmark = finished(small(pair, strategies=lined_up, repeats=1))
    done = report(benchmark)
    for row in done["results"]:
        drafts, own, before = row["strategy"] == "pearl", row["measured"], done["measured"]
        if row["parameters"].get("draft_length") in (3, 8):  # what the predictor refuses, and what guesses without the draft
            assert row["predicted_tokens_per_second"] is row["closed_form_tokens_per_second"] is None
            continue
        rate = before["acceptance_rate_by_temperature"][f"{row['temperature']:g}"]
        timed = before["profile"]
        expected = rate + 10 * timed["target_seconds"][-1]["mean"] + 100 * timed["draft_seconds"][0]["mean"] + 6000
        assert row["predicted_tokens_per_second"] == pytest.approx(expected, rel=0, abs=1e-9)
        window = [*own["target_window_seconds"].values()][-1]
        expected = (own["acceptance_rate"] or 0) + 10 * window + 100 * (own["draft_step_seconds"] or window) + 6000
        assert row["closed_form_tokens_per_second"] == pytest.approx(expected, rel=0, abs=1e-9)
        assert (own["acceptance_rate"] is not None) == (own["draft_step_seconds"] is not None) == drafts


def test_nothing_is_predicted_for_other_rules_or_without_a_predictor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with_predictor(monkeypatch, "shown")
    benchmark = finished(small(pair, repeats=1, verification="match"))
    assert {row["predicted_tokens_per_second"] for row in report(benchmark)["results"]} == {None}
    benchmark.verification = "token"
    assert None not in {row["predicted_tokens_per_second"] for row in report(benchmark)["results"][:2]}
    with_predictor(monkeypatch)
    assert {row["closed_form_tokens_per_second"] for row in report(benchmark)["results"]} == {None}


# --- peers


OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.0, "verification": "token", "seed": 5}


def test_peers_end_where_ours_do_and_ignore_the_models_own_settings(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A penalty or top_k of the checkpoint's own would change their text, or make it greedy; its end of sequence counts."""
    plain = [decode(pair, create(BASELINE), text, **OPTIONS).tokens for text in TEXTS]
    own = GenerationConfig(eos_token_id=[plain[0][9], 63], repetition_penalty=5.0, top_k=1, do_sample=True)
    monkeypatch.setattr(pair.target, "generation_config", own)
    ours = [decode(pair, create(BASELINE), text, **OPTIONS) for text in TEXTS]
    assert {result.finished_by for result in ours} == {"eos", "length"}
    drafts_own = pair.draft.generation_config if pair.draft else None
    for peer in hugging_face(pair):
        for text, expected in zip(TEXTS, ours, strict=True):
            found = peer.decode(pair, text, **OPTIONS)
            assert (found.tokens, found.finished_by) == (expected.tokens, expected.finished_by)
            assert found.statistics.new_tokens == len(expected.tokens)
            assert found.statistics.rounds + found.statistics.accepted_tokens == len(expected.tokens)
        sampled = [peer.decode(pair, [1], **{**OPTIONS, "temperature": 1.0, "seed": seed}).tokens for seed in (1, 1, 2)]
        assert sampled[0] == sampled[1] != sampled[2]
    assert pair.target.generation_config is own
    assert pair.draft is None or pair.draft.generation_config is drafts_own


def test_peers_leave_the_global_random_numbers_alone_and_no_hook_behind(pair: Pair) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for peer in hugging_face(pair):
        peer.decode(pair, [1], **{**OPTIONS, "temperature": 1.0})
    assert torch.rand(1) == expected
    for model in (pair.target, pair.draft):
        assert model is not None
        assert not model._forward_hooks
        assert not model._forward_pre_hooks


def test_the_budget_ends_at_the_context() -> None:
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=16))
    assert len(HuggingFaceGenerate().decode(limited, [1] * 10, **OPTIONS).tokens) == 6


def test_a_constant_draft_length_is_kept_and_the_default_is_transformers_own(pair: Pair) -> None:
    constant = HuggingFaceAssisted(3).decode(pair, [1, 2], **OPTIONS).statistics
    assert max(constant.window_forwards) == 4
    assert constant.window_forwards[4] >= constant.rounds - 2  # towards the end of the budget there is less to draft
    default = HuggingFaceAssisted().decode(pair, [1, 2], **OPTIONS).statistics
    assert len(default.window_forwards) > 2
    assert default.draft_busy_seconds > 0


def test_the_seconds_of_a_peer_leave_the_prompt_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only goes on in forwards: a second for each token the target reads, a tenth for each the draft does."""
    now = 0.0
    monkeypatch.setattr("specdec.bench.peers.time", SimpleNamespace(perf_counter=lambda: now))

    def costs(price: float) -> Callable[..., None]:
        def work(module: Any, arguments: Any, named: dict[str, Any], output: Any) -> None:
            nonlocal now
            now += price * named["input_ids"].shape[1]

        return work

    assert pair.draft is not None
    hooks = [
        pair.target.register_forward_hook(costs(1.0), with_kwargs=True),
        pair.draft.register_forward_hook(costs(0.1), with_kwargs=True),
    ]
    try:
        plain = HuggingFaceGenerate().decode(pair, [1] * 30, **OPTIONS).statistics
        assisted = HuggingFaceAssisted(3).decode(pair, [1] * 30, **OPTIONS).statistics
    finally:
        for hook in hooks:
            hook.remove()
    assert (plain.decode_seconds, plain.prefill_seconds) == pytest.approx((24, 29))
    assert plain.overhead_share == 0
    assert plain.window_seconds == {1: 24}
    usual = assisted.target_busy_seconds / assisted.rounds
    assert 3 < usual <= 4
    assert assisted.decode_seconds == pytest.approx(assisted.target_busy_seconds + assisted.draft_busy_seconds)
    assert assisted.prefill_seconds == pytest.approx(33 - usual + 0.1 * 30, abs=0.2)


def test_the_forwards_of_a_peer_are_counted_by_round() -> None:
    """A prompt of 10 and 8 new tokens in rounds of 3 guesses: 3, 0 and 2 are accepted; then a late stop commits nothing."""
    target = [Forward(0, 13, 9.0), Forward(13, 4, 3.0), Forward(14, 4, 5.0), Forward(17, 1, 4.0)]
    draft = [Forward(0, 10, 2.0), Forward(10, 1, 0.5), Forward(11, 1, 1.5)]
    found = counted(10, 8, target, draft)
    assert found.acceptance_histogram == {"0": 2, "2": 1, "3": 1}
    assert (found.rounds, found.drafted_tokens, found.accepted_tokens) == (4, 9, 5)
    assert found.window_forwards == {4: 3, 1: 1}
    assert found.window_seconds == {4: 12.0, 1: 4.0}
    assert (found.target_busy_seconds, found.draft_busy_seconds, found.prefill_seconds) == (16.0, 3.0, 6.0)
    assert counted(10, 1, [Forward(0, 10, 9.0)]).prefill_seconds == 0  # nothing to compare it with


def test_a_pair_that_assisted_generation_cannot_serve(pair: Pair) -> None:
    assert [peer.name for peer in hugging_face(Pair(pair.target))] == ["hf_generate"]
    padded = Pair(minuscule(70, seed=3), minuscule(64, seed=3), lane="inline")
    with pytest.raises(InputError, match="70 rows and the draft's 64: leave --against hf out"):
        hugging_face(padded)


def test_peers_have_the_same_lengths_when_asked(pair: Pair) -> None:
    def drafted(**options: Any) -> list[Any]:
        return [peer.parameters.get("draft_length") for peer in hugging_face(pair, **options)]

    assert drafted() == [None, "default", 2, 4]
    assert drafted(draft_lengths=[3]) == [None, "default", 3]
    assert drafted(full=True) == [None, "default", *range(1, 9)]


def test_each_peer_is_compared_with_what_does_the_same_at_its_best(pair: Pair) -> None:
    lined_up = [create(BASELINE), *(create(name, draft_length=k) for name in ("speculative", "pearl") for k in (1, 2))]
    seconds = (8.0, 4.0, 5.0, 3.0, 2.0), (10.0, 9.0, 7.0, 6.0)
    done = report(made_up(pair, lined_up, sum(seconds, ()), peers=hugging_face(pair)))
    assert done["against"] == [
        {
            "temperature": 1.0,
            "peer": "hf_generate",
            "peer_parameters": {},
            "ours": BASELINE,
            "parameters": {},
            "times_as_fast": 1.25,
            "interval": [1.25, 1.25],
        },
        {
            "temperature": 1.0,
            "peer": "hf_assisted",
            "peer_parameters": {"draft_length": 4},
            "ours": "speculative",
            "parameters": {"draft_length": 1},
            "times_as_fast": 1.5,
            "interval": [1.5, 1.5],
        },
    ]
    assert [row["strategy"] for row in done["results"]][-4:] == ["hf_generate", *["hf_assisted"] * 3]
    assert "predicted_tokens_per_second" not in done["results"][-1]
    assert "the first forward of each model" in done["settings"]["peer_seconds"]
    assert report(made_up(pair, lined_up, seconds[0]))["against"] == []


def test_a_peer_that_answers_otherwise_is_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    original = HuggingFaceGenerate.decode

    def other(self: Any, pair: Pair, prompt: Any, **options: Any) -> Result:
        result = original(self, pair, prompt, **options)
        return replace(result, tokens=(*result.tokens[:-1], (result.tokens[-1] + 1) % 64))

    monkeypatch.setattr(HuggingFaceGenerate, "decode", other)
    check = report(finished(small(pair, temperatures=(0.0,), repeats=1, peers=hugging_face(pair))))["greedy_check"]
    assert {found["strategy"] for found in check["differences"]} == {"hf_generate"}
    assert {found["position"] for found in check["differences"]} == {5}


# --- the picture


def drawn(chart: Any) -> list[dict[str, Any]]:
    """The rows of all panels."""
    panels = chart.to_dict()["hconcat"]
    return [row for panel in panels for row in panel["layer"][1]["data"]["values"]]


def test_the_picture_shows_every_contender_with_its_interval(pair: Pair) -> None:
    lined_up = [create(BASELINE), create("pearl"), create("speculative", draft_length=2)]
    done = report(made_up(pair, lined_up, (8.0, 4.0, 5.0, 10.0, 9.0, 7.0, 6.0), peers=hugging_face(pair)))
    done["results"][1]["predicted_tokens_per_second"] = 0.75
    rows = drawn(speedup_chart(done))
    pearl = f"pearl auto={max(1, round(pair.speed_ratio()))}"
    assert [row["label"] for row in rows] == [
        "autoregressive",
        pearl,
        "speculative 2",
        "hf_generate",
        "hf_assisted default",
        "hf_assisted 2",
        "hf_assisted 4",
    ]
    assert rows[1] == {
        "strategy": "pearl",
        "label": pearl,
        "temperature": 1.0,
        "speedup": 2.0,
        "low": 2.0,
        "high": 2.0,
        "predicted": 3.0,
    }
    assert rows[3]["predicted"] is None


# --- ending early


def test_a_time_limit_cuts_the_first_repeat_short(pair: Pair) -> None:
    done = report(finished(small(pair, seconds=0)))
    assert (done["settings"]["repeats"], done["settings"]["prompts"]) == (1, 1)
    assert all(row["new_tokens"] == 6 for row in done["results"])


@pytest.mark.parametrize(
    ("decodes", "shape"),
    [(6, (0, 0)), (6 + 3, (0, 0)), (6 + 6 + 2, (1, 1)), (6 + 6 * 3 + 1, (1, 3)), (6 + 6 * 5 + 5, (1, 3))],
)
def test_an_interrupt_leaves_whole_cells(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, decodes: int, shape: tuple[int, int]
) -> None:
    """Six contenders: a warm-up of six decodes, then six for each cell, three cells for each repeat."""
    count = 0

    def until(*arguments: Any, **options: Any) -> Result:
        nonlocal count
        count += 1
        if count > decodes:
            raise KeyboardInterrupt
        return decode(*arguments, **options)

    monkeypatch.setattr("specdec.bench.run.decode", until)
    benchmark = small(pair)
    with pytest.raises(KeyboardInterrupt):
        finished(benchmark)
    done = report(benchmark)
    assert (done["settings"]["repeats"], done["settings"]["prompts"]) == shape
    assert all(row["new_tokens"] == 6 * shape[0] * shape[1] for row in done["results"])
    assert len(done["results"]) == (6 if shape[0] else 0)


def test_a_prompt_over_the_context_is_named(pair: Pair) -> None:
    limited = Pair(minuscule(64, seed=3, max_position_embeddings=16))
    with pytest.raises(InputError, match="prompt 2 has 16 tokens and the context holds 16"):
        small(limited, texts=[[1], [2] * 16])


# --- prompts


def test_the_bundled_prompts_are_of_three_kinds() -> None:
    texts = prompts.bundled()
    assert len(texts) == 12
    kinds = [
        sum(text.startswith(("def ", "import ", "class ")) for text in texts),
        sum(text.startswith("Question: ") and text.endswith("\nAnswer:") for text in texts),
        sum(text.split("\n")[0].endswith(":") and not text.startswith(("def ", "class ")) for text in texts),
    ]
    assert kinds == [4, 4, 4]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.txt", "one\n\ntwo: 2\n", ["one", "two: 2"]),
        ("human.jsonl", '{"task_id": 1, "prompt": "def f():\\n"}\n', ["def f():\n"]),
        ("human.jsonl.gz", '{"prompt": "a"}\n{"prompt": "b"}', ["a", "b"]),
        ("gsm.jsonl", '{"question": "How many?", "answer": "3"}', ["Question: How many?\nAnswer:"]),
        ("mt.jsonl", '{"turns": ["first", "second"], "category": "x"}', ["first"]),
        ("unnamed", '{"prompt": "line\u2028separator"}', ["line\u2028separator"]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    raw = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert prompts.load(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "count", "begins", "ends"),
    [
        ("HumanEval.jsonl.gz", 164, "from typing import List\n\n\ndef has_close_elements", '"""\n'),
        ("gsm8k_test.jsonl", 1319, "Question: Janet", "?\nAnswer:"),
        ("mt_bench.jsonl", 80, "Compose an engaging travel blog post", "must-see attractions."),
    ],
)
def test_published_prompt_files(name: str, count: int, begins: str, ends: str) -> None:
    if not (PUBLISHED / name).is_file():
        pytest.skip(f"{PUBLISHED / name} is not here")
    texts = prompts.load(PUBLISHED / name)
    assert len(texts) == count
    assert texts[0].startswith(begins)
    assert texts[0].endswith(ends)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("empty.txt", b"\n \n", "holds no prompt: write one a line"),
        ("bad.jsonl", b'{"prompt": "a"}\n{"prompt"', "line 2 is not JSON"),
        ("other.jsonl", b'{"text": "a"}', "line 1 has no prompt: write"),
        ("not.gz", b"plain", "cannot be read"),
        ("cut.gz", gzip.compress(b"plain text")[:-6], "cannot be read"),
        ("bytes.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_prompt_files_that_cannot_be_used(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=message) as caught:
        prompts.load(tmp_path / name)
    assert name in str(caught.value)


# --- the command


@pytest.fixture
def bench(pair: Pair, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`specdec bench` on the small pair, given token ids for texts."""
    from specdec.cli import main

    monkeypatch.setattr("specdec.cli.options.load_pair", lambda *_: pair)
    monkeypatch.setattr("specdec.prompts.bundled", lambda: TEXTS)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["bench", "--max-new-tokens", "6", "--repeats", "1", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize(("columns", "predictor", "more"), [(80, True, 0), (110, True, 2), (110, False, 1)])
def test_the_table_fits_a_terminal(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, columns: int, predictor: bool, more: int
) -> None:
    with_predictor(monkeypatch, *(["shown"] if predictor else []))
    monkeypatch.setattr("specdec.cli.console.WIDTH_OF_FILES", columns)
    code, out, _ = bench("--strategy", "pearl", "--strategy", "prompt_lookup", "--strategy", "speculative")
    assert code == 0
    rows = [line for line in out.splitlines() if re.match(r"\w+( \*)? +(-|auto=\d+|\d+) .* %", line)]
    assert len(rows) >= 2 * 8
    assert max(len(row.rstrip()) for row in rows) <= columns
    assert "…" not in out
    assert [heading in out for heading in ("Overhead:", "Predicted:")] == [more > 0, more > 1]
    assert {len(line.split()) for line in out.splitlines() if line.startswith("strategy")} == {9 + more}
    assert "Greedy (temperature 0)" in out
    assert "Sampled (temperature 1)" in out
    assert "on 3 prompts" in out


def test_json_on_standard_output_is_alone(bench: Callable[..., Any]) -> None:
    code, out, err = bench("--strategy", "speculative", "--draft-lengths", "1-2,4", "--temperature", "1", "--json", "-")
    found = json.loads(out)
    assert code == 0
    assert [row["parameters"].get("draft_length") for row in found["results"]] == [None, 1, 2, 4]
    assert found["settings"]["interrupted"] is False
    assert found["settings"]["prompts_file"] == "bundled"
    assert "tok/s" in err


@pytest.mark.parametrize(
    ("fastest", "interval", "expected"),
    [
        ("pearl", [1.1, 1.4], "pearl is the fastest at temperature 1: 1.25x speculative."),
        ("pearl", [0.9, 1.4], "pearl is the fastest at temperature 1: 1.25x speculative (within the noise: speculative)."),
        ("autoregressive", [1.1, 1.4], "Nothing beats autoregressive decoding at temperature 1: it is 1.25x speculative."),
    ],
)
def test_the_verdict_is_honest(fastest: str, interval: list[float], expected: str) -> None:
    from specdec.cli.bench import verdict

    ranking = {
        "temperature": 1.0,
        "fastest": {"strategy": fastest, "parameters": {}},
        "against": [{"strategy": "speculative", "parameters": {}, "times_as_fast": 1.25, "interval": interval}],
    }
    assert verdict(ranking) == expected


def test_peers_on_the_command_line(bench: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--strategy", "speculative", "--draft-lengths", "2", "--against", "hf")
    code, out, err = bench(*options, "--json", "-", "--output", str(tmp_path / "b.png"), "--output", str(tmp_path / "b.svg"))
    assert code == 0, err
    found = json.loads(out)
    names = ["autoregressive", "speculative", "hf_generate", "hf_assisted", "hf_assisted"]
    assert [row["strategy"] for row in found["results"]] == names * 2
    assert found["greedy_check"]["equal"]
    assert re.search(r"(?m)^Our autoregressive is [\d.]+x \(interval [\d.]+-[\d.]+\) hf_generate\.$", err)
    assert (
        len(re.findall(r"(?m)^Our speculative \(draft length 2\) is .* hf_assisted \(draft length (?:2|default)\)\.$", err))
        == 2
    )
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "hf_assisted default" in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--against", "vllm"), ["'--against'", "'vllm'", "see specdec bench --help"]),
        (("--output", "bench.jpg"), ["bench.jpg", ".svg, .png, .html"]),
    ],
)
def test_what_bench_refuses_before_it_works(bench: Callable[..., Any], options: tuple[str, ...], parts: list[str]) -> None:
    code, out, err = bench(*options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts)
