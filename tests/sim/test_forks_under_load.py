"""Forks under load: the closed forms at one sequence, what branches take in batches, their memory, and what is refused.

`test_serving.py` holds the engine against one written step by step, with strategies that fork too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sim.planning.methods import Pooled
from sim.setup.acceptance import Acceptance, PerPosition, Rate, markov
from sim.setup.anchored import Anchor, Anchored
from sim.setup.latency import AtBatch, Constant, Latency, Scaled, fork_reach, fork_seconds
from sim.setup.measured import Measured
from sim.setup.model_size import read_model
from sim.setup.roofline import Roofline
from sim.setup.segments import Segments
from sim.setup.system import Jitter, System
from sim.stream.chain import compile_strategy
from sim.stream.run import interval
from sim.stream.speed import expected_seconds
from sim.study.load import simulate_traffic
from sim.traffic.record import Served, Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Workload
from specdec import DecodingStrategy, InputError
from specdec.acceptance import Foresight
from specdec.profile import DraftTiming, TargetTiming
from strategies import Hedged, Pearl, Saguaro

FORESIGHT = Foresight((0.3, 0.5), (0.6, 0.9))
FREE = Constant(1e-3, 5e-3, {4: 5.5e-3}, batches_are_free=True, branched={8: 1.4})
ANSWER = 80
FORKING = [Saguaro(3, 2), Saguaro(3, 2, "none"), Hedged(3, 2)]


def answers(count: int, apart: float, tokens: int = ANSWER) -> Workload:
    return Workload(apart * np.arange(count, dtype=float), np.ones(count, int), np.full(count, tokens))


def served(strategy: DecodingStrategy, system: System, workload: Workload, acceptance: Acceptance, **server: Any) -> Served:
    return simulate_serving(compile_strategy(strategy, system), acceptance, system, workload, Server(**server), 3)


@pytest.mark.parametrize(("apart", "server"), [(100.0, {}), (0.0, {"clients": 1}), (0.0, {"max_batch": 1})])
@pytest.mark.parametrize(
    "acceptance",
    [Rate(0.8), Rate(0.8).foreseeing(FORESIGHT), PerPosition((0.9, 0.6)).foreseeing(FORESIGHT), markov(0.9, 0.4)],
    ids=["rate", "measured", "positions", "hidden"],
)
@pytest.mark.parametrize("strategy", FORKING, ids=str)
def test_one_answer_at_a_time_takes_the_seconds_of_the_chain(
    strategy: DecodingStrategy, acceptance: Acceptance, apart: float, server: dict[str, int]
) -> None:
    """The first token comes with the prompt, all others by rounds: their mean seconds are known exactly."""
    system = System(FREE, overhead_seconds=1e-4)
    found = served(strategy, system, answers(400, apart), acceptance, **server)
    exact = float(expected_seconds(compile_strategy(strategy, system), acceptance, system, ANSWER - 1))
    if len(acceptance.start) == 1:
        low, high = interval((found.finish_seconds - found.first_token_seconds).tolist(), confidence=0.999)
        assert low <= exact <= high
        assert high - low < 0.04 * exact
    else:  # an answer's first position has no round of its own, and hidden states begin with it
        assert float((found.finish_seconds - found.first_token_seconds).mean()) == pytest.approx(exact, rel=0.03)


def test_more_foresight_serves_faster_and_equal_seeds_meet_equal_lots() -> None:
    system, work = System(FREE), answers(60, 0.0)
    ends = [
        served(Saguaro(3, 2), system, work, Rate(0.8).foreseeing(Foresight((hit,), (hit,))), clients=1).finish_seconds
        for hit in (0.0, 0.3, 0.6, 1.0)
    ]
    assert [end[-1] for end in ends] == sorted((end[-1] for end in ends), reverse=True)
    always = ends[-1][-1] / 60
    one = Rate(0.8).foreseeing(Foresight((1.0,), (1.0,)))
    assert always == pytest.approx(float(expected_seconds(compile_strategy(Saguaro(3, 2), system), one, system, 79)), rel=0.03)


class Rows:
    """The draft takes a second for each row of its forwards, and the target none to speak of."""

    fork_reach = 20

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Any:
        return np.asarray(tokens, float) * np.asarray(batch)

    def fork_seconds(self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike, context: ArrayLike) -> Any:
        return (np.asarray(rows) + np.asarray(steps) * np.asarray(branches)) * np.asarray(batch, float)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Any:
        return np.where(np.asarray(width) > 0, 1e-3 * np.asarray(batch), 0.0)


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_batch_of_forks_is_one_forward_over_windows_and_steps_over_all_branches(sequences: int) -> None:
    """Nothing is ever foreseen and all guesses pass: a round forks 4 rows into 8 branches of 3 tokens, then drafts 3 again."""
    acceptance = Rate(1.0).foreseeing(Foresight((0.0,), (0.0,)))
    found = served(Saguaro(3, 2), System(Rows()), answers(sequences, 0.0), acceptance)
    whole = found.iterations.seconds[found.iterations.fork_rows == 8 * sequences]
    assert len(whole) > 10
    assert whole == pytest.approx(sequences * (4 + 3 * 8 + 3))
    load = simulate_traffic(Saguaro(3, 2), acceptance, System(Rows()), answers(sequences, 0.0), Server())
    assert (load.extrapolated_share > 0.9) == (8 * sequences > Rows.fork_reach)
    assert simulate_traffic(Pearl(3), acceptance, System(Rows()), answers(sequences, 0.0)).extrapolated_share == 0


def test_those_that_miss_draft_with_the_mean_context_of_all() -> None:
    """A draft takes its steps times the mean context, whether one of three sequences misses or all do."""

    class Held(Rows):
        def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Any:
            return np.asarray(tokens, float) * (1e-6 + np.asarray(context)) * np.ones(np.shape(batch))

        def fork_seconds(
            self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike, context: ArrayLike
        ) -> Any:
            return 0 * super().fork_seconds(rows, branches, steps, batch, context)

    work = Workload(np.zeros(3), np.full(3, 1000), np.full(3, ANSWER))
    acceptance = Rate(0.8).foreseeing(Foresight((0.5,), (0.5,)))
    found = served(Saguaro(3, 2), System(Held()), work, acceptance).iterations
    missed = found.draft_seconds[(found.deliveries == 3) & (found.draft_seconds > 1)]
    assert len(missed) > 10
    assert 3 * 1000 <= missed.min() <= missed.max() <= 3 * (1000 + ANSWER)


def test_the_forwards_of_a_fork_vary_each_by_itself() -> None:
    """Nothing is foreseen and nothing is drafted then: a round forks 1 row into 2 branches of 3 tokens, in 4 forwards."""
    never = Rate(1.0).foreseeing(Foresight((0.0,), (0.0,)))
    system = System(Rows(), jitter=Jitter(0.0, 0.3))
    found = served(Saguaro(3, 2, "none"), system, answers(1, 0.0, 4000), never).iterations
    seconds = found.draft_seconds[found.fork_rows == 2].astype(float)
    assert seconds.mean() == pytest.approx(1 + 3 * 2, rel=0.02)
    assert seconds.std() / seconds.mean() == pytest.approx(0.3 / 2, rel=0.1)


@pytest.mark.parametrize(("system", "branches"), [(System(FREE, shared=True), 8 * 3), (System(FREE), 0)], ids=["shared", "own"])
def test_branches_take_room_in_a_cache_that_both_models_share(system: System, branches: int) -> None:
    need = 1 + ANSWER + 4 + branches
    found = served(Saguaro(3, 2), system, answers(2, 0.0), Rate(1.0), block_tokens=1, kv_tokens=2 * need)
    assert found.preemptions.sum() == 0
    held = found.iterations.blocks[found.iterations.deliveries == 2].max() / 2
    assert ANSWER - 4 + branches <= held <= need
    with pytest.raises(InputError, match=f"{need - 1} is too small for 2 of 2 requests, of which number 0 needs {need} "):
        served(Saguaro(3, 2), system, answers(2, 0.0), Rate(1.0), block_tokens=1, kv_tokens=need - 1)


PLAIN = [DraftTiming(1, 64, 1e-3), DraftTiming(16, 64, 4e-3)]
BRANCHED = DraftTiming(1, 64, 2e-3, branches=8)


def measured(*more: DraftTiming) -> Measured:
    return Measured([TargetTiming(1, 1, 64, 5e-3), TargetTiming(1, 16, 64, 8e-3)], [*PLAIN, *more])


def test_branches_that_nobody_timed_are_refused_under_load() -> None:
    class Plain:
        """A stranger's source, which knows no forks."""

        draft_seconds, target_seconds = Rows.draft_seconds, Rows.target_seconds

    for latency in (Plain(), measured(), Scaled(measured()), Pooled(measured(), 4), Anchored(Plain(), [Anchor(1e-3)])):
        with pytest.raises(InputError, match="saguaro forks, and what a draft step over several branches takes is not known"):
            served(Saguaro(2), System(latency), answers(1, 0.0), Rate(0.8))
    assert len(served(Saguaro(2), System(measured(BRANCHED)), answers(1, 0.0), Rate(0.8)).workload) == 1


def test_measured_branches_in_a_batch_take_longer_by_the_curve_of_rows() -> None:
    """Eight branches of one sequence take 2 steps. By the curve, 8 rows take 2.4 and 16 take 4 of a single one."""
    known = measured(BRANCHED)
    assert known.fork_reach == 8
    step = [float(fork_seconds(known, 1, 8, 2, batch) - fork_seconds(known, 1, 8, 1, batch)) for batch in (1, 2)]
    assert step[0] == pytest.approx(2e-3)
    two = 1 + 3 / 15  # plain steps that two sequences take
    assert step[1] == pytest.approx(two * 2 * (4 / two) / (1 + 3 * 7 / 15) * 1e-3)
    assert float(fork_seconds(known, 3, 0, 2, 4)) == 0


SIZES = read_model("llama-3.1-70b"), read_model("llama-3.2-1b")


def test_a_computed_fork_is_a_wide_forward_of_the_draft() -> None:
    """The draft's forwards over 4 rows, then twice over 8, are those of a target of its size."""
    computed, twin = Roofline("H100", *SIZES, 4), Roofline("H100", SIZES[1], SIZES[1])
    wide = [float(twin.target_seconds(width, 16, 500)) for width in (4, 8)]
    assert float(fork_seconds(computed, 4, 8, 2, 16, 500)) == pytest.approx(wide[0] + 2 * wide[1])
    anchor = Anchor(1e-2, batch=64, model="draft")
    factor = 1e-2 / float(computed.draft_seconds(1, 64, 256))
    both = Anchored(computed, [Anchor(0.04), anchor])
    assert float(fork_seconds(both, 4, 8, 2, 16, 500)) == pytest.approx(factor * (wide[0] + 2 * wide[1]))
    assert fork_reach(both) == np.inf


def test_what_wraps_a_latency_passes_forks_on() -> None:
    def seconds(latency: Latency, batch: int = 3) -> float:
        return float(fork_seconds(latency, 4, 8, 2, batch, 100))

    inner = Rows()
    assert seconds(AtBatch(inner, 5, 100)) == seconds(inner, 5)
    assert seconds(Pooled(inner, 4)) == seconds(inner, 12)
    assert seconds(Scaled(inner, 1.5, 9.0)) == 1.5 * seconds(inner)
    assert (fork_reach(Pooled(inner, 4)), fork_reach(Scaled(inner))) == (5, 20)


@pytest.mark.parametrize("acceptance", [Rate(0.8), PerPosition((0.8, 0.7)), markov(0.9, 0.4), Segments([(5, 0.8)])], ids=str)
def test_other_odds_keep_a_measured_foresight(acceptance: Acceptance) -> None:
    assert acceptance.foreseeing(FORESIGHT).at_odds(2.0).foresight == FORESIGHT
    assert acceptance.at_odds(2.0).foresight is None
