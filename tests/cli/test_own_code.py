"""What a person wrote and did not install: strategies and policies by their place, on every command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Ran, assert_one_line

import specdec
from specdec import Fixed, InputError, SpeedRatio
from specdec.cli.edges import TRACEBACK
from specdec.lengths import as_draft_length
from strategies.lengths import Confident

COMMON = ("--acceptance", "80%", "--draft-step", "1ms", "--target-step", "5ms")
OWN = '''
from dataclasses import dataclass
from typing import ClassVar

from specdec import DraftLength, DraftingStrategy, Score, Verify


@dataclass(frozen=True)
class Climb(DraftLength):
    most: int = 4

    def init(self, facts):
        return 1

    def length(self, memory):
        return memory

    def update(self, memory, verdict):
        return min(memory + 1, self.most) if verdict.complete else 1


@dataclass(frozen=True)
class Mine(DraftingStrategy):
    """A person's own."""

    name: ClassVar[str] = "mine"
    few: int = 1

    def step(self, state):
        guess = yield from self.policy.draft(state)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict, memory=self.policy.update(state.memory, verdict))


class Nameless:
    pass


class Failing(Mine):
    def step(self, state):
        guess = yield from self.policy.draft(state)
        return guess.unknown
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a person's module `own_code`, which is the current one."""
    (tmp_path / "own_code.py").write_text(OWN)
    (tmp_path / "json.py").write_text(OWN)
    (tmp_path / "broken_code.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_code", None)


@pytest.mark.parametrize("place", ["own_code:Mine", "./own_code.py:Mine"])
def test_commands_take_a_strategy_by_its_place(run: Callable[..., Ran], own: Path, place: str) -> None:
    simulated = run("simulate", "--strategy", place, "--draft-length", "3", "--tokens", "200", *COMMON, "--json", "-")
    assert (simulated.json["strategy"], simulated.json["parameters"]) == ("mine", {"draft_length": 3, "few": 1})
    assert run("timeline", "--strategy", place, "--draft-length", "3", *COMMON).out.startswith("mine draft_length=3 few=1: ")
    proved = run("prove", f"{place},pearl", "--pairs", "2", "--verification", "token", "--json", "-")
    assert proved.code == 0
    assert [row["strategy"] for row in proved.json["proofs"]] == ["mine"] * 4 + ["pearl"] * 4


def test_tune_takes_lists_of_strategies_and_of_parameters(run: Callable[..., Ran], own: Path) -> None:
    options = ("tune", *COMMON, "--tokens", "0", "--draft-lengths", "2,3", "--json", "-")
    found = run(*options, "--strategy", "own_code:Mine,pearl", "--set", "few=1-2").json["curves"]
    assert {name: [point["draft_length"] for point in curve] for name, curve in found.items()} == {
        "autoregressive": [None],
        "mine few=1": [2, 3],
        "mine few=2": [2, 3],
        "pearl": [2, 3],
    }
    policies = ("--set", "draft_length=heuristic:most=3", "--set", "draft_length=5")
    names = run("tune", *COMMON, "--tokens", "0", "--strategy", "pearl", *policies, "--json", "-").json["curves"]
    assert list(names) == ["autoregressive", "pearl draft_length=heuristic:most=3", "pearl draft_length=5"]
    assert_one_line(run(*options[:-2], "--set", "fwe=1"), "no strategy that is compared has a parameter 'fwe'")
    assert_one_line(run(*options[:-2], "--set", "few=3-1"), "--set few=3-1 holds no value")


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("own_code:Mnie", ["own_code has no 'Mnie'", "did you mean Mine?"]),
        ("nowhere:Mine", ["nowhere cannot be imported", "ModuleNotFoundError"]),
        ("./nowhere.py:Mine", ["there is no file ./nowhere.py"]),
        ("broken_code:Mine", ["broken_code cannot be imported (ZeroDivisionError"]),
        ("./json.py:Mine", ["another module is called json", "rename the file"]),
        ("own_code:Nameless", ["no frozen dataclass of DecodingStrategy with a name and a step"]),
        ("pearl,elastic", ["one strategy is needed here, and 'pearl,elastic' is a list"]),
    ],
)
def test_what_is_no_strategy_is_refused_in_one_line(run: Callable[..., Ran], own: Path, place: str, parts: list[str]) -> None:
    assert_one_line(run("simulate", "--strategy", place, *COMMON), *parts)


def test_an_error_in_a_persons_strategy_names_the_line_and_is_no_bug(
    run: Callable[..., Ran], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    line = OWN.splitlines().index("        return guess.unknown") + 1
    failed = run("simulate", *COMMON, "--strategy", "./own_code.py:Failing")
    assert_one_line(failed, f"own_code.py line {line}: AttributeError", "'unknown'", "correct it")
    assert "bug" not in failed.err
    proved = run("prove", "--pairs", "2", "--verification", "token", "autoregressive,./own_code.py:Failing")
    assert (proved.code, proved.err) == (1, "")
    assert f"own_code.py line {line}: AttributeError" in proved.out
    assert "1 of 5 laws equal the target's" in proved.out  # the other strategy's proof is kept


def test_a_draft_length_is_a_policy_by_its_name_or_place(own: Path) -> None:
    assert as_draft_length("confident") == Confident()
    assert as_draft_length("confident:most=3,threshold=0.5") == Confident(3, 0.5)
    assert as_draft_length("auto") == SpeedRatio()
    assert as_draft_length(" 7 ") == Fixed(7)
    climb = as_draft_length("./own_code.py:Climb:most=3")
    assert climb == as_draft_length("own_code:Climb:most=3")
    assert climb.update(3, specdec.Verdict(specdec.Committed((1,)), 1, True)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidnet", "'confidnet' is not possible: .* did you mean confident"),
        ("many", "give an integer of at least 1, 'auto', or a policy: adaedl, bandit"),
        ("confident:mots=3", "confident has no parameter 'mots': it takes most, threshold, samples"),
        ("own_code:Mine", "is no dataclass of DraftLength"),
    ],
)
def test_what_is_no_policy_is_refused(own: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_draft_length(text)


def test_a_policy_reaches_a_command_and_its_report_gives_it_back(run: Callable[..., Ran], own: Path) -> None:
    for given in (("--draft-length", "own_code:Climb:most=3"), ("--set", "draft_length=own_code:Climb:most=3")):
        found = run("simulate", "--strategy", "speculative", *given, *COMMON, "--tokens", "200", "--json", "-").json
        assert found["parameters"] == {"draft_length": "own_code:Climb:most=3"}
        assert specdec.create("speculative", **found["parameters"])
