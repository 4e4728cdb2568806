"""What is identified from runs of an engine is what the runs were made of, and says where it stops being measured."""

import numpy as np
import pytest

from sim.engines.identify import Drafting, Forward, Hardware, as_profile, conditional, identify, sequences_of
from sim.engines.run import EngineRun, Times
from sim.setup.profiles import measured_acceptance, measured_system
from specdec import InputError

TRUTH = Forward(flat=0.020, arithmetic=1e-4, row=2e-5, token=1.2e-7, rows=0, sequences=0)
DRAFTS = {"draft_model": Drafting(0.002, 1e-5, 0.001), "eagle3": Drafting(0.0006, 0.0, 0.0005)}
KNOWN = Hardware(row_seconds=0.7e-4, token_seconds=1e-7)
PROMPT, ANSWER = 500, 200


def run(method: str, length: int, clients: int, chances: tuple[float, ...] = (0.8, 0.7, 0.6, 0.5, 0.4)) -> EngineRun:
    """A run whose median gap is exactly a round of `TRUTH`."""
    rows = clients * (length + 1)
    seconds = float(TRUTH(rows, clients * (PROMPT + ANSWER / 2)))
    if length:
        seconds += DRAFTS[method](length, clients)
    shares = tuple(map(float, np.cumprod(chances[:length])))
    return EngineRun(
        f"{method} k={length} x{clients}",
        target="some/model",
        draft=f"{method} draft" if length else "",
        method=method,
        draft_length=length,
        clients=clients,
        requests=10,
        input_tokens=10 * PROMPT,
        output_tokens=10 * ANSWER,
        itl=Times(median=seconds),
        acceptance_length=1 + sum(shares) if length else None,
        by_position=shares,
        kv_tokens=60_000 if length else 90_000,
    )


RUNS = [run("ar", 0, n) for n in (1, 8, 32)] + [run(m, k, n) for m in DRAFTS for k in (2, 5) for n in (1, 8, 32)]


def test_the_parts_of_a_round_are_found_again() -> None:
    found = identify(RUNS, KNOWN)
    assert found.misfit < 1e-3
    assert found.forward.flat == pytest.approx(TRUTH.flat, rel=0.02)
    assert found.forward.arithmetic == pytest.approx(1e-4)
    assert found.drafting["draft_model"].step == pytest.approx(0.002, rel=0.05)
    assert found.drafting["eagle3"].step == pytest.approx(0.0006, rel=0.1)
    for rows, held in ((256, 40_000), (1024, 100_000)):  # beyond what was measured
        assert float(found.forward(rows, held)) == pytest.approx(float(TRUTH(rows, held)), rel=0.05)


def test_a_profile_holds_the_curve_and_says_where_it_was_measured() -> None:
    profile = as_profile(identify(RUNS, KNOWN), [one for one in RUNS if one.method == "eagle3"])
    tags = {one.width * one.batch: one.tag for one in profile.target_seconds}
    assert tags[192] == "fitted"  # 32 clients x (5 + 1)
    assert tags[256] == "extrapolated"
    system = measured_system(profile)
    assert system.latency.reach == 192  # type: ignore[attr-defined]
    assert float(system.latency.target_seconds(6, 8, 600)) == pytest.approx(float(TRUTH(48, 8 * 600)), rel=0.03)
    assert float(system.latency.draft_seconds(5, 8)) == pytest.approx(5 * 0.0006, rel=0.1)
    assert profile.kv_tokens == 60_000
    assert measured_acceptance(profile).longest == 5


def test_acceptance_is_conditional_and_that_of_the_longest_drafts() -> None:
    runs = [run("eagle3", 2, 1, (0.1, 0.1)), run("eagle3", 5, 1), run("eagle3", 5, 8)]
    assert conditional(runs) == pytest.approx((0.8, 0.7, 0.6, 0.5, 0.4))


def test_a_mean_length_gives_one_chance_for_all_positions() -> None:
    mean = EngineRun("x", method="mtp", draft_length=3, acceptance_length=2.92)
    chances = conditional([mean])
    assert len(set(chances)) == 1
    assert 1 + sum(np.cumprod(chances)) == pytest.approx(2.92)


def test_clients_that_the_cache_does_not_hold_are_not_all_running() -> None:
    full = EngineRun(
        "x", clients=64, running=40.0, requests=10, input_tokens=10 * PROMPT, output_tokens=10 * ANSWER, kv_tokens=30_000
    )
    assert sequences_of(full) == 40
    assert sequences_of(EngineRun("x", clients=64, running=40.0)) == 64


@pytest.mark.parametrize(
    ("runs", "culprit"),
    [
        ([EngineRun("one.json", clients=4)], "one.json holds no time between tokens"),
        ([EngineRun("one.json", itl=Times(median=0.03))], "one.json does not say how many requests ran at once"),
        ([run("ar", 0, 1), EngineRun("b", target="other", clients=1, itl=Times(median=0.03))], "runs of one target"),
        ([EngineRun("m.json", method="mtp", draft_length=3, clients=1, itl=Times(median=0.03))], "m.json holds no acceptance"),
    ],
)
def test_runs_that_say_too_little_are_refused(runs: list[EngineRun], culprit: str) -> None:
    with pytest.raises(InputError, match=culprit):
        as_profile(identify(runs, KNOWN), runs)


def test_hardware_is_looked_up_by_name() -> None:
    known = Hardware.of(EngineRun("x", target="Qwen/Qwen3-32B", gpu="1x H100 96GB"))
    assert known.row_seconds == pytest.approx(2 * 32e9 / 989e12, rel=0.03)
    half = Hardware.of(EngineRun("x", target="Qwen/Qwen3-32B", gpu="H100", gpus=2))
    assert half.row_seconds == pytest.approx((known.row_seconds or 0) / 2)
    by_number = Hardware.of(EngineRun("x", target="foo/Bar-30B-A3B", gpu="H100"))
    assert by_number.row_seconds == pytest.approx(2 * 3e9 / 989e12)
    assert Hardware.of(EngineRun("x", target="foo/bar", gpu="H100")).row_seconds is None
    assert Hardware.of(EngineRun("x", target="foo/bar", gpu="Z9000")) == Hardware()
