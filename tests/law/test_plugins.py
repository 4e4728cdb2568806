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
    assert f"Cannot be used: {name} of specdec.strategies" in str(found)


def test_a_strategy_with_the_name_of_another_does_not_replace_it(install: Install) -> None:
    install("specdec.strategies", ("pearl", "strange:OtherPearl"))
    message = "registered more than once, by strategies.pearl:Pearl of the package pearl-specdec and by strange:OtherPearl"
    with pytest.raises(InputError, match=f"pearl of specdec.strategies is {message}: uninstall"):
        specdec.create("pearl")
    with pytest.warns(RuntimeWarning, match=message):
        assert "pearl" not in specdec.available()
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
        ("block", "specdec.verification:token_rule", "registered more than once"),
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
    assert heading == "autoregressive fails 1 of 4 checks"
    assert fault.startswith("gone: gone of specdec.checks cannot be loaded")
    with pytest.warns(RuntimeWarning, match="gone of specdec.checks"):
        assert {"lossless", "decodes", "simulates"} <= checks().keys()
