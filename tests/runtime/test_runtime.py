"""Runners, caches and lanes: cached logits are recomputed logits, and every lane gives the same tokens.

Histories are random: contexts grow, are cut back anywhere, and branch, as accepts and rejects make them do.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import specdec
from specdec import Decoding, LaneError, ModelError, Pair, PairError, create, decode
from specdec.runtime import runner
from specdec.runtime.lane import InlineLane, Lane, ProcessLane, ThreadLane
from specdec.runtime.messages import Drafting, DraftRequest, ScoreRequest
from specdec.runtime.runner import Runner, TrimmableLayer, common_prefix, context_limit
from specdec.runtime.worker import Worker
from specdec.sampling import Sampling
from specdec.testing.models import CONFIGS, Broken, fresh_logits, greedy_tokens, minuscule, model, random_histories, resembling

VOCABULARY = 12
CACHED = sorted({*CONFIGS} - {"mamba"})
STRATEGIES = {
    "autoregressive": specdec.create("autoregressive"),
    "pearl": specdec.create("pearl", draft_length=3),
    "speculative": specdec.create("speculative", draft_length=3),
}
PREALLOCATED = {"llama", "gpt2", "qwen2", "qwen3"}


def tolerance(architecture: str, dtype: torch.dtype = torch.float64) -> float:
    """Rotary angles and norms are float32 inside transformers, whatever the dtype; GPT-2 has neither."""
    return 2e-4 if dtype == torch.float32 else 1e-9 if architecture == "gpt2" else 2e-5


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("architecture", CACHED)
def test_cached_logits_are_recomputed_logits(architecture: str, dtype: torch.dtype) -> None:
    of = model(architecture, VOCABULARY, seed=1, dtype=dtype)
    cached = Runner(of, VOCABULARY)
    for context, rows in random_histories(steps=60, longest=30, seed=2):
        ours, fresh = cached.logits(context, rows), fresh_logits(of, context, rows)
        torch.testing.assert_close(ours, fresh, rtol=0, atol=tolerance(architecture, dtype))
        assert ours.shape == (rows, VOCABULARY)


def test_random_models_depend_on_their_whole_history() -> None:
    """Or the test above could not fail."""
    for architecture in CACHED:
        of = model(architecture, VOCABULARY, seed=1)
        window = 5 if architecture not in PREALLOCATED else 9  # beyond a sliding window, through two layers
        context = list(range(9))
        other = [11 if i == 9 - window else token for i, token in enumerate(context)]
        assert (fresh_logits(of, context) - fresh_logits(of, other)).abs().max() > 1e-3, architecture


@pytest.mark.parametrize("strategy", ["speculative", "pearl"])
@pytest.mark.parametrize("architecture", CACHED)
def test_every_forward_of_a_decode_equals_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch, architecture: str, strategy: str
) -> None:
    """Both models, through the production loop, with the accepts and rejects of sampling."""
    cached, checked = Runner.logits, set()

    def checking(self: Runner, context: Sequence[int], rows: int) -> Tensor:
        ours = cached(self, context, rows)
        torch.testing.assert_close(ours, fresh_logits(self.model, context, rows), rtol=0, atol=tolerance(architecture))
        checked.add(id(self))
        return ours

    monkeypatch.setattr(Runner, "logits", checking)
    target = model(architecture, VOCABULARY, seed=1)
    noise = 0.3 if architecture in {*PREALLOCATED, "mistral"} else 1.0  # Gemma's norms hide small differences
    pair = Pair(target, resembling(target, noise), lane="inline")
    accepted = set()
    for seed in range(4):
        result = decode(pair, specdec.create(strategy, draft_length=3), [1, 2, 3], max_new_tokens=12, seed=seed)
        accepted |= {*result.statistics.accepted_in_round}
    assert len(checked) == 2
    assert len(accepted) > 1  # windows were cut back to different lengths


@pytest.mark.parametrize("architecture", CACHED)
def test_which_cache_serves_which_model(architecture: str) -> None:
    cache, preallocated = runner.new_cache(model(architecture, VOCABULARY))
    assert preallocated == (architecture in PREALLOCATED)
    assert all(isinstance(layer, TrimmableLayer) for layer in cache.layers) == preallocated


def test_a_recurrent_model_is_refused_by_name() -> None:
    recurrent, attending = model("mamba", VOCABULARY), model("llama", VOCABULARY)
    for lane in ("inline", "thread", "process"):
        with pytest.raises(PairError, match=r"mamba has recurrent layers .* choose a model with attention"):
            decode(Pair(attending, recurrent, lane=lane), STRATEGIES["speculative"], [1])
    with pytest.raises(PairError, match="mamba has recurrent layers"):
        decode(Pair(recurrent), specdec.create("autoregressive"), [1])


def test_a_cache_outgrows_its_buffer() -> None:
    of = minuscule(VOCABULARY, seed=2, max_position_embeddings=2048)
    cached = Runner(of, VOCABULARY)
    source = random.Random(0)
    context = [source.randrange(VOCABULARY) for _ in range(10)]
    for growth in (0, 240, 5, 6, 900, 1, 255, 3):  # up to the buffer's end, over it, and to more than twice its size
        context += [source.randrange(VOCABULARY) for _ in range(growth)]
        torch.testing.assert_close(cached.logits(context, 1), fresh_logits(of, context), rtol=0, atol=2e-5)
        torch.testing.assert_close(cached.logits(context[:-7], 2), fresh_logits(of, context[:-7], 2), rtol=0, atol=2e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "gemma3"])
def test_prompts_are_fed_in_chunks(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    monkeypatch.setattr(runner, "PREFILL_CHUNK", 4)
    of = model(architecture, VOCABULARY, seed=1)
    for length in range(1, 24, 2):
        cached, widths = Runner(of, VOCABULARY), []
        handle = of.register_forward_pre_hook(
            lambda module, args, options, widths=widths: widths.append(options["input_ids"].shape[1]), with_kwargs=True
        )
        context = [(7 * i + length) % VOCABULARY for i in range(length)]
        rows = min(6, length)
        ours = cached.logits(context, rows)
        handle.remove()
        assert max(widths) <= 6
        assert sum(widths) == length
        torch.testing.assert_close(ours, fresh_logits(of, context, rows), rtol=0, atol=tolerance(architecture))


def test_only_what_is_new_is_computed() -> None:
    of = model("llama", VOCABULARY)
    cached, widths = Runner(of, VOCABULARY), []
    of.register_forward_pre_hook(lambda _, args, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True)
    for context, positions in (([1, 2, 3], 1), ([1, 2, 3, 4, 5], 3), ([1, 2, 3, 4, 6], 1), ([1, 2, 3, 4, 6], 1), ([9], 1)):
        cached.logits(context, positions)
    assert widths == [3, 3, 1, 1, 1]
    cached.forget()
    cached.logits([9, 1], 1)
    assert widths[-1] == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_forward_that_was_cut_short_leaves_no_trace(architecture: str, error: type[BaseException]) -> None:
    """Interrupted between two layers, one of which has already stored its keys."""
    of = model(architecture, VOCABULARY, seed=1)
    cached = Runner(of, VOCABULARY)
    cached.logits([1, 2, 3, 4, 5, 6], 1)

    def interrupt(*_: Any) -> None:
        raise error

    handle = of.model.layers[1].register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        cached.logits([1, 2, 3, 4, 5, 6, 7, 8], 1)
    handle.remove()
    for context in ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 9, 9, 9]):
        torch.testing.assert_close(
            cached.logits(context, 2), fresh_logits(of, context, 2), rtol=0, atol=tolerance(architecture)
        )


def test_padded_heads_are_cut_to_the_common_vocabulary() -> None:
    target, draft = model("llama", 14, seed=1), model("llama", VOCABULARY, seed=2)
    pair = Pair(target, draft, lane="inline")
    assert pair.vocabulary == VOCABULARY
    with torch.no_grad():
        target.get_output_embeddings().weight[VOCABULARY:] *= 30  # the padding would win, were it not cut off
    for name in STRATEGIES:
        for temperature in (0.0, 1.0):
            result = decode(pair, STRATEGIES[name], [1, 2], max_new_tokens=20, temperature=temperature, seed=1)
            assert max(result.tokens) < VOCABULARY


@pytest.mark.parametrize(("architecture", "limit"), [("llama", 77), ("gpt2", 77), ("gemma3", 77), ("mamba", runner.UNLIMITED)])
def test_context_limits_come_from_the_configuration(architecture: str, limit: int) -> None:
    assert context_limit(model(architecture, VOCABULARY, max_position_embeddings=77)) == limit


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix_is_how_many_leading_tokens_are_equal(head: list[int], left: list[int], right: list[int]) -> None:
    held, wanted = head + left, head + right
    expected = 0
    while expected < min(len(held), len(wanted)) and held[expected] == wanted[expected]:
        expected += 1
    assert common_prefix(held, wanted) == common_prefix(wanted, held) == expected >= len(head)


# --- lanes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target() -> Any:
    return model("llama", VOCABULARY, seed=1)


@pytest.fixture(scope="module")
def draft(target: Any) -> Any:
    return resembling(target, 0.4)


@pytest.fixture(scope="module")
def process_pair(target: Any, draft: Any) -> Iterator[Pair]:
    with Pair(target, draft, lane="process") as pair:
        yield pair


@pytest.fixture
def thread_pair(target: Any, draft: Any) -> Iterator[Pair]:
    with Pair(target, draft, lane="thread") as pair:
        yield pair


def decoded(pair: Pair) -> list[tuple[int, ...]]:
    """Outputs over strategies, rules, temperatures and processors."""
    runs: list[tuple[str, dict[str, Any]]] = [
        ("speculative", {}),
        ("pearl", {"verification": "block"}),
        ("pearl", {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}),
        ("pearl", {"temperature": 0}),
        ("prompt_lookup", {"verification": "match"}),
    ]
    confident = specdec.create("speculative", draft_length=specdec.Confident(4, 0.3))
    outputs = [
        decode(pair, specdec.create(name, draft_length=3), [1, 2, 1, 2], max_new_tokens=12, seed=seed, **options).tokens
        for name, options in runs
        for seed in (1, 2)
    ]
    return [*outputs, decode(pair, confident, [5], max_new_tokens=12, seed=3).tokens]


def test_a_seed_gives_the_same_tokens_in_every_lane(target: Any, draft: Any, thread_pair: Pair, process_pair: Pair) -> None:
    inline = decoded(Pair(target, draft, lane="inline"))
    assert len(set(inline)) > 5
    assert decoded(thread_pair) == inline
    assert decoded(process_pair) == inline
    assert decoded(process_pair) == inline  # and again, from a warm cache


@pytest.fixture(params=["inline", "thread", "process"])
def lane(request: pytest.FixtureRequest, draft: Any, process_pair: Pair) -> Iterator[Lane]:
    """One of each kind with the same model; the process is shared, since it starts slowly."""
    if request.param == "process":
        assert process_pair.draft_lane() is not None
        yield process_pair.draft_lane()
        return
    made = {"inline": InlineLane, "thread": ThreadLane}[request.param](draft, VOCABULARY)
    yield made
    made.close()


def drafted(lane: Lane, context: list[int], length: int) -> Drafting:
    """A draft of one sequence."""
    [drafting] = lane.submit("draft", [DraftRequest(0, context, length)])()
    return drafting


def test_rows_of_a_draft_survive_the_next_draft(lane: Lane) -> None:
    lane.submit("begin", Sampling(), "seed", [1, 2])()
    first = drafted(lane, [1, 2], 3)
    assert first.q is not None
    before = torch.as_tensor(first.q).clone()
    drafted(lane, [4, 4, 4], 3)
    assert torch.equal(torch.as_tensor(first.q), before)
    assert before.shape == (3, VOCABULARY)
    torch.testing.assert_close(before.sum(-1), torch.ones(3, dtype=torch.float64))


def test_requests_are_answered_in_order_and_some_may_be_left_unfetched(lane: Lane) -> None:
    lane.submit("begin", Sampling(temperature=0), "seed", [1])()
    waits = [lane.submit("score", [ScoreRequest(0, [1, 2, 3], positions)]) for positions in (1, 2, 3)]
    assert waits[2]()[0].positions == 3
    assert drafted(lane, [1], 2).q is None  # greedy drafts need no rows


def test_a_draft_ends_early_if_it_races_and_the_target_has_answered(lane: Lane) -> None:
    lane.submit("begin", Sampling(), "seed", [1])()
    wait = lane.submit("draft", [DraftRequest(0, [1], 100, racing=True)])
    lane.target_answered(0.0)
    [drafting] = wait()
    assert 1 <= len(drafting.tokens) < 100
    assert len(drafted(lane, [1], 60).tokens) == 60  # no race
    if lane.overlaps:  # an answer ends the races that were under way, and no later one
        [drafting] = lane.submit("draft", [DraftRequest(0, [1], 60, racing=True)])()
        assert len(drafting.tokens) == 60


def test_the_targets_answer_ends_a_race_and_nothing_else(target: Any, draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair(target, draft, lane="inline") as pair:
        answered: list[float] = []
        monkeypatch.setattr(pair.draft_lane(), "target_answered", answered.append)
        decode(pair, create("pearl", draft_length=2), [1, 2, 3], max_new_tokens=8, seed=0)
        assert answered == []
        raced = decode(pair, create("elastic"), [1, 2, 3], max_new_tokens=8, seed=0).statistics
        assert len(answered) == raced.rounds
        assert sum(answered) == pytest.approx(raced.target_busy_seconds)


def test_a_full_window_of_rows_fits(process_pair: Pair) -> None:
    lane = process_pair.draft_lane()
    assert lane is not None
    lane.submit("begin", Sampling(), "seed", [1])()
    drafting = drafted(lane, [1], 100)
    assert drafting.q is not None
    assert drafting.q.shape == (100, VOCABULARY)


def test_an_error_in_the_worker_names_itself_and_leaves_it_alive(process_pair: Pair) -> None:
    lane = process_pair.draft_lane()
    assert lane is not None
    with pytest.raises(LaneError, match="worker failed with IndexError"):
        drafted(lane, [VOCABULARY + 5], 1)
    with pytest.raises(LaneError, match="worker failed with AttributeError"):
        lane.submit("dance")()
    assert decode(process_pair, STRATEGIES["pearl"], [1], max_new_tokens=4).tokens


class Unsendable:
    """A logits processor that only lives here."""

    def __init__(self) -> None:
        self.closure = lambda scores: scores

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return self.closure(scores)


def module_level(input_ids: Tensor, scores: Tensor) -> Tensor:
    """Importable here, and pickled by name."""
    return scores


module_level.__qualname__ = "gone"


@pytest.mark.parametrize("processor", [Unsendable(), lambda ids, scores: scores, module_level], ids=["local", "lambda", "gone"])
def test_a_logits_processor_that_cannot_be_sent_is_refused_in_one_line(process_pair: Pair, processor: Any) -> None:
    with pytest.raises(PairError, match="use lane='thread' or 'inline'") as refused:
        decode(process_pair, STRATEGIES["pearl"], [1], logits_processor=[processor])
    assert "\n" not in str(refused.value)
    assert decode(process_pair, STRATEGIES["pearl"], [1], max_new_tokens=3).tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("lane_name", ["inline", "thread"])
def test_a_target_with_broken_weights_is_a_model_error(draft: Any, lane_name: str, temperature: float) -> None:
    for strategy in STRATEGIES.values():
        with Pair(broken(draft), draft, lane=lane_name) as pair, pytest.raises(ModelError, match="NaN or without any finite"):
            decode(pair, strategy, [1], temperature=temperature)


@pytest.mark.parametrize("lane_name", ["inline", "thread"])
@pytest.mark.parametrize("strategy", ["pearl", "speculative"])
def test_decoding_goes_on_without_a_draft_with_broken_weights(target: Any, draft: Any, lane_name: str, strategy: str) -> None:
    goes_on = pytest.warns(RuntimeWarning, match="goes on without the draft: a model answered logits with NaN")
    with Pair(target, broken(draft), lane=lane_name) as pair, goes_on:
        result = decode(pair, STRATEGIES[strategy], [1], max_new_tokens=6, temperature=0)
    assert result.tokens == greedy_tokens(target, [1], 6)
    assert "NaN" in result.statistics.draft_failure
    assert result.statistics.accepted_tokens == 0


def broken(of: Any) -> Any:
    """A copy with a NaN in its head."""
    copied = resembling(of, 0.0)
    with torch.no_grad():
        copied.get_output_embeddings().weight[3] = float("nan")
    return copied


def test_tokens_drafted_before_a_failure_are_kept(draft: Any) -> None:
    """Dropping them would depend on what they are, since the failure does: the discarded-token bias."""
    fragile = resembling(draft, 0.0)
    drafts = Worker(fragile, VOCABULARY)
    starts = {start: greedy_tokens(fragile, [start], 4) for start in range(VOCABULARY)}
    start, whole = next((start, whole) for start, whole in starts.items() if whole[2] not in (start, *whole[:2]))
    with torch.no_grad():
        fragile.get_input_embeddings().weight[whole[2]] = float("nan")
    for temperature in (0.0, 0.01):
        drafts.begin(Sampling(temperature=temperature), 0, [start])
        [drafting] = drafts.draft([DraftRequest(0, [start], 4)])
        assert (tuple(drafting.tokens), drafting.failure) == (whole[:3], "")
        [drafting] = drafts.draft([DraftRequest(0, [start, *whole[:3]], 4)])
        assert (drafting.tokens, bool(drafting.failure)) == ([], True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_error_comes_out_of_every_lane_as_itself(lane: Lane, temperature: float) -> None:
    lane.submit("begin", Sampling(temperature=temperature, logits_processor=[Broken()]), 0, [1])()
    drafting = drafted(lane, [1, 2], 2)
    assert not drafting.tokens
    assert "NaN or without any finite value" in drafting.failure


# --- the life of a worker --------------------------------------------------------------------------------------------


def gone(pid: int, within: float = 30.0) -> bool:
    """Whether the process ends in time; waits for the end itself, not for a while."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are waited for by pidfd (Linux)")


def worker_of(lane: Lane) -> int:
    return lane._process.pid  # type: ignore[attr-defined]


@needs_pidfd
def test_closing_ends_the_worker_and_removes_its_files(draft: Any) -> None:
    lane = ProcessLane(draft, VOCABULARY)
    folder = lane._folder
    lane.submit("begin", Sampling(), "seed", [1, 2])()
    pid = worker_of(lane)
    assert folder is not None
    assert not folder.exists()  # nothing is left on disk even while it works
    lane.close()
    lane.close()
    assert gone(pid)
    unused = ProcessLane(draft, VOCABULARY)
    unused.close()
    assert gone(worker_of(unused))
    assert not Path(str(unused._folder)).exists()


@needs_pidfd
def test_decoding_goes_on_when_the_worker_is_killed(draft: Any, target: Any) -> None:
    with Pair(target, draft, lane="process") as pair:
        decoding = Decoding(pair, STRATEGIES["pearl"], [1], max_new_tokens=16, temperature=0)
        next(decoding)
        assert pair.draft_lane() is not None
        victim = worker_of(pair.draft_lane())
        os.kill(victim, signal.SIGKILL)
        assert gone(victim)
        with pytest.warns(RuntimeWarning, match="goes on without the draft: the draft worker ended with exit code -9"):
            for _ in decoding:
                pass
        result = decoding.result()
        assert result.tokens == greedy_tokens(target, [1], 16)
        assert "exit code -9" in result.statistics.draft_failure
        again = decode(pair, STRATEGIES["pearl"], [1], max_new_tokens=16, temperature=0)  # starts a new worker
        assert again.tokens == result.tokens
        assert not again.statistics.draft_failure
        assert worker_of(pair.draft_lane()) != victim


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from specdec.testing.models import minuscule
from specdec import Pair, PairError, create, decode


class Local:
    def __call__(self, input_ids, scores):
        return scores


pair = Pair(minuscule(4, 0), minuscule(4, 1), lane="process")  # no guard for __main__ is needed
strategy = create("pearl", draft_length=2)
decode(pair, strategy, [1], max_new_tokens=3)
try:
    decode(pair, strategy, [1], max_new_tokens=3, logits_processor=[Local()])
    print("sent", flush=True)
except PairError as error:
    print(error, flush=True)
print(pair.draft_lane()._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def killed_parent(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The error for a logits processor of the user's own script, and the worker that the script left when it was killed."""
    script = tmp_path_factory.mktemp("parent") / "script.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        said, worker = parent.stdout.readline(), int(parent.stdout.readline())
        parent.kill()
    return said, worker


@needs_pidfd
def test_a_worker_dies_with_its_parent(killed_parent: tuple[str, int]) -> None:
    assert gone(killed_parent[1])


def test_a_logits_processor_of_the_users_own_script_is_refused_too(killed_parent: tuple[str, int]) -> None:
    """It is pickled by name, and no worker can import somebody's `__main__`."""
    assert "use lane='thread' or 'inline'" in killed_parent[0]
