"""Self-speculation: drafts made of the target's own layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from specdec import InputError, Pair, PairError, create, decode, self_draft
from specdec.testing.models import fresh_logits, greedy_tokens, model

BUNDLED = Path(__file__).parents[2] / "specdec" / "bundled" / "target"


@pytest.fixture(scope="module")
def deep() -> Any:
    return model("llama", num_hidden_layers=4, seed=3)


@pytest.mark.parametrize(("layers", "chosen"), [(2, [0, 1]), ("2", [0, 1]), ("0,2-3", [0, 2, 3]), ("layers:1-1", [1])])
def test_the_draft_is_the_chosen_layers(deep: Any, layers: int | str, chosen: list[int]) -> None:
    by_hand = copy.deepcopy(deep)
    by_hand.model.layers = nn.ModuleList([by_hand.model.layers[number] for number in chosen])
    draft: Any = self_draft(deep, layers)
    assert torch.equal(fresh_logits(draft, [1, 5, 2], 3), fresh_logits(by_hand, [1, 5, 2], 3))
    assert draft.config.num_hidden_layers == len(chosen)
    assert [layer.self_attn.layer_idx for layer in draft.model.layers] == list(range(len(chosen)))  # its own cache's layers
    assert [layer.self_attn.layer_idx for layer in deep.model.layers] == [0, 1, 2, 3]
    assert len(deep.model.layers) == deep.config.num_hidden_layers == 4


def test_no_weight_is_copied(deep: Any) -> None:
    own = {weight.data_ptr() for weight in [*deep.parameters(), *deep.buffers()]}
    draft = self_draft(deep, "0,2")
    assert own >= {weight.data_ptr() for weight in [*draft.parameters(), *draft.buffers()]}


def test_the_draft_sees_weights_that_change(deep: Any) -> None:
    target = copy.deepcopy(deep)
    with Pair(target, self_draft(target, 4), lane="thread") as pair:
        for _ in range(2):
            found = decode(pair, create("speculative", draft_length=3), [1, 2], max_new_tokens=9, temperature=0, eos=())
            assert found.tokens == greedy_tokens(target, [1, 2], 9)
            assert found.statistics.draft_acceptance_rate == 1
            with torch.no_grad():
                target.lm_head.weight.copy_(torch.roll(target.lm_head.weight, 1, 0))


@pytest.mark.parametrize("lane", ["inline", "thread", "process"])
def test_decoding_is_greedy_decoding_on_every_lane(deep: Any, lane: str) -> None:
    expected = greedy_tokens(deep, [3, 1, 2], 12)
    with Pair(deep, self_draft(deep, "0,3"), lane=lane) as pair:
        for name in ("speculative", "pearl", "saguaro"):
            found = decode(pair, create(name, draft_length=3), [3, 1, 2], max_new_tokens=12, temperature=0, eos=())
            assert found.tokens == expected
            assert not found.statistics.draft_failure


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma2", "gemma3", "qwen3"])
def test_other_architectures(architecture: str) -> None:
    target = model(architecture)
    for layers in ("1", "1-1"):
        pair = Pair(target, self_draft(target, layers), lane="inline")
        found = decode(pair, create("speculative", draft_length=2), [1, 2, 3], max_new_tokens=10, temperature=0, eos=())
        assert found.tokens == greedy_tokens(target, [1, 2, 3], 10)
        assert not found.statistics.draft_failure


def test_types_of_layers_stay_those_of_the_chosen_layers() -> None:
    target = model("gemma2", num_hidden_layers=4)
    assert target.config.layer_types[1] == target.config.layer_types[3] != target.config.layer_types[0]
    assert self_draft(target, "1,3").config.layer_types == [target.config.layer_types[1]] * 2


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("x", "write layers:8 for the first 8"),
        ("", "names no layers"),
        ("-1", "names no layers"),
        ("9" * 5000, "names no layers"),
        ("0", "at least one"),
        ("2-1", "no rising sequence"),
        ("1,1", "no rising sequence"),
        ("2,0", "no rising sequence"),
        ("5", "asks for layer 4, and the target has layers 0 to 3"),
        ("0-999999", "asks for layer 999999"),
        ("3,9,1", "no rising sequence"),
    ],
)
def test_layers_that_are_not_there_are_refused(deep: Any, layers: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        self_draft(deep, layers)
    assert "\n" not in str(refused.value)


def test_a_target_whose_layers_cannot_be_left_out_is_refused_by_name(deep: Any) -> None:
    unlisted = copy.deepcopy(deep)
    unlisted.model.layers = nn.Sequential(*unlisted.model.layers)
    with pytest.raises(PairError, match="llama has no list of its 4 layers"):
        self_draft(unlisted, 2)
    split = copy.deepcopy(deep)
    split.model.layers = nn.ModuleList([nn.ModuleList(deep.model.layers), nn.ModuleList(deep.model.layers)])
    with pytest.raises(PairError, match="llama has 2 lists of 4 layers"):
        self_draft(split, 2)
    with pytest.raises(PairError, match="offloaded"):
        self_draft(copy.deepcopy(deep).to("meta"), 2)
    mixed = model("gemma3", num_hidden_layers=4)
    mixed.config.kv_sharing_modes = ["own", "own", "own", "reuse"]
    with pytest.raises(PairError, match="gemma3_text has layers of several types"):
        self_draft(mixed, "0,3")


def test_a_pair_is_loaded_with_layers_of_its_target() -> None:
    with Pair.load(BUNDLED, "layers:3,20-21", lane="inline", device="cpu") as pair:
        assert pair.draft is not None
        assert pair.draft.config.num_hidden_layers == 3
        assert pair.tokenizer is not None
        assert pair.draft.name_or_path == "layers:3,20-21"
    with Pair.load("shape:tiny-target", "layers:1", device="cpu", lane="inline") as pair:
        assert pair.draft is not None
        assert pair.draft.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (("shape:tiny-target", "layers:1"), {"draft_device": "cpu"}, "draft_device is for a draft that is loaded"),
        (("shape:tiny-target", "layers:1"), {"draft_revision": "x"}, "draft_revision is for a draft that is loaded"),
        (("layers:1", "shape:tiny-draft"), {}, "layers:1 names layers of a target"),
        (("shape:tiny-target", "layers:3"), {}, "asks for layer 2"),
    ],
)
def test_options_that_mean_nothing_are_refused(names: tuple[str, str], options: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Pair.load(*names, **options)  # type: ignore[arg-type]
