"""Contexts that cross to the draft's process as differences are whole on the other side, whatever was sent or lost before."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from untouched import Untouched

from specdec import Batch, Committed, Pair, PairError, create, decode
from specdec import tokens as tokens_module
from specdec.runtime.channel import Channel
from specdec.runtime.contexts import Receiver, Sender
from specdec.runtime.host import serve
from specdec.runtime.lane import ProcessLane
from specdec.runtime.messages import Drafting, DraftRequest, Forking, ForkRequest
from specdec.runtime.vocabulary import Known
from specdec.testing.models import model
from specdec.tokens import Tokens

FRESH = st.lists(st.integers(0, 2), max_size=4)
MOVES = st.tuples(
    st.integers(0, 1),  # slot
    st.integers(0, 12),  # how many tokens stay: a roll-back, as rejections make them
    FRESH,  # what is committed then
    FRESH,  # guesses behind it, which do not stay
    st.sampled_from(["same", "same", "same", "copied", "other decode", "lost", "unheard of", "new lane"]),
)


@given(st.lists(MOVES, max_size=25))
def test_every_context_arrives_whole(moves: list[Any]) -> None:
    sender, receiver = Sender(), Receiver()
    texts = {0: Committed(), 1: Committed()}
    for slot, kept, committed, guessed, how in moves:
        text = texts[slot].text
        text = {"copied": Tokens.of(text[:kept]), "other decode": Tokens((2, 1))}.get(how, text.first(kept)).grown(committed)
        texts[slot], context = Committed(text), text + guessed
        if how == "new lane":
            sender, receiver = Sender(), Receiver()
        difference = sender.difference(slot, context)
        if how == "lost":  # no one knows whether it got there; here it did not
            continue
        arrived = receiver.context(pickle.loads(pickle.dumps(difference)))
        assert arrived == context
        assert arrived.head == context.head
        if how != "unheard of":  # sent, but the sender was interrupted before it knew
            sender.sent(slot, context)


def test_a_context_crosses_as_what_it_adds_and_shares_its_beginning_there_too() -> None:
    sender, receiver = Sender(), Receiver()
    text = Committed(Tokens(tuple(range(5000))))

    def sent(context: Tokens, slot: int = 0) -> Any:
        difference = sender.difference(slot, context)
        sender.sent(slot, context)
        return difference

    first = receiver.context(sent(text.text.grown([1, 2])))
    text += Committed((1, 7))
    difference = sent(text.text.grown([8]))
    assert difference == (0, 5001, (7, 8), 5000)
    assert receiver.context(difference).head is first.head
    assert sent(text.text, slot=1)[1] == 0  # the slot has no context yet


class Recorder:
    """A drafter that keeps what it is asked."""

    asks_mode, why_eager = False, None

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def draft(self, requests: list[DraftRequest], answered: Callable[[], bool] = lambda: False) -> list[Drafting]:
        self.asked += [(type(one).__name__, one.slot, one.context[:], one.length) for one in requests]
        return [Drafting([0], None, 0.0) for _ in requests]

    def fork(self, requests: list[ForkRequest]) -> list[Forking]:
        self.asked += [(type(one).__name__, one.slot, one.context[:], one.length) for one in requests]
        return [Forking(1, [], [], 0.0) for _ in requests]


class LaneToThread(ProcessLane):
    """A process lane whose other side is a thread, to look into."""

    def __init__(self, drafter: Any) -> None:
        ours, theirs = socket.socketpair()
        self._channel, self._contexts, self._ready, self._ticket = Channel(ours), Sender(), True, 0
        self._awaited = {}
        self._shared, self._answered = np.zeros((0, 1)), np.zeros(1, np.int64)
        self.messages: list[int] = []
        self._theirs = Channel(theirs)
        self._thread = threading.Thread(target=serve, args=(self._theirs, drafter, self._shared, self._answered))
        self._thread.start()
        send = self._channel.send
        self._channel.send = lambda message: (self.messages.append(len(message)), send(message))[1]  # type: ignore[method-assign]

    def close(self) -> None:
        self._channel.close()
        self._thread.join()
        self._theirs.close()


@pytest.fixture
def recorder() -> Iterator[tuple[LaneToThread, Recorder]]:
    drafter = Recorder()
    lane = LaneToThread(drafter)
    yield lane, drafter
    lane.close()


class Vanishing:
    """A stop rule that the other side cannot load."""

    def __call__(self, q: Any, token: int) -> bool:
        return False

    def __reduce__(self) -> Any:
        return attrgetter("gone"), (0,)


def test_requests_that_fail_on_either_side_lose_no_context(recorder: tuple[LaneToThread, Recorder]) -> None:
    lane, drafter = recorder
    text = Tokens(tuple(range(100)))
    lane.submit("draft", [DraftRequest(0, text, 1), DraftRequest(1, [7, 8], 2)])()
    with pytest.raises(PairError, match="cannot send"):
        lane.submit("draft", [DraftRequest(0, text.grown([1]), 1, (), lambda q, token: False)])  # no pickle of it
    lost = lane.submit("draft", [DraftRequest(0, text.grown([1, 2]), 3, (), Vanishing())])
    forking = lane.submit("fork", [ForkRequest(0, text.grown([1, 2, 3]), (1,), 4)])  # sent before the failure is known
    with pytest.raises(PairError, match="cannot load"):
        lost()
    forking()
    lane.submit("draft", [DraftRequest(0, text.grown([1, 9]), 5), DraftRequest(1, [7, 8, 9], 6)])()
    assert drafter.asked == [
        ("DraftRequest", 0, text[:], 1),
        ("DraftRequest", 1, (7, 8), 2),
        ("ForkRequest", 0, (*text, 1, 2, 3), 4),
        ("DraftRequest", 0, (*text, 1, 9), 5),
        ("DraftRequest", 1, (7, 8, 9), 6),
    ]


def test_messages_of_a_long_text_are_as_short_as_those_of_a_short_one(recorder: tuple[LaneToThread, Recorder]) -> None:
    lane, drafter = recorder
    for length in (10, 20_000):
        text = Committed(Tokens(tuple(range(length))))
        for number in range(4):
            lane.submit("draft", [DraftRequest(0, text.text.grown([number]), 1)])()
            text += Committed((5, 6))
    short, long = lane.messages[1:4], lane.messages[5:8]
    assert max(long) < max(short) + 20 < 400
    assert lane.messages[4] > 20_000
    assert drafter.asked[-1][2] == (*range(20_000), 5, 6, 5, 6, 5, 6, 3)


@pytest.mark.parametrize("lane", ["inline", "process"])
@pytest.mark.parametrize("name", ["pearl", "speculative", "saguaro", "hedged"])
@pytest.mark.parametrize("size", [1, 2])
def test_no_round_reads_a_long_text(
    name: str, lane: str, size: int, target: Any, draft: Any, process_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rounds do, since the caches are new. From then on the head of the text is neither copied nor compared."""
    pair = process_pair if lane == "process" else Pair(target, draft, lane=lane)
    prompts = [[1, 2, 3, 4], [5, 6, 7, 8, 9]][:size]
    options: dict[str, Any] = {"temperature": 1, "seed": 1, "max_new_tokens": 40, "eos": (), "batch_size": size}
    batch = Batch(pair, create(name, draft_length=2), prompts, **options)
    for output in batch.outputs:
        output.prompt = Committed(Tokens(Untouched(output.prompt)))
    for _ in range(4):
        batch.step()
    with monkeypatch.context() as guard:
        guard.setattr(Untouched, "guarded", True)
        for _ in range(6):
            batch.step()
        assert all(isinstance(output.state.committed.text.head, Untouched) for output in batch.outputs)
        with pytest.raises(AssertionError, match="was read"):
            _ = batch.outputs[0].state.committed.tokens
    while batch.step():
        pass
    options |= {"batch_size": None}
    apart = [
        decode(pair, create(name, draft_length=2), prompt, **options | {"seed": 1 + i}) for i, prompt in enumerate(prompts)
    ]
    assert [output.result().tokens for output in batch.outputs] == [one.tokens for one in apart]


def test_tokens_do_not_depend_on_where_a_text_is_divided(
    target: Any, draft: Any, process_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tails of two tokens, the head of the text changes all the time; texts of tests are too short for that otherwise."""
    runs: list[tuple[str, dict[str, Any]]] = [
        ("pearl", {"temperature": 1}),
        ("pearl", {"temperature": 0.7, "repetition_penalty": 1.3}),
        ("speculative", {"temperature": 0}),
        ("saguaro", {"temperature": 1}),
    ]

    def decoded(pair: Pair) -> list[Any]:
        return [
            decode(pair, create(name, draft_length=3), [[1, 2, 1, 2], [5]], seed=2, max_new_tokens=16, batch_size=2, **options)
            for name, options in runs
        ]

    expected = [[one.tokens for one in results] for results in decoded(Pair(target, draft, lane="inline"))]
    monkeypatch.setattr(tokens_module, "LONGEST_TAIL", 2)
    for pair in (Pair(target, draft, lane="inline"), process_pair):
        assert [[one.tokens for one in results] for results in decoded(pair)] == expected


def test_a_draft_with_fewer_tokens_looks_at_a_long_text_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(model("llama", 10, seed=1), 12)
    texts = {slot: Tokens(Untouched([1, 2, slot])) for slot in (3, 4)}
    for slot, text in texts.items():
        assert known.readable(slot, text) == text
    monkeypatch.setattr(Untouched, "guarded", True)
    for slot, text in texts.items():
        assert known.readable(slot, text.grown([9])) is not text
    monkeypatch.setattr(Untouched, "guarded", False)
    assert known.readable(3, texts[3].grown([11])) == [1, 2, 3, 0]
    assert known.readable(3, Tokens((11, 1))) == [0, 1]


def test_an_answer_that_nobody_knows_of_is_dropped(recorder: tuple[LaneToThread, Recorder]) -> None:
    """Ctrl-C came between the sending of a request and the note of who waits for it."""
    lane, _ = recorder
    lane.submit("fork", [ForkRequest(0, [1, 2], (1,), 4)])
    lane._awaited.clear()  # pyright: ignore[reportPrivateUsage]
    [drafting] = lane.submit("draft", [DraftRequest(0, [1, 2], 1)])()
    assert drafting.tokens == [0]
