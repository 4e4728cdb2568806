"""What a benchmark reports: the numbers of its decodes, rankings, greedy outputs, and a file that is read again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_benchmarks import TEXTS, finished, made_up, reported, small, strategies
from tiny_models import minuscule

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
    decode,
)
from specdec.bench import BASELINE, BenchReport, hugging_face, report_of
from specdec.bench.greedy import difference
from specdec.bench.text import noise_sentence, ranking_sentence
from specdec.bench.values import Noise, Ranking, Slower
from specdec.runtime.lane import InlineLane
from specdec.summary import StrategySetting

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("*2026-11-24_bench_*.json"))


@pytest.fixture(scope="module")
def measurement(pair: Pair) -> BenchReport:
    return reported(pair)


def test_the_json_has_the_agreed_keys(measurement: BenchReport) -> None:
    found = json.loads(json.dumps(measurement.to_dict()))
    assert found["format"] == "specdec.bench/1"
    assert found.keys() == {
        "format",
        "pair",
        "hardware",
        "settings",
        "measured",
        "results",
        "ranking",
        "against",
        "noise",
        "greedy_check",
    }
    assert found["measured"].keys() == {
        "target_step_seconds",
        "target_window_seconds",
        "draft_step_seconds",
        "speed_ratio",
        "acceptance_rate",
        "acceptance_rate_by_temperature",
        "foresight",
        "foresight_by_temperature",
        "run_lengths",
        "run_lengths_by_temperature",
        "profile",
    }
    assert found["measured"]["target_window_seconds"].keys() == {"1", "2", "4", "8"}
    for counted in ("acceptance_rate_by_temperature", "run_lengths_by_temperature"):
        assert found["measured"][counted].keys() == {"0", "1"}
    assert found["hardware"].keys() >= {"cpu", "cores", "devices", "torch", "pearl-specdec", "date"}
    for row in found["results"]:
        assert row.keys() == {
            "strategy",
            "parameters",
            "lossless_claimed",
            "temperature",
            "tokens_per_second",
            "speedup_over_ar",
            "speedup_over_ar_interval",
            "speedup_over_ar_by_prompt",
            "mean_acceptance_length",
            "draft_acceptance_rate",
            "tokens_per_target_forward",
            "acceptance_histogram",
            "target_idle_share",
            "draft_idle_share",
            "overhead_share",
            "rounds",
            "new_tokens",
            "synthetic",
            "automatic",
            "drafted_at_once",
            "measured",
            "predicted_tokens_per_second",
            "closed_form_tokens_per_second",
        }


def test_the_numbers_are_those_of_the_decodes(pair: Pair, measurement: BenchReport) -> None:
    assert len(measurement.results) == 2 * len(strategies())
    for found in measurement.results:
        strategy = create(found.strategy, **found.parameters)
        total = Statistics()
        for repeat in range(2):
            for number, text in enumerate(TEXTS):
                seed = repeat * len(TEXTS) + number
                total += decode(pair, strategy, text, max_new_tokens=6, temperature=found.temperature, seed=seed).statistics
        assert found.rounds == total.rounds == sum(found.acceptance_histogram.values())
        assert found.new_tokens == total.new_tokens == 36
        assert found.mean_acceptance_length == total.mean_acceptance_length
        assert found.draft_acceptance_rate == total.draft_acceptance_rate
        assert found.tokens_per_second > 0
        assert found.speedup_over_ar_interval is None  # of two repeats
        if found.strategy == BASELINE:
            assert found.speedup_over_ar == 1


def test_the_pair_is_measured(pair: Pair, measurement: BenchReport) -> None:
    measured = measurement.measured
    assert measured is not None
    assert measured.draft_step_seconds is not None
    assert measured.acceptance_rate is not None
    assert 0 < measured.target_step_seconds < 1
    assert 0 < measured.draft_step_seconds < 1
    assert measured.speed_ratio == pair.speed_ratio()
    assert 0 < measured.acceptance_rate < 1
    twins = reported(Pair(pair.target, pair.target, lane="inline")).measured
    assert twins is not None
    assert twins.acceptance_rate == pytest.approx(1)


def test_the_ranking_compares_the_best_of_each_strategy(pair: Pair) -> None:
    """Made-up seconds: pearl's second setting is the fastest, and speculative's first is its best."""
    lined_up = [create(BASELINE), *(create(n, draft_length=k) for n in ("speculative", "pearl") for k in (1, 2))]
    done = report_of(made_up(pair, lined_up, (8.0, 4.0, 5.0, 3.0, 2.0)))
    assert [found.tokens_per_second for found in done.results] == [0.25, 0.5, 0.4, pytest.approx(2 / 3), 1.0]
    assert [found.speedup_over_ar for found in done.results] == pytest.approx([1, 2, 1.6, 8 / 3, 4])
    slower = [("speculative", {"draft_length": 1}, 2.0), (BASELINE, {}, 4.0)]
    assert done.ranking == (
        Ranking(
            temperature=1.0,
            fastest=StrategySetting("pearl", {"draft_length": 2}),
            against=tuple(Slower(name, values, times_as_fast=x, interval=(x, x)) for name, values, x in slower),
        ),
    )


# --- greedy outputs


@dataclass(frozen=True)
class Hasty(DecodingStrategy):
    """Commits a drafted token that nobody verified."""

    name: ClassVar[str] = "hasty"

    def step(self, state: State) -> Program[State]:
        guess = yield from Draft(state.committed, Guess.empty, 1)
        return state.then(Verdict(Committed(guess.tokens), 1, True))


def test_greedy_outputs_are_checked_token_for_token(pair: Pair) -> None:
    good = reported(pair, temperatures=(0.0,)).greedy_check
    assert good is not None
    assert (good.prompts, good.equal, good.differences) == (3, True, ())
    bad = reported(pair, strategies=[*strategies(), Hasty()], max_new_tokens=24)
    check = bad.greedy_check
    assert check is not None
    assert not check.equal
    assert {found.strategy for found in check.differences} == {"hasty"}
    assert not any(found.tie for found in check.differences)
    assert "of which 0 begin at a tie of two logits: hasty." in " ".join(str(bad).split())


def test_a_difference_at_equal_logits_is_a_tie() -> None:
    flat = minuscule(64, seed=3)
    with torch.no_grad():
        flat.get_output_embeddings().weight[5] = flat.get_output_embeddings().weight[6]
    setting = StrategySetting("pearl", {})
    tied = difference(Pair(flat), setting, 4, [1, 2], [7, 5, 3], [7, 6, 3])
    assert (tied.prompt, tied.position, tied.tokens) == (4, 1, (5, 6))
    assert tied.logit_margin < 1e-12
    assert tied.tie
    assert not difference(Pair(flat), setting, 4, [1, 2], [7, 5, 3], [7, 8, 3]).tie


def test_a_difference_is_asked_of_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is split over ranks refuses forwards past its lane."""
    asked: list[str] = []
    submit = InlineLane.submit
    monkeypatch.setattr(
        InlineLane, "submit", lambda lane, method, *given: (asked.append(method), submit(lane, method, *given))[1]
    )
    difference(Pair(minuscule(64, seed=3)), StrategySetting("pearl", {}), 4, [1, 2], [7, 5, 3], [7, 6, 3])
    assert asked == ["logits"]


def test_sampling_alone_has_no_greedy_check(pair: Pair) -> None:
    assert reported(pair, temperatures=(1.0,), repeats=1).greedy_check is None


# --- files


def test_a_report_is_written_and_read_again(measurement: BenchReport, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(measurement.to_dict()))
    again = BenchReport.read(tmp_path / "bench.json")
    assert again == measurement
    assert str(again) == str(measurement)


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_files_without_a_format_are_read_and_lose_nothing(path: Path) -> None:
    old = json.loads(path.read_text())
    assert "format" not in old
    assert_holds(BenchReport.read(path).to_dict(), old)


def assert_holds(found: Any, old: Any) -> None:
    """`found` has every key of `old` with the same value; what it has beside them is null or empty."""
    match old:
        case dict():
            assert old.keys() <= found.keys()
            for key, value in old.items():
                assert_holds(found[key], value)
        case list():
            assert len(found) == len(old)
            for one, other in zip(found, old, strict=True):
                assert_holds(one, other)
        case _:
            assert found == old
            assert type(found) is type(old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"result": []}, "result is not a key of specdec.bench/1: did you mean results"),
        ({"results": 3}, "results is '3'"),
        ({"pair": {"target": "a"}}, "pair.target_parameters is missing"),
        ({"format": "specdec.profile/1"}, "'specdec.profile/1', and 'specdec.bench/1' is needed"),
    ],
)
def test_what_is_no_benchmark_is_refused_by_its_key(measurement: BenchReport, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"results.json.*{message}"):
        BenchReport.from_dict({**measurement.to_dict(), **change}, "results.json")


# --- sentences


@pytest.mark.parametrize(
    ("fastest", "interval", "expected"),
    [
        ("pearl", (1.1, 1.4), "pearl is the fastest at temperature 1: 1.25x speculative."),
        ("pearl", (0.9, 1.4), "pearl is the fastest at temperature 1: 1.25x speculative (within the noise: speculative)."),
        ("pearl", None, "1.25x speculative (fewer than three repeats: no interval says how sure this is)."),
        ("autoregressive", (1.1, 1.4), "Nothing beats autoregressive decoding at temperature 1: it is 1.25x speculative."),
    ],
)
def test_the_sentence_of_a_ranking_is_honest(fastest: str, interval: tuple[float, float] | None, expected: str) -> None:
    slower = Slower("speculative", {}, times_as_fast=1.25, interval=interval)
    assert ranking_sentence(Ranking(temperature=1.0, fastest=StrategySetting(fastest, {}), against=(slower,))).endswith(
        expected
    )


@pytest.mark.parametrize(
    ("noise", "beforehand", "expected"),
    [
        (Noise(busy=0.1, slowed=1.1), 0.1, ""),
        (Noise(busy=0.4), 0.0, "The machine was busy with other work: 40 % of it"),
        (Noise(), 0.3, "The machine was busy with other work: 30 % of it"),
        (Noise(slowed=1.5), 0.0, "Forwards of the target took 1.50 times as long as beforehand: predictions are too high."),
    ],
)
def test_noise_is_said_in_one_line(measurement: BenchReport, noise: Noise, beforehand: float, expected: str) -> None:
    measured = measurement.measured
    assert measured is not None
    assert measured.profile is not None
    measured = replace(measured, profile=replace(measured.profile, busy=beforehand))
    said = noise_sentence(noise, measured)
    assert said.startswith(expected) if expected else not said
    lines = str(replace(measurement, noise=noise, measured=measured)).splitlines()
    assert any(line.startswith(("The machine was busy", "Forwards of the target")) for line in lines) == bool(expected)
    assert not said or "Measure again" in said


def test_a_benchmark_that_became_slower_than_beforehand_notices(pair: Pair) -> None:
    benchmark = finished(small(pair, repeats=1))
    before = benchmark.measured
    assert before is not None
    benchmark.measured = replace(before, target_window_seconds={1: 1e-9})
    assert report_of(benchmark).noise.slowed > 10
    assert 0 <= report_of(benchmark).noise.busy <= 1


def test_a_report_prints_its_pair_in_milliseconds_and_its_peers_in_sentences(pair: Pair) -> None:
    lined_up = [create(BASELINE), create("speculative", draft_length=2)]
    benchmark = made_up(pair, lined_up, (8.0, 4.0, 10.0, 9.0, 7.0, 6.0), peers=hugging_face(pair))
    lines = str(report_of(benchmark)).splitlines()
    assert lines[2] == "Measured  target step 500 ms, draft step 125 ms, ratio 4.0, acceptance 50 % (temperature 1)"
    assert "Our autoregressive is 1.25x (interval 1.25-1.25) hf_generate." in lines
    assert "Our speculative (draft length 2) is 1.50x (interval 1.50-1.50) hf_assisted (draft length 4)." in lines


def test_finished_benchmarks_of_one_seed_print_the_same_settings(pair: Pair) -> None:
    assert report_of(finished(small(pair, repeats=1))).settings == report_of(finished(small(pair, repeats=1))).settings
