"""Many decodes on one pair, in turns or in threads: each gives what it gives alone."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from tiny_models import Broken

from specdec import Batch, Committed, Decoding, ModelError, Pair, State, create, decode
from specdec.runtime.channel import Channel
from specdec.runtime.lane import ProcessLane
from specdec.runtime.slot import Slot
from specdec.sampling import Sampler, Sampling
from specdec.testing.models import greedy_tokens
from strategies import Speculative
from strategies.lengths import Confident

SPECULATIVE, PEARL = create("speculative", draft_length=3), create("pearl", draft_length=2)
PROMPTS = [[1, 2, 3], [4], [5, 6, 5, 6, 5], [7, 8]]
DECODES: list[tuple[Any, list[list[int]], dict[str, Any]]] = [
    (SPECULATIVE, PROMPTS[:1], {"temperature": 0}),
    (PEARL, PROMPTS[1:2], {"seed": 5, "temperature": 1, "top_k": 7}),
    (SPECULATIVE, PROMPTS, {"seed": 9, "temperature": 1, "batch_size": 3, "repetition_penalty": 1.4}),
    (create("speculative", draft_length=Confident(4, 0.3)), PROMPTS[2:3], {"seed": 1, "temperature": 0.6}),
    (create("prompt_lookup"), PROMPTS[2:3], {"temperature": 1, "seed": 2}),
    (PEARL, PROMPTS, {"temperature": 1, "seed": 3, "batch_size": 2}),
]
"""Other strategies, samplings, seeds, prompts and numbers of sequences. Each begins while others are under way."""


def batch(pair: Pair, strategy: Any, prompts: list[list[int]], options: dict[str, Any]) -> Batch:
    more: dict[str, Any] = {"batch_size": 1, "max_new_tokens": 14} | options
    return Batch(pair, strategy, prompts, **more)


def outputs(finished: Batch) -> list[tuple[int, ...]]:
    return [output.result().tokens for output in finished.outputs]


def alone(pair: Pair) -> list[list[tuple[int, ...]]]:
    found: list[list[tuple[int, ...]]] = []
    for one in DECODES:
        decoding = batch(pair, *one)
        while decoding.step():
            pass
        found.append(outputs(decoding))
    return found


def test_decodes_that_take_turns_are_as_alone(pair_on_a_lane: Pair) -> None:
    expected = alone(pair_on_a_lane)
    assert len({tokens for each in expected for tokens in each}) == sum(map(len, expected))
    open_ones = [batch(pair_on_a_lane, *one) for one in DECODES]
    for _ in itertools.takewhile(bool, ([decoding.step() for decoding in open_ones].count(True) for _ in range(99))):
        pass
    assert [outputs(decoding) for decoding in open_ones] == expected
    assert not any(output.slot.statistics.draft_failure for decoding in open_ones for output in decoding.outputs)


def test_turns_of_any_length_are_as_alone(pair_on_a_lane: Pair) -> None:
    """One is left alone for a while, another ends in between."""
    expected = alone(pair_on_a_lane)
    first, second = batch(pair_on_a_lane, *DECODES[2]), batch(pair_on_a_lane, *DECODES[5])
    first.step()
    while second.step():
        if len(second.outputs[0].tokens) > 5:
            first.step()
    while first.step():
        pass
    assert [outputs(first), outputs(second)] == [expected[2], expected[5]]


def test_two_threads_of_twenty_decodes_are_as_alone(pair_on_a_lane: Pair) -> None:
    options: list[dict[str, Any]] = [
        {"temperature": 0, "max_new_tokens": 9},
        {"temperature": 1, "seed": 4, "max_new_tokens": 9},
    ]
    asked = [(strategy, prompt, more) for strategy in (SPECULATIVE, PEARL) for prompt in PROMPTS for more in options]
    expected = [decode(pair_on_a_lane, strategy, prompt, **more).tokens for strategy, prompt, more in asked]
    found: list[list[tuple[int, Any]]] = [[], []]

    def work(mine: list[tuple[int, Any]], first: int) -> None:
        for number in range(first, first + 20):
            strategy, prompt, more = asked[number % len(asked)]
            try:
                mine.append((number % len(asked), decode(pair_on_a_lane, strategy, prompt, **more).tokens))
            except Exception as error:  # a thread's error is looked at below
                mine.append((number, error))

    threads = [threading.Thread(target=work, args=(mine, 7 * i)) for i, mine in enumerate(found)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in found:
        assert len(mine) == 20
        assert [tokens for _, tokens in mine] == [expected[number] for number, _ in mine]


def fail(monkeypatch: pytest.MonkeyPatch, first: int, at: int, error: BaseException) -> None:
    """Fail where logits after `at` tokens, of which one is the `first`, are processed in this process."""
    processed = Sampler.processed

    def failing(self: Sampler, logits: Any, context: Sequence[int]) -> Any:
        if context and context[0] == first and len(context) >= at:
            raise error
        return processed(self, logits, context)

    monkeypatch.setattr(Sampler, "processed", failing)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a fault of the processor")], ids=["Ctrl-C", "error"])
@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_an_error_in_one_decode_does_not_hurt_another(
    target: Any, draft: Any, monkeypatch: pytest.MonkeyPatch, lane: str, error: BaseException
) -> None:
    with Pair(target, draft, lane=lane) as pair:
        expected = alone(pair)[2]
        for at in (1, 4, 9):
            fail(monkeypatch, 3, at, error)
            whole, broken = batch(pair, *DECODES[2]), batch(pair, PEARL, [[3]], {})
            while True:
                whole.step()
                try:
                    broken.step()
                except type(error):
                    break
            assert broken.outputs[0].finished_by is None
            while whole.step():
                pass
            assert outputs(whole) == expected


def test_a_model_error_in_one_decode_does_not_hurt_another(pair_on_a_lane: Pair) -> None:
    expected = alone(pair_on_a_lane)[0]
    whole, broken = batch(pair_on_a_lane, *DECODES[0]), batch(pair_on_a_lane, PEARL, [[3]], {"logits_processor": [Broken()]})
    whole.step()
    with pytest.raises(ModelError):
        broken.step()
    while whole.step():
        pass
    assert outputs(whole) == expected


def test_a_decode_may_begin_another_one(target: Any, draft: Any) -> None:
    """A `stop` function is called in the middle of a step."""
    pair = Pair(target, draft, lane="inline")
    expected = alone(pair)
    inner: list[tuple[int, ...]] = []

    def stop(tokens: tuple[int, ...]) -> str | None:
        inner.append(decode(pair, PEARL, PROMPTS[1], max_new_tokens=14, temperature=1, seed=5, top_k=7).tokens)
        return None

    strategy, prompts, options = DECODES[2]
    outer = batch(pair, strategy, prompts, options | {"stop": stop})
    while outer.step():
        pass
    assert outputs(outer) == expected[2]
    assert set(inner) == set(expected[1])


def test_a_decode_goes_on_after_its_pair_was_closed(target: Any, draft: Any) -> None:
    for lane in ("inline", "thread"):
        pair = Pair(target, draft, lane=lane)
        expected = decode(pair, PEARL, [1, 2], max_new_tokens=14, temperature=1, seed=3).tokens
        decoding = Decoding(pair, PEARL, [1, 2], max_new_tokens=14, temperature=1, seed=3)
        next(decoding)
        pair.close()
        for _ in decoding:
            pass
        assert decoding.result().tokens == expected
        assert not decoding.result().statistics.draft_failure
        pair.close()


@pytest.mark.parametrize("lane", ["inline", "thread", "process"])
def test_rows_that_are_lost_with_a_closed_lane_end_no_drafting(target: Any, draft: Any, lane: str) -> None:
    """A branch that is pending has its rows on the lane that drafted it."""
    forking = create("saguaro", draft_length=2, fan_out=11)  # every outcome is foreseen
    with Pair(target, draft, lane=lane) as pair:
        decoding = Decoding(pair, forking, [1, 2], max_new_tokens=14, temperature=1, seed=3)
        next(decoding)
        pair.close()
        next(decoding)
        drafted = decoding.result().statistics.drafted_tokens
        for _ in decoding:
            pass
        statistics = decoding.result().statistics
        assert (decoding.result().finished_by, statistics.draft_failure) == ("length", "")
        assert statistics.drafted_tokens > drafted


@dataclass(frozen=True)
class Measuring(Speculative):
    """Lets the pair measure its models whenever a sequence begins, while others are under way."""

    def init(self, prompt: Committed, facts: Any) -> State:
        facts.pair._speed_ratios.clear()
        assert facts.speed_ratio() > 0
        return super().init(prompt, facts)


def test_models_may_be_measured_while_sequences_are_under_way(target: Any, draft: Any) -> None:
    with Pair(target, draft, lane="inline") as pair:
        expected = alone(pair)[2]
        strategy, prompts, options = DECODES[2]
        assert strategy == SPECULATIVE
        whole = batch(pair, Measuring(3), prompts, options)
        while whole.step():
            pass
        assert outputs(whole) == expected


def test_uniforms_that_a_draft_does_not_use_come_next() -> None:
    """Tokens must not depend on how many were sent along."""
    slot, other = Slot(7), Slot(7)
    whole = slot.uniforms(9)
    first = other.uniforms(6)
    other.give_back(first[2:])
    assert [*first[:2], *other.uniforms(3), *other.uniforms(4)] == whole
    assert Slot(7, sampling=Sampling(temperature=0)).uniforms(3) == []


# --- Ctrl-C in the middle of a message -------------------------------------------------------------------------------


class Interrupted:
    """A socket whose next call is interrupted once it has done its work, as by Ctrl-C."""

    def __init__(self, end: socket.socket, method: str) -> None:
        self._end, self._method = end, method

    def __getattr__(self, name: str) -> Any:
        found: Callable[..., Any] = getattr(self._end, name)
        if name != self._method:
            return found

        def interrupted(*arguments: Any) -> Any:
            found(*arguments)
            self._method = ""
            raise KeyboardInterrupt

        return interrupted


@pytest.mark.parametrize("method", ["sendall", "recv"])
def test_a_channel_that_lost_half_a_message_is_closed(method: str) -> None:
    ours, theirs = socket.socketpair()
    channel, other = Channel(ours), Channel(theirs)
    other.send(b"abc")
    channel._socket = Interrupted(ours, method)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        channel.send(b"def") if method == "sendall" else channel.receive()
    assert channel.closed
    assert not other.closed
    other.close()


def test_a_decode_after_ctrl_c_in_a_message_starts_a_new_process(process_pair: Pair) -> None:
    """Warnings are errors here: the draft is not lost."""
    lane = process_pair.draft_lane()
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0}
    assert isinstance(lane, ProcessLane)
    whole = decode(process_pair, PEARL, [1], **options)
    lane._channel._socket = Interrupted(lane._channel._socket, "recv")  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        decode(process_pair, PEARL, [1], **options)
    assert lane.ended
    again = decode(process_pair, PEARL, [1], **options)
    assert (again.tokens, again.statistics.accepted_tokens) == (whole.tokens, whole.statistics.accepted_tokens)
    assert process_pair.draft_lane() is not lane


def test_requests_and_answers_are_matched_by_their_tickets(process_pair: Pair) -> None:
    """Ctrl-C may come between the number of a request and its message."""
    lane = process_pair.draft_lane()
    assert isinstance(lane, ProcessLane)
    lane._ticket += 1
    expected = greedy_tokens(process_pair.target, [1], 6)
    assert decode(process_pair, PEARL, [1], max_new_tokens=6, temperature=0).tokens == expected
    assert not lane.ended
