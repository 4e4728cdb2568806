"""What is assumed of a pair: durations, measured tables, and a profile as devices and as acceptance."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_profile import written_profile

from sim import Constant, Measured, Rate, System, compile_strategy, long_run_speed, measured_acceptance, measured_system
from sim.planning.methods import Pooled
from sim.setup.latency import Scaled, parse_seconds, reach
from sim.setup.rows import RowsCurve
from specdec import InputError
from specdec.profile import BatchRounds, DraftTiming, Profile, Slowdown, TargetTiming
from strategies import Autoregressive, Pearl, Speculative

WRITTEN = written_profile() | {
    "pair": {"target": "big", "draft": "small"},
    "hardware": {"cpu": "any", "cores": 2},
    "batches": [{"batch": 4, "target_together": 1.2, "drafting_overhead_seconds": 5e-4}],
}
PROFILE = Profile.from_dict(WRITTEN, "the profile")


def test_durations_are_read_with_their_unit() -> None:
    found = [parse_seconds(text) for text in ("1ms", "300us", "0.005s", "5 ms", "1e-3s", "7ns", "0ms")]
    assert found == pytest.approx([1e-3, 3e-4, 5e-3, 5e-3, 1e-3, 7e-9, 0])
    micro_sign, greek_mu = "\u00b5", "\u03bc"
    assert parse_seconds(f"300{micro_sign}s") == parse_seconds(f"300{greek_mu}s") == parse_seconds("300US") == 3e-4
    assert parse_seconds("5m\u017f") == 5e-3, "an old form of the letter s"
    for bad in ("1", "ms", "1 hour", "", "nan s", "1..2ms", "-1ms"):
        with pytest.raises(InputError, match=r"duration|negative"):
            parse_seconds(bad)


def test_a_grid_of_target_steps_may_have_windows() -> None:
    steps, widths = np.array([3e-3, 5e-3]), np.array([[0], [1], [3], [5], [9], [20]])
    grid = Constant(1e-3, steps, {5: 6e-3, 9: 8e-3})
    each = [Constant(1e-3, float(step), {5: 6e-3, 9: 8e-3}).target_seconds(widths[:, 0]) for step in steps]
    assert grid.target_seconds(widths) == pytest.approx(np.stack(each, axis=1))
    assert each[0] == pytest.approx([0, 3e-3, 4.5e-3, 6e-3, 8e-3, 8e-3])
    found = long_run_speed(compile_strategy(Speculative(4)), Rate(0.8), System(grid)).tokens_per_second
    assert found.shape == (2,)
    branches = Constant(1.0, 1.0, branched={3: 1.4, 5: 2.0})
    assert float(branches.fork_seconds(1, 7, 1)) == pytest.approx(1.0 + 2.6), "beyond the last, as between the last two"


def test_one_sequence_has_a_table_and_several_have_a_curve_of_rows() -> None:
    rows = [TargetTiming(w, 1, c, 1e-3 * w + 1e-6 * c) for w in (1, 5) for c in (0, 100)]
    table = Measured([*rows, TargetTiming(1, 8, 0, 6e-3)], [DraftTiming(1, 0, 5e-4), DraftTiming(4, 0, 8e-4)])
    assert float(table.target_seconds(3, 1, 50)) == pytest.approx(3.05e-3)
    assert float(table.target_seconds(9, 1, 0)) == pytest.approx(9e-3)
    assert float(table.target_seconds(0)) == 0
    assert table.target_seconds(np.array([1, 3])[:, None], 1, np.array([0, 50, 100])).shape == (2, 3)
    assert table.target_seconds([1, 2, 4], [8, 4, 2], 0) == pytest.approx([6e-3] * 3)  # 8 rows each
    assert float(table.target_seconds(1, 8, 100)) == pytest.approx(6e-3 + 8 * 100 * 1e-6)
    assert float(table.target_seconds(1, 18, 0)) > 6e-3 + 10 * 2e-4  # beyond the last, along a line
    assert table.reach == (8, 8, 100)
    assert (reach(Scaled(table)), reach(Pooled(table, 4))) == ((8, 8, 100), (8, 2, 100))
    assert float(table.draft_seconds(4, 4, 500)) == pytest.approx(4 * 8e-4)


def test_a_curve_of_rows_never_falls() -> None:
    noisy = RowsCurve.fitted([1, 2, 4, 8, 8], [1e-3, 1.2e-3, 1.1e-3, 2e-3, 2.2e-3])
    found = noisy([1, 2, 4, 8, 9])
    assert (np.diff(found) >= 0).all()
    assert found[1] == pytest.approx(found[2])
    assert noisy(0.5) == pytest.approx(1e-3)
    with pytest.raises(InputError, match="points of more than 0 seconds"):
        RowsCurve.fitted([1], [0.0])


def test_a_profile_keeps_what_was_measured() -> None:
    system = measured_system(PROFILE, context=160)
    assert float(system.target_seconds(1)) == pytest.approx(5.2e-3)
    assert float(system.draft_seconds(3)) == pytest.approx(5e-4 + 3.3e-3)
    assert (system.together.target_factor, system.together.draft_factor) == (1.1, 1.3) if system.together else False
    assert (system.jitter.target_cv, system.jitter.draft_cv) == pytest.approx((0.05, 0.1))
    assert (system.turns.target_factor, system.turns.draft_factor) == (1.2, 1.4)
    assert (system.overhead_seconds, system.drafting_overhead_seconds) == (2e-4, 3e-4)
    assert system.batches == (BatchRounds(4, target_together=1.2, drafting_overhead_seconds=5e-4),)
    assert measured_acceptance(PROFILE).mean_rate == pytest.approx(0.7)


def test_an_older_profile_knows_no_turns() -> None:
    new = ("draft_start_seconds", "in_turn", "together", "drafting_overhead_seconds")
    old = {key: value for key, value in WRITTEN.items() if key not in new}
    system = measured_system(Profile.from_dict(old, "the profile")).used_by(Pearl(3))
    assert system.turns == Slowdown()
    assert system.together == Slowdown()
    assert system.overhead_seconds == 2e-4
    assert float(system.draft_seconds(1)) == pytest.approx(1.2e-3)


def test_predictions_are_offered_to_whoever_may_not_import_the_simulator() -> None:
    (entry,) = entry_points(group="specdec.predictors", name="chain")
    predict = entry.load()

    def changed(**acceptance: Any) -> Profile:
        return Profile.from_dict(WRITTEN | {"acceptance": acceptance}, "the profile")

    assert predict(Autoregressive(), PROFILE, 64, 50) == pytest.approx(1 / (5.1e-3 + 2e-4))
    sure = changed(rate=1.0)
    round_seconds = 1.4 * (5e-4 + 3e-3) + 1.2 * 5.4e-3 + 3e-4
    assert predict(Speculative(3), sure, 64, 40) == pytest.approx(4 / round_seconds)
    assert predict(Speculative(3), sure, 64, 41) == pytest.approx(41 / (11 * round_seconds))  # the last round counts in full
    assert predict(Pearl(3), PROFILE, 64, 50) != predict(Pearl(3), changed(rate=0.7), 64, 50)  # recorded runs before the rate
    with pytest.raises(InputError, match="no acceptance"):
        predict(Pearl(3), changed(), 64, 50)


def test_a_profile_taken_while_the_machine_was_busy_is_outvoted() -> None:
    slow = Profile.from_dict(
        json.loads(json.dumps(WRITTEN), parse_float=lambda text: 3 * float(text)) | {"acceptance": {}}, "slow"
    )
    faster = replace(PROFILE, batches=(BatchRounds(4, target_together=1.1, drafting_overhead_seconds=4e-4),))
    slower = replace(PROFILE, batches=(BatchRounds(4, target_together=1.9, drafting_overhead_seconds=9e-4),))
    assert Profile.merged([slower, PROFILE, faster]).batches == PROFILE.batches
    together = Profile.merged([PROFILE, slow, PROFILE])
    for key in (
        "target_seconds",
        "draft_seconds",
        "draft_start_seconds",
        "in_turn",
        "together",
        "batches",
        "drafting_overhead_seconds",
    ):
        assert getattr(together, key) == getattr(PROFILE, key)
    assert together.acceptance.run_lengths == {0: 60, 1: 40, 5: 20}
    without = Profile.from_dict(WRITTEN | {"together": None}, "the profile")
    assert Profile.merged([without] * 2).together is None


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"target_seconds": None}, "target_seconds is 'None'"),
        ({"draft_seconds": [{"batch": 1}]}, "draft_seconds.0.context is missing"),
        ({"draft_seconds": [{"batch": 1, "context": 8, "mean": -1}]}, "context 8"),
        ({"acceptance": {"rate": 1.5}}, "1.5"),
        ({"acceptance": {"rate": "high"}}, "acceptance.rate is 'high'"),
        ({"together": {"target_factor": 0.2}}, "target_factor"),
        ({"in_turn": {"draft_factor": 0}}, "draft_factor"),
        ({"draft_start_seconds": -1}, "draft_start_seconds"),
        ({"batches": [{"batch": 1}]}, "batch is 1 in batches"),
        ({"batches": [{"batch": 2, "draft_together": 0}]}, "draft_together 0.0 of batches"),
        ({"draft_second": []}, "did you mean draft_seconds"),
    ],
)
def test_a_broken_profile_is_refused_by_name(tmp_path: Path, change: dict[str, Any], culprit: str) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(WRITTEN | change))
    with pytest.raises(InputError, match=culprit):
        measured_system(Profile.read(broken))


def test_batches_pass_through_their_cells_where_one_curve_cannot() -> None:
    """A row of another sequence costs more than one of the same window, as on a processor."""

    def cost(width: int, batch: int) -> float:
        return 5e-3 + 2e-3 * (batch - 1) + 1e-4 * batch * width

    target = [TargetTiming(width, batch, 64, cost(width, batch)) for width in (1, 3, 5) for batch in (1, 2, 4)]
    draft = [DraftTiming(batch, 64, 1e-3 * batch) for batch in (1, 2, 4)]
    pooled, exact = Measured(target, draft), Measured(target, draft, cells=True)
    found = [(exact.target_seconds(one.width, one.batch, 64), one.mean) for one in target]
    assert all(float(ours) == pytest.approx(theirs) for ours, theirs in found)
    assert float(exact.draft_seconds(2, 4, 64)) == pytest.approx(8e-3)
    assert float(pooled.target_seconds(1, 4, 64)) != pytest.approx(cost(1, 4), rel=0.1)
    assert float(exact.target_seconds(5, 8, 64)) > cost(5, 4)
    with pytest.raises(InputError, match="lacks some width at some batch"):
        Measured(target[:-1], draft, cells=True)
