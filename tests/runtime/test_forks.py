"""Forks on real models: every branch is what a fresh forward says, wherever its keys lie."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from decodes import inline
from recorded_graphs import recorded
from tiny_models import minuscule

import specdec
from specdec import Guess, Pair, Sampling, Statistics, Verdict, decode
from specdec.runtime.branches import Branches
from specdec.runtime.forking import foreseen
from specdec.runtime.graph import Graphs
from specdec.runtime.messages import DraftRequest, Forking, ForkRequest
from specdec.runtime.prepared import PreparedForks
from specdec.runtime.sequences import StaticRunner, new_batch_runner
from specdec.runtime.worker import Worker
from specdec.sampling import Sampler, inverted
from specdec.testing.models import fresh_logits, greedy_tokens, model, resembling

VOCABULARY = 12
COLD = Sampling(temperature=0.8, top_k=5)
TWICE_SEEN = Sampling(repetition_penalty=1.4)


def graphs(model: Any, vocabulary: int, size: int, forward: Any, *, eager: bool, plan: Any = None) -> StaticRunner:
    """What CUDA replays, here by a recorder, on a cache that must grow in the middle of forks."""
    return StaticRunner(model, vocabulary, size, forward, Graphs(recorded), length=4)


def small_batches(model: Any, vocabulary: int, size: int, forward: Any, *, eager: bool, plan: Any = None) -> StaticRunner:
    """A cache that must grow in the middle of forks."""
    return StaticRunner(model, vocabulary, size, forward, length=4)


KINDS: list[tuple[str, bool, Any]] = [
    ("llama", False, new_batch_runner),
    ("llama", True, new_batch_runner),
    ("llama", True, graphs),
    ("llama", True, small_batches),
    ("qwen3", False, small_batches),
    ("gpt2", True, new_batch_runner),
    ("gpt2", True, small_batches),
    ("gemma2", True, new_batch_runner),  # sliding windows: one branch after another
    ("gemma2", True, small_batches),
    ("mamba", True, new_batch_runner),  # recurrent
]


def history(steps: int, slots: int, seed: int) -> list[list[ForkRequest]]:
    """Requests of a decode: contexts grow by an outcome of the fork before, at random, and some sequences start anew."""
    source = random.Random(seed)
    contexts = [[source.randrange(VOCABULARY)] for _ in range(slots)]
    found: list[list[ForkRequest]] = []
    for _ in range(steps):
        asked: list[ForkRequest] = []
        for slot in sorted(source.sample(range(slots), source.randint(1, slots))):
            window = source.randint(0, min(3, len(contexts[slot]) - 1))
            fan_outs = (*(source.randint(0, 3) for _ in range(window)), source.randint(1, 3))
            length = source.randint(1, 3)
            uniforms = [source.random() for _ in range(length * sum(fan_outs))]
            asked.append(ForkRequest(slot, tuple(contexts[slot]), fan_outs, length, uniforms))
            kept = len(contexts[slot]) - source.randint(0, window)
            contexts[slot] = contexts[slot][: kept if kept < 25 else 1] + source.choices(
                range(VOCABULARY), k=source.randint(1, 4)
            )
        found.append(asked)
    return found


def expected_outcomes(q: Callable[[list[int]], Any], request: ForkRequest) -> list[tuple[int, int]]:
    """By the definition of `Fork`, one row at a time."""
    first = len(request.context) - len(request.fan_outs) + 1
    found: list[tuple[int, int]] = []
    for accepted, fan_out in enumerate(request.fan_outs):
        row = q(list(request.context[: first + accepted]))
        own = request.context[first + accepted : first + accepted + 1]
        order = sorted(range(VOCABULARY), key=lambda token: -float(row[token]))
        found += [(accepted, token) for token in order if token not in own and row[token] > 0][:fan_out]
    return found


@pytest.mark.parametrize("sampling", [COLD, TWICE_SEEN], ids=["cold", "repetition penalty"])
@pytest.mark.parametrize(("architecture", "eager", "runner"), KINDS)
def test_branches_are_sampled_from_the_rows_of_fresh_forwards(
    architecture: str, eager: bool, runner: Any, sampling: Sampling
) -> None:
    of, slots = model(architecture, VOCABULARY, seed=1), 3 if runner in (graphs, small_batches) else 1
    worker, sampler = Worker(of, VOCABULARY, eager=eager, new_runner=runner), Sampler(sampling)
    if runner in (graphs, small_batches):
        worker.begin(sampling, (), 0, slots + 1)
    for slot in range(slots):
        worker.begin(sampling, (), slot, slots)

    def q(text: list[int]) -> Any:
        return sampler.probabilities(fresh_logits(of, text), text)[0]

    branches = 0
    for asked in history(12, slots, seed=3):
        for request, forking in zip(asked, worker.fork(asked), strict=True):
            assert forking.outcomes == expected_outcomes(q, request)
            for number, (accepted, last) in enumerate(forking.outcomes):
                kept = len(request.context) - len(request.fan_outs) + 1 + accepted
                text = [*request.context[:kept], last]
                [branch] = worker.branch(request.slot, forking.number, number)
                assert branch.tokens == forking.tails[number]
                assert branch.q is not None
                for depth, (token, row) in enumerate(zip(branch.tokens, branch.q, strict=True)):
                    fresh = q(text + branch.tokens[:depth])
                    torch.testing.assert_close(row, fresh.to(row), rtol=0, atol=1e-4)
                    assert token == inverted(row, request.uniforms[number * request.length + depth])
                branches += 1
                assert len(branch.tokens) == request.length
    assert branches > 30


def test_drafts_of_several_sequences_on_graphs_are_those_of_each_alone() -> None:
    of, texts = model("llama", VOCABULARY, seed=1), ([1, 2, 3], [4, 5])
    worker = Worker(of, VOCABULARY, new_runner=graphs)
    for slot, text in enumerate(texts):
        worker.begin(Sampling(temperature=0), text, slot, 2)
    drafted = worker.draft([DraftRequest(slot, text, 4) for slot, text in enumerate(texts)])
    assert [tuple(one.tokens) for one in drafted] == [greedy_tokens(of, text, 4) for text in texts]


def test_drafts_and_forks_alternate_on_one_cache() -> None:
    """The scratch cells of a fork are no part of any later context."""
    of = model("llama", VOCABULARY, seed=1)
    for runner in (new_batch_runner, small_batches, graphs):
        worker = Worker(of, VOCABULARY, new_runner=runner)
        worker.begin(Sampling(temperature=0), (), 0, 2)
        worker.begin(Sampling(temperature=0), (), 0, 1)
        context = (1, 2, 3)
        for _ in range(4):
            [forking] = worker.fork([ForkRequest(0, context, (2, 2), 3)])
            [drafting] = worker.draft([DraftRequest(0, context, 3)])
            assert tuple(drafting.tokens) == greedy_tokens(of, context, 3)
            context = (*context, forking.outcomes[-1][1], *forking.tails[-1])


@pytest.mark.parametrize("token", range(VOCABULARY))
def test_no_text_matches_a_scratch_cell(token: int) -> None:
    """A text that goes on with any token is read anew behind the context of the fork."""
    of = model("llama", VOCABULARY, seed=1)
    worker = Worker(of, VOCABULARY)
    worker.begin(Sampling(temperature=0), ())
    worker.fork([ForkRequest(0, (1, 2), (0, 1), 2)])
    context = (1, 2, token, token, token)
    [drafting] = worker.draft([DraftRequest(0, context, 3)])
    assert tuple(drafting.tokens) == greedy_tokens(of, context, 3)


def test_a_branch_is_found_by_its_whole_outcome() -> None:
    counts = Statistics()
    forks = PreparedForks({(0, 7): (0, [1, 2]), (2, 7): (1, [3, 4])}, None, counts)
    window = Guess.certain([5, 6])

    def after(accepted: int, last: int | None) -> tuple[int, ...]:
        return forks.after(Verdict.of(window, accepted, last)).tokens

    assert [after(0, 7), after(1, 7), after(2, 7), after(2, 8), after(2, None)] == [(1, 2), (), (3, 4), (), ()]
    assert after(2, 7) == (3, 4)
    assert (counts.outcomes, counts.foreseen_outcomes, counts.hit_rate) == (4, 2, 0.5)


def test_a_draft_that_knows_fewer_tokens_foresees_and_drafts_only_those() -> None:
    of = model("llama", VOCABULARY, seed=1)
    worker, plain = Worker(of, VOCABULARY + 3), Worker(of, VOCABULARY)
    text, request = (1, VOCABULARY + 1, 3, VOCABULARY + 2), ForkRequest(0, (1, 0, 3, 0), (2, 3), 3, [0.3, 0.6, 0.9] * 5)
    [wide], [known] = worker.fork([request._replace(context=text)]), plain.fork([request])  # it reads token 0 for the others
    assert wide.outcomes[2:] == known.outcomes[2:]
    for number in range(2, 5):
        [branch], [expected] = worker.branch(0, wide.number, number), plain.branch(0, known.number, number)
        assert branch.tokens == expected.tokens
        assert branch.q is not None
        assert branch.q.shape == (3, VOCABULARY + 3)
        torch.testing.assert_close(branch.q[:, :VOCABULARY], expected.q)
        assert not branch.q[:, VOCABULARY:].any()


def test_a_token_that_the_draft_would_never_draw_is_not_foreseen() -> None:
    never = -torch.inf
    scores = torch.tensor([[3.0, never, 1.0, never], [never, 2.0, 2.0, 5.0]])
    assert foreseen(scores, [0], (3, 2)) == [(0, 2), (1, 3), (1, 1)]  # behind no guess, token 0 is the window's own


def test_a_branch_sees_its_prefix_and_itself() -> None:
    mask = Branches(0, 3, (1, 3), 2).mask(torch.float64, torch.device("cpu")) == 0
    assert mask.tolist() == [
        [True, False, False, True, False, True, False],
        [True, True, True, False, True, False, True],
    ]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1}], ids=str)
@pytest.mark.parametrize("strategy", [specdec.create("saguaro"), specdec.create("hedged")], ids=str)
def test_one_miss_makes_no_other_sequence_draft_again(strategy: Any, options: dict[str, Any]) -> None:
    """In a batch, each sequence drafts as often as alone, so the hits of one are not thrown away for the misses of another."""
    target = model("llama", VOCABULARY, seed=1)
    pair = inline(target, resembling(target, 0.2))
    prompts = [[1, 2], [3], [4, 5, 6], [7, 7]]
    alone = [
        decode(pair, strategy, prompt, max_new_tokens=20, seed=7 + i, eos=(), **options) for i, prompt in enumerate(prompts)
    ]
    batch = decode(pair, strategy, prompts, batch_size=4, max_new_tokens=20, seed=7, eos=(), **options)
    counts = [(one.statistics.drafted_tokens, one.statistics.outcomes, one.statistics.foreseen_outcomes) for one in alone]
    assert [one.tokens for one in batch] == [one.tokens for one in alone]
    assert [(s.drafted_tokens, s.outcomes, s.foreseen_outcomes) for s in (one.statistics for one in batch)] == counts
    assert 0 < sum(hits for *_, hits in counts) < sum(asked for _, asked, _ in counts)


def test_a_fork_of_a_broken_draft_is_a_failure() -> None:
    of = minuscule(VOCABULARY, seed=1)
    with torch.no_grad():
        of.lm_head.weight.fill_(float("nan"))
    forking: Forking
    [forking] = Worker(of, VOCABULARY, eager=True).fork([ForkRequest(0, (1, 2), (1, 1), 2, [0.5] * 4)])
    assert "NaN" in forking.failure
    assert forking.tails == []


def test_near_the_end_of_the_context_fewer_tokens_are_prepared() -> None:
    target = minuscule(VOCABULARY, seed=1, max_position_embeddings=16)
    with Pair(target, resembling(target, 0.2), lane="inline") as pair:
        for name in ("saguaro", "hedged"):
            found = decode(pair, specdec.create(name, draft_length=5), [1, 2], max_new_tokens=50, temperature=0, eos=())
            assert found.tokens == greedy_tokens(target, (1, 2), len(found.tokens))
            assert len(found.tokens) == 14
