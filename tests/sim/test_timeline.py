"""Timelines: all time is accounted for, every drafted token has its fate, and Perfetto reads the trace."""

from __future__ import annotations

import json
from itertools import groupby, pairwise

import pytest

from sim import Constant, Rate, System, Timeline, chrome_trace, timeline
from specdec import DecodingStrategy, InputError
from strategies import Autoregressive, Elastic, Pearl, Speculative

TWO_DEVICES = System(Constant(1e-3, 4e-3))
OVERHEAD = System(Constant(1e-3, 4e-3), overhead_seconds=3e-4)


def drafts(shown: Timeline) -> list[list[str]]:
    """The fates of the tokens drafted in each round."""
    drafted = [piece for piece in shown.work if piece.lane == "draft"]
    return [[piece.kind.removeprefix("draft ") for piece in found] for _, found in groupby(drafted, lambda piece: piece.round)]


@pytest.mark.parametrize("strategy", [Autoregressive(), Speculative(4), Pearl(5), Pearl(2), Elastic()], ids=str)
def test_a_timeline_accounts_for_all_the_time(strategy: DecodingStrategy) -> None:
    shown = timeline(strategy, Rate(0.8), OVERHEAD, rounds=10, seed=1)
    assert len(shown.round_tokens) == 10
    idle = {"target": shown.target_idle_share, "draft": shown.draft_idle_share}
    for lane in {piece.lane for piece in shown.work}:
        waits = [piece for piece in shown.waits() if piece.lane == lane]
        ours = [piece for piece in shown.work if piece.lane == lane]
        both = sorted((piece.start_seconds, piece.end_seconds) for piece in [*ours, *waits])
        assert both[0][0] == 0
        assert both[-1][1] == pytest.approx(shown.seconds)
        assert all(after[0] == pytest.approx(before[1]) for before, after in pairwise(both))
        waiting = sum(piece.end_seconds - piece.start_seconds for piece in waits)
        assert idle[lane] == pytest.approx(waiting / shown.seconds, abs=1e-9)


def test_in_a_pre_verify_what_follows_a_rejected_first_token_is_wasted() -> None:
    shown = timeline(Pearl(4), Rate(0.0), TWO_DEVICES, rounds=3)
    assert drafts(shown) == [["rejected", "wasted", "wasted", "wasted"]] * 3


def test_what_is_pending_in_the_last_round_gets_its_fate() -> None:
    shown = timeline(Pearl(4), Rate(1.0), TWO_DEVICES, rounds=3)
    assert drafts(shown) == [["accepted"] * 4] * 3


def test_a_timeline_of_no_rounds_is_refused() -> None:
    with pytest.raises(InputError, match="rounds 0"):
        timeline(Pearl(4), Rate(0.8), TWO_DEVICES, rounds=0)


def test_a_trace_is_what_perfetto_reads() -> None:
    shown = timeline(Pearl(4), Rate(0.8), TWO_DEVICES, rounds=4)
    trace = json.loads(json.dumps(chrome_trace(shown)))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"} == {"draft", "target"}
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in events)
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(1e6 * shown.seconds)
    assert len(events) == 4 + 16
