"""Requests that are played on a pair: each gets its tokens, after it arrived, in an open and in a closed loop."""

from __future__ import annotations

import pytest
from tiny_models import minuscule

from specdec import InputError, Pair, create
from specdec.bench.serving import Request, play
from specdec.testing.models import resembling


@pytest.fixture(scope="module")
def pair() -> Pair:
    target = minuscule(16, seed=3)
    return Pair(target, resembling(target, 0.3), lane="inline")


def test_every_request_gets_its_tokens_after_it_arrived(pair: Pair) -> None:
    asked = [Request(0.02 * (number // 2), [1, 2, number], 3 + number) for number in range(6)]
    played = play(pair, create("pearl", draft_length=2), asked, batch_size=2)
    found = played.answers
    assert [sum(tokens for _, tokens in one.deliveries) for one in found] == [3, 4, 5, 6, 7, 8]
    for request, one in zip(asked, found, strict=True):
        assert one.submitted_seconds == request.arrival_seconds
        assert one.submitted_seconds < one.first_token_seconds <= one.finish_seconds
        assert one.deliveries == sorted(one.deliveries)
    assert 0 < played.working_seconds <= max(one.finish_seconds for one in found)


def test_steps_say_how_many_sequences_they_had_and_where_prompts_were_read(pair: Pair) -> None:
    """By hand: the first request ends after two steps, and the third one takes its slot."""
    asked = [Request(0.0, [1, 2, number], tokens) for number, tokens in enumerate((2, 4, 4))]
    steps = play(pair, create("autoregressive"), asked, batch_size=2).steps
    assert [step.sequences for step in steps] == [2, 2, 2, 2, 1, 1]
    assert [step.prompt_seconds > 0 for step in steps] == [True, False, True, False, False, False]
    assert all(step.prompt_seconds < step.end_seconds - step.begin_seconds for step in steps)


def test_a_step_that_drafts_delivers_nothing(pair: Pair) -> None:
    steps = play(pair, create("speculative", draft_length=2), [Request(0.0, [1, 2], 8)]).steps
    assert [step.delivered for step in steps] == [False, True] * (len(steps) // 2)
    assert all(step.delivered for step in play(pair, create("autoregressive"), [Request(0.0, [1, 2], 3)]).steps)


def test_a_closed_loop_keeps_its_clients_busy(pair: Pair) -> None:
    asked = [Request(0.0, [1, number], 4) for number in range(5)]
    found = play(pair, create("autoregressive"), asked, batch_size=8, clients=2).answers
    ends = sorted(one.finish_seconds for one in found)
    assert [one.submitted_seconds for one in found] == [0.0, 0.0, *ends[:3]]


def test_what_cannot_be_played_is_refused(pair: Pair) -> None:
    strategy = create("autoregressive")
    with pytest.raises(InputError, match="no requests"):
        play(pair, strategy, [])
    with pytest.raises(InputError, match="sort them"):
        play(pair, strategy, [Request(1.0, [1], 1), Request(0.0, [1], 1)])
    with pytest.raises(InputError, match="clients 0"):
        play(pair, strategy, [Request(0.0, [1], 1)], clients=0)
    with pytest.raises(InputError, match=r"request at -1.0 s"):
        Request(-1.0, [1], 1)
    with pytest.raises(InputError, match="output_tokens 0"):
        Request(0.0, [1], 0)
