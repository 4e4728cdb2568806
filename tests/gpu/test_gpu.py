"""On a GPU, in float64: the tokens that the same models give on a CPU. All are skipped where torch sees no GPU."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
import torch
from decodes import strategies
from families import bytes_tokenizer, spaces_tokenizer
from recorded_graphs import OneSequence
from tiny_models import HYBRIDS, STATIC, attending, hybrid, random_histories

from specdec import ModelError, Pair, Sampling, create, decode
from specdec.own_layers import self_draft
from specdec.runtime.graph import WIDTHS, CudaCapture
from specdec.runtime.messages import ForkRequest, ScoreRequest
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler
from specdec.testing.models import fresh_logits, greedy_tokens, model, resembling
from specdec.testing.pair import Untimed
from specdec.vocabularies import match_tokenizers
from strategies.lengths import Confident

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

VOCABULARY, PROMPT, TOKENS = 12, (1, 2, 3, 1, 2), 24
FEW = [create("speculative", draft_length=3), create("pearl", draft_length=3), create("saguaro", draft_length=3)]
ROUNDING = 1e-4
"""Rotary angles are float32 inside transformers, whatever the dtype."""


def on_gpu(of: Any) -> Any:
    return copy.deepcopy(of).to("cuda")


@pytest.fixture(scope="module")
def target() -> Any:
    return model("llama", VOCABULARY, seed=1)


@pytest.fixture(scope="module")
def draft(target: Any) -> Any:
    return resembling(target, 0.3)


@pytest.fixture(scope="module")
def on_cpu(target: Any, draft: Any) -> Pair:
    return Untimed(target, draft, lane="inline")


@pytest.fixture(params=["inline", "thread", "process"])
def lane(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["inline", "thread", "process", "thread-eager"])
def pair(request: pytest.FixtureRequest, target: Any, draft: Any) -> Iterator[Pair]:
    lane, _, eager = request.param.partition("-")
    with Untimed(on_gpu(target), on_gpu(draft), lane=lane, eager=bool(eager)) as made:
        yield made


# --- runners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", STATIC)
def test_replayed_logits_are_those_of_a_fresh_forward_on_the_cpu(architecture: str) -> None:
    of = attending(architecture)
    ours = OneSequence(on_gpu(of), VOCABULARY, CudaCapture(torch.device("cuda")), length=4)
    for context, positions in random_histories(steps=60, longest=40, seed=3):
        expected = fresh_logits(of, context, positions)
        torch.testing.assert_close(ours.of(context, positions).cpu(), expected, rtol=0, atol=ROUNDING)
    assert ours.why_eager is None
    assert sorted(ours._forwards) == list(WIDTHS)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(), Sampling(top_k=3), Sampling(top_p=0.8, min_p=0.01)])
def test_drafts_on_the_gpu_are_those_of_the_cpu(sampling: Sampling) -> None:
    """Lengths outgrow the tensors, and the cache grows."""
    of, source = attending("llama"), random.Random(2)
    ours = OneSequence(on_gpu(of), VOCABULARY, CudaCapture(torch.device("cuda")), length=4)
    theirs, sampler = OneSequence(of, VOCABULARY), Sampler(sampling)
    for number, (context, _) in enumerate(random_histories(steps=30, longest=30, seed=4)):
        length = (1, 5, 2, 18, 3)[number % 5]
        uniforms = [] if sampling.greedy else [source.random() for _ in range(length)]
        tokens, q = ours.drafted(context, length, sampler, uniforms)
        expected, rows = theirs.drafted(context, length, sampler, uniforms)
        assert tokens == expected
        if q is not None:
            torch.testing.assert_close(q.cpu(), rows, rtol=0, atol=ROUNDING)
    assert ours.why_eager is None


def test_rows_without_a_distribution_end_a_draft() -> None:
    of = on_gpu(attending("llama"))
    with torch.no_grad():
        of.get_input_embeddings().weight[7] = float("nan")
    ours = OneSequence(of, VOCABULARY, CudaCapture(torch.device("cuda")))
    for temperature, uniforms in ((0, []), (1, [0.3, 0.8])):
        with pytest.raises(ModelError):
            ours.drafted([1, 7], 2, Sampler(Sampling(temperature=temperature)), uniforms)
        assert ours.of([1, 2], 1).isfinite().all()


@pytest.mark.parametrize("size", [1, 3])
def test_logits_and_forks_of_slots_are_those_of_the_cpu(size: int) -> None:
    """Some slots at a time, whose sequences grow and are cut back."""
    of, source = attending("llama"), random.Random(4)
    there, here = (Worker(one, VOCABULARY) for one in (on_gpu(of), of))
    contexts = [[source.randrange(VOCABULARY)] for _ in range(size)]
    for worker in (there, here):
        for slot in range(size):
            worker.begin(Sampling(), contexts[slot], slot, size)
    for step in range(40):
        forks: list[ForkRequest] = []
        scores: list[ScoreRequest] = []
        for slot in sorted(source.sample(range(size), source.randint(1, size))):
            context = contexts[slot]
            del context[max(4, len(context) - source.randint(0, 3)) :]
            context += [source.randrange(VOCABULARY) for _ in range(source.choice([3, 4, 12]))]
            uniforms = [source.random() for _ in range(30)]
            forks.append(
                ForkRequest(slot, tuple(context), (2, 1, source.randint(1, 3)), source.randint(1, 3), uniforms, race=step)
            )
            scores.append(ScoreRequest(slot, tuple(context), 2))
        for ours, theirs in zip(there.fork(forks), here.fork(forks), strict=True):
            assert (ours.outcomes, ours.tails) == (theirs.outcomes, theirs.tails)
        for ours, theirs in zip(there.score(scores), here.score(scores), strict=True):
            assert ours.p is not None
            assert theirs.p is not None
            torch.testing.assert_close(ours.p.cpu(), theirs.p, rtol=0, atol=ROUNDING)
    assert there.why_eager is None


# --- decoding --------------------------------------------------------------------------------------------------------


def test_every_strategy_decodes_what_it_decodes_on_the_cpu(pair: Pair, on_cpu: Pair) -> None:
    """Greedily, sampled, and with processors that look at the tokens before. Only the clock may change a sampled text."""
    expected = greedy_tokens(on_cpu.target, PROMPT, TOKENS)
    for strategy in strategies(4):
        assert decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=0, eos=()).tokens == expected, strategy
        for more in ({}, {"top_k": 5, "temperature": 0.8}, {"repetition_penalty": 1.4}):
            options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 1, "seed": 3, "eos": ()} | more
            found = decode(pair, strategy, PROMPT, **options)
            assert len(found.tokens) == TOKENS
            if strategy.name != "elastic":
                assert found.tokens == decode(on_cpu, strategy, PROMPT, **options).tokens, (strategy, more)
    assert {why is not None for why in pair.why_eager().values()} == {pair.eager}


def test_texts_longer_than_the_first_cache(target: Any, draft: Any) -> None:
    of, small = (copy.deepcopy(one) for one in (target, draft))
    prompt = tuple(random.Random(1).randrange(VOCABULARY) for _ in range(500))
    with Untimed(of, small, lane="inline") as here, Untimed(on_gpu(of), on_gpu(small)) as there:
        for strategy in FEW:
            options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1, "seed": 1, "eos": ()}
            assert decode(there, strategy, prompt, **options).tokens == decode(here, strategy, prompt, **options).tokens


@pytest.mark.parametrize("architecture", [*STATIC, "gemma2"])
def test_every_kind_of_layer(architecture: str) -> None:
    of = model(architecture, VOCABULARY, seed=1)
    small, expected = resembling(of, 0.1), greedy_tokens(of, PROMPT, TOKENS)
    with Untimed(on_gpu(of), on_gpu(small)) as pair:
        for strategy in FEW:
            assert decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=0, eos=()).tokens == expected, strategy


@pytest.mark.parametrize("name", HYBRIDS)
def test_recurrent_layers(name: str) -> None:
    of = hybrid(name, VOCABULARY, seed=1)
    expected = greedy_tokens(of, PROMPT, 12)
    alone = name in ("mamba", "jamba")  # they read one token at a time, and cannot verify
    with Untimed(on_gpu(of), None if alone else on_gpu(resembling(of, 0.1))) as pair:
        for strategy in [create("autoregressive")] if alone else FEW[:2]:
            assert decode(pair, strategy, PROMPT, max_new_tokens=12, temperature=0, eos=()).tokens == expected, strategy


def test_a_draft_on_the_cpu_serves_a_target_on_the_gpu(lane: str, target: Any, draft: Any, on_cpu: Pair) -> None:
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 1, "seed": 3, "eos": ()}
    with Untimed(on_gpu(target), draft, lane=lane) as pair:
        for strategy in FEW:
            assert decode(pair, strategy, PROMPT, **options).tokens == decode(on_cpu, strategy, PROMPT, **options).tokens


@pytest.mark.parametrize("antiphase", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_sequence_of_a_batch_is_as_alone(antiphase: bool, temperature: float, pair: Pair, on_cpu: Pair) -> None:
    if antiphase and pair.lane == "inline":
        pytest.skip("antiphase needs a draft that works beside the target")
    source = random.Random(5)
    prompts = [[source.randrange(VOCABULARY) for _ in range(length)] for length in (1, 30, 5, 2, 17, 9)]
    options: dict[str, Any] = {"max_new_tokens": 14, "temperature": temperature, "eos": ()}
    for strategy in FEW[:1] if antiphase else FEW:
        batch = decode(pair, strategy, prompts, batch_size=4, antiphase=antiphase, seed=40, **options)
        for number, (prompt, found) in enumerate(zip(prompts, batch, strict=True)):
            assert found.tokens == decode(on_cpu, strategy, prompt, seed=40 + number, **options).tokens, (strategy, number)


def test_decodes_in_two_threads_are_as_alone(pair: Pair, on_cpu: Pair) -> None:
    found: dict[int, Any] = {}

    def decoded(number: int) -> None:
        found[number] = decode(pair, FEW[number], PROMPT, max_new_tokens=60, temperature=1, seed=number, eos=()).tokens

    threads = [Thread(target=decoded, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert (
            found[number] == decode(on_cpu, FEW[number], PROMPT, max_new_tokens=60, temperature=1, seed=number, eos=()).tokens
        )


# --- drafts of other kinds -------------------------------------------------------------------------------------------


def test_the_targets_own_layers_and_three_models(lane: str, target: Any, draft: Any, on_cpu: Pair) -> None:
    ours, expected = on_gpu(target), greedy_tokens(target, PROMPT, TOKENS)
    own = Untimed(ours, self_draft(ours, "layers:1"), lane="thread" if lane == "process" else lane)
    staged = Untimed(on_gpu(target), on_gpu(draft), lane=lane, small_draft=on_gpu(resembling(draft, 0.5, seed=7)))
    for pair in (own, staged):
        with pair:
            for strategy in (FEW[0], FEW[1], create("speculative", draft_length=Confident(4, 0.3))):
                assert decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=0, eos=()).tokens == expected
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "temperature": 1, "seed": 3, "eos": ()}
    with staged:
        for strategy in FEW[:2]:
            assert decode(staged, strategy, PROMPT, **options).tokens == decode(on_cpu, strategy, PROMPT, **options).tokens


@pytest.mark.parametrize("way", ["common", "text"])
def test_drafts_with_another_tokenizer(way: str, lane: str) -> None:
    tokenizer, other = bytes_tokenizer(), spaces_tokenizer()
    of, small = model("llama", len(tokenizer), seed=1), model("llama", len(other), seed=2)
    prompt = tuple(tokenizer("a b: é")["input_ids"])
    matching = match_tokenizers(tokenizer, other, way)
    with (
        Untimed(of, small, tokenizer, lane="inline", matching=matching) as here,
        Untimed(on_gpu(of), on_gpu(small), tokenizer, lane=lane, matching=matching) as there,
    ):
        for strategy in FEW[:2]:
            for temperature in (0, 1):
                options: dict[str, Any] = {"max_new_tokens": 16, "temperature": temperature, "seed": 3}
                assert decode(there, strategy, prompt, **options).tokens == decode(here, strategy, prompt, **options).tokens


# --- models that change, and memory ----------------------------------------------------------------------------------


def in_place(of: Any) -> None:
    with torch.no_grad():
        of.model.layers[0].mlp.down_proj.weight.mul_(-1)


def replaced(of: Any) -> None:
    of.model.layers[0].mlp.down_proj.weight.data = -of.model.layers[0].mlp.down_proj.weight.data


def assigned(of: Any) -> None:
    of.load_state_dict(
        {name: value.roll(1, 0) if value.dim() > 1 else value for name, value in of.state_dict().items()}, assign=True
    )


@pytest.mark.parametrize("change", [in_place, replaced, assigned])
def test_a_decode_sees_weights_that_changed(change: Callable[[Any], None], pair: Pair) -> None:
    for strategy in FEW[:1] if pair.lane == "process" else FEW:  # each change starts a new process
        decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=0, eos=())
        change(pair.target)
        change(pair.draft)
        expected = greedy_tokens(copy.deepcopy(pair.target).cpu(), PROMPT, TOKENS)
        assert decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=0, eos=()).tokens == expected


def test_a_closed_pair_leaves_no_memory_on_the_gpu(target: Any, draft: Any) -> None:
    def used() -> int:
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()  # one of each stream that was ever used
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    ours, small = on_gpu(target), on_gpu(draft)
    before: list[int] = []
    for _ in range(3):
        with Untimed(ours, small) as pair:
            for strategy in FEW:
                decode(pair, strategy, PROMPT, max_new_tokens=TOKENS, temperature=1, seed=1, eos=())
        del pair
        before.append(used())
    assert before[1] == before[2]


# --- as a stranger uses it -------------------------------------------------------------------------------------------


def test_a_pair_is_loaded_onto_the_gpu() -> None:
    with Pair.load("shape:tiny-target", "shape:tiny-draft") as pair:
        assert (pair.target.device.type, pair.draft and pair.draft.device.type) == ("cuda", "cuda")
        assert pair.target.dtype == torch.bfloat16
        assert pair.why_eager() == {"target": None, "draft": None}
        assert len(decode(pair, create("pearl"), [1, 2, 3], max_new_tokens=20, eos=()).tokens) == 20
        assert pair.speed_ratio() > 0
        assert pair.costs().fork > 0


@pytest.mark.parametrize("name", ["speculative", "pearl", "elastic", "hedged", "saguaro", "adaptive"])
def test_the_bundled_pair_writes_what_generate_writes(name: str) -> None:
    with Pair.bundled(dtype=torch.float32) as pair:
        tokenizer: Any = pair.tokenizer
        for text in ("The little dog", "Once upon a time there was", "Question: What is 3 + 4?"):
            prompt = tuple(tokenizer(text)["input_ids"])
            ids = torch.tensor([prompt], device="cuda")
            target: Any = pair.target
            theirs = target.generate(ids, do_sample=False, max_new_tokens=64, attention_mask=torch.ones_like(ids))
            found = decode(pair, create(name), prompt, max_new_tokens=64, temperature=0)
            assert found.tokens == tuple(theirs[0, len(prompt) :].tolist())


@pytest.mark.parametrize("strategy", FEW[:2], ids=str)
def test_generate_takes_a_strategy(strategy: Any, target: Any, draft: Any) -> None:
    ours, ids = on_gpu(target), torch.tensor([PROMPT], device="cuda")
    options: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "max_new_tokens": TOKENS, "do_sample": False}
    theirs = ours.generate(ids, **options)
    found = ours.generate(ids, custom_generate=strategy, draft=on_gpu(draft), **options)
    assert found.device.type == "cuda"
    assert torch.equal(found, theirs)
