"""Plug-ins that cannot be used: each is refused by name when it is asked for, and every other one goes on working."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from command_line import with_entry_points

import specdec
from specdec import CheckFailed, InputError, assert_lossless, verification
from specdec.law import prove_all
from specdec.strategy import STRATEGIES
from specdec.testing import checks, run_checks
from strategies import Autoregressive, Pearl

STRANGE = """
from dataclasses import dataclass
from typing import ClassVar

from specdec import DecodingStrategy
from strategies import Pearl

class Plain(DecodingStrategy):
    name: ClassVar[str] = "plain"

    def step(self, state):
        yield

@dataclass(frozen=True)
class Stepless(DecodingStrategy):
    name: ClassVar[str] = "stepless"

@dataclass(frozen=True)
class OtherPearl(Pearl):
    pass

@dataclass(frozen=True)
class Required(DecodingStrategy):
    name: ClassVar[str] = "required"
    length: int

    def step(self, state):
        yield

@dataclass(frozen=True)
class Needing:
    share: float

    def __call__(self, window, bonus, chance):
        return None

text = "no function"
"""
"""A module of a stranger's: strategies that are none, and one with the name of a built-in one."""

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Register `value` as `name` in a group, as if a package did."""
    (tmp_path / "strange.py").write_text(STRANGE)
    (tmp_path / "raising.py").write_text("1 / 0")
    (tmp_path / "misspelled.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)

    def registered(group: str, *entries: tuple[str, str]) -> None:
        with_entry_points(monkeypatch, "specdec.plugins", *(EntryPoint(name, value, group) for name, value in entries))
        forget()

    def forget() -> None:
        specdec.rules.cache_clear()
        verification._named.cache_clear()

    yield registered
    forget()


BROKEN = [
    ("gone", "nowhere:gone", "cannot be loaded from nowhere:gone (ModuleNotFoundError"),
    ("gone", "strange:gone", "reinstall the package that brings it"),
    ("gone", "raising:gone", "ZeroDivisionError: division by zero"),
    ("gone", "misspelled:gone", "SyntaxError"),
    ("gone", "strange:text", "is 'no function', no dataclass of DecodingStrategy with that name"),
    ("gone", "strange:OtherPearl", "with that name and a step: correct strange:OtherPearl"),
    ("plain", "strange:Plain", "no dataclass of DecodingStrategy"),
    ("stepless", "strange:Stepless", "and a step: correct strange:Stepless"),
]


@pytest.mark.parametrize(("name", "value", "message"), BROKEN, ids=[value for _, value, _ in BROKEN])
def test_a_broken_strategy_is_refused_by_name_and_others_work(install: Install, name: str, value: str, message: str) -> None:
    before = specdec.available()
    install("specdec.strategies", (name, value))
    with pytest.raises(InputError) as refused:
        specdec.create(name)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{name} of specdec.strategies ")
    assert specdec.create("pearl", draft_length=2) == Pearl(2)
    with pytest.warns(RuntimeWarning, match=f"left out: {name} of specdec.strategies"):
        assert specdec.available() == before
    found = specdec.installed()
    assert found.broken == {name: str(refused.value)}
    assert [strategy.name for strategy in found.strategies] == list(before)
    assert f"Left out: {name} of specdec.strategies" in str(found)


def test_a_built_in_strategy_keeps_its_name(install: Install) -> None:
    before = specdec.available()
    install("specdec.strategies", ("pearl", "strange:OtherPearl"))
    message = "strange:OtherPearl takes the name of the built-in strategy pearl: give it a name of its own"
    with pytest.warns(RuntimeWarning, match=f"left out: {message}"):
        assert type(specdec.create("pearl")) is Pearl
    with pytest.warns(RuntimeWarning, match=message) as warned:
        assert specdec.available() == before
    assert len(warned) == 1
    assert specdec.installed().broken == {"pearl": message}


def test_two_strangers_with_one_name_are_both_refused(install: Install) -> None:
    install("specdec.strategies", ("mine", "strange:OtherPearl"), ("mine", "strange:Plain"))
    message = "registered more than once, by strange:OtherPearl and by strange:Plain"
    with pytest.raises(InputError, match=f"mine of specdec.strategies is {message}: uninstall"):
        specdec.create("mine")
    with pytest.warns(RuntimeWarning, match=message):
        assert "mine" not in specdec.available()
    assert specdec.create("speculative").name == "speculative"


def test_a_strategy_that_is_registered_twice_alike_is_one_strategy(install: Install) -> None:
    install("specdec.strategies", ("pearl", "strategies.pearl:Pearl"))
    assert specdec.create("pearl", draft_length=2) == Pearl(2)
    assert not STRATEGIES.sorted_out()[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gone", "nowhere:gone", "cannot be loaded"),
        ("text", "strange:text", r"no function \(window, bonus, chance\)"),
    ],
)
def test_a_broken_rule_is_refused_by_name_and_others_work(install: Install, name: str, value: str, message: str) -> None:
    install("specdec.rules", (name, value))
    with pytest.raises(InputError, match=f"{name} of specdec.rules .*{message}"):
        verification.rule(name)
    assert assert_lossless(Autoregressive(), "match", pairs=1)
    with pytest.warns(RuntimeWarning, match=f"left out: {name} of specdec.rules"):
        found = prove_all([Autoregressive()], pairs=1)
    assert {proof.verification for proof in found.proofs} == {"token", "match", "block"} - {name}


def test_a_check_that_cannot_be_loaded_is_a_fault_and_the_others_are_made(install: Install) -> None:
    install("specdec.checks", ("gone", "nowhere:gone"))
    with pytest.raises(CheckFailed) as failed:
        run_checks(Autoregressive())
    [heading, fault] = str(failed.value).splitlines()
    assert heading == "autoregressive fails 1 of 6 checks"
    assert fault.startswith("gone: gone of specdec.checks cannot be loaded")
    with pytest.warns(RuntimeWarning, match="gone of specdec.checks"):
        assert {"lossless", "decodes", "rows", "lanes", "simulates"} <= checks().keys()


def test_a_rule_with_a_parameter_that_must_be_given_leaves_all_others_as_they_are(install: Install) -> None:
    install("specdec.rules", ("needing", "strange:Needing"))
    assert verification.rule("needing:share=0.5").share == 0.5  # type: ignore[attr-defined]
    with pytest.warns(RuntimeWarning, match="left out: verification needing: .*share"):
        assert list(verification.rules()) == ["token", "match", "block"]


def test_a_parameter_that_is_missing_or_of_another_kind_is_refused(install: Install) -> None:
    install("specdec.strategies", ("required", "strange:Required"))
    with pytest.raises(InputError, match=r"strategy required: .*'length'"):
        specdec.create("required")
    with pytest.raises(InputError, match="strategy pearl has no parameter 'name'"):
        specdec.create("pearl", name="foo")
    for name, parameter, value in (("saguaro", "expected", "high"), ("suffix", "growth", "fast"), ("adaptive", "among", 5)):
        with pytest.raises(InputError, match=f"{parameter} .* is not possible"):
            specdec.create(name, **{parameter: value})
    with pytest.raises(InputError, match=r"samples 2\.5 is not possible"):
        specdec.create("speculative", draft_length="confident:samples=2.5")
    with pytest.raises(InputError, match=r"corpus 2024 .*\./2024"):
        specdec.create("suffix", corpus=2024)
