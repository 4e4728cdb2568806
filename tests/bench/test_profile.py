"""A measured pair as a value: read and written, merged, checked, and printed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specdec import InputError
from specdec.acceptance import FileAcceptance, MeasuredAcceptance
from specdec.profile import DraftTiming, Hardware, PairNames, Profile, Slowdown, TargetTiming

FULL = Profile(
    target_seconds=(TargetTiming(1, 1, 64, 0.0116, 0.04), TargetTiming(4, 1, 64, 0.0125, 0.05)),
    draft_seconds=(DraftTiming(1, 64, 0.00159, 0.1),),
    pair=PairNames("big", "small"),
    hardware=Hardware("a processor", 2, ("cpu", "cpu"), "Linux"),
    versions={"torch": "2.13"},
    date="2026-11-24T22:50:02+00:00",
    draft_start_seconds=0.00148,
    in_turn=Slowdown(1.02, 1.13),
    together=Slowdown(1.3, 1.18),
    round_overhead_seconds=0.000213,
    drafting_overhead_seconds=0.000272,
    acceptance=MeasuredAcceptance(0.8, {0: 2, 3: 6}, {"gsm8k": FileAcceptance(0.8, 100)}),
)
OLD: dict[str, Any] = {
    "target_seconds": [{"width": 1, "batch": 1, "context": 64, "mean": 0.01, "cv": 0.1}],
    "draft_seconds": [{"batch": 1, "context": 64, "mean": 0.002, "cv": 0.1}],
}


def test_a_profile_is_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(FULL.to_dict()))
    assert json.loads(path.read_text())["format"] == "specdec.profile/1"
    assert Profile.read(path) == FULL
    alone = replace(FULL, together=None, hardware=None)
    assert Profile.from_dict(alone.to_dict(), "it") == alone


def test_a_file_without_a_format_and_with_the_times_alone_is_read() -> None:
    found = Profile.from_dict(OLD, "old.json")
    assert (found.pair.target, found.in_turn, found.together) == ("target", Slowdown(), Slowdown())
    assert found.round_overhead_seconds == found.draft_start_seconds == 0
    assert found.drafting_overhead_seconds is None
    assert (found.acceptance.rate, found.acceptance.runs) == (None, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draft_secs": []}, "draft_secs is not a key of specdec.profile/1: did you mean draft_seconds"),
        ({"colour": 1}, "colour is not a key of specdec.profile/1: remove it"),
        ({"target_seconds": [{"width": 1, "batch": 1}]}, "target_seconds.0.context is missing"),
        ({"format": "specdec.bench/1"}, "of format 'specdec.bench/1', and 'specdec.profile/1' is needed here"),
        (
            {"target_seconds": [*OLD["target_seconds"], {"width": 4, "batch": 2, "context": 8, "mean": 0.0}]},
            "target_seconds.1: a target forward of width 4, batch 2, context 8 takes 0.0 seconds",
        ),
        (
            {"target_seconds": [{"width": 4, "batch": 2, "context": 8, "mean": float("nan")}]},
            "a target forward of width 4, batch 2, context 8 takes nan seconds",
        ),
        (
            {"draft_seconds": [{"batch": 2, "context": 8, "mean": -0.1}]},
            "draft_seconds.0: a drafted token of batch 2, context 8 takes -0.1 seconds",
        ),
        ({"draft_seconds": [{"batch": 2, "context": 8, "mean": 0.1, "cv": float("inf")}]}, "varies by inf"),
        ({"draft_seconds": [{"batch": 0, "context": 8, "mean": 0.1}]}, "batch 0, context 8 is not possible"),
        ({"target_seconds": [{"width": 0, "batch": 1, "context": 8, "mean": 0.1}]}, "width 0, batch 1, context 8 is not"),
        ({"in_turn": {"target_factor": 0.0}}, "in_turn: target_factor 0.0 is no slowdown"),
        ({"together": {"draft_factor": float("nan")}}, "together: draft_factor nan is no slowdown"),
        ({"round_overhead_seconds": -1e-3}, "round_overhead_seconds is -0.001, and must be"),
        ({"drafting_overhead_seconds": float("nan")}, "drafting_overhead_seconds is nan, and must be"),
        ({"acceptance": {"rate": 1.5}}, "acceptance rate 1.5 is no probability"),
        ({"acceptance": {"run_lengths": {"2": -1}}}, "run_lengths hold a negative number"),
        ({"draft_start_seconds": "soon"}, "draft_start_seconds is 'soon'"),
    ],
)
def test_what_is_no_profile_is_refused_by_the_name_of_the_key_or_the_timing(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Profile.from_dict({**OLD, **change}, "profile.json")
    assert str(caught.value).startswith("profile.json")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read"), ("no json", "is no JSON"), ("[1]", "holds no JSON object")],
)
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"profile.json {message}"):
        Profile.read(path)


def test_several_profiles_are_merged_by_medians_and_all_their_runs() -> None:
    def other(seconds: float, factor: float, rate: float) -> Profile:
        return replace(
            FULL,
            target_seconds=(TargetTiming(1, 1, 64, seconds, 0.1), FULL.target_seconds[1]),
            together=Slowdown(factor, 1.0),
            round_overhead_seconds=seconds / 100,
            acceptance=MeasuredAcceptance(rate, {0: 1, 2: 3}),
        )

    merged = Profile.merged([other(0.01, 1.5, 0.5), other(0.03, 1.1, 0.6), other(0.02, 1.2, 0.7)])
    assert [timing.mean for timing in merged.target_seconds] == [0.02, FULL.target_seconds[1].mean]
    assert merged.target_seconds[0].width == 1
    assert merged.together == Slowdown(1.2, 1.0)
    assert merged.round_overhead_seconds == 0.0002
    assert merged.acceptance.rate == pytest.approx(0.6)
    assert merged.acceptance.run_lengths == {0: 3, 2: 9}
    assert Profile.merged([replace(FULL, together=None)] * 2).together is None


@pytest.mark.parametrize(
    "change",
    [
        {"pair": PairNames("big", "tiny")},
        {"target_seconds": FULL.target_seconds[:1]},
        {"target_seconds": (replace(FULL.target_seconds[0], context=65), FULL.target_seconds[1])},
        {"draft_seconds": (replace(FULL.draft_seconds[0], batch=2),)},
        {"together": None},
        {"drafting_overhead_seconds": None},
    ],
)
def test_profiles_of_other_pairs_lanes_or_sizes_are_not_merged(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be merged"):
        Profile.merged([FULL, replace(FULL, **change)])


def test_a_part_of_a_report_prints_its_fields() -> None:
    assert str(FULL.draft_seconds[0]) == "DraftTiming(batch=1, context=64, mean=0.00159, cv=0.1, tag='measured', branches=1)"


def test_chances_are_those_of_the_token_after_a_run() -> None:
    """Of 8 runs, 6 have a first token and all of these a second and third; none has a fourth."""
    assert FULL.acceptance.chances() == [6 / 8, 1.0, 1.0, 0.0]
    with pytest.raises(InputError, match="no run of accepted tokens"):
        MeasuredAcceptance(0.8).chances()


def test_a_profile_prints_milliseconds_of_three_digits() -> None:
    lines = str(FULL).splitlines()
    assert lines[:6] == [
        "Pair        big + small",
        "Machine     a processor, 2 cores",
        "Acceptance  80 % of drafted tokens (temperature 1): gsm8k 80 %",
        "In turn     target 1.02x and draft 1.13x their seconds alone; a draft takes 1.48 ms in addition to its tokens",
        "Together    target 1.30x and draft 1.18x their seconds alone",
        "Rounds      0.213 ms outside the forwards without a draft, 0.272 ms with one",
    ]
    assert [line.split() for line in lines if "11.6" in line] == [["1", "1", "64", "11.6", "4", "%"]]
    assert [line.split() for line in lines if "1.59" in line] == [["1", "1", "64", "1.59", "10", "%"]]


def test_what_a_profile_does_not_know_it_does_not_print() -> None:
    text = str(replace(FULL, hardware=None, together=None, acceptance=MeasuredAcceptance()))
    assert "Machine     unknown" in text
    assert "Together    only one works at a time" in text
    assert "Acceptance" not in text
