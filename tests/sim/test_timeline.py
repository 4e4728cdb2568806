"""Timelines: all of the time is accounted for, tokens get their fates, and Perfetto reads the trace."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from sim.setup.acceptance import Rate
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.stream.timeline import chrome_trace, pieces, timeline, waits
from specdec import DecodingStrategy
from strategies import Autoregressive, Elastic, Pearl, Speculative

TWO_DEVICES = System(Constant(1e-3, 4e-3, {6: 5e-3}))


@pytest.mark.parametrize("strategy", [Autoregressive(), Speculative(4), Pearl(5), Pearl(2), Elastic()], ids=str)
def test_a_timeline_accounts_for_all_the_time(strategy: DecodingStrategy) -> None:
    shown = timeline(strategy, Rate(0.8), System(Constant(1e-3, 4e-3), overhead_seconds=3e-4), rounds=10, seed=1)
    assert len(shown.round_tokens) == 10
    for lane in {span.lane for span in shown.spans}:
        both = sorted((piece["start"], piece["end"]) for piece in [*pieces(shown), *waits(shown)] if piece["lane"] == lane)
        assert both[0][0] == 0
        assert both[-1][1] == pytest.approx(1e3 * shown.seconds)
        assert all(after[0] == pytest.approx(before[1]) for before, after in pairwise(both))
        waiting = sum(piece["end"] - piece["start"] for piece in waits(shown) if piece["lane"] == lane)
        assert shown.idle_share(lane) == pytest.approx(waiting / 1e3 / shown.seconds, abs=1e-9)


def test_in_a_pre_verify_what_follows_a_rejected_first_token_is_wasted() -> None:
    shown = timeline(Pearl(4), Rate(0.0), TWO_DEVICES, rounds=3)
    drafts = [span.fates for span in shown.spans if span.lane == "draft"]
    assert drafts == [("rejected", "wasted", "wasted", "wasted")] * 3


def test_what_is_pending_in_the_last_round_gets_its_fate() -> None:
    shown = timeline(Pearl(4), Rate(1.0), TWO_DEVICES, rounds=3)
    assert {fate for span in shown.spans for fate in span.fates} == {"accepted"}


def test_a_trace_is_what_perfetto_reads() -> None:
    shown = timeline(Pearl(4), Rate(0.8), TWO_DEVICES, rounds=4)
    trace = json.loads(json.dumps(chrome_trace(shown)))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"} == {"draft", "target"}
    assert all({"name", "ts", "dur", "pid", "tid"} <= event.keys() for event in events)
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(1e6 * shown.seconds)
    assert len(events) == 4 + 16
