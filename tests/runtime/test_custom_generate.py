"""Every keyword of `generate` with a strategy as `custom_generate`: the law of `generate`, or a refusal by name.

What is right comes from `generate` without a strategy: its tokens where it is greedy; where it samples, its distributions at
every position of the same tokens.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from keywords_of_generate import (
    CHANGES,
    ELSEWHERE,
    REFUSED,
    SAME,
    SHOWN,
    asked,
    difference,
    generated,
)
from transformers import GenerationConfig, GenerationMixin

import specdec
from specdec import InputError
from specdec.huggingface.options import FIELDS, INPUTS, PARAMETERS

STRATEGIES = [
    specdec.create("autoregressive"),
    specdec.create("speculative", draft_length=3),
    specdec.create("pearl", draft_length=3),
]
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {**PARAMETERS, **INPUTS, **FIELDS}

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)


@every_strategy
@pytest.mark.parametrize("name", [*CHANGES, *SAME])
def test_a_keyword_is_used_as_generate_uses_it(name: str, strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keywords = asked(**(CHANGES.get(name) or SAME[name]))
    assert difference(strategy, keywords, monkeypatch) is None


@pytest.mark.parametrize("name", CHANGES)
def test_it_would_be_seen_if_a_keyword_were_ignored(name: str) -> None:
    without = {other: value for other, value in CHANGES[name].items() if other != name}
    try:
        theirs = law(**without)
    except (ValueError, UserWarning):  # generate does not do without
        return
    assert not equal(law(**CHANGES[name]), theirs)


def law(**keywords: Any) -> list[torch.Tensor]:
    """Sequences and scores that `generate` itself gives, with one seed."""
    torch.manual_seed(0)
    output = generated(None, asked(**keywords, return_dict_in_generate=True, output_scores=True))
    return [output.sequences, *output.scores]


def equal(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@every_strategy
@pytest.mark.parametrize("name", REFUSED)
def test_a_keyword_is_refused_by_name(name: str, strategy: Any) -> None:
    with pytest.raises(InputError, match=rf"\b{name}\b.*: .*(leave it out|leave it at)") as refusal:
        generated(strategy, asked(**{name: REFUSED[name]}))
    assert "\n" not in str(refusal.value)


# --- nothing is missing


def test_every_keyword_of_this_transformers_is_in_the_tables() -> None:
    mixin: Any = GenerationMixin
    parameters = set(inspect.signature(mixin.generate).parameters) - {"self", "kwargs"}
    source = inspect.getsource(mixin.generate) + inspect.getsource(mixin._extract_generation_mode_kwargs)
    taken = set(re.findall(r'\bkwargs\.pop\("(\w+)"', source))
    assert parameters | taken == PARAMETERS.keys()
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} == FIELDS.keys()


def test_every_keyword_of_the_tables_is_tried() -> None:
    used = {name for name, option in OPTIONS.items() if option.how != "refused"}
    assert used == {*CHANGES, *SAME, *SHOWN}
    assert OPTIONS.keys() - used == {*REFUSED, *ELSEWHERE}


def test_the_page_shows_the_tables_that_are_tried() -> None:
    page = (ROOT / "docs" / "how-to" / "generate.md").read_text(encoding="utf-8")
    assert re.findall(r"^<!-- keywords (\w+) -->$", page, flags=re.MULTILINE) == ["PARAMETERS", "INPUTS", "FIELDS"]
    assert "docs/theme/keywords.py" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
