"""Static shapes: the cache of sequences of different lengths, and the runner that CUDA replays as graphs, here uncaptured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_graphs import OneSequence, recorded
from tiny_models import STATIC, Scripted, attending, minuscule, random_histories
from transformers import NoRepeatNGramLogitsProcessor, TopKLogitsWarper

from specdec import ModelError, Sampling
from specdec.lengths import BelowConfidence
from specdec.runtime import cache, graph, runner, sequences
from specdec.runtime.cache import CachePlan, StaticCache, cache_name, why_not_static
from specdec.runtime.fused import new_forward
from specdec.runtime.graph import WIDTHS, Capture, DeviceWork, why_no_graphs, why_stepwise
from specdec.runtime.messages import DraftRequest
from specdec.runtime.runner import Runner
from specdec.runtime.sequences import new_batch_runner
from specdec.runtime.worker import NewWorker, Worker
from specdec.sampling import NOT_A_TOKEN, Dice, Sampler, picked
from specdec.testing.models import CONFIGS, fresh_logits, model

VOCABULARY = 12


def tolerance(architecture: str, attention: str = "eager") -> float:
    """Eager softmax is float32 inside transformers, whatever the dtype, except in GPT-2."""
    return 2e-5 if attention == "eager" and architecture != "gpt2" else 1e-9


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", STATIC)
@torch.inference_mode()
def test_logits_of_sequences_of_different_lengths_are_recomputed_logits(architecture: str, attention: str) -> None:
    """Sequences grow, are cut back and start anew, padded to the widest; the cache grows, and is read in part."""
    of = model(architecture, VOCABULARY, seed=1, max_position_embeddings=20)
    of.set_attn_implementation(attention)
    held = StaticCache(of, 8, slots=3)
    source = random.Random(1)
    contexts: list[list[int]] = [[], [], []]
    lengths, ends = set(), set()
    for step in range(60):
        for context in contexts:
            del context[source.randint(max(0, len(context) - 3), len(context)) if len(context) < 17 else 0 :]
        fresh = [[source.randrange(VOCABULARY) for _ in range(source.randint(1, min(6, 20 - len(held))))] for held in contexts]
        width = max(map(len, fresh))
        end = max(map(len, contexts)) + width  # may lie beyond the context, by padding
        if end > held.length:
            held.grow(2 * held.length)
        ids = torch.tensor([[*tokens, *[step % VOCABULARY] * (width - len(tokens))] for tokens in fresh])
        positions = torch.tensor([[len(context) + i for i in range(width)] for context in contexts])
        options = held.at(positions, visible=end if step % 2 else None)
        options[cache_name(of) or ""] = options.pop("past_key_values")
        logits = of(input_ids=ids, **options).logits
        for context, tokens, ours in zip(contexts, fresh, logits, strict=True):
            context += tokens
            expected = fresh_logits(of, context, len(tokens))
            torch.testing.assert_close(ours[: len(tokens)], expected, rtol=0, atol=tolerance(architecture, attention))
        lengths.add(tuple(map(len, contexts)))
        ends.add(end)
    assert held.length == 32
    assert len(lengths) > 30
    assert max(map(max, lengths)) == 20
    assert max(ends) > 20


@pytest.mark.parametrize("architecture", CONFIGS)
def test_which_models_the_static_cache_serves(architecture: str) -> None:
    why = why_not_static(model(architecture, VOCABULARY))
    assert (why is None) == (architecture in (*STATIC, "gemma2"))
    assert why is None or "recurrent, shared or indexed layers" in why


def test_models_that_no_mask_reaches_or_whose_angles_depend_on_lengths_are_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert "rotary angles (dynamic)" in (why_not_static(model("llama", VOCABULARY, rope_parameters=rope)) or "")
    flash = model("llama", VOCABULARY)
    flash.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2 takes no mask" in (why_not_static(flash) or "")
    unfit = model("llama", VOCABULARY)
    unfit._can_compile_fullgraph = False
    assert "does not work on a cache of static shapes" in (why_not_static(unfit) or "")


# --- the runner ------------------------------------------------------------------------------------------------------


CAPTURES: dict[str, Capture | None] = {"eager": None, "recorded": recorded}


@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest) -> Capture | None:
    return CAPTURES[request.param]


@pytest.mark.parametrize("architecture", STATIC)
def test_logits_are_those_of_the_eager_runner(architecture: str, capture: Any) -> None:
    of = attending(architecture)
    ours, eager = OneSequence(of, VOCABULARY, capture, length=4), Runner(of, VOCABULARY)
    for context, positions in random_histories(steps=60, longest=40, seed=3):
        torch.testing.assert_close(ours.of(context, positions), eager.logits(context, positions), rtol=0, atol=1e-9)
    assert sorted(ours._forwards) == list(WIDTHS)


def test_windows_and_prompts_of_every_length(monkeypatch: pytest.MonkeyPatch, capture: Any) -> None:
    """Wider than any graph, and than a chunk, up to the last token of the context."""
    monkeypatch.setattr(graph, "WIDTHS", (1, 2, 4))
    monkeypatch.setattr(sequences, "PREFILL_CHUNK", 6)
    of = attending("gpt2", max_position_embeddings=20)
    for length in range(1, 21):
        context = [(7 * i + length) % VOCABULARY for i in range(length)]
        for positions in {1, min(5, length), length}:
            ours = OneSequence(of, VOCABULARY, capture, length=4)
            torch.testing.assert_close(ours.of(context, positions), fresh_logits(of, context, positions), rtol=0, atol=1e-9)
            torch.testing.assert_close(ours.of(context, 1), fresh_logits(of, context, 1), rtol=0, atol=1e-9)


def test_answers_stay_when_the_next_are_computed(capture: Any) -> None:
    of = attending("llama")
    ours = OneSequence(of, VOCABULARY, capture)
    first = ours.of([1, 2], 1)
    _, q = ours.drafted([1, 2], 2, Sampler(Sampling()), [0.2, 0.8])
    assert q is not None
    before = q.clone()
    ours.of([3, 4], 1)
    ours.drafted([3, 4], 2, Sampler(Sampling()), [0.3, 0.9])
    torch.testing.assert_close(first, fresh_logits(of, [1, 2]), rtol=0, atol=1e-9)
    assert torch.equal(q, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_forward_that_was_cut_short_leaves_no_trace(error: type[BaseException]) -> None:
    of = attending("llama")
    ours = OneSequence(of, VOCABULARY)
    ours.of([1, 2, 3, 4, 5, 6], 1)

    def interrupt(*_: Any) -> None:
        raise error

    for broken in (lambda: ours.of([1, 2, 3, 9, 8], 1), lambda: ours.drafted([1, 2], 3, Sampler(Sampling()), [0.5] * 3)):
        handle = of.model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(error):
            broken()
        handle.remove()
        for context in ([1, 2, 3, 9, 8, 7], [1, 2, 3, 4, 5, 6]):
            torch.testing.assert_close(ours.of(context, 1), fresh_logits(of, context), rtol=0, atol=1e-9)


def test_a_cache_that_could_not_grow_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of = attending("llama")
    ours = OneSequence(of, VOCABULARY, length=4)
    ours.of([1, 2, 3], 1)
    context = [1, 2, 3, 4, 5]
    monkeypatch.setattr(ours._cache.layers[1], "grow", lambda: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        ours.of(context, 1)
    torch.testing.assert_close(ours.of(context, 1), fresh_logits(of, context), rtol=0, atol=1e-9)


# --- drafts on the device --------------------------------------------------------------------------------------------

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.4),
    Sampling(temperature=1.5, top_k=4),
    Sampling(top_p=0.7, min_p=0.02),
    Sampling(logits_processor=[TopKLogitsWarper(3)]),
]


def draft_by_token(
    of: Any, context: Sequence[int], length: int, sampling: Sampling, uniforms: Sequence[float]
) -> tuple[list[int], Any]:
    """The drafted tokens and rows of an eager worker, one after another."""
    worker = Worker(of, VOCABULARY, eager=True)
    worker.begin(sampling, context)
    [drafting] = worker.draft([DraftRequest(0, context, length, uniforms)])
    return drafting.tokens, drafting.q


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_draft_on_the_device_is_one_drawn_token_by_token(architecture: str, capture: Any) -> None:
    """Between roll-backs and windows, with samplings that change, lengths that outgrow the tensors, and a growing cache."""
    of = attending(architecture)
    ours = OneSequence(of, VOCABULARY, capture, length=4)
    seen = set()
    for seed, (context, _) in enumerate(random_histories(steps=30, longest=30, seed=4)):
        sampling, length = SAMPLINGS[seed // 2 % len(SAMPLINGS)], (1, 5, 2, 18, 3)[seed % 5]
        dice = Dice(seed)
        uniforms = [] if sampling.greedy else [dice.uniform() for _ in range(length)]
        tokens, q = ours.drafted(context, length, Sampler(sampling), uniforms)
        expected, rows_of_q = draft_by_token(of, context, length, sampling, uniforms)
        assert tokens == expected
        assert (q is None) == (rows_of_q is None) == sampling.greedy
        if q is not None:
            torch.testing.assert_close(q, rows_of_q, rtol=0, atol=1e-9)
        seen.update(tokens)
        window = [*context, *tokens[: len(tokens) - seed % 3], 1]
        torch.testing.assert_close(ours.of(window, 1), fresh_logits(of, window), rtol=0, atol=1e-9)
    assert len(seen) > 6


def test_what_was_drafted_is_not_fed_again() -> None:
    of = attending("llama")
    ours, widths = OneSequence(of, VOCABULARY), []
    of.register_forward_pre_hook(lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True)
    tokens, _ = ours.drafted([1, 2, 3, 4], 3, Sampler(Sampling()), [0.1, 0.5, 0.9])
    assert widths == [4, 1, 1]
    ours.drafted([1, 2, 3, 4, *tokens], 2, Sampler(Sampling()), [0.1, 0.5])
    assert widths == [4, 1, 1, 1, 1]


def test_rows_without_a_distribution_end_a_draft(capture: Any) -> None:
    of = attending("llama")
    start, length = [1, 2], 6
    sampler, uniforms = Sampler(Sampling()), [0.5, 0.1, 0.9, 0.3, 0.7, 0.2]
    whole, _ = OneSequence(of, VOCABULARY).drafted(start, length, sampler, uniforms)
    poison = next(token for token in whole if token not in start)
    with torch.no_grad():
        of.get_input_embeddings().weight[poison] = float("nan")
    ours = OneSequence(of, VOCABULARY, capture)
    tokens, q = ours.drafted(start, length, sampler, uniforms)
    assert tokens == whole[: whole.index(poison) + 1]  # the token is kept, what follows it is not
    assert q is not None
    assert len(q) == len(tokens)
    for greedy in (False, True):
        with pytest.raises(ModelError):
            ours.drafted([*start, poison], 2, Sampler(Sampling(temperature=1 - greedy)), uniforms[:2])
        assert ours.of(start, 1).isfinite().all()


WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=1, max_size=8).filter(any)


@given(WEIGHTS, st.one_of(st.sampled_from([0.0, 0.5, 1 - 2**-53]), st.floats(0, 1, exclude_max=True)), st.booleans())
def test_the_device_picks_what_dice_pick(weights: list[float], uniform: float, single: bool) -> None:
    row = torch.tensor(weights, dtype=torch.float32 if single else torch.float64)
    token = int(picked(row.unsqueeze(0), torch.tensor([uniform], dtype=torch.float64)))
    assert token == Scripted([uniform]).pick(row)
    assert row[token] > 0


def test_no_token_is_picked_that_has_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.tensor([[0.0, float("nan")], [0.0, 0.0]])
    assert picked(nothing, torch.tensor([0.5, 0.5])).tolist() == [NOT_A_TOKEN] * 2
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # another device, which may sum in parallel
    parallel = torch.tensor([[1e-9, 0.5, 0.5 + 1e-9, 1.0, 1.0 + 1e-9]], dtype=torch.float64)  # as a parallel scan may err
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_, **__: parallel)
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]])
    for uniform, token in ((0.0, 1), (0.5, 3), (0.5 + 5e-10, 3), (1 - 2**-53, 3)):
        assert picked(weights, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]


def test_what_cannot_be_drafted_on_the_device_says_why() -> None:
    assert why_stepwise(Sampler(Sampling(temperature=0.5, top_k=3)), None) is None
    assert "stop rule" in (why_stepwise(Sampler(Sampling()), BelowConfidence(0.3)) or "")
    for looking in (Sampling(repetition_penalty=1.2), Sampling(logits_processor=[NoRepeatNGramLogitsProcessor(2)])):
        assert "looks at the tokens before" in (why_stepwise(Sampler(looking), None) or "")


# --- which runner ----------------------------------------------------------------------------------------------------


def test_a_failed_capture_is_reported_and_goes_on_without() -> None:
    asked = []

    def refuse(work: DeviceWork) -> DeviceWork:
        asked.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    of = attending("llama")
    ours = OneSequence(of, VOCABULARY, refuse)
    assert ours.why_eager is None
    for context in ([1, 2, 3], [1, 2, 3, 4], [1, 5]):
        torch.testing.assert_close(ours.of(context, 1), fresh_logits(of, context), rtol=0, atol=1e-9)
    assert len(asked) == 1
    assert ours.why_eager == "a CUDA graph could not be captured (operation not permitted when stream is capturing)"


def test_graphs_run_where_they_can_and_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sliding = minuscule(VOCABULARY, seed=1), model("gemma3", VOCABULARY)

    def why(of: Any, size: int, eager: bool) -> str | None:
        return new_batch_runner(of, VOCABULARY, size, new_forward(of, eager=eager), eager=eager).why_eager

    monkeypatch.setattr(sequences, "CudaCapture", lambda _: recorded)
    for module in (sequences, cache, runner):
        monkeypatch.setattr(module, "device_of", lambda _: torch.device("cpu"))  # where tensors are made
    for of in (plain, sliding):
        monkeypatch.setattr(type(of), "device", torch.device("cuda"))
    for size in (1, 3):
        assert why(plain, size, False) is None
        assert why(plain, size, True) == "eager forwards were asked for"
        assert "sliding windows" in (why(sliding, size, False) or "")


def test_what_a_gpu_cannot_capture_stays_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, sliding = model("llama", VOCABULARY), model("gemma3", VOCABULARY)
    monkeypatch.setattr(type(plain), "device", torch.device("cuda"))
    monkeypatch.setattr(type(sliding), "device", torch.device("cuda"))
    assert why_no_graphs(plain) is None
    assert "sliding windows" in (why_no_graphs(sliding) or "")
    assert "was probed" in (why_no_graphs(plain, CachePlan("cut", batched=False)) or "")
    process = [NewWorker(plain, VOCABULARY, eager).why_eager for eager in (False, True)]  # said before the process has it
    assert process == [None, "eager forwards were asked for"]
