"""Predicted against measured: published numbers, and a pair that is timed and profiled in one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tiny_models import minuscule

from sim import Validation, predict, validate
from sim.study.published import Cell, bundled_table, predicted_cells, read_cells
from sim.study.validate import Comparison, mean_error
from specdec import InputError, Pair, create
from specdec.profile import Profile
from specdec.testing.models import resembling

CHOSEN = [create("autoregressive"), create("speculative", draft_length=2)]


def reread(found: Validation) -> Validation:
    return Validation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)), "the test")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """A tiny pair, timed once."""
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        found = Comparison(pair, CHOSEN, [[1, 2, 3], [4, 5]], tokens=8, repeats=1)
        assert len(list(found)) == len(found)
    return found


def test_a_comparison_predicts_from_the_profiles_of_its_own_run(comparison: Comparison) -> None:
    assert len(comparison.profiles) == 2
    for strategy, timed in zip(CHOSEN, comparison.report(), strict=True):
        assert (timed.strategy, timed.parameters) == (strategy.name, strategy.parameters)
        assert timed.predicted_tokens_per_second == predict(strategy, Profile.merged(comparison.profiles), 6, 8)
        assert timed.error == timed.predicted_tokens_per_second / timed.measured_tokens_per_second - 1


def test_a_validation_holds_what_was_timed_and_what_is_published(comparison: Comparison) -> None:
    found = Validation(comparison.report(), validate().published)
    assert reread(found) == found
    assert [*found.to_dict()] == ["format", "bundled", "published", "busy"]
    assert str(found).startswith("Measured here")
    assert f"largest {100 * max(abs(timed.error) for timed in found.bundled):.1f} %" in str(found)


def test_a_pair_is_timed_where_there_is_one() -> None:
    target, steps = minuscule(16, seed=3), list[str]()

    def progress(named: Iterable[str], total: int) -> Iterator[str]:
        for step in named:
            steps.append(f"{step}, {total} steps")
            yield step

    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        found = validate(pair, CHOSEN, [[1, 2, 3]], tokens=8, repeats=1, progress=progress)
    assert steps == [
        "measuring the models, 3 steps",
        "decoding, repeat 1 of 1, 3 steps",
        "measuring the models again, 3 steps",
    ]
    assert [timed.strategy for timed in found.bundled] == ["autoregressive", "speculative"]


def test_a_table_may_begin_with_a_mark_of_its_byte_order(tmp_path: Path) -> None:
    marked = tmp_path / "marked.csv"
    marked.write_bytes(b"\xef\xbb\xbf" + bundled_table().read_bytes())
    assert read_cells(marked) == read_cells(bundled_table())


def test_remarks_of_a_table_are_skipped(tmp_path: Path) -> None:
    remarked = tmp_path / "remarked.csv"
    remarked.write_text("# what it is\n# its licence\n" + bundled_table().read_text())
    assert read_cells(remarked) == read_cells(bundled_table())


def test_a_table_of_neither_kind_is_told_the_columns_of_both(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("target;draft;method;k;dataset;max_concurrency\n")
    with pytest.raises(InputError, match=r"it needs draft, target, .*; or target, draft, method, k, .* separated by commas"):
        read_cells(other)


def test_published_speed_ups_are_predicted_from_two_tasks_each() -> None:
    found = validate()
    assert found.bundled == ()
    assert reread(found) == found
    held_out = [cell for cell in found.published if cell.held_out]
    assert len(held_out) == len(found.published) / 2
    assert mean_error(held_out) < 0.05
    assert "Measured here" not in str(found)


def test_a_cell_is_fitted_only_with_its_own_pair() -> None:
    cells = read_cells(bundled_table())
    first = [cell for cell in cells if cell.draft == cells[0].draft]
    assert [*predicted_cells(first)] == [*predicted_cells(cells)][: len(first)]
    slower = [*first, Cell("other", "pair", first[0].task, 2.0, 1.1)]
    assert [*predicted_cells(slower)][:-1] == [*predicted_cells(first)]


def test_what_cannot_be_fitted_or_timed_is_refused() -> None:
    cells = read_cells(bundled_table())
    with pytest.raises(InputError, match="'chess' is not in the table"):
        validate(cells=cells, fitted_tasks=["chess"])
    with pytest.raises(InputError, match="other"):
        validate(cells=[*cells, Cell("other", "pair", "chess", 2.0, 1.1)])
    for none in ({"repeats": 0}, {"tokens": 0}):
        with pytest.raises(InputError, match=" 0 is not possible"):
            validate(**none)  # type: ignore[arg-type]
