"""Models work in evaluation mode, and each of their modules is left in the mode that it was in."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn

from specdec import Decoding, ModelError, Pair, create, decode
from specdec.runtime.watch import evaluation
from specdec.sampling import Sampler
from specdec.testing.models import greedy_tokens, model, resembling

PROMPT, TOKENS = [1, 2, 3, 1, 2, 3], 12
SPECULATIVE = create("speculative", draft_length=3)


@pytest.fixture
def dropping() -> Any:
    """A model whose answers in training mode are noise; parts of it are in training mode."""
    made = model("gpt2", 12, seed=1)
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9
    made.train()
    made.transformer.h[0].eval()
    made.transformer.h[1].mlp.eval()
    return made


def modes(of: Any) -> list[bool]:
    return [module.training for module in of.modules()]


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_models_work_in_evaluation_mode_and_are_left_in_theirs(dropping: Any, lane: str) -> None:
    target, draft = dropping, copy.deepcopy(dropping)
    before = modes(target)
    assert 0 < sum(before) < len(before)
    expected = greedy_tokens(copy.deepcopy(target).eval(), PROMPT, TOKENS)
    with Pair(target, draft, lane=lane) as pair:
        decoding = Decoding(pair, create("pearl", draft_length=3), PROMPT, max_new_tokens=TOKENS, temperature=0)
        for _ in decoding:
            assert (modes(target), modes(draft)) == (before, before)
        assert decoding.result().tokens == expected
        assert (
            decoding.result().statistics.draft_acceptance_rate > 0.5
        )  # the same model: only the first fresh token is left over
        assert pair.speed_ratio() > 0
        assert (modes(target), modes(draft)) == (before, before)


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_modes_are_restored_after_an_error(dropping: Any, monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    def failing(self: Sampler, logits: Any, context: Any) -> Any:
        calls.append(dropping.training)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return processed(self, logits, context)

    calls: list[bool] = []
    processed = Sampler.processed
    before = modes(dropping)
    expected = greedy_tokens(copy.deepcopy(dropping).eval(), PROMPT, TOKENS)
    with Pair(dropping, copy.deepcopy(dropping), lane=lane) as pair:
        with monkeypatch.context() as patched:
            patched.setattr(Sampler, "processed", failing)
            with pytest.raises((KeyboardInterrupt, ModelError)):
                decode(pair, SPECULATIVE, PROMPT)
        assert not any(calls)
        assert modes(dropping) == before
        assert decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens == expected


def test_a_draft_in_a_process_follows_its_model(dropping: Any) -> None:
    """It is sent in training mode, and works in evaluation mode there too."""
    target, draft, before = copy.deepcopy(dropping), dropping, modes(dropping)
    with Pair(target, draft, lane="process") as pair:
        first = pair.draft_lane()
        pair.refresh(draft=True)
        assert pair.draft_lane() is first
        draft.transformer.h[0].mlp.c_proj.weight.data.mul_(-1)
        found = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1)
        assert pair.draft_lane() is not first
        assert modes(draft) == before
    expected = decode(Pair(target, draft, lane="inline"), SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1)
    assert found.tokens == expected.tokens
    assert found.statistics.accepted_in_round == expected.statistics.accepted_in_round


def test_a_training_loop_may_decode() -> None:
    target = model("llama", 12, seed=1)
    optimizer, text = torch.optim.SGD(target.parameters(), lr=3.0), torch.tensor([PROMPT])
    seen = set()
    with Pair(target, resembling(target, 0.02), lane="inline") as pair:
        for _ in range(3):
            target.train()
            target(input_ids=text, labels=text).loss.backward()
            optimizer.step()
            found = decode(pair, SPECULATIVE, PROMPT, max_new_tokens=TOKENS, temperature=0).tokens
            assert all(modes(target))
            assert found == greedy_tokens(copy.deepcopy(target).eval(), PROMPT, TOKENS)
            seen.add(found)
    assert len(seen) > 1


def test_generate_leaves_the_mode_too(dropping: Any) -> None:
    before, ids = modes(dropping), torch.tensor([PROMPT])
    expected = greedy_tokens(copy.deepcopy(dropping).eval(), PROMPT, TOKENS)
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    found = dropping.generate(ids, max_new_tokens=TOKENS, custom_generate=SPECULATIVE, draft=copy.deepcopy(dropping), **options)
    assert tuple(found[0, len(PROMPT) :].tolist()) == expected
    assert modes(dropping) == before


def test_pairs_that_share_a_model_share_its_mode(dropping: Any) -> None:
    """The first to leave must not switch dropout on under the other."""
    before, entered, leave = modes(dropping), threading.Event(), threading.Event()

    def other() -> None:
        with evaluation(dropping):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    with evaluation(dropping):
        leave.set()
        thread.join()
        assert not any(modes(dropping))
    assert modes(dropping) == before
