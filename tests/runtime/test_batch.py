"""Many decodes at once: the same tokens as one by one, whoever joins, leaves, fails or ends in between."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from decodes import prompts
from recorded_graphs import recorded
from tiny_models import Broken

from specdec import (
    Batch,
    Both,
    DecodingStrategy,
    Draft,
    Guess,
    InputError,
    ModelError,
    Pair,
    Program,
    Sampling,
    Score,
    State,
    Verify,
    available,
    create,
    decode,
)
from specdec.runtime.cache import LENGTH
from specdec.runtime.fused import new_forward
from specdec.runtime.graph import Graphs
from specdec.runtime.messages import DraftRequest
from specdec.runtime.sequences import LONGEST_PADDED, StaticRunner
from specdec.runtime.worker import Worker
from specdec.testing.models import fresh_logits, model, resembling
from specdec.typical import Typical
from strategies.lengths import Confident

VOCABULARY = 12
ARCHITECTURES = ["gpt2", "llama", "qwen3", "gemma2"]
"""Plain attention, and sliding windows in every second layer."""

SAMPLED = {"temperature": 1.0, "top_k": 9}
STRATEGIES = [create(name) for name in available() if name != "elastic"] + [
    create("speculative", draft_length=Confident(5, 0.3)),
    create("pearl", draft_length=1),
]


def pair_of(architecture: str, *, eager: bool = False) -> Pair:
    target = model(architecture, VOCABULARY, seed=1)
    return Pair(target, resembling(target, 0.05), lane="inline", eager=eager)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return pair_of(request.param)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, SAMPLED, {"temperature": 1, "repetition_penalty": 1.3}], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_batch_decodes_what_each_prompt_does_alone(pair: Pair, strategy: Any, options: dict[str, Any]) -> None:
    """Float64; seven prompts at two sizes, so that sequences of different lengths join and leave at different rounds."""
    asked = prompts(7)
    ends: dict[str, Any] = {"max_new_tokens": 14, "stop": lambda tokens: "eleven" if len(tokens) % 11 == 0 else None}
    alone = [decode(pair, strategy, prompt, seed=40 + i, **ends, **options) for i, prompt in enumerate(asked)]
    assert len({len(result.tokens) for result in alone}) > 1
    for size in (3, 8):
        batch = decode(pair, strategy, asked, batch_size=size, seed=40, **ends, **options)
        assert [result.tokens for result in batch] == [result.tokens for result in alone]
        assert [result.finished_by for result in batch] == [result.finished_by for result in alone]
        for ours, theirs in zip(batch, alone, strict=True):
            assert ours.statistics.accepted_in_round == theirs.statistics.accepted_in_round
            assert ours.statistics.drafted_tokens == theirs.statistics.drafted_tokens


def test_long_drafts_are_as_long_in_a_batch_as_alone(pair: Pair) -> None:
    strategy, asked = create("speculative", draft_length=70), prompts(8)
    alone = [decode(pair, strategy, prompt, seed=i, max_new_tokens=6, **SAMPLED) for i, prompt in enumerate(asked)]
    batch = decode(pair, strategy, asked, batch_size=8, seed=0, max_new_tokens=6, **SAMPLED)
    assert [result.tokens for result in batch] == [result.tokens for result in alone]
    assert all(result.statistics.drafted_tokens == 70 * result.statistics.rounds for result in batch)


def test_a_batch_decodes_the_same_on_every_lane(pair_on_a_lane: Pair) -> None:
    inline = Pair(pair_on_a_lane.target, pair_on_a_lane.draft, lane="inline")
    for strategy in ("speculative", "pearl"):
        options: dict[str, Any] = {"batch_size": 3, "max_new_tokens": 12, "seed": 1, **SAMPLED}
        expected = decode(inline, create(strategy, draft_length=3), prompts(5), **options)
        found = decode(pair_on_a_lane, create(strategy, draft_length=3), prompts(5), **options)
        assert [result.tokens for result in found] == [result.tokens for result in expected]


def test_elastic_is_greedily_the_target_alone_and_in_a_batch(pair_on_a_lane: Pair) -> None:
    expected = decode(pair_on_a_lane, create("autoregressive"), prompts(5), batch_size=1, max_new_tokens=20, temperature=0)
    for size in (1, 3):
        found = decode(pair_on_a_lane, create("elastic"), prompts(5), batch_size=size, max_new_tokens=20, temperature=0)
        assert [result.tokens for result in found] == [result.tokens for result in expected]


def test_the_rounds_of_a_batch_are_its_outputs() -> None:
    batch = Batch(
        pair_of("llama"), create("pearl", draft_length=3), prompts(5), batch_size=2, max_new_tokens=9, temperature=1, seed=0
    )
    grown: dict[int, tuple[int, ...]] = {}
    for number, step in batch:
        assert 0 <= step.accepted <= len(step.tokens)
        grown[number] = grown.get(number, ()) + step.tokens
    assert [grown[number] for number in range(5)] == [output.result().tokens for output in batch.outputs]
    longest = max(output.result().statistics.decode_seconds for output in batch.outputs)
    assert batch.seconds >= longest > 0
    with pytest.raises(StopIteration):
        next(batch)


@dataclass(frozen=True)
class Twice(DecodingStrategy):
    """Drafts two continuations at once, and verifies the first."""

    name = "twice"

    def step(self, state: State) -> Program[State]:
        ours, other = Draft(state.committed, Guess.empty, 3), Draft(state.committed, Guess.certain([0]), 3)
        guess, _ = yield from Both(ours, other)
        scores = yield from Score(state.committed, guess)
        verdict = yield from Verify(scores, guess, bonus=True)
        return state.then(verdict)


def test_a_sequence_may_ask_twice_at_once(pair: Pair) -> None:
    options: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0}
    once = decode(pair, create("speculative", draft_length=3), prompts(4), batch_size=1, **options)
    twice = decode(pair, Twice(), prompts(4), batch_size=3, **options)
    for ours, theirs in zip(twice, once, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.statistics.accepted_in_round == theirs.statistics.accepted_in_round


@pytest.mark.parametrize("name", ["speculative", "pearl"])
def test_seconds_of_forwards_add_up_where_nothing_overlaps(name: str) -> None:
    statistics = decode(
        pair_of("llama"), create(name, draft_length=3), [1, 2], max_new_tokens=20, temperature=1, seed=1
    ).statistics
    assert statistics.forward_seconds == pytest.approx(statistics.target_busy_seconds + statistics.draft_busy_seconds)
    assert statistics.target_busy_seconds == pytest.approx(sum(statistics.window_seconds.values()))
    assert sum(statistics.window_forwards.values()) == statistics.target_forwards
    assert 0 < statistics.overhead_share < 1


def test_few_forwards_serve_many_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight sequences of one length take the forwards of one."""
    pair = pair_of("llama")
    counted: list[int] = []
    feed = StaticRunner._feed
    monkeypatch.setattr(StaticRunner, "_feed", lambda self, fresh: counted.append(len(fresh)) or feed(self, fresh))
    decode(pair, create("autoregressive"), [[number] for number in range(8)], batch_size=8, max_new_tokens=6)
    assert counted == [8] * 6


def test_a_prompt_is_read_in_one_forward() -> None:
    of, widths = model("llama", VOCABULARY, seed=1), list[int]()
    of.register_forward_pre_hook(lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True)
    worker = Worker(of, VOCABULARY, eager=True)
    worker.begin(Sampling(), [1, 2] * 20, slot=1, size=3)
    assert widths == [39]


@pytest.mark.parametrize("graphs", [None, Graphs(None), Graphs(recorded)], ids=["as needed", "static shapes", "recorded"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_right_whatever_slots_are_asked_for_together(architecture: str, graphs: Graphs | None) -> None:
    """Some slots at a time, whose sequences grow and are cut back at random; the cache grows beyond its first length."""
    of = model(architecture, VOCABULARY, seed=2, max_position_embeddings=4 * LENGTH)
    runner, source = StaticRunner(of, VOCABULARY, 4, new_forward(of, eager=graphs is not None), graphs), random.Random(3)
    contexts: list[list[int]] = [[source.randrange(VOCABULARY)] for _ in range(4)]
    contexts[2] = [source.randrange(VOCABULARY) for _ in range(LENGTH + 3)]
    for _ in range(25):
        asked: list[tuple[int, Sequence[int], int]] = []
        for slot in source.sample(range(4), source.randint(1, 4)):
            context = contexts[slot]
            del context[max(1, len(context) - source.randint(0, 3)) :]
            context += [source.randrange(VOCABULARY) for _ in range(source.choice([1, 2, LONGEST_PADDED + 5]))]
            asked.append((slot, context, source.randint(1, min(4, len(context)))))
        for (_, context, wanted), logits in zip(asked, runner.logits(asked), strict=True):
            torch.testing.assert_close(logits, fresh_logits(of, list(context), wanted), rtol=0, atol=2e-5)


def test_a_sequence_without_a_distribution_fails_the_batch_and_hands_over_what_is_committed() -> None:
    with pytest.raises(ModelError, match=r"after the logits processors \(Broken\)") as failure:
        decode(
            pair_of("llama"),
            create("pearl", draft_length=2),
            prompts(3),
            batch_size=3,
            temperature=1,
            logits_processor=[Broken()],
        )
    assert len(failure.value.results) == 3


def test_a_broken_sequence_leaves_no_trace_for_those_that_come_after() -> None:
    """Through the mask, the next sequence of the slot would see a NaN in the cache, if another sequence is longer."""
    of = model("llama", VOCABULARY, seed=1)
    with torch.no_grad():
        of.get_input_embeddings().weight[VOCABULARY - 1] = float("nan")
    worker = Worker(of, VOCABULARY)
    worker.begin(Sampling(temperature=0), [1], slot=0, size=2)
    [drafting] = worker.draft([DraftRequest(0, [1, 1, 1, VOCABULARY - 1], 2)])
    assert drafting.failure
    for slot, prompt in enumerate(([1, 2], [1, 2, 3, 4, 5, 1])):
        worker.begin(Sampling(temperature=0), prompt, slot=slot, size=2)
    draftings = worker.draft([DraftRequest(0, [1, 2], 1), DraftRequest(1, [1, 2, 3, 4, 5, 1], 1)])
    assert [drafting.failure for drafting in draftings] == ["", ""]
    assert [len(drafting.tokens) for drafting in draftings] == [1, 1]


def test_a_target_that_fails_hands_over_what_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, left = pair_of("llama", eager=True), 10**9

    def exhausted(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("out of memory\nand much more")

    pair.target.register_forward_pre_hook(exhausted)  # before the first decode: a model with a new hook is probed again
    whole = decode(pair, create("speculative", draft_length=2), [1, 2], max_new_tokens=12, temperature=1, seed=3)
    left = 4
    with pytest.raises(ModelError, match=r"failed in a forward \(out of memory\): check its memory") as failure:
        decode(pair, create("speculative", draft_length=2), [1, 2], max_new_tokens=12, temperature=1, seed=3)
    [partial] = failure.value.results
    assert partial.finished_by is None
    assert 0 < len(partial.tokens) < 12
    assert partial.tokens == whole.tokens[: len(partial.tokens)]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size 0"), ({"batch_size": True}, "batch_size True"), ({"batch_size": 2, "eos_": 1}, "eos_")],
)
def test_bad_settings_of_a_batch_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(pair_of("llama"), create("autoregressive"), prompts(2), **options)


def test_no_prompts_give_no_results() -> None:
    assert decode(pair_of("llama"), create("autoregressive"), [], batch_size=4) == []


# ------------------------------------------------------------------------------------------ prompts that come while others run

OPTIONS: list[dict[str, Any]] = [{"temperature": 0.0}, SAMPLED]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["autoregressive", "speculative", "pearl"])
def test_a_prompt_that_is_submitted_while_others_run_is_decoded_as_alone(name: str, seed: int, options: dict[str, Any]) -> None:
    """Submits at random moments, also in the middle of rounds and after everything has ended."""
    pair, source = pair_of("llama"), random.Random(seed)
    strategy = create(name) if name == "autoregressive" else create(name, draft_length=3)
    asked = prompts(8, seed)
    budgets, seeds = [source.randint(1, 14) for _ in asked], [source.randrange(1000) for _ in asked]
    batch = Batch(pair, strategy, batch_size=3, eos=(), **options)
    order: list[int] = []
    while len(batch.outputs) < len(asked):
        number = len(batch.outputs)
        assert batch.submit(asked[number], seed=seeds[number], max_new_tokens=budgets[number]) == number
        for _ in range(source.choice([0, 0, 1, 2, 3, 40])):
            batch.step()
            order += [one.number for one in batch.outputs if one.tokens and one.number not in order]
    while batch.step():
        order += [one.number for one in batch.outputs if one.tokens and one.number not in order]
    alone = [
        decode(pair, strategy, prompt, seed=own, max_new_tokens=budget, eos=(), **options)
        for prompt, own, budget in zip(asked, seeds, budgets, strict=True)
    ]
    assert [output.result().tokens for output in batch.outputs] == [result.tokens for result in alone]
    assert order == sorted(order)  # the first submitted is the first admitted


def test_sequences_begin_their_rounds_together() -> None:
    """One that comes in mid-round waits for its end, or the batch would draft and verify in halves for ever after."""
    batch = Batch(pair_of("llama"), create("speculative", draft_length=3), batch_size=2, max_new_tokens=9, temperature=0)
    batch.submit([1, 2])
    batch.step()  # has drafted
    batch.submit([3])
    batch.step()  # has verified
    assert not batch.outputs[1].slot.statistics.drafted_tokens
    batch.step()
    assert all(output.waiting is not None and output.waiting.scores for output in batch.outputs)


def test_an_empty_batch_ends_at_once_and_goes_on_with_what_is_submitted() -> None:
    batch = Batch(pair_of("llama"), create("autoregressive"), batch_size=2, max_new_tokens=2, temperature=0)
    assert list(batch) == []
    assert [batch.submit([1]), batch.submit([2], max_new_tokens=1)] == [0, 1]
    assert len(list(batch)) == 3
    assert batch.submit([3]) == 2
    assert [number for number, _ in batch] == [2, 2]


def test_what_cannot_be_submitted_is_refused() -> None:
    class Counts:
        calls = 0

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return scores

    pair = pair_of("llama")
    batch = Batch(pair, create("autoregressive"), temperature=0, logits_processor=[Counts()])
    with pytest.raises(InputError, match="keeps a state"):
        batch.submit([1])
    batch = Batch(pair, create("autoregressive"), temperature=0)
    with pytest.raises(InputError, match="max_new_tokens 0"):
        batch.submit([1], max_new_tokens=0)
    with pytest.raises(InputError, match="shorten the prompt"):
        batch.submit([1] * pair.context_limit)
    assert batch.outputs == []


def test_a_cache_of_a_batch_that_could_not_grow_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of = model("llama", VOCABULARY, seed=2)
    runner = StaticRunner(of, VOCABULARY, 2, new_forward(of, eager=False), length=4)
    runner.logits([(0, [1, 2, 3], 1), (1, [3, 2], 1)])
    longer: list[tuple[int, Sequence[int], int]] = [(0, [1, 2, 3, 4, 5], 1), (1, [3, 2, 1], 1)]
    monkeypatch.setattr(runner._cache.layers[1], "grow", lambda: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        runner.logits(longer)
    for (_, context, _), logits in zip(longer, runner.logits(longer), strict=True):
        torch.testing.assert_close(logits, fresh_logits(of, list(context)), rtol=0, atol=2e-5)


def test_a_prompt_whose_reading_failed_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, begin, failed = pair_of("llama"), Worker.begin, list[int]()

    def failing_once(worker: Worker, *arguments: Any) -> None:
        if not failed:
            failed.append(1)
            raise ModelError("no memory")
        begin(worker, *arguments)

    monkeypatch.setattr(Worker, "begin", failing_once)
    options: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0}
    batch = Batch(pair, create("autoregressive"), prompts(3), batch_size=1, **options)
    with pytest.raises(ModelError, match="no memory"):
        batch.step()
    while batch.step():
        pass
    assert [output.tokens for output in batch.outputs] == [
        decode(pair, create("autoregressive"), prompt, **options).tokens for prompt in prompts(3)
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop": "."}, r"stop '\.' is no function of the tokens: give one, or stop_strings"),
        ({"seed": "a"}, "seed 'a' is not possible"),
        ({"verification": None}, "verification None is no function"),
        ({"verification": Typical}, "no function"),
        ({"logits_processor": Broken()}, "give a list of logits processors"),
        ({"logits_processor": [3]}, "give a list of logits processors"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        decode(pair_of("llama"), create("speculative"), [1], max_new_tokens=2, **options)


def test_no_logits_processors_are_none() -> None:
    assert decode(pair_of("llama"), create("pearl", draft_length=2), [1], max_new_tokens=3, logits_processor=None).tokens
