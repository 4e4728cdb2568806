"""`--help` and `-h`, and what the shell completes."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Ran

from specdec.cli import COMMANDS
from specdec.cli.completion import draft_lengths, parameter_names, rule_names, strategy_names


def test_no_help_names_a_type_of_python(run: Callable[..., Ran]) -> None:
    for name in (*COMMANDS.names(), ""):
        text = run(*name.split(), "--help").out
        assert not re.search(r"<[a-z]", text), (name, re.findall(r"<[a-z][^>]*>", text))
        assert "list[" not in text
        assert "x>=" not in text
    text = run("bench", "--help").out
    assert re.search(r"--repeats +N \[at least 1\] ", text)
    assert re.search(r"--theme +light\|dark ", text)
    assert re.search(r"--chat  +Take ", text)


def test_short_help_leaves_out_special_options_and_names_their_panels(run: Callable[..., Ran]) -> None:
    short, long = run("simulate", "-h").out, run("simulate", "--help").out
    assert ("--input-tokens" in short, "--input-tokens" in long) == (False, True)
    assert "--strategy" in short
    assert "More options: Models and devices, Serving. See specdec simulate --help." in " ".join(short.split())
    assert "Examples:" in long
    assert len(short.splitlines()) < len(long.splitlines()) / 2
    assert run("strategies", "-h").out == run("strategies", "--help").out  # nothing to leave out


@pytest.mark.parametrize(
    ("given", "incomplete", "expected"),
    [
        ({"strategy": "prompt_lookup"}, "", ["draft_length=", "longest_match="]),
        ({"strategy": ["pearl,prompt_lookup"]}, "lo", ["longest_match="]),
        ({"strategy": "nothing"}, "", []),
        ({}, "most_", ["most_drafted="]),
    ],
)
def test_parameters_of_the_chosen_strategies_are_completed(given: dict[str, Any], incomplete: str, expected: list[str]) -> None:
    context: Any = SimpleNamespace(params=given)
    assert parameter_names(context, incomplete) == expected


def test_names_are_completed() -> None:
    assert strategy_names("pea") == ["pearl"]
    assert strategy_names("pearl,spec") == ["pearl,speculative"]
    assert rule_names("bl") == ["block"]
    assert draft_lengths("") == ["auto", "adaedl", "bandit", "closed_form", "confident", "heuristic", "svip"]


@pytest.mark.parametrize(
    ("typed", "expected"), [("bench --strategy pea", "pearl"), ("simulate --strategy elastic --set mo", "most_drafted=")]
)
def test_the_shell_completes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], typed: str, expected: str
) -> None:
    from specdec.cli import main

    words = ["specdec", *typed.split()]
    monkeypatch.setenv("_SPECDEC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit):
        main([])
    assert expected in capfd.readouterr().out
