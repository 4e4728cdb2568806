"""A target split over two processes on gloo gives what one process gives, and a lost rank loses no token."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ranks
from decodes import WORDS
from ranks import PATIENCE_SECONDS, PROMPT
from tiny_models import Beyond

import specdec
from specdec import InputError, Pair, PairError
from specdec.cli import main
from specdec.runtime import parallel
from specdec.runtime.parallel import LOST, Ranks
from specdec.testing.models import byte_tokenizer, model, resembling

VOCABULARY = len(WORDS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, its draft, and a model with a single key head."""
    folder = tmp_path_factory.mktemp("models")
    target = model("llama", VOCABULARY, seed=1, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
    one_key = model("llama", VOCABULARY, seed=1, num_attention_heads=4, num_key_value_heads=1, hidden_size=32)
    for name, made in {"target": target, "draft": resembling(target), "one_key": one_key}.items():
        made.save_pretrained(folder / name)
        byte_tokenizer(WORDS).save_pretrained(folder / name)
    return folder


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A folder for one start of ranks, which sees the models."""
    for name in ("target", "draft", "one_key"):
        (tmp_path / name).symlink_to(models / name)
    return tmp_path


@pytest.fixture
def one_process(models: Path) -> Pair:
    return Pair.load(models / "target", models / "draft", dtype="float64", lane="inline", eager=True)


def test_two_processes_decode_as_one(folder: Path, one_process: Pair) -> None:
    started = ranks.start(ranks.serve_all, folder)
    expected = ranks.decoded(one_process)
    found, codes = ranks.finish(started, folder)
    assert codes == [0, 0]
    assert found["tokens"] == expected
    assert found["why_eager"] == "its weights are split over 2 ranks"
    assert found["interrupted"] == 5
    assert found["tokens after Ctrl-C"] == expected[len(ranks.DECODES) - 1 :]
    assert "key heads (1) that 2 ranks cannot share" in found["one key head"]
    assert "decode with it" in found["generate"]
    assert "keep that pair" in found["second pair"]
    assert found["rank 1 ended"]


@pytest.mark.parametrize(("work", "said"), [(ranks.lose_rank_1, "failed on its 2 ranks"), (ranks.end_rank_0, "told to end")])
def test_a_lost_rank_is_an_error_with_what_was_committed(work: Any, said: str, folder: Path, one_process: Pair) -> None:
    started = ranks.start(work, folder)
    strategy = specdec.create("speculative", draft_length=2)
    whole = specdec.decode(one_process, strategy, PROMPT, max_new_tokens=60, eos=(), seed=1, temperature=1.0).tokens
    found, codes = ranks.finish(started, folder)
    assert codes == ([0, -9] if work is ranks.lose_rank_1 else [0, 0])
    [first, again] = found
    assert said in first[0]
    [tokens] = first[1]
    assert tokens
    assert tokens == list(whole[: len(tokens)])
    assert first[2] < PATIENCE_SECONDS
    assert "start all ranks again" in again[0]


def failing(*_: Any) -> None:
    raise RuntimeError("no memory")


@pytest.mark.parametrize("why", ["split", "fails", "length"])
def test_a_pair_that_is_refused_has_asked_no_rank(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks serve one pair only: this must not have been it."""
    draft = model("llama", seed=2)
    monkeypatch.setattr("specdec.pair.ranks_of", lambda _: pytest.fail("the ranks serve already"))
    monkeypatch.setattr("specdec.pair.is_split", lambda _: why == "split")
    if why == "fails":
        draft.register_forward_pre_hook(failing)
    with pytest.raises((InputError, PairError)):
        Pair(model("llama", seed=1), draft, small_draft_length=3 if why == "length" else None)


def test_the_ranks_of_a_target_that_is_refused_end(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr("specdec.pair.ranks_of", lambda _: SimpleNamespace(close=lambda: closed.append("closed")))
    target = model("llama", seed=1)
    target.register_forward_pre_hook(failing)
    with pytest.raises(PairError):
        Pair(target)
    assert closed == ["closed"]


@pytest.mark.parametrize("why", ["", LOST, "it was told to end"])
def test_signals_come_back_when_a_pair_is_closed(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss, the SIGTERM that torchrun sends is ignored, whether it comes before `close` or after it."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: list[Any] = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda _: 2)
    monkeypatch.setattr(parallel, "send", lambda *_: None)
    split = Ranks(model("llama", seed=1), None)
    assert all(signal.getsignal(number) not in before for number in numbers)
    split.ended = why
    split.close()
    if why == LOST:
        os.kill(os.getpid(), signal.SIGTERM)
    split.close()
    assert [signal.getsignal(number) for number in numbers] == before


def test_no_rank_outlives_rank_0(folder: Path) -> None:
    _, codes = ranks.finish(ranks.start(ranks.kill_rank_0, folder), folder)
    assert codes == [-9, 0]


def test_the_command_line_decodes_on_two_ranks(folder: Path) -> None:
    started = ranks.start(ranks.command_line, folder)
    found, codes = ranks.finish(started, folder)
    assert codes == [0, 0]
    assert found["prompt"] == "abcd"
    assert len(found["tokens"]) == 12


def test_layers_on_the_disk(models: Path, tmp_path: Path, one_process: Pair) -> None:
    """The first weights of a spread model may lie nowhere yet: its inputs go where its forward takes them."""
    places: dict[str, Any] = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    spread: dict[str, Any] = {"device_map": places, "offload_folder": tmp_path}
    pair = Pair.load(models / "target", models / "draft", dtype="float64", lane="inline", **spread)
    assert pair.target.device.type == "meta"
    assert pair.why_eager()["target"] == "its layers lie on several devices (cpu, disk)"
    assert ranks.decoded(pair) == ranks.decoded(one_process)
    own: dict[str, Any] = {"logits_processor": [Beyond(VOCABULARY // 2)], "temperature": 0, "max_new_tokens": 6}
    first, second = (specdec.decode(one, specdec.create("pearl", draft_length=2), PROMPT, **own) for one in (pair, one_process))
    assert first.tokens == second.tokens
    assert min(first.tokens) >= VOCABULARY // 2


def test_a_process_alone_cannot_split(models: Path) -> None:
    with pytest.raises(InputError, match="torchrun --nproc-per-node=2"):
        Pair.load(models / "target", tensor_parallel=True)
    assert main(["generate", "a", "--tensor-parallel"]) == 2
