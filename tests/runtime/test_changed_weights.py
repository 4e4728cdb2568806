"""A decode sees the weights, adapters and hooks that its models have when it starts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from specdec import Decoding, Pair, create, decode
from specdec.runtime.watch import SAMPLED, Watch, evaluation
from specdec.testing.models import greedy_tokens, model, resembling

PROMPT, TOKENS = [1, 2, 3, 1, 2, 3], 12
SPECULATIVE = create("speculative", draft_length=3)


def trained(of: Any) -> None:
    """One step of an optimizer. Large, so that outputs change."""
    optimizer = torch.optim.SGD(of.parameters(), lr=3.0)
    of(input_ids=torch.tensor([PROMPT]), labels=torch.tensor([PROMPT])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def other_weights(of: Any) -> dict[str, Any]:
    return {name: value.roll(1, 0) if value.dim() > 1 else value for name, value in of.state_dict().items()}


def loaded(of: Any) -> None:
    of.load_state_dict(other_weights(of))


def loaded_as_they_are(of: Any) -> None:
    of.load_state_dict(other_weights(of), assign=True)


def first_matrix(of: Any) -> nn.Parameter:
    return of.get_parameter("model.layers.0.mlp.down_proj.weight")


def replaced_data(of: Any) -> None:
    first_matrix(of).data = -first_matrix(of).data


def replaced_data_twice(of: Any) -> None:
    """The second may get the first one's address back."""
    for _ in range(2):
        first_matrix(of).data = 3 * first_matrix(of).data


def edited_data(of: Any) -> None:
    first_matrix(of).data.mul_(-1)


def replaced_module(of: Any) -> None:
    down = of.model.layers[0].mlp.down_proj
    of.model.layers[0].mlp.down_proj = nn.Linear(down.in_features, down.out_features, bias=False, dtype=down.weight.dtype)
    with torch.no_grad():
        of.model.layers[0].mlp.down_proj.weight.copy_(-down.weight)


def negated(*arguments: Any) -> Any:
    return -arguments[-1]


def hooked(of: Any) -> None:
    of.model.layers[0].mlp.register_forward_hook(negated)


def replaced_forward(of: Any) -> None:
    mlp = of.model.layers[0].mlp
    mlp.forward = lambda x: -type(mlp).forward(mlp, x)


CHANGES: list[Callable[[Any], None]] = [
    trained,
    loaded,
    loaded_as_they_are,
    replaced_data,
    replaced_data_twice,
    edited_data,
    replaced_module,
    hooked,
    replaced_forward,
]


@pytest.fixture(scope="module")
def original() -> Any:
    return model("llama", 12, seed=1, dtype=torch.float64)


@pytest.fixture(scope="module")
def similar(original: Any) -> Any:
    return resembling(original, 0.02)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("eager", [False, True], ids=["fused", "eager"])
def test_a_decode_after_a_change_of_the_target_is_as_with_a_new_pair(
    original: Any, similar: Any, change: Callable[[Any], None], eager: bool
) -> None:
    """The same prompt again: keys that are held are of the old weights."""
    target = copy.deepcopy(original)
    with Pair(target, similar, lane="inline", eager=eager) as pair:
        before = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens
        assert before == greedy_tokens(target, PROMPT, TOKENS)
        change(target)
        after = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens
        assert after == greedy_tokens(target, PROMPT, TOKENS) != before


@pytest.mark.parametrize("change", [trained, edited_data, hooked], ids=lambda change: change.__name__)
@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_a_decode_after_a_change_of_the_draft_is_as_with_a_new_pair(
    original: Any, similar: Any, change: Callable[[Any], None], lane: str
) -> None:
    draft = copy.deepcopy(similar)
    with Pair(original, draft, lane=lane) as pair:
        before = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1)
        change(draft)
        after = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1)
        with Pair(original, draft, lane=lane) as fresh:
            expected = decode(fresh, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1)
    assert after.tokens == expected.tokens
    assert after.statistics.accepted_in_round == expected.statistics.accepted_in_round != before.statistics.accepted_in_round


def test_lanes_stay_where_nothing_has_changed(original: Any, similar: Any) -> None:
    """Gradients, modes and other decodes are no changes; and autoregressive decodes do not ask about the draft."""
    target, draft = copy.deepcopy(original), copy.deepcopy(similar)
    with Pair(target, draft, lane="inline", eager=True) as pair:
        decode(pair, SPECULATIVE, PROMPT, max_new_tokens=4)
        lanes = pair.target_lane(), pair.draft_lane()
        target.train()
        target(input_ids=torch.tensor([PROMPT]), labels=torch.tensor([PROMPT])).loss.backward()
        target.requires_grad_(False)
        decode(pair, SPECULATIVE, [4, 5], max_new_tokens=4)
        assert (pair.target_lane(), pair.draft_lane()) == lanes
        trained(draft)
        decode(pair, create("autoregressive"), [4, 5], max_new_tokens=4)
        assert (pair.target_lane(), pair.draft_lane()) == lanes
        decode(pair, SPECULATIVE, [4, 5], max_new_tokens=4)
        assert pair.target_lane() is lanes[0]
        assert pair.draft_lane() is not lanes[1]


def test_an_open_decode_goes_on_when_another_one_finds_new_weights(original: Any, similar: Any) -> None:
    target = copy.deepcopy(original)
    with Pair(target, similar, lane="thread") as pair:
        first = Decoding(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0)
        begun = next(first).tokens
        edited_data(target)
        second = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens
        assert second == greedy_tokens(target, PROMPT, TOKENS)
        for _ in first:
            pass
        expected = greedy_tokens(target, [*PROMPT, *begun], TOKENS - len(begun))
        assert first.result().tokens == (*begun, *expected)


# --- what is watched -------------------------------------------------------------------------------------------------


def test_a_watch_sees_each_change_and_nothing_else(original: Any) -> None:
    for change in CHANGES:
        of = copy.deepcopy(original)
        watch = Watch(of)
        assert not watch.changed()
        with evaluation(of.train()), torch.inference_mode():
            of(input_ids=torch.tensor([PROMPT]))
        assert not watch.changed()
        change(of)
        assert watch.changed(), change
        assert not Watch(of).changed()


def test_values_of_every_tensor_are_sampled(original: Any) -> None:
    of = copy.deepcopy(original)
    for name, tensor in (*of.named_parameters(), *of.named_buffers()):
        watch = Watch(of)
        tensor.data.add_(1)
        assert watch.changed(), name
    weights = first_matrix(of).data
    watch = Watch(of)
    weights[3 :: weights.shape[0] // 4] += 1  # some lines
    assert watch.changed()
    assert weights.numel() > SAMPLED


def test_the_smallest_edit_in_place_is_seen(original: Any) -> None:
    of = copy.deepcopy(original)
    weights = first_matrix(of)
    for row in range(weights.shape[0]):
        watch = Watch(of)
        with torch.no_grad():
            weights[row, 0] += 1
        assert watch.changed()


def test_a_watch_does_not_mind_tensors_of_other_kinds() -> None:
    """On no device, made in inference mode, empty, without a dense layout, or complex."""
    with torch.inference_mode():
        odd = nn.Linear(2, 2)
    odd.register_buffer("nowhere", torch.empty(3, device="meta"))
    odd.register_buffer("empty", torch.empty(0))
    odd.register_buffer("spread", torch.zeros(1).expand(40))
    odd.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
    odd.register_buffer("complex", torch.zeros(40, dtype=torch.complex64))
    odd.register_buffer("sparse", torch.eye(3).to_sparse())
    odd.register_buffer("absent", None)
    watch = Watch(odd)
    assert not watch.changed()
    odd.get_buffer("turned").data[2, 1] = 7
    assert watch.changed()


# --- what leaves no trace --------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """A module of one's own, whose strength is a list that no watch compares."""

    def __init__(self, inner: nn.Module, strength: list[float]) -> None:
        super().__init__()
        self.inner, self.strength = inner, strength

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.strength[0]


@pytest.mark.parametrize("way", ["hook", "module", "forward"])
def test_texts_are_read_again_where_a_model_may_change_unseen(original: Any, similar: Any, way: str) -> None:
    target, strength = copy.deepcopy(original), [1.0]
    layer = target.model.layers[0]
    if way == "hook":
        layer.mlp.register_forward_hook(lambda _, __, out: out * strength[0])
    elif way == "module":
        layer.mlp = Scaled(layer.mlp, strength)
    else:
        forward = layer.mlp.forward
        layer.mlp.forward = lambda x: forward(x) * strength[0]
    with Pair(target, similar, lane="inline") as pair:
        seen: list[tuple[int, ...]] = []
        for strength[0] in (1.0, -2.0):
            seen.append(decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens)
            assert seen[-1] == greedy_tokens(target, PROMPT, TOKENS)
    assert seen[0] != seen[1]


@pytest.mark.parametrize("size", [8, 20])
def test_a_draft_follows_a_target_that_was_resized(original: Any, similar: Any, size: int) -> None:
    target = copy.deepcopy(original)
    with Pair(target, similar, lane="inline") as pair:
        decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0)
        target.resize_token_embeddings(size)
        assert decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens == greedy_tokens(
            target, PROMPT, TOKENS
        )
        decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=0)


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


def adapted(peft: Any, of: Any, name: str, seed: int) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=64, target_modules=["down_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            of.add_adapter(config, adapter_name=name)
        except ValueError as error:  # transformers 5.24 asks for a peft that is newer than any that was published
            if "version of PEFT" in str(error):
                pytest.skip(str(error))
            raise


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # of a second adapter
@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_adapters_are_used_as_they_are_switched(peft: Any, original: Any, similar: Any, lane: str) -> None:
    target = copy.deepcopy(original)
    seen: list[tuple[int, ...]] = []
    with Pair(target, similar, lane=lane) as pair:

        def check() -> None:
            found = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens
            assert found == greedy_tokens(target, PROMPT, TOKENS)
            seen.append(found)

        check()
        adapted(peft, target, "first", 1)
        check()
        target.disable_adapters()
        check()
        target.enable_adapters()
        check()
        adapted(peft, target, "second", 2)
        target.set_adapter("second")
        check()
        layers = [module for module in target.modules() if hasattr(module, "lora_A")]
        for layer in layers:
            layer.merge()
        check()
        for layer in layers:
            layer.unmerge()
            layer.scale_layer(-1.0)
        check()
    base, first, off, on, second, merged, scaled = seen
    assert base == off
    assert first == on
    assert second == merged
    assert len({base, first, second, scaled}) == 4
