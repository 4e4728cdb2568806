"""What is identified from runs of an engine is what the runs were made of, and says where it stops being measured."""

from dataclasses import replace

import numpy as np
import pytest

from sim.engines.accepted import conditional
from sim.engines.identify import Drafting, Forward, Hardware, as_profile, identify, pool_of, sequences_of
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
        requests=100,
        input_tokens=100 * PROMPT,
        output_tokens=100 * ANSWER,
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
    assert found.drafting["draft_model", "draft_model draft"].step == pytest.approx(0.002, rel=0.05)
    assert found.drafting["eagle3", "eagle3 draft"].step == pytest.approx(0.0006, rel=0.1)
    for rows, held in ((256, 40_000), (1024, 100_000)):  # beyond what was measured
        assert float(found.forward(rows, held)) == pytest.approx(float(TRUTH(rows, held)), rel=0.05)


def test_a_profile_holds_the_curve_and_says_where_it_was_measured() -> None:
    profile = as_profile(identify(RUNS, KNOWN), [one for one in RUNS if one.method == "eagle3"])
    tags = {(one.width, one.batch): one.tag for one in profile.target_seconds}
    assert (tags[192, 1], tags[256, 1]) == ("fitted", "extrapolated")  # 32 clients x (5 + 1)
    assert (tags[1, 32], tags[1, 48]) == ("fitted", "extrapolated")
    system = measured_system(profile)
    assert system.latency.reach == (192, 32, PROMPT + ANSWER)  # type: ignore[attr-defined]
    assert float(system.latency.target_seconds(6, 8, 600)) == pytest.approx(float(TRUTH(48, 8 * 600)), rel=0.03)
    assert float(system.latency.draft_seconds(5, 8)) == pytest.approx(5 * 0.0006, rel=0.1)
    assert profile.kv_tokens == 60_000
    assert measured_acceptance(profile).longest == 5


def test_what_was_measured_between_two_sizes_of_a_profile_counts_as_measured() -> None:
    runs = [run("ar", 0, 1), run("ar", 0, 11), run("eagle3", 2, 11)]
    system = measured_system(as_profile(identify(runs, KNOWN), runs[:2]))
    assert system.latency.reach == (33, 11, PROMPT + ANSWER)  # type: ignore[attr-defined]
    silent = [replace(one, input_tokens=None) for one in runs]
    assert identify(silent, KNOWN).forward.context == 1024


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
        "x", clients=64, running=40.0, requests=99, input_tokens=99 * PROMPT, output_tokens=99 * ANSWER, kv_tokens=30_000
    )
    assert sequences_of(full) == 40
    assert sequences_of(EngineRun("x", clients=64, running=40.0)) == 64


def test_a_ceiling_that_a_run_does_not_reach_is_not_what_decodes_at_once() -> None:
    assert sequences_of(EngineRun("x", clients=256, rate=1.0, running=5.0, requests=500)) == 5
    assert sequences_of(EngineRun("x", clients=256, rate=1.0, requests=500)) == 256, "nobody says how many ran"
    assert sequences_of(EngineRun("x", clients=32, rate=32.0, running=30.3, requests=320)) == 32, (
        "arrivals wait for the ceiling"
    )
    assert sequences_of(EngineRun("x", clients=256, running=50.0, requests=64)) == 64, "no more clients than requests"


def test_clients_beyond_the_batch_limit_wait() -> None:
    limited = EngineRun("x", clients=256, running=60.0, requests=1024, max_batch=64)
    assert sequences_of(limited) == 64
    assert sequences_of(replace(limited, rate=100.0)) == 64, "arrivals fill the engine, though not all clients"
    assert sequences_of(replace(limited, max_batch=512)) == 256
    held = replace(limited, input_tokens=1024 * PROMPT, output_tokens=1024 * ANSWER, kv_tokens=60_000)
    assert sequences_of(held) == 64, "the cache holds those that the engine decodes"


@pytest.mark.parametrize(
    ("runs", "culprit"),
    [
        ([EngineRun("one.json", clients=4)], "one.json holds no time between tokens"),
        (
            [EngineRun("a", method="mtp", draft_length=1, clients=4, tpot=Times(0.01))],
            "a holds its TPOT without tokens of a round",
        ),
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
    for name in ("foo/Bar-30B-A3B", "foo/bar-30b-a3b-4bit"):
        by_number = Hardware.of(EngineRun("x", target=name, gpu="H100"))
        assert by_number.row_seconds == pytest.approx(2 * 3e9 / 989e12)
    assert Hardware.of(EngineRun("x", target="foo/bar", gpu="H100")).row_seconds is None
    assert Hardware.of(EngineRun("x", target="foo/bar", gpu="Z9000")) == Hardware()


def test_a_target_with_experts_reads_more_of_them_for_more_rows() -> None:
    truth = replace(TRUTH, experts=0.020, spread=30.0)
    runs = [replace(one, itl=Times(median=float(truth(rows_of(one), held_of(one)) + drafting_of(one)))) for one in RUNS]
    mixed = identify(runs, replace(KNOWN, spread=(8.0, 128.0))).forward
    for rows in (4, 64, 256, 1024):
        assert float(mixed(rows, 0)) == pytest.approx(float(truth(rows, 0)), rel=0.06)
    assert float(identify(runs, replace(KNOWN, spread=None)).forward(1024, 0)) > 1.15 * float(truth(1024, 0))
    assert identify(RUNS, replace(KNOWN, spread=None)).forward.experts == pytest.approx(0, abs=1e-9)


def rows_of(one: EngineRun) -> float:
    return sequences_of(one) * (one.draft_length + 1)


def held_of(one: EngineRun) -> float:
    return sequences_of(one) * (PROMPT + ANSWER / 2)


def drafting_of(one: EngineRun) -> float:
    return DRAFTS[one.method](one.draft_length, sequences_of(one)) if one.draft_length else 0.0


def test_whether_a_target_may_have_experts_is_told_by_its_name() -> None:
    def spread(target: str) -> tuple[float, float] | None:
        return Hardware.of(EngineRun("x", target=target, gpu="H100")).spread

    assert spread("Qwen/Qwen3-32B") is None
    assert spread("foo/Bar-32B") is None
    assert spread("foo/Bar-30B-A3B") == spread("foo/bar") == (8.0, 128.0)
    assert spread("Qwen/Qwen3-30B-A3B") == pytest.approx((15.5, 15.5), abs=0.1)  # 8 of 128


def test_prompts_in_a_mean_are_no_part_of_a_round() -> None:
    """A run that reports no ITL has a TPOT, in which prompts of the other clients were read."""

    def mean(one: EngineRun) -> EngineRun:
        rows, held, length = rows_of(one), held_of(one), one.acceptance_length or 1.0
        prompt = float(TRUTH(rows + PROMPT, held) - TRUTH(rows, held))
        rounds = ANSWER / length
        seconds = (one.itl.median or 0.0) + (sequences_of(one) - 1) / rounds * prompt
        return replace(one, itl=Times(), tpot=Times(seconds / length))

    found = identify([mean(one) for one in RUNS], KNOWN).forward
    for rows, held in ((1, 600), (192, 19_200), (1024, 100_000)):
        assert float(found(rows, held)) == pytest.approx(float(TRUTH(rows, held)), rel=0.05)


def test_an_unknown_gpu_leaves_arithmetic_to_the_runs() -> None:
    most = Hardware(TRUTH.flat / (1.7 * TRUTH.arithmetic), token_seconds=1e-7, spread=None)
    assert identify(RUNS, most).forward.arithmetic == pytest.approx(TRUTH.arithmetic, rel=0.1)


def test_two_drafts_of_one_method_have_steps_of_their_own() -> None:
    runs = [replace(one, method="draft_model") if one.draft_length else one for one in RUNS]
    found = identify(runs, KNOWN)
    assert found.misfit < 1e-3
    groups = {name: [one for one in runs if one.draft == f"{name} draft"] for name in DRAFTS}
    steps = {name: as_profile(found, ours).draft_seconds[0].mean for name, ours in groups.items()}
    assert steps["draft_model"] == pytest.approx(0.002, rel=0.05)
    assert steps["eagle3"] == pytest.approx(0.0006, rel=0.1)


def test_mean_lengths_of_two_draft_lengths_give_two_chances() -> None:
    def mean(length: int, tokens: float) -> EngineRun:
        return EngineRun("x", method="mtp", draft_length=length, acceptance_length=tokens)

    true = (0.8, 0.8, 0.5, 0.5, 0.5)
    lengths = 1 + np.cumsum(np.cumprod(true))
    assert conditional([mean(2, lengths[1]), mean(5, lengths[4])]) == pytest.approx(true)
    assert conditional([mean(2, 2.5), mean(4, 2.4)])[2:] == (0.0, 0.0)  # a length that falls
    assert conditional([mean(3, 4.0), mean(5, 6.0)]) == pytest.approx((1.0,) * 5)


def test_runs_without_acceptance_are_passed_over_beside_others() -> None:
    blank = EngineRun("x", method="eagle3", draft_length=5, clients=8)
    assert conditional([run("eagle3", 2, 1), blank]) == pytest.approx((0.8, 0.7))


def test_a_cache_is_computed_from_names() -> None:
    alone = EngineRun("x", target="Qwen/Qwen3-32B", gpu="1x H100 96GB")
    drafted = replace(alone, method="draft_model", draft_length=2, draft="Qwen/Qwen3-1.7B")
    assert pool_of(alone) == pytest.approx(69_232, rel=0.15)  # what vLLM reported there
    assert pool_of(drafted) == pytest.approx(32_528, rel=0.15)
    assert pool_of(replace(drafted, draft="")) is None
    assert pool_of(replace(alone, target="")) is pool_of(replace(alone, target="foo/bar")) is None
    assert pool_of(replace(alone, gpu="")) is None


def quick(target: str, share: float) -> list[EngineRun]:
    """The runs of a 32B model on an H100 whose rounds take that share of those of `TRUTH`."""
    return [replace(one, target=target, gpu="H100", itl=Times(median=share * (one.itl.median or 0))) for one in RUNS]


def test_a_target_that_is_read_faster_than_16_bits_computes_faster_too() -> None:
    """FP8 halves both, and so do two GPUs of which the files do not tell: nothing but the times says it."""
    for target in ("some/model-32B", "some/model-32B-FP8"):
        found = identify(quick(target, 0.5))
        assert float(found.forward(1024, 0)) == pytest.approx(0.5 * float(TRUTH(1024, 0)), rel=0.1)
        assert found.doubts == (
            f"rounds of {target} on H100, tp 1 take 10 ms, and reading its weights in 16 bits at least 19.1 ms: quantised "
            "weights or more GPUs are assumed",
        )
    assert not identify(quick("some/model-32B", 1.0)).doubts
    assert identify(quick("some/model-32B", 0.1)).doubts[0].endswith("; check gpu, tp and the units")


@pytest.mark.parametrize("name", ["FP8", "fp8-dynamic", "NVFP4", "W8A8", "MXFP4"])
def test_names_say_what_computes_in_few_bits(name: str) -> None:
    assert Hardware.of(EngineRun("x", target=f"some/model-32B-{name}", gpu="H100")).row_seconds is None


@pytest.mark.parametrize("name", ["AWQ", "GPTQ-Int4", "w4a16"])
def test_what_only_stores_few_bits_computes_in_16(name: str) -> None:
    target = f"some/model-32B-{name}"
    assert Hardware.of(EngineRun("x", target=target, gpu="H100")).row_seconds == pytest.approx(64e9 / 989e12, rel=0.01)
    found = identify(quick(target, 0.5)).forward
    assert found.arithmetic == pytest.approx(64e9 / 989e12 / 0.7, rel=0.01)


def test_runs_that_no_fit_explains_are_doubted() -> None:
    """Rounds of 32 requests that take a third of those of one."""
    odd = [replace(one, itl=Times(median=0.007)) if one.clients == 32 else one for one in RUNS]
    (doubt,) = identify(odd, KNOWN).doubts
    assert doubt.startswith("times are ")
    assert doubt.endswith(" % off any fit for some/model on unknown GPUs, tp 1: check gpu, tp and the units")


def test_a_target_of_unknown_size_is_doubted() -> None:
    """What its forwards of many rows take is not seen in runs of few requests."""

    def doubts(target: str, gpu: str) -> tuple[str, ...]:
        return identify([replace(one, target=target, gpu=gpu) for one in RUNS]).doubts

    assert doubts("acme/chat-32b", "H100") == ()
    for target, gpu in (("acme/chat", "H100"), ("acme/chat-32b", "Z9000")):
        (doubt,) = doubts(target, gpu)
        assert doubt.startswith(f"the size or the GPU of {target} on {gpu}, tp 1 is not known by name")


def test_runs_at_one_concurrency_say_nothing_of_another() -> None:
    (doubt,) = identify([one for one in RUNS if one.clients == 8], KNOWN).doubts
    assert doubt.startswith("all runs of some/model on unknown GPUs, tp 1 to calibrate on decode about 8 requests at once")
