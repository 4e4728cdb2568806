"""`specdec timeline`: bars, pictures in both themes, and a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sim_commands import COMMON, STEPS, Run, answer, check_pictures, printed


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_timeline_draws_pictures_and_a_trace(tmp_path: Path, run: Run, theme: str) -> None:
    names = [tmp_path / f"rounds.{suffix}" for suffix in ("svg", "png", "html", "json")]
    outputs = [part for name in names for part in ("--output", str(name))]
    found = answer(run, "timeline", "--draft-length", "4", *COMMON, "--theme", theme, *outputs)
    assert len(found["round_tokens"]) == 10
    assert found["target_idle_share"] == pytest.approx(0)
    assert found["draft_idle_share"] == pytest.approx(0.2)
    assert list(found["work"][0]) == ["lane", "kind", "round", "start_seconds", "end_seconds", "rows"]
    check_pictures(names[:3])
    drawing = names[0].read_text()
    for label in ("target", "draft", "draft accepted", "draft rejected", "draft wasted", "waiting"):
        assert f">{label}<" in drawing
    assert ("#14161A" in drawing) == (theme == "dark")
    assert len(json.loads(names[3].read_text())["traceEvents"]) == 2 + 10 + 40


def test_timeline_prints_bars(run: Run) -> None:
    options = ("--strategy", "speculative", "--draft-length", "2", "--acceptance", "1", *STEPS, "--rounds", "3")
    lines = printed(run, "timeline", *options).splitlines()
    target, draft = (next(line for line in lines if line.startswith(lane)) for lane in ("target", "draft"))
    assert target == "target " + "..TTTTT|" * 3
    assert draft == "draft  " + "aa.....|" * 3
    assert max(map(len, lines)) < 80
    assert "A letter is 1.00 ms: every drafted token has one or more." in " ".join(lines)


def test_a_timeline_shows_the_rounds_that_fit(run: Run) -> None:
    slow = ("--strategy", "speculative", "--draft-length", "2", "--acceptance", "1", "--draft-step", "1ms", "--target-step")
    lines = printed(run, "timeline", *slow, "40ms", "--rounds", "3").splitlines()
    assert lines[2] == "draft  " + ("aa" + "." * 40 + "|") * 2
    assert "The first 2 of 3 rounds are shown" in " ".join(lines)
    lines = printed(run, "timeline", *slow, "4s", "--rounds", "1").splitlines()
    assert "drafted tokens may have none" in " ".join(lines)
    assert max(map(len, lines)) <= 110
