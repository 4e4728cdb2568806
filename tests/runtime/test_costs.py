"""What work takes, for closed forms: measured on lanes of known speed, and on a pair."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import specdec
import strategies
from specdec import Costs, Pair, Statistics, StrategyError, decode
from specdec.correction import REMEMBERED, corrected
from specdec.measure import pair as pair_measuring
from specdec.runtime import timing
from specdec.runtime.messages import ForkRequest
from specdec.runtime.timing import FOR_EVER, _in_steps, fan_outs, fork_positions, measured_costs, timed_branches, timed_pauses
from specdec.sampling import Sampling
from specdec.testing.models import model, resembling


class KnownLane:
    """A lane whose seconds are lines: a target step takes 5, a draft step 1, and so on."""

    def __init__(self, fork_begins: float = 1.7, *, forks: bool = True) -> None:
        self._fork_begins, self._forks = fork_begins, forks

    def submit(self, method: str, *arguments: Any) -> Any:
        if method == "begin":
            self._sampled = not arguments[0].greedy
            return lambda: None
        if method == "fork" and not self._forks:
            raise StrategyError("no forks here")
        request, tokens = arguments[0][0], 1
        if method == "score":
            seconds = 5 + 0.15 * (request.positions - 1)
        elif method == "draft":
            tokens = seconds = request.length
        else:
            branch = 0.07 if self._sampled else 0.04
            seconds = self._fork_begins + request.length * (1 + branch * (sum(request.fan_outs) - 1))
        return lambda: [SimpleNamespace(busy_seconds=seconds, tokens=[0] * tokens)]


def measured(draft: KnownLane | None, temperature: float = 0.0) -> Costs:
    target: Any = KnownLane()
    lane: Any = draft
    return measured_costs(target, lane, 5.0, context=20, sampling=Sampling(temperature))


def test_costs_are_measured() -> None:
    found = measured(KnownLane())
    assert (found.speed_ratio, found.fork) == pytest.approx((5.0, 1.7))
    assert dict(found.windows) == pytest.approx({1: 1.0, 2: 1.03, 5: 1.12, 9: 1.24})
    assert dict(found.branches) == pytest.approx({1: 1.0, 3: 1.08, 9: 1.32, 18: 1.68})


def test_branches_are_measured_as_they_are_drawn() -> None:
    assert dict(measured(KnownLane(), temperature=1.0).branches)[9] == pytest.approx(1.56)


def test_more_work_never_takes_less() -> None:
    """A slow moment at five positions does not make nine look cheaper."""
    assert _in_steps({1: 2.0, 5: 3.0, 9: 2.5}, 2.0) == ((1, 1.0), (5, 1.5), (9, 1.5))


def test_a_fork_begins_with_a_forward_at_least() -> None:
    assert measured(KnownLane(-0.5)).fork == 1.0


class WindowLane:
    """A lane whose forks take 2 before a window, 0.1 for each of its positions, and 1 + 0.1 a branch for each token."""

    def __init__(self) -> None:
        self.asked: list[ForkRequest] = []

    def submit(self, method: str, *arguments: Any) -> Any:
        if method == "begin":
            return lambda: None
        request = arguments[0][0]
        self.asked.append(request)
        step = 1 + 0.1 * sum(request.fan_outs)
        seconds = 2 + 1 + 0.1 * len(request.fan_outs) + request.length * step
        return lambda: [SimpleNamespace(busy_seconds=seconds)]


def test_forks_are_timed_as_a_decode_asks_for_them() -> None:
    lane: Any = WindowLane()
    found = timed_branches(lane, (2, 16), 4, 20, Sampling())
    many = (3, 3, 3, 3, 3, 1)
    assert {(one.fan_outs, one.length) for one in lane.asked} == {((2,), 1), ((2,), 5), (many, 1), (many, 6)}
    longest = max(len(one.context) + one.length for one in lane.asked if one.fan_outs == many)  # with a token of the target's
    assert longest + 1 == 20 + fork_positions(16)
    assert all(len(one.context) >= 20 + len(one.fan_outs) - 1 for one in lane.asked)
    assert all(len(one.uniforms) == one.length * sum(one.fan_outs) for one in lane.asked)
    for number, (steps, start) in found.items():
        assert steps == pytest.approx([1 + 0.1 * number] * len(steps))
        assert start == pytest.approx(3 + 0.1 * len(fan_outs(number)))


class SleepyLane:
    """A lane, and its clock: a prompt is read in 1 s, and in 4 after a pause."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.now = self._last = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def submit(self, method: str, sampling: Sampling, prompt: list[int], slot: int, slots: int) -> Any:
        assert (method, slot, slots) == ("begin", 0, 4)
        self.prompts.append(tuple(prompt))

        def read() -> None:
            self.now = self._last = self.now + (4 if self.now > self._last else 1)

        return read


def test_a_prompt_after_a_pause_is_timed_beside_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    lane: Any = SleepyLane()
    monkeypatch.setattr(timing, "time", lane)
    assert timed_pauses(lane, 7, 3, slots=4) == pytest.approx([3.0] * 3)
    assert {len(prompt) for prompt in lane.prompts} == {7}
    assert all(one != two for one, two in pairwise(lane.prompts))


def test_a_fork_s_start_is_what_it_takes_beside_its_forwards() -> None:
    """The forward over a window costs what a step over as many branches does; the rest of the start is 2."""
    plan: Any = SimpleNamespace(contexts=(20,), branches=(2, 4, 8, 16), slots=1)
    lane: Any = WindowLane()
    timings, start = pair_measuring._timed_forks(lane, plan, step=1.1)
    assert [timing.mean for timing in timings] == pytest.approx([1.2, 1.4, 1.8, 2.6])
    assert start == pytest.approx(2.0)


def test_without_a_draft_nothing_is_known_of_branches() -> None:
    found = measured(None)
    assert found == Costs(5.0, found.windows)
    assert found.window(1) == pytest.approx(1.03)


def test_a_draft_that_cannot_fork_is_never_asked_to() -> None:
    found = measured(KnownLane(forks=False))
    assert found == Costs(5.0, found.windows, fork=FOR_EVER)
    for strategy in (strategies.Saguaro(4), strategies.Saguaro(4, on_a_miss="none"), strategies.Hedged(4)):
        assert all(strategy.closed_form(a, found, 4, hit) < 1e-9 for a in (0, 0.9, 1) for hit in (0, 0.9, 1))


def test_a_pair_measures_costs_once() -> None:
    target = model("llama", seed=1)
    with Pair(target, resembling(target), lane="inline") as pair:
        found = pair.costs()
        assert found.speed_ratio == pair.speed_ratio()
        assert [positions for positions, _ in found.windows] == [1, 2, 5, 9]
        assert found.forks(0, 3, 1) > 0
        assert pair.costs() is found


def test_a_strategy_knows_the_costs_of_its_own_kind_of_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    target = model("llama", seed=1)
    asked: list[bool] = []
    with Pair(target, resembling(target), lane="inline") as pair:

        def costs(*, sampled: bool) -> Costs:
            asked.append(sampled)
            return Costs()

        monkeypatch.setattr(pair, "costs", costs)
        for temperature in (0.0, 0.7):
            decode(pair, strategies.Adaptive(most=2), [1, 2, 3], max_new_tokens=2, temperature=temperature)
    assert asked == [False, True]


# --- decodes correct what was measured -------------------------------------------------------------------------------

KNOWN = Costs(5.0, windows=((1, 1.0), (5, 1.4)), branches=((1, 1.0), (6, 2.0)), fork=3.0)
TRUE = Costs(20.0, windows=((1, 1.0), (5, 1.6)), branches=((1, 1.0), (6, 3.0)), fork=4.5)


def decoded(true: Costs, step: float = 30.0, rounds: int = REMEMBERED) -> Statistics:
    """What a decode counts on devices of these costs, with a forward, a window, a draft and a fork in each round."""
    counts = Statistics()
    for _ in range(rounds):
        counts.count_forward(1, step)
        counts.count_forward(4, true.window(3) * step)
        counts.count_draft(0, 0, 4, true.draft(4) * step)
        counts.count_draft(3, 4, 2, true.forks(3, 4, 2) * step)
    return counts


def after(decode: Statistics, times: int = 1, costs: Costs = KNOWN) -> Costs:
    for _ in range(times):
        costs = corrected(costs, decode)
    return costs


@pytest.mark.parametrize("step", [30.0, 60.0])
def test_a_decode_as_known_corrects_nothing(step: float) -> None:
    assert flat(after(decoded(KNOWN, step))) == pytest.approx(flat(KNOWN))


def flat(costs: Costs) -> list[float]:
    return [costs.speed_ratio, costs.fork, *np.ravel(costs.windows), *np.ravel(costs.branches)]


def test_decodes_correct_what_windows_and_forks_take_and_the_speed_ratio() -> None:
    found = after(decoded(TRUE), times=40)
    assert found.speed_ratio == pytest.approx(TRUE.speed_ratio, rel=1e-3)
    assert found.window(3) == pytest.approx(TRUE.window(3), rel=1e-3)
    assert found.forks(3, 4, 2) == pytest.approx(TRUE.forks(3, 4, 2), rel=1e-3)


def test_as_much_work_as_is_remembered_moves_costs_half_of_the_way() -> None:
    faster = after(decoded(replace(KNOWN, speed_ratio=20.0), rounds=REMEMBERED // 2))
    assert flat(faster) == pytest.approx(flat(replace(KNOWN, speed_ratio=10.0)))
    dearer = after(decoded(replace(KNOWN, windows=((1, 1.0), (4, 1.3 * 1.69)))))
    assert dearer.windows == ((1, 1.0), (5, pytest.approx(1.4 * 1.3)))


def test_the_rarer_of_two_kinds_of_work_says_how_much_is_known() -> None:
    """One forward over one position beside many windows tells little, and so does the reverse."""
    dearer = replace(KNOWN, windows=((1, 1.0), (4, 1.3 * 1.69)))
    for rare in (1, 4):
        decode = decoded(dearer)
        decode.window_seconds[rare] /= decode.window_forwards[rare]  # type: ignore[assignment]
        decode.window_forwards[rare] = 1
        assert after(decode).windows[1][1] == pytest.approx(1.4 * 1.69 ** (1 / (1 + REMEMBERED)))


def test_what_windows_and_forks_take_is_not_taken_for_the_speed_ratio() -> None:
    found = after(decoded(replace(TRUE, speed_ratio=5.0), rounds=10_000))
    assert found.speed_ratio == pytest.approx(5.0, rel=1e-2)


@pytest.mark.parametrize(
    ("missing", "kept"),
    [
        ("window_forwards", "speed_ratio windows"),
        ("drafts", "speed_ratio branches fork"),
        ("draft_seconds", "speed_ratio branches fork"),
    ],
)
def test_what_a_decode_does_not_compare_stays(missing: str, kept: str) -> None:
    """One that drafts nothing, or one whose draft takes no time."""
    decode = decoded(TRUE)
    getattr(decode, missing).clear()
    found = after(decode)
    assert [one.name for one in fields(Costs) if getattr(found, one.name) == getattr(KNOWN, one.name)] == kept.split()


def test_windows_alone_tell_nothing_of_windows() -> None:
    decode = decoded(TRUE)
    del decode.window_forwards[1], decode.drafts[0, 0, 4]
    assert after(decode) == replace(KNOWN, speed_ratio=after(decode).speed_ratio)


def test_a_draft_without_tokens_corrects_nothing() -> None:
    decode = Statistics()
    decode.count_forward(1, 30.0)
    decode.count_draft(3, 0, 0, 4.0)
    assert after(decode) == KNOWN


def test_nothing_takes_less_than_a_step() -> None:
    """Not even where a decode's windows took less than its forwards over one position."""
    found = after(decoded(Costs(5.0, windows=((1, 1.0), (4, 0.5)), branches=((1, 1.0), (4, 0.8)), fork=0.5)), times=40)
    assert replace(found, speed_ratio=5.0) == Costs(5.0, windows=((1, 1.0), (5, 1.0)), branches=((1, 1.0), (6, 1.0)))


def test_the_costs_of_a_pair_follow_its_decodes() -> None:
    target = model("llama", seed=1)
    with Pair(target, resembling(target), lane="inline") as pair:
        pair.follow(decoded(KNOWN), sampled=False)  # nobody asked for costs: nothing is measured
        before = pair.costs()
        pair.follow(decoded(KNOWN), sampled=False)
        assert pair.costs() == after(decoded(KNOWN), costs=before)
        assert pair.costs(sampled=True).speed_ratio == pair.speed_ratio(sampled=True)


@pytest.mark.parametrize("strategy", ["speculative", "saguaro"])
def test_a_decode_counts_what_its_draft_made(strategy: str) -> None:
    target = model("llama", seed=1)
    with Pair(target, resembling(target), lane="inline") as pair:
        counts = decode(pair, specdec.create(strategy, draft_length=3), [1, 2, 3], max_new_tokens=9, temperature=0).statistics
    drafts = {made: times for made, times in counts.drafts.items() if not made[1]}
    forks = {made: times for made, times in counts.drafts.items() if made[1]}
    assert drafts.keys() <= {(0, 0, 1), (0, 0, 2), (0, 0, 3)}
    assert forks.keys() <= {(0, 3, 3), (3, 12, 3)}
    assert bool(forks) == (strategy == "saguaro")
    made = sum(times * max(1, branches) * tokens for (_, branches, tokens), times in counts.drafts.items())
    assert made == counts.drafted_tokens > 0
    assert counts.draft_seconds.keys() == counts.drafts.keys()
    assert sum(counts.draft_seconds.values()) == pytest.approx(counts.draft_busy_seconds)


def test_strategies_are_told_the_costs_that_decodes_corrected() -> None:
    target, told = model("llama", seed=1), list[Costs]()

    class Asking(strategies.Speculative):
        def init(self, prompt: Any, facts: Any) -> Any:
            told.append(facts.costs())
            return super().init(prompt, facts)

    with Pair(target, resembling(target), lane="inline") as pair:
        costs = [pair.costs()]
        for _ in range(2):
            decode(pair, Asking(2), [1, 2, 3], max_new_tokens=12, temperature=0)
            costs.append(pair.costs())
        decode(pair, Asking(2), [[1, 2], [3]], max_new_tokens=12, temperature=0, batch_size=2)
        assert pair.costs() == costs[2]  # forwards of several sequences take longer than one decode's
    assert len({*costs}) == 3
    assert told[:2] == costs[:2]
