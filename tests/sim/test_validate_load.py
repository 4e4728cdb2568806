"""Load that is played on a tiny pair and simulated from its profile: what is compared, and what is said of a busy machine."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import minuscule

from sim import Server
from sim.study.validate_load import LoadValidation, quantities, validate_load
from specdec import InputError, Pair, create
from specdec.testing.models import resembling


@pytest.fixture(scope="module")
def found() -> LoadValidation:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        chosen = [create("autoregressive"), create("pearl", draft_length=2)]
        return validate_load(pair, chosen, [[1, 2, 3], [4, 5]], loads=(0.5,), batch_size=2, requests=4, tokens=6, repeats=1)


def test_every_quantity_is_predicted_and_measured(found: LoadValidation) -> None:
    assert [(point.strategy, point.load) for point in found.points] == [("autoregressive", 0.5), ("pearl", 0.5)]
    for point in found.points:
        assert len(point.compared) == 7
        assert all(one.error == one.predicted / one.measured - 1 for one in point.compared)
    assert LoadValidation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)), "the test") == found


def test_errors_are_signed_and_a_busy_machine_is_named_instead(found: LoadValidation) -> None:
    said = str(replace(found, busy=0.0))
    assert "Mean error" in said
    assert f"{100 * found.points[0].compared[0].error:+.1f} %" in said
    said = str(replace(found, busy=0.4))
    assert "Mean error" not in said
    assert "The machine was busy with other work: 40 %" in said


def test_quantities_are_those_of_serving_benchmarks() -> None:
    submitted, first, finish = np.array([0.0, 1.0]), np.array([1.0, 4.0]), np.array([3.0, 4.0])
    assert quantities(submitted, first, finish, np.array([5, 1])) == {
        "ttft_mean": 2.0,
        "ttft_p90": 3.0,
        "tpot_mean": 0.5,
        "tpot_p90": 0.5,
        "e2e_mean": 3.0,
        "e2e_p90": 3.0,
        "output_tokens_per_second": 1.5,
    }


def test_what_cannot_be_validated_is_refused() -> None:
    target = minuscule(16, seed=3)
    with Pair(target, resembling(target, 0.3), lane="inline") as pair:
        with pytest.raises(InputError, match="loads between 0 and 1"):
            validate_load(pair, loads=(1.2,))
        with pytest.raises(InputError, match="batch_size 0"):
            validate_load(pair, batch_size=0)
    with pytest.raises(InputError, match="specdec has no kv_tokens"):
        Server(runtime="specdec", kv_tokens=1000)
    with pytest.raises(InputError, match="unknown runtime"):
        Server(runtime="other")  # type: ignore[arg-type]
