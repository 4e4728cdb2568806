"""A table of runs that our own simulator made is predicted from a few of its rows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.engines.identify import Drafting, Forward, Identified, as_profile
from sim.engines.run import EngineRun, Times
from sim.setup.acceptance import PerPosition, Rate
from sim.setup.profiles import measured_system
from sim.stream.chain import compile_strategy
from sim.study.engine_table import calibrated, predict_table
from sim.study.table_report import EngineValidation
from sim.traffic.metrics import measure
from sim.traffic.record import Server
from sim.traffic.serving import simulate_serving
from sim.traffic.workload import Lengths, Traffic
from specdec import InputError
from strategies import Autoregressive, Speculative

CHANCES = (0.8, 0.7, 0.6, 0.5)
DRAFTING = {("eagle3", "head"): Drafting(0.001, 0.0, 0.0005)}
TRUTH = Identified(Forward(0.020, 2e10 / 989e12 / 0.7, 2e-5, 1e-7, 1e9, 1e9), DRAFTING, 0.0)
POOL = 30_000


def table(lengths: Sequence[int] = (0, 1, 2, 3, 4), clients: Sequence[int] = (1, 4, 8, 32, 64)) -> list[EngineRun]:
    """What a benchmark tool would report of a simulated engine: 40 requests a client, closed loop."""
    return [row(length, many) for length in lengths for many in clients]


def row(length: int, clients: int) -> EngineRun:
    method, count = ("eagle3", "ar")[not length], max(100, 4 * clients)
    shares = tuple(map(float, np.cumprod(CHANCES[:length])))
    named: dict[str, Any] = {"target": "some/model-10B", "gpu": "H100", "method": method, "draft_length": length}
    told: dict[str, Any] = {"clients": clients, "kv_tokens": POOL, "rounds": 100, "by_position": shares, "dataset": "chat"}
    if length:
        told |= {"draft": "head", "acceptance_length": 1 + sum(shares)}
    blank = EngineRun("truth", **named, **told)
    system = measured_system(as_profile(TRUTH, [blank]))
    strategy = Speculative(draft_length=length) if length else Autoregressive()
    traffic = Traffic(None, Lengths(300, 0.5), Lengths(150), count).workload(np.random.SeedSequence(9))
    server = Server(kv_tokens=POOL, clients=clients, client_seconds=0.02, lag_iterations=1)
    acceptance = PerPosition(CHANCES) if length else Rate(0.0)
    served = simulate_serving(compile_strategy(strategy, system), acceptance, system, traffic, server, seed=5)
    found = measure(served, warm_up=0.0)
    return EngineRun(
        f"row k={length} x{clients}",
        **named,
        **told,
        requests=count,
        seconds=float(served.finish_seconds.max()),
        input_tokens=int(traffic.input_tokens.sum()),
        output_tokens=int(traffic.output_tokens.sum()),
        ttft=Times(found.ttft.mean),
        tpot=Times(found.tpot.mean),
        itl=Times(found.itl.mean, found.itl.p50),
    )


def test_rows_that_were_held_out_are_predicted() -> None:
    found = predict_table(table())
    held_out = [cell for cell in found.published if cell.held_out]
    assert {(cell.k, cell.concurrency) for cell in found.published if not cell.held_out} == {
        (k, clients) for k in (0, 2, 3) for clients in (1, 8, 32)
    }
    for quantity, bar in {"tpot": 0.06, "throughput": 0.06, "ttft": 0.25, "acceptance_length": 0.01}.items():
        cells = [cell for cell in held_out if cell.quantity == quantity and cell.k <= 3]  # no rate of position 4 was seen
        assert np.mean([abs(cell.error) for cell in cells]) < bar, quantity
    assert all(choice.regret < 0.1 for choice in found.choices)
    assert np.mean([choice.regret for choice in found.choices]) < 0.02
    assert "held out" in str(found)


def test_nothing_of_a_row_that_is_held_out_changes_its_prediction() -> None:
    rows = table(lengths=(0, 2, 3), clients=(1, 8, 64))
    spoilt = [replace(one, tpot=Times(9.0), itl=Times(9.0, 9.0), ttft=Times(9.0)) if one.clients == 64 else one for one in rows]
    first, second = (
        {(cell.k, cell.quantity): cell.predicted for cell in predict_table(found).published if cell.held_out}
        for found in (rows, spoilt)
    )
    assert first == second


def test_lengths_to_calibrate_on() -> None:
    def chosen(*lengths: int) -> set[int]:
        return {run.draft_length for run in calibrated([row(length, 1) for length in lengths])}

    assert chosen(1, 2, 3, 4) == {2, 3}
    assert chosen(1, 3) == {3}
    assert chosen(1) == {1}


def test_a_table_without_the_calibrated_clients_is_refused() -> None:
    with pytest.raises(InputError, match="no run of ar with 1, 8 or 32 clients"):
        predict_table([row(0, 4)])


SMALL = [row(length, clients) for length in (0, 2) for clients in (1, 4, 8)]


def test_what_tools_could_not_measure_is_no_cell() -> None:
    """Tools write 0 there."""
    spoilt = [replace(one, tpot=Times(0.0), ttft=Times(0.0)) if one.clients == 4 else one for one in SMALL]
    found = predict_table(spoilt)
    assert {cell.quantity for cell in found.published if cell.concurrency == 4} == {"throughput", "acceptance_length"}
    assert not found.left_out


def test_an_assumed_rate_is_listed() -> None:
    found = predict_table([replace(one, rate=float(one.clients or 1), assumed=("rate",)) for one in SMALL])
    assert found.assumed == ("6 runs of some/model-10B had as many requests per second as clients: fill in request_rate",)


def test_answers_of_one_token_have_no_time_between_tokens() -> None:
    found = predict_table([replace(one, output_tokens=one.requests) if one.clients == 4 else one for one in SMALL])
    cells = [cell for cell in found.published if cell.concurrency == 4]
    assert {cell.quantity for cell in cells} == {"throughput", "ttft", "acceptance_length"}
    assert np.isfinite([cell.predicted for cell in cells]).all()


def test_a_group_without_calibration_is_left_out_and_named() -> None:
    other = replace(row(2, 4), dataset="other")
    unknown = replace(row(2, 4), method="mtp", draft="")
    found = predict_table([*SMALL, other, unknown])
    assert len([cell for cell in found.published if cell.quantity == "tpot"]) == len(SMALL)
    assert len(found.left_out) == 2
    assert "eagle3 on other with 1, 8 or 32 clients" in found.left_out[0]
    assert "no run of mtp" in found.left_out[1]
    assert "Left out" in str(found)


def test_a_run_that_lacks_a_condition_is_left_out_alone() -> None:
    lacking = replace(row(0, 8), requests=None)
    found = predict_table([*SMALL[:2], lacking, *SMALL[3:]])
    assert found.left_out == (f"{lacking.source} has no requests: fill in what the benchmark was asked to do",)
    assert {cell.k for cell in found.published if cell.concurrency == 8} == {2}
    tight = replace(row(2, 4), kv_tokens=16)
    assert f"{tight.source}: kv_tokens 16 is too small" in predict_table([*SMALL[:4], tight, SMALL[5]]).left_out[0]


def test_prompts_are_those_of_the_other_runs_on_the_data_set() -> None:
    blank = predict_table([replace(one, input_tokens=None) if one.clients == 4 else one for one in SMALL])
    for cell, whole in zip(blank.published, predict_table(SMALL).published, strict=True):
        assert cell.predicted == pytest.approx(whole.predicted, rel=0.03)
    assert blank.assumed[0].startswith("prompts of 2 runs of some/model-10B are as long as in the other runs")
    assert not predict_table(SMALL).assumed


def test_a_run_that_is_in_the_table_twice_counts_with_its_mean() -> None:
    fast = [replace(one, seconds=one.seconds / 3) for one in SMALL if one.seconds and not one.draft_length]
    choice = next(one for one in predict_table([*SMALL, *fast]).choices if one.concurrency == 4)
    speed = {one.draft_length: one.throughput or 0 for one in SMALL if one.clients == 4}
    assert (choice.chosen, choice.best) == ("eagle3 k=2", "ar")
    assert choice.regret == pytest.approx(1 - speed[2] / (2 * speed[0]))


def test_methods_are_chosen_on_one_machine() -> None:
    """The other machine is faster, and has one method."""
    faster = [replace(one, gpu="H200", seconds=one.seconds / 5) for one in SMALL if one.seconds and not one.draft_length]
    choices = predict_table([*SMALL, *faster]).choices
    assert [choice.best for choice in choices] == ["eagle3 k=2"] * len({one.clients for one in SMALL})


def test_two_drafts_of_one_method_are_calibrated_and_named_apart() -> None:
    second = [
        replace(one, draft="other", itl=Times(*(2 * (value or 0) for value in (one.itl.mean, one.itl.median))))
        for one in SMALL
        if one.draft_length
    ]
    found = predict_table([*SMALL, *second])
    tpot = {cell.draft: cell.predicted for cell in found.published if cell.quantity == "tpot" and cell.concurrency == 4}
    assert tpot["other"] > 1.5 * tpot["head"]
    assert {choice.chosen for choice in found.choices} == {"eagle3 head k=2"}


def test_a_cache_that_the_table_does_not_say_is_computed_from_names() -> None:
    runs = [replace(one, target="Qwen/Qwen3-32B", kv_tokens=None) for one in SMALL]
    assert any("with ar holds 28" in line for line in predict_table(runs).assumed)
    assert any("has no limit" in line for line in predict_table([replace(one, kv_tokens=None) for one in SMALL]).assumed)
    assert not predict_table(SMALL).assumed


def test_more_clients_than_the_usual_batch_limit_raise_it() -> None:
    """An engine that is asked for 300 at once decodes 300, unless the table says how many."""
    many = replace(row(0, 300), kv_tokens=10**6)
    few = replace(many, max_batch=256)
    limited, silent, told = (predict_table([*SMALL, one]) for one in (few, many, replace(many, max_batch=300)))

    def tpot(found: EngineValidation) -> float:
        return next(cell.predicted for cell in found.published if cell.quantity == "tpot" and cell.concurrency == 300)

    assert tpot(silent) == tpot(told) > 1.05 * tpot(limited)
    assert silent.assumed == (
        "1 runs of some/model-10B decoded as many requests at once as there were clients: fill in max_num_seqs",
    )
    assert not told.assumed
