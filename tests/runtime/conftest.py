"""Pairs that tests of the runtime share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny_checkpoint
from decodes import (
    GREEDY_PROMPTS,
    GREEDY_TOKENS,
    GREEDY_VOCABULARY,
    WORDS,
    Tokens,
    inline,
    random_prompts,
)
from tiny_models import minuscule

from specdec import Pair
from specdec.runtime.lane import InlineLane, Lane, ThreadLane
from specdec.runtime.worker import NewWorker
from specdec.testing.models import byte_tokenizer, greedy_tokens, model, resembling


@pytest.fixture(scope="session")
def greedy_pair() -> Pair:
    target = minuscule(GREEDY_VOCABULARY, seed=4, hidden_size=16)
    return inline(target, resembling(target, 0.3))


@pytest.fixture(scope="session")
def greedy_references(greedy_pair: Pair) -> dict[Tokens, Tokens]:
    """Argmax after argmax, without cache or loop of ours; each second prompt is one token or repeats itself."""
    prompts = {prompt if i % 4 else prompt * 3 for i, prompt in enumerate(random_prompts(130, GREEDY_VOCABULARY, 9))}
    chosen = sorted(prompts)[:GREEDY_PROMPTS]
    assert len(chosen) == GREEDY_PROMPTS
    return {prompt: greedy_tokens(greedy_pair.target, prompt, GREEDY_TOKENS) for prompt in chosen}


@pytest.fixture(scope="session")
def agreeing_pair() -> Pair:
    """The draft is the target, so that blocks are as long as they can be."""
    target = model("llama", len(WORDS), seed=11)
    return inline(target, resembling(target, 0.0), tokenizer=byte_tokenizer(WORDS))


@pytest.fixture(scope="session")
def target() -> Any:
    return model("llama", 12, seed=1)


@pytest.fixture(scope="session")
def draft(target: Any) -> Any:
    return resembling(target, 0.4)


@pytest.fixture(scope="session")
def process_pair(target: Any, draft: Any) -> Iterator[Pair]:
    """The one draft process of these tests: it takes seconds to start."""
    with Pair(target, draft, lane="process") as pair:
        yield pair


@pytest.fixture(params=["inline", "thread", "process"])
def pair_on_a_lane(request: pytest.FixtureRequest, process_pair: Pair) -> Iterator[Pair]:
    """The same pair on every kind of lane."""
    if request.param == "process":
        yield process_pair
        return
    with Pair(process_pair.target, process_pair.draft, lane=request.param) as made:
        yield made


@pytest.fixture(params=["inline", "thread", "process"])
def lane(request: pytest.FixtureRequest, draft: Any, process_pair: Pair) -> Iterator[Lane]:
    """One of each kind with the same model; the process is shared, since it starts slowly."""
    if request.param == "process":
        shared = process_pair.draft_lane()
        assert shared is not None
        yield shared
        return
    made = {"inline": InlineLane, "thread": ThreadLane}[request.param](NewWorker(draft, 12))
    yield made
    made.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests copy it before they change it."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))
