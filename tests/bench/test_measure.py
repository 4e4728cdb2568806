"""What is measured of a pair: costs recovered from loops whose costs are known, and runs of acceptance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import minuscule

from sim.setup.profiles import measured_system
from specdec import Both, Committed, Draft, Guess, InputError, Pair, Score, Scores, create, machine
from specdec.measure import SampledAcceptance, contention, measure_acceptance, profile
from specdec.measure import pair as pair_measuring
from specdec.measure.acceptance import TOSSES
from specdec.measure.contention import LENGTHS, Alone, batch_rounds, in_turn, together
from specdec.profile import Profile, busy_sentence
from specdec.runtime.sequences import OneByOne
from specdec.runtime.timing import interleaved, speed_ratio
from specdec.testing.models import resembling

ALONE = Alone({width: 4e-3 + 5e-4 * width for width in range(1, 10)}, 1e-3)
FACTORS = {"in turn": (1.2, 1.5), "together": (1.3, 1.1)}
START, TRANSPORT, VERIFICATION, BOOKKEEPING = 7e-4, 2e-4, 3e-4, 1e-4


class Known:
    """Stands for the lanes: what they are asked moves the clock by known costs, the verification by that of each sequence."""

    now = 0.0
    alone = ALONE

    def __init__(self, *arguments: Any) -> None:
        batch = arguments[4] if len(arguments) > 4 else 1
        self.base = [Committed((0, 1))] * batch
        self.busy_seconds = 0.0, 0.0

    def answers(self, effects: Sequence[Any]) -> list[Any]:
        assert len(effects) == self.alone.batch
        return [self._answer(effects[0])] * len(effects)

    def _answer(self, effect: Any) -> Any:
        match effect:
            case Both(Score() as score, Draft() as draft):
                target, drafting = self._target(score, "together"), self._draft(draft, "together")
                self._pass(max(target, drafting), target, drafting)
                return Scores(score.committed, score.guess), Guess.certain([0] * draft.length)
            case Draft():
                drafting = self._draft(effect, "in turn")
                self._pass(TRANSPORT + drafting, 0.0, drafting)
                return Guess.certain([0] * effect.length)
            case Score():
                target = self._target(effect, "in turn")
                self._pass(BOOKKEEPING + target, target, 0.0)
                return Scores(effect.committed, effect.guess)
            case _:
                raise AssertionError(effect)

    def verified(self, scores: Sequence[Scores], guesses: Sequence[Guess]) -> list[Committed]:
        assert [one.guess for one in scores] == list(guesses)
        self._pass(VERIFICATION * len(scores), 0.0, 0.0)
        return [one.committed for one in scores]

    def _target(self, score: Score, beside: str) -> float:
        return FACTORS[beside][0] * self.alone.target[len(score.guess) + 1]

    def _draft(self, draft: Draft, beside: str) -> float:
        return FACTORS[beside][1] * (START + self.alone.draft * draft.length)

    def _pass(self, seconds: float, target: float, draft: float) -> None:
        Known.now += seconds
        self.busy_seconds = self.busy_seconds[0] + target, self.busy_seconds[1] + draft


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(contention, "_Rounds", Known)
    monkeypatch.setattr(contention, "time", SimpleNamespace(perf_counter=lambda: Known.now))
    return SimpleNamespace(draft_lane=object)


def test_models_in_turn_are_separated_from_what_lies_between_them(known: Any) -> None:
    found = in_turn(known, 4, 2, ALONE)
    assert (found.target_factor, found.draft_factor) == pytest.approx(FACTORS["in turn"])
    assert found.start_seconds == pytest.approx(1.5 * START)
    assert found.transport_seconds == pytest.approx(TRANSPORT)
    assert found.overhead_seconds == pytest.approx(BOOKKEEPING + VERIFICATION)


@pytest.mark.parametrize("ratio", [1, 3, 20])
def test_models_at_once_are_compared_with_themselves_alone(known: Any, monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    alone = Alone(ALONE.target, ALONE.target[1] / ratio)
    monkeypatch.setattr(Known, "alone", alone)
    found = together(known, 4, 2, alone, START)
    assert (found.target_factor, found.draft_factor) == pytest.approx(FACTORS["together"])


def test_rounds_of_a_batch_are_compared_with_its_forwards_alone(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = in_turn(known, 4, 2, ALONE)
    four = Alone({1: 6e-3, 3: 7e-3, 5: 9e-3}, 1.5e-3, batch=4)
    monkeypatch.setattr(Known, "alone", four)
    found = batch_rounds(known, 4, 2, four, one)
    drafts = TRANSPORT + FACTORS["in turn"][1] * (START + 3 * four.draft)  # lengths 2 and 4
    assert found.batch == 4
    assert (found.target_in_turn, found.target_together) == pytest.approx((1.2, 1.3))
    assert found.draft_in_turn == pytest.approx(drafts / (one.draft_start_seconds + 3 * four.draft))
    assert found.draft_together == pytest.approx(1.1 * (START + 4 * four.draft) / (1.5 * START + 4 * four.draft))
    assert found.drafting_overhead_seconds == pytest.approx(BOOKKEEPING + 4 * VERIFICATION)
    assert found.round_overhead_seconds == pytest.approx(BOOKKEEPING + 4 * VERIFICATION)


def test_sequences_of_a_batch_share_their_forwards() -> None:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair, pair.turn(drafts=True):
        rounds = contention._Rounds(pair, pair.draft_lane(), 16, 1, 3)
        rounds.answers([Score(one, Guess.empty) for one in rounds.base])
        rounds.answers([Draft(one, Guess.empty, 2) for one in rounds.base])
        statistics = [slot.statistics for slot in rounds._slots]
    assert {one.target_forwards for one in statistics} == {1}
    assert len({one.target_busy_seconds for one in statistics}) == 1  # that of one forward
    assert len({slot.index for slot in rounds._slots}) == 3


def test_settings_are_timed_in_blocks_of_their_own() -> None:
    asked: list[str] = []

    def work(setting: str) -> Iterator[int]:
        for repeat in range(100):
            asked.append(setting)
            yield repeat

    found = interleaved(["a", "b"], 8, work)
    assert "".join(asked) == "aaaaaabbbbbbaaaaaabbbbbb"
    assert found == {"a": [2, 3, 4, 5] * 2, "b": [2, 3, 4, 5] * 2}  # a block's first ones are still cold


def test_a_slow_pass_spoils_no_profile_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of five passes is three times as slow."""
    measured, passes = pair_measuring._measured, list[Profile]()

    def once_slow(*arguments: Any) -> Profile:
        first = passes[0] if passes else measured(*arguments)
        slow = 3.0 if len(passes) == 1 else 1.0
        passes.append(replace(first, target_seconds=tuple(replace(t, mean=slow * t.mean) for t in first.target_seconds)))
        return passes[-1]

    monkeypatch.setattr(pair_measuring, "_measured", once_slow)
    monkeypatch.setattr(pair_measuring, "OtherWork", lambda cores: SimpleNamespace(share=lambda: 0.0))
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        found = profile(pair, {}, widths=(1,), batches=(), contexts=(16,), repeats=20)
    assert len(passes) == 5
    assert found.target_seconds == passes[0].target_seconds
    assert found.busy == pytest.approx((4 + 3) / 5 - 1)
    assert "The machine was busy with other work: 40 %" in str(found)
    assert busy_sentence(0.1) == ""


def test_other_work_counts_beyond_the_cores_that_are_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(seconds=0.0, everything=0.0, own=0.0)
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    monkeypatch.setattr(machine, "_busy_seconds", lambda: now.everything)
    monkeypatch.setattr(machine, "_own_seconds", lambda: now.own)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 4)
    others = machine.OtherWork(2)
    now.seconds, now.everything, now.own = 10.0, 35.0, 10.0
    assert others.share() == pytest.approx(0.25)  # 2.5 cores for others, of which 2 were left over
    now.everything = 30.0
    assert others.share() == 0.0


def test_short_texts_lose_no_long_runs() -> None:
    """Each text is shorter than a run, and yet the runs hold all positions but those of the last, unfinished one."""
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.1), lane="inline") as pair:
        found = measure_acceptance(pair, [[token] for token in range(16)] * 4, new_tokens=2)
    rejections = sum(found.run_lengths.values())
    assert found.positions == 128
    tossed = TOSSES * found.positions
    assert 1 - rejections / tossed == pytest.approx(found.rate, abs=0.02)
    assert 0 <= tossed - sum((length + 1) * count for length, count in found.run_lengths.items()) <= 32 * TOSSES


def test_a_prompt_that_fills_the_context_is_skipped() -> None:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.1), lane="inline") as pair:
        full = [1] * pair.context_limit
        assert measure_acceptance(pair, [full, [1]], new_tokens=2).positions == 2
        assert measure_acceptance(pair, [full]) == SampledAcceptance(0.0, {}, 0)


def test_a_pair_without_a_draft_has_no_acceptance() -> None:
    with Pair(minuscule(16, seed=3)) as pair, pytest.raises(InputError, match="acceptance needs a draft model"):
        measure_acceptance(pair, [[1]])


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_a_profile_is_read_by_the_simulator(lane: str) -> None:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane=lane) as pair:
        found = profile(pair, {"texts": [[1, 2, 3]] * 4}, widths=(1, 3), batches=(1, 2), contexts=(16, 100), repeats=2)
    assert Profile.from_dict(found.to_dict(), "the profile") == found
    assert {timing.width for timing in found.target_seconds if timing.batch == 1} == {1, 3, *(length + 1 for length in LENGTHS)}
    assert (found.together is None) == (lane == "inline")  # two models in one thread work in turn
    system = measured_system(found, 20).used_by(create("speculative"))
    assert system.in_turn == (lane == "inline")
    assert system.turns.target_factor == found.in_turn.target_factor
    assert found.drafting_overhead_seconds is not None
    assert system.overhead_seconds == found.drafting_overhead_seconds > 0
    forked = float(system.fork_seconds(1, 2, 1) - system.fork_seconds(0, 0, 0)) - float(system.draft_seconds(1))
    assert forked > found.fork_start_seconds > 0  # the forward over the window, and what is done around it
    assert found.wake_seconds == system.wake_seconds == 0.0  # no prompt was timed
    start = found.draft_start_seconds
    assert float(system.draft_seconds(1) - (system.draft_seconds(2) - system.draft_seconds(1))) == pytest.approx(start)


def test_the_middle_prompt_is_timed_after_a_pause_and_idle_devices_begin_so_much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def pauses(lane: Any, length: int, repeats: int, slots: int) -> list[float]:
        asked.append((length, slots))
        return [(-1.0, 0.5, 9.0)[len(asked) - 1]] * repeats  # of three passes

    monkeypatch.setattr(pair_measuring, "timed_pauses", pauses)
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        found = profile(pair, {}, widths=(1,), batches=(1,), contexts=(16,), branches=(), prompt_tokens=(4, 6, 9), repeats=12)
    assert asked == [(6, 1)] * 3
    assert found.wake_seconds == measured_system(found, 20).wake_seconds == 0.5
    with pytest.raises(InputError, match="wake_seconds is -1"):
        replace(found, wake_seconds=-1.0)
    with pytest.raises(InputError, match="wake_seconds -1"):
        replace(measured_system(found, 20), wake_seconds=-1.0)


def test_a_pair_without_a_draft_has_no_profile() -> None:
    with Pair(minuscule(16, seed=3)) as pair, pytest.raises(InputError, match="needs a draft model too"):
        profile(pair, {})


class Scripted:
    """A lane that takes given seconds for whatever it is asked, and writes down when it is asked and waited for."""

    def __init__(self, name: str, busy_seconds: float, events: list[str]) -> None:
        self._name, self._busy_seconds, self._events = name, busy_seconds, events

    def submit(self, method: str, *arguments: Any) -> Any:
        self._events.append(f"{self._name} {method}")
        tokens = [0] * getattr(arguments[0][0], "length", 1) if method != "begin" else []

        def wait() -> Any:
            self._events.append(f"{self._name} answers")
            return [SimpleNamespace(tokens=tokens, busy_seconds=self._busy_seconds * len(tokens))]

        return wait


def test_the_speed_ratio_is_that_of_models_side_by_side() -> None:
    events: list[str] = []
    target, draft = Scripted("target", 0.6, events), Scripted("draft", 0.1, events)
    assert speed_ratio(target, draft, repeats=1) == pytest.approx(6)  # type: ignore[arg-type]
    assert events[-4:] == ["draft draft", "target score", "target answers", "draft answers"]


def test_models_of_short_contexts_are_timed_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A position table ends there, and nothing may be timed beyond."""
    longest = list[int]()
    logits = OneByOne.logits

    def watched(runner: OneByOne, wanted: Any) -> Any:
        longest.append(max(len(context) for _, context, _ in wanted))
        return logits(runner, wanted)

    monkeypatch.setattr(OneByOne, "logits", watched)
    for limit in (20, 32, 76):
        longest.clear()
        with Pair(*(minuscule(16, seed=seed, max_position_embeddings=limit) for seed in (1, 2)), lane="inline") as short:
            found = profile(short, {"made up": [[1, 2, 3]]}, repeats=4, new_tokens=8)
        assert max(longest) <= limit
        assert 1 in {timing.width for timing in found.target_seconds}
