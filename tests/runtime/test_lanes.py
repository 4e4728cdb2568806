"""Lanes: every lane gives the same tokens, and a lost worker loses no token."""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Broken
from torch import Tensor

import specdec
from specdec import Decoding, LaneError, ModelError, Pair, PairError, create, decode
from specdec.errors import InputError
from specdec.machine import available_cores
from specdec.runtime.lane import SHARED_ROWS, InlineLane, Lane, LeftCore, ProcessLane
from specdec.runtime.messages import SHARED, Drafting, DraftRequest, ScoreRequest, packed, unpacked
from specdec.runtime.worker import NewWorker, Worker
from specdec.sampling import Sampling
from specdec.testing.models import greedy_tokens, resembling
from strategies.lengths import Confident

VOCABULARY = 12
STRATEGIES = {
    "autoregressive": specdec.create("autoregressive"),
    "pearl": specdec.create("pearl", draft_length=3),
    "speculative": specdec.create("speculative", draft_length=3),
}


@pytest.fixture
def thread_pair(target: Any, draft: Any) -> Iterator[Pair]:
    with Pair(target, draft, lane="thread") as pair:
        yield pair


def decoded(pair: Pair) -> list[tuple[int, ...]]:
    """Outputs over strategies, rules, temperatures and processors."""
    runs: list[tuple[str, dict[str, Any]]] = [
        ("speculative", {"temperature": 1}),
        ("pearl", {"temperature": 1, "verification": "block"}),
        ("pearl", {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}),
        ("pearl", {"temperature": 0}),
        ("prompt_lookup", {"temperature": 1, "verification": "match"}),
        ("saguaro", {"temperature": 1, "verification": "block"}),
        ("saguaro", {"temperature": 0}),
        ("hedged", {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}),
    ]
    confident = specdec.create("speculative", draft_length=Confident(4, 0.3))
    outputs = [
        decode(pair, specdec.create(name, draft_length=3), [1, 2, 1, 2], max_new_tokens=12, seed=seed, **options).tokens
        for name, options in runs
        for seed in (1, 2)
    ]
    return [*outputs, decode(pair, confident, [5], max_new_tokens=12, temperature=1, seed=3).tokens]


def test_a_seed_gives_the_same_tokens_in_every_lane(target: Any, draft: Any, thread_pair: Pair, process_pair: Pair) -> None:
    inline = decoded(Pair(target, draft, lane="inline"))
    assert len(set(inline)) > 5
    assert decoded(thread_pair) == inline
    assert decoded(process_pair) == inline
    assert decoded(process_pair) == inline  # and again, from a warm cache


def uniforms(length: int) -> list[float]:
    source = random.Random(length)
    return [source.random() for _ in range(length)]


def drafted(lane: Lane, context: list[int], length: int) -> Drafting:
    """A draft of one sequence."""
    [drafting] = lane.submit("draft", [DraftRequest(0, context, length, uniforms(length))])()
    return drafting


def test_rows_of_a_draft_survive_the_next_draft(lane: Lane) -> None:
    lane.submit("begin", Sampling(), [1, 2])()
    first = drafted(lane, [1, 2], 3)
    assert first.q is not None
    before = torch.as_tensor(first.q).clone()
    drafted(lane, [4, 4, 4], 3)
    assert torch.equal(torch.as_tensor(first.q), before)
    assert before.shape == (3, VOCABULARY)
    torch.testing.assert_close(before.sum(-1), torch.ones(3, dtype=torch.float64))


def test_rows_of_drafts_that_fill_the_shared_memory_come_along_too(lane: Lane, draft: Any) -> None:
    """The first draft fits, the second does not, the third fits again."""
    lengths = SHARED_ROWS - 10, 20, 5
    requests = [DraftRequest(slot, [slot], length, uniforms(length)) for slot, length in enumerate(lengths)]
    found: list[list[Drafting]] = []
    for one in (lane, InlineLane(NewWorker(draft, VOCABULARY))):
        for slot in range(len(lengths)):
            one.submit("begin", Sampling(), [slot], slot, len(lengths))()
        found.append(one.submit("draft", requests)())
    for drafting, expected, length in zip(*found, lengths, strict=True):
        assert len(drafting.tokens) == length
        assert drafting.tokens == expected.tokens
        assert torch.equal(torch.as_tensor(drafting.q), torch.as_tensor(expected.q))


class Elsewhere(Tensor):
    """Rows that numpy cannot read, as on CUDA, until they were copied to the CPU."""

    def __array__(self, *_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return self.as_subclass(Tensor)


def test_rows_on_a_device_are_handed_over_on_the_cpu() -> None:
    rows, shared = torch.rand(3, 4).as_subclass(Elsewhere), np.zeros((4, 4), dtype=np.float32)
    fits, does_not = packed([Drafting([1, 2, 3], rows, 0.0), Drafting([1, 2, 3], rows, 0.0)], shared)
    assert (fits[1], type(does_not[1])) == (SHARED, Tensor)
    assert all(torch.equal(torch.as_tensor(one.q), rows.cpu()) for one in unpacked((fits, does_not), shared))


def test_requests_are_answered_in_order_and_some_may_be_left_unfetched(lane: Lane) -> None:
    lane.submit("begin", Sampling(temperature=0), [1])()
    waits = [lane.submit("score", [ScoreRequest(0, [1, 2, 3], positions)]) for positions in (1, 2, 3)]
    assert waits[2]()[0].positions == 3
    assert drafted(lane, [1], 2).q is None  # greedy drafts need no rows


def test_a_draft_ends_early_if_it_races_and_the_target_has_answered(lane: Lane) -> None:
    lane.submit("begin", Sampling(), [1])()
    wait = lane.submit("draft", [DraftRequest(0, [1], 100, uniforms(100), racing=True)])
    lane.target_answered(0.0)
    [drafting] = wait()
    assert 1 <= len(drafting.tokens) < 100
    assert len(drafted(lane, [1], 60).tokens) == 60  # no race
    if lane.overlaps:  # an answer ends the races that were under way, and no later one
        [drafting] = lane.submit("draft", [DraftRequest(0, [1], 60, uniforms(60), racing=True)])()
        assert len(drafting.tokens) == 60


def test_the_targets_answer_ends_a_race_and_nothing_else(target: Any, draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair(target, draft, lane="inline") as pair:
        answered: list[float] = []
        monkeypatch.setattr(pair.draft_lane(), "target_answered", answered.append)
        decode(pair, create("pearl", draft_length=2), [1, 2, 3], max_new_tokens=8, temperature=1, seed=0)
        assert answered == []
        raced = decode(pair, create("elastic"), [1, 2, 3], max_new_tokens=8, temperature=1, seed=0).statistics
        assert len(answered) == raced.rounds
        assert sum(answered) == pytest.approx(raced.target_busy_seconds)


def test_a_full_window_of_rows_fits(process_pair: Pair) -> None:
    lane = process_pair.draft_lane()
    assert lane is not None
    lane.submit("begin", Sampling(), [1])()
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


AUTO = create("speculative", draft_length="auto")


@pytest.mark.parametrize("lane_name", ["inline", "thread"])
@pytest.mark.parametrize("strategy", [create("pearl", draft_length="auto"), AUTO, create("adaptive")], ids=str)
def test_decoding_goes_on_without_a_draft_that_is_lost_while_it_is_timed(target: Any, lane_name: str, strategy: Any) -> None:
    """A draft length `"auto"` and `adaptive` time the models before the first token."""
    lost, memory = resembling(target, 0.1), Memory()
    lost.register_forward_pre_hook(memory)
    with Pair(target, lost, lane=lane_name, eager=True) as pair:
        memory.full = True
        with pytest.warns(RuntimeWarning, match="goes on without the draft: .* failed in a forward .out of memory"):
            results = decode(pair, strategy, [[1], [2]], batch_size=2, max_new_tokens=6, temperature=0)
    assert [result.tokens for result in results] == [greedy_tokens(target, [first], 6) for first in (1, 2)]
    assert all("out of memory" in result.statistics.draft_failure for result in results)


def test_a_target_that_is_lost_while_it_is_timed_is_an_error(target: Any) -> None:
    lost, memory = resembling(target, 0.0), Memory()
    lost.register_forward_pre_hook(memory)
    with Pair(lost, target, lane="inline", eager=True) as pair:
        memory.full = True
        error, warning = pytest.raises(ModelError, match="out of memory"), pytest.warns(RuntimeWarning, match="goes on without")
        with error, warning:
            decode(pair, AUTO, [1], max_new_tokens=6, temperature=0)


class Memory:
    """A hook that raises once the memory is `full`. It is there from the start: a model with a new hook is probed again."""

    full = False

    def __call__(self, *_: Any) -> None:
        if self.full:
            raise RuntimeError("out of memory")


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
        drafts.begin(Sampling(temperature=temperature), [start])
        [drafting] = drafts.draft([DraftRequest(0, [start], 4, uniforms(4))])
        assert (tuple(drafting.tokens), drafting.failure) == (whole[:3], "")
        [drafting] = drafts.draft([DraftRequest(0, [start, *whole[:3]], 4, uniforms(4))])
        assert (drafting.tokens, bool(drafting.failure)) == ([], True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_error_comes_out_of_every_lane_as_itself(lane: Lane, temperature: float) -> None:
    lane.submit("begin", Sampling(temperature=temperature, logits_processor=[Broken()]), [1])()
    drafting = drafted(lane, [1, 2], 2)
    assert not drafting.tokens
    assert "after the logits processors (Broken)" in drafting.failure


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


def shared_files() -> set[str]:
    """What lies under a name of ours where processes share memory, and where temporary files go."""
    return {str(path) for place in ("/dev/shm", tempfile.gettempdir()) for path in Path(place).glob("specdec*")}


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are waited for by pidfd (Linux)")


def worker_of(lane: Lane | None) -> int:
    return lane._process.pid  # type: ignore[attr-defined]


@needs_pidfd
def test_closing_ends_the_worker_and_removes_its_files(draft: Any) -> None:
    before = shared_files()
    lane = ProcessLane(NewWorker(draft, VOCABULARY))
    lane.submit("begin", Sampling(), [1, 2])()
    assert shared_files() == before  # nothing lies there even while it works
    pid = worker_of(lane)
    lane.close()
    lane.close()
    assert gone(pid)
    unused = ProcessLane(NewWorker(draft, VOCABULARY))
    unused.close()
    assert gone(worker_of(unused))
    assert shared_files() == before


@needs_pidfd
def test_decoding_goes_on_when_the_worker_is_killed(draft: Any, target: Any) -> None:
    with Pair(target, draft, lane="process") as pair:
        decoding = Decoding(pair, STRATEGIES["pearl"], [1], max_new_tokens=16, temperature=0)
        next(decoding)
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
import tempfile
sys.path.insert(0, sys.argv[1])
from tiny_models import minuscule
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
        [sys.executable, str(script), str(Path(__file__).parents[1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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


def test_threads_come_back_with_the_last_process_lane_whether_closed_or_collected(
    target: Any, draft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.runtime.lane.LEFT_CORE", LeftCore())  # lanes of fixtures are open
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, available_cores()))  # more than a draft leaves
    at_first = torch.get_num_threads()
    try:
        with Pair(target, draft, lane="process") as first:
            first.draft_lane()
            with Pair(target, draft, lane="process") as second:
                second.draft_lane()
                left = torch.get_num_threads()
                assert left < at_first
                first.close()
                assert torch.get_num_threads() == left  # the second one still drafts
            assert torch.get_num_threads() == at_first
        third = Pair(target, draft, lane="process")
        third.draft_lane()
        del third
        gc.collect()
        assert torch.get_num_threads() == at_first
    finally:
        torch.set_num_threads(before)


def test_a_lane_without_a_draft_is_refused(target: Any) -> None:
    with pytest.raises(InputError, match="lane 'process' is where a draft works, and there is none: leave it out"):
        Pair(target, lane="process")
