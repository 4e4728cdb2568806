"""`specdec plan`: sources, outputs, the saved plan, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_flags import commands, vllm_bench, vllm_serve
from sim_commands import Run, answer, printed, refused

from sim.cli.question import Question
from sim.engines.identify import Drafting, Forward
from sim.engines.run import EngineRun, EngineRuns, Times
from sim.planning.check import Checked
from sim.planning.methods import POOLED, Method, apart, methods_on_gpu
from sim.planning.report import Plan
from sim.planning.trials import Trials
from sim.setup.acceptance import PerPosition, Rate
from sim.setup.latency import Constant
from sim.setup.memory import kv_tokens
from sim.setup.model_size import read_model
from sim.setup.roofline import Roofline
from sim.setup.system import System

TRUTH = Forward(0.020, 4e-5, 2e-5, 1e-7, 0, 0)
HEAD = Drafting(0.001, 0.0, 0.0005)
CHANCES = (0.8, 0.7, 0.6)
TRAFFIC = ("--arrivals", "poisson:8/s", "--input-tokens", "200", "--output-tokens", "100", "--requests", "400")
LIMITS = ("--ttft-p99", "800ms", "--tpot-p99", "40ms")
SIZES = ("--gpu", "H100", "--target-config", "qwen3-8b", "--draft-config", "qwen3-0.6b", "--acceptance", "0.7")
GPU = (*SIZES, "--target-gpus", "1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of runs of an engine without a draft and with a head."""

    def one(length: int, clients: int) -> EngineRun:
        shares = tuple(map(float, np.cumprod(CHANCES[:length])))
        named: dict[str, Any] = {"target": "org/target-20B", "gpu": "H100", "clients": clients, "kv_tokens": 60_000}
        if length:
            named |= {"method": "eagle3", "draft": "org/head", "draft_length": length, "dataset": "chat"}
            named |= {"by_position": shares, "acceptance_length": 1 + sum(shares), "rounds": 1000}
        seconds = float(TRUTH(clients * (length + 1), clients * 250)) + (HEAD(length, clients) if length else 0.0)
        named |= {"requests": 100, "input_tokens": 20_000, "output_tokens": 10_000}
        return EngineRun(f"k={length} x{clients}", itl=Times(median=seconds), **named)

    path = tmp_path_factory.mktemp("plan") / "runs.json"
    found = EngineRuns(tuple(one(length, clients) for length in (0, 1, 3) for clients in (1, 8, 32)))
    path.write_text(json.dumps(found.to_dict()))
    return str(path)


def test_a_plan_from_runs_says_what_to_deploy_and_from_what(run: Run, runs: str) -> None:
    found = answer(run, "plan", "--from", runs, *TRAFFIC, *LIMITS, "--price", "2")
    best = found["plans"][0]
    assert best["method"] == "eagle3"
    assert best["draft_length"] <= 3
    assert best["cost_per_hour"] == 2 * best["gpus"]
    assert (
        best["tags"] == {"step": "fitted", "acceptance": "measured", "traffic": "assumed"}
        or best["tags"]["step"] == "extrapolated"
    )
    assert best["ttft_ms"] <= 800
    assert best["binding"] in ("ttft-p99", "tpot-p99")
    assert found["kv_pools"] == {"ar": 60_000, "eagle3": 60_000}
    assert "fitted to 9 runs of org/target-20B on 1 x H100" in found["provenance"]["step times"]
    assert {"verdict", "plans", "rejected", "flips", "provenance"} <= found.keys()
    order = [(one["gpus"], -one["headroom"]) for one in found["plans"]]
    assert order == sorted(order)


def test_acceptance_and_a_draft_that_are_given_replace_those_of_a_profile(profile: Path, tmp_path: Path) -> None:
    def draft(path: Path, *options: str) -> Method:
        [_, found] = Question.parsed(("--profile", str(path), *options)).methods()
        return found

    silent = tmp_path / "silent.json"
    silent.write_text(json.dumps({**json.loads(profile.read_text()), "acceptance": {}}))
    for path in (profile, silent):
        given = draft(path, "--acceptance", "0.9,0.8", "--draft", "org/other")
        assert (given.acceptance, given.longest) == (PerPosition((0.9, 0.8)), 2)
        assert (given.tags["acceptance"], given.draft) == ("assumed", "org/other")
    for options in ((), ("--acceptance", "rate"), ("--acceptance", "recorded")):
        own = draft(profile, *options)
        assert (own.tags["acceptance"], own.draft) == ("measured", "draft")


def test_a_pair_that_works_at_once_is_priced_on_its_gpus(profile: Path) -> None:
    def pair(*gpus: str) -> tuple[int, str]:
        [alone, draft] = Question.parsed(("--profile", str(profile), *gpus)).methods()
        assert (draft.places[0].name, alone.places[0].gpus) == ("as measured", draft.places[0].gpus)
        return draft.places[0].gpus_of(3), draft.provenance.get("GPUs", "")

    count, said = pair()
    assert (count, "one is assumed for both models" in said) == (3, True)
    assert pair("--target-gpus", "1", "--draft-gpus", "1") == (6, "")
    assert pair("--target-gpus", "2", "--draft-gpus", "1") == (9, "")


def test_a_plan_says_of_a_busy_profile_what_other_commands_do(run: Run, profile: Path, tmp_path: Path) -> None:
    busy = tmp_path / "busy.json"
    busy.write_text(json.dumps({**json.loads(profile.read_text()), "busy": 0.5}))
    ran = run("plan", "--profile", str(busy), "--target-gpus", "1", *TRAFFIC, "--no-schedules")
    assert ran.err.startswith(f"Profile {busy}: ")
    assert ran.code == 0


def test_a_plan_takes_no_context_beside_its_traffic(run: Run) -> None:
    assert refused(run, "plan", *GPU, *TRAFFIC, "--context", "5000").startswith("specdec: --context has no effect on a plan")


def test_gpus_that_no_file_says_are_assumed_aloud_or_stated(run: Run, runs: str, tmp_path: Path) -> None:
    silent = tmp_path / "runs.json"
    silent.write_text(Path(runs).read_text().replace('"gpu": "H100"', '"gpu": ""'))
    asked = ("plan", "--from", str(silent), *TRAFFIC, "--no-schedules", "--method", "eagle3")
    found = answer(run, *asked)
    assert found["provenance"]["GPUs"] == "no file says how many hold the target, so 1 is assumed: give --target-gpus"
    stated = answer(run, *asked, "--gpu", "H100", "--target-gpus", "4")
    assert "GPUs" not in stated["provenance"]
    assert "on 4 x H100" in stated["provenance"]["step times"]
    assert stated["plans"][0]["gpus"] == 4 * found["plans"][0]["gpus"]
    assert "GPUs" not in answer(run, "plan", "--from", runs, *TRAFFIC, "--no-schedules")["provenance"]


def test_a_saved_plan_is_checked_with_other_requests(run: Run, runs: str, tmp_path: Path) -> None:
    saved = str(tmp_path / "plan.json")
    text = printed(run, "plan", "--from", runs, *TRAFFIC, *LIMITS, "--no-schedules", "--save", saved, "--emit", "vllm")
    found = commands(text[text.index("# ") :])
    assert vllm_serve(found[0]).speculative_config["method"] == "eagle3"
    assert vllm_bench(found[-1]).goodput == ["ttft:800", "tpot:40"]
    checked = answer(run, "plan", "--check", saved)
    assert checked["holds"]
    assert checked["requests"] == 4000
    Path(runs).write_text(Path(runs).read_text() + "\n")
    assert "runs.json is not the file that" in refused(run, "plan", "--check", saved)


def test_the_weights_of_a_model_are_not_among_the_files_that_are_read(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    question = Question.parsed(("--target-config", str(tmp_path), "--draft-config", "qwen3-0.6b"))
    assert list(question.files()) == [str(tmp_path / "config.json")]


def test_a_check_has_draws_of_its_own_unless_they_are_given(
    run: Run, runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, seeds = str(tmp_path / "plan.json"), list[int]()
    monkeypatch.setattr("sim.planning.study.best_split", lambda *_: None)
    answer(run, "plan", "--from", runs, *TRAFFIC, "--no-schedules", "--seed", "5", "--save", saved)

    def noted(plan: Plan, trials: Trials, *_: object) -> Checked:
        seeds.append(trials.seed)
        return Checked(True, len(trials.workload), None, None, "noted")

    monkeypatch.setattr("sim.planning.check.check", noted)
    for more in ((), ("--seed", "9")):
        assert printed(run, "plan", "--check", saved, *more) == "noted\n"
    assert seeds == [6, 9]


def test_the_source_of_step_times_says_how_they_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def tags(*given: str) -> set[str]:
        return {one.tags["step"] for one in Question.parsed((*given, *TRAFFIC)).methods()}

    constants = ("--draft-step", "1ms", "--target-step", "5ms", "--acceptance", "0.7", "--batches-are-free")
    assert [tags(*GPU), tags(*GPU, "--anchor", "batch=1:20ms"), tags(*constants)] == [{"table"}, {"fitted"}, {"assumed"}]
    monkeypatch.setattr(Roofline, "tag", "extrapolated")
    assert tags(*GPU) == {"extrapolated"}


def test_published_lengths_are_a_table(profile: Path) -> None:
    for source, said in ((SIZES[:6], " as published"), (("--profile", str(profile)), "")):
        [_, found] = Question.parsed((*source, "--acceptance", "golden:glm-5.2-fp8", *TRAFFIC)).methods()
        assert (found.tags["acceptance"], found.provenance["acceptance"]) == ("table", f"golden:glm-5.2-fp8{said}")


def test_sequences_of_a_draft_on_its_own_device_fit_its_cache_too() -> None:
    """An 8B draft on one H100 holds fewer tokens than a 70B target on four, and a pool a quarter of them for each replica."""
    names = "llama-3.1-70b", "llama-3.1-8b"
    target, draft = (kv_tokens("H100", read_model(name), gpus=gpus) for name, gpus in zip(names, (4, 1), strict=True))
    assert draft < target
    sizes = ("--gpu", "H100", "--target-config", names[0], "--draft-config", names[1], "--acceptance", "0.7")
    asked = Question.parsed((*sizes, "--target-gpus", "4", *TRAFFIC))
    for alone, drafted in (asked.methods(), methods_on_gpu("H100", *names, Rate(0.7), target_gpus=4)):
        assert alone.places[0].kv_tokens == target
        assert [place.kv_tokens for place in drafted.places[1:]] == [draft, draft // POOLED]
    assert [place.kv_tokens for place in apart(System(Constant(1e-3, 5e-3)), 10_000, 1, 1, draft_kv_tokens=30_000)] == [
        10_000,
        7500,
    ]


def test_a_method_of_sglang_has_the_name_of_vllm() -> None:
    [_, found] = Question.parsed((*GPU, *TRAFFIC, "--method", "STANDALONE")).methods()
    assert (found.name, len(found.places)) == ("draft_model", 3)


def test_a_plan_from_a_data_sheet_is_tagged_so(run: Run) -> None:
    found = answer(run, "plan", *GPU, *TRAFFIC, *LIMITS, "--no-schedules")
    best = found["plans"][0]
    assert best["tags"]["step"] == "table"
    assert found["kv_pools"]["ar"] > found["kv_pools"]["draft_model"] > 100_000
    assert best["tags"]["kv_tokens"] == "table"
    assert "Step times table" in found["verdict"]
    fewer = answer(run, "plan", *GPU, *TRAFFIC, "--no-schedules", "--kv-tokens", "9000")
    assert set(fewer["kv_pools"].values()) == {9000}
    assert fewer["plans"][0]["tags"]["kv_tokens"] == "assumed"


def test_a_head_that_fits_beside_no_target_leaves_the_target_alone(run: Run) -> None:
    tight = ("--gpu", "H100", "--target-config", "qwen3-32b", "--draft-config", "qwen3-8b", "--acceptance", "0.7")
    found = answer(run, "plan", *tight, *TRAFFIC, "--method", "eagle3", "--no-schedules", "--target-gpus", "1")
    assert {one["method"] for one in found["plans"]} == {"ar"}
    assert "do not fit" in found["provenance"]["shared placement"]


def test_the_number_of_gpus_of_the_target_is_searched(run: Run) -> None:
    large = ("--gpu", "H100", "--target-config", "llama-3.1-70b", "--draft-config", "llama-3.2-1b", "--acceptance", "0.7")
    asked = ("plan", *large, *TRAFFIC, "--tpot-p99", "30ms", "--no-schedules")
    fixed = [answer(run, *asked, "--target-gpus", str(gpus))["plans"][0]["gpus"] for gpus in (2, 4)]
    found = answer(run, *asked)
    best = found["plans"][0]
    assert best["gpus"] == min(fixed)
    assert {f"TP {one['target_gpus']}" for one in found["plans"]} == {one["name"].rpartition(", ")[2] for one in found["plans"]}
    assert "--tensor-parallel-size 4" in printed(run, *asked, "--placement", "shared", "--target-gpus", "4", "--emit", "vllm")


def test_a_request_that_does_not_fit_rejects_a_place_and_not_the_plan(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{i * 0.5},{60_000 if i == 40 else 200},100" for i in range(200)]
    trace.write_text("\n".join(["timestamp,input_length,output_length", *rows]))
    large = (*SIZES[:2], "--target-config", "llama-3.1-70b", *SIZES[4:])
    found = answer(run, "plan", *large, "--trace", str(trace), "--no-schedules")
    gates = {one["plan"]: one["gate"] for one in found["rejected"]}
    assert "too small for 1 of 200 requests, of which number 40 needs 60112" in gates["ar, TP 2"]
    assert found["plans"][0]["target_gpus"] > 2


def test_placements_are_those_that_were_asked_for(run: Run) -> None:
    shared = answer(run, "plan", *GPU, *TRAFFIC, "--placement", "shared", "--no-schedules")
    assert {one["placement"] for one in shared["plans"]} == {"shared"}
    apart = answer(run, "plan", *GPU, *TRAFFIC, "--placement", "two", "--no-schedules", "--strategy", "pearl")
    assert {one["placement"] for one in apart["plans"] if one["draft_length"]} <= {"own device", "draft pool"}


def test_kernels_of_a_gpu_without_a_data_sheet_have_an_unknown_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.setup.aiconfigurator.Aiconfigurator", lambda *_: Constant(1e-3, 5e-3))
    asked = ("--latency", "aiconfigurator:a30", *SIZES[2:], "--target-gpus", "1", "--batches-are-free")
    ran = run("plan", *asked, *TRAFFIC, "--no-schedules")
    assert "KV cache: unknown for ar, draft_model, taken as no limit: give --kv-tokens" in ran.out
    assert all("kv_tokens" not in one.tags for one in Question.parsed(asked).methods())


@pytest.mark.parametrize("placement", ["shared", "two"])
def test_a_placement_that_leaves_a_method_no_place_is_refused(run: Run, runs: str, profile: Path, placement: str) -> None:
    asked = (*TRAFFIC, "--placement", placement)
    assert "draft_model no place, which has as measured: leave" in refused(run, "plan", "--profile", str(profile), *asked)
    if placement == "two":
        assert "--placement two leaves eagle3 no place, which has shared" in refused(run, "plan", "--from", runs, *asked)


def test_a_method_that_a_placement_leaves_no_place_is_named_beside_the_others(run: Run, runs: str, tmp_path: Path) -> None:
    found = json.loads(Path(runs).read_text())
    small = {"method": "draft_model", "draft": "org/small"}
    found["runs"] += [{**one, **small} for one in found["runs"] if one["draft_length"]]
    both = tmp_path / "both.json"
    both.write_text(json.dumps(found))
    planned = answer(run, "plan", "--from", str(both), *TRAFFIC, "--placement", "two", "--no-schedules")
    assert planned["provenance"]["left out"] == "--placement two leaves eagle3 no place, which has shared"
    assert {one["method"] for one in planned["plans"]} == {"ar", "draft_model"}


def test_a_draft_that_does_not_fit_beside_the_target_leaves_the_target_alone(run: Run) -> None:
    large = ("--gpu", "H100", "--target-config", "llama-3.1-70b", "--draft-config", "llama-3.2-1b", "--acceptance", "0.7")
    asked = ("plan", *large, *TRAFFIC, "--placement", "shared", "--no-schedules")
    found = answer(run, *asked, "--max-gpus", "4")
    assert [one["gpus"] for one in found["plans"] if one["method"] == "ar"][:1] == [2]
    assert {one["target_gpus"] for one in found["plans"] if one["method"] != "ar"} == {4}
    assert "--placement shared is not possible: weights of 144 GB" in refused(run, *asked, "--max-gpus", "2")


def test_a_plan_that_no_engine_serves_is_kept_all_the_same(run: Run, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    asked = ("plan", *GPU, *TRAFFIC, "--strategy", "speculative", "--no-schedules")
    ran = run(*asked, "--emit", "nano-pearl", "--save", str(saved))
    assert (ran.code, "nano-PEARL serves PEARL" in ran.err) == (2, True)
    assert json.loads(saved.read_text())["format"] == "specdec.plan/1"


def test_what_nothing_meets_is_said_with_how_far_it_is_missed(run: Run, runs: str) -> None:
    text = printed(run, "plan", "--from", runs, *TRAFFIC, "--tpot-p99", "3ms", "--no-schedules")
    assert text.startswith("No plan meets the objectives at 8.00 requests/s.")
    assert "tpot-p99" in text
    assert "of 3.00 ms on an idle replica already" in text


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ((*TRAFFIC,), "no acceptance is given"),
        ((*GPU,), "give --arrivals poisson:5/s or --trace FILE"),
        ((*GPU, *TRAFFIC, "--concurrency", "4"), "--concurrency"),
        ((*GPU, *TRAFFIC, "--replicas", "4"), "--replicas has no effect on a plan"),
        ((*GPU, *TRAFFIC, "--max-batch", "4"), "give --batch-limit"),
        ((*GPU, *TRAFFIC, "--objective-ttft", "1s"), "give --ttft-p99"),
        ((*GPU, *TRAFFIC, "--ttft-p99", "0ms"), "ttft-p99 of 0 s cannot be met"),
        ((*GPU, *TRAFFIC, "--ttft-p99", "500"), "no duration"),
        ((*GPU, *TRAFFIC, "--price", "0"), "a price of 0 does not tell plans apart"),
        ((*GPU, *TRAFFIC, "--emit", "tgi"), "--emit tgi is not known"),
        ((*GPU, *TRAFFIC, "--strategy", "prompt_lookup"), "prompt_lookup"),
        ((*GPU, *TRAFFIC, "--dataset", "chat"), "--dataset has no effect without --from"),
        ((*GPU, *TRAFFIC, "--from", "x.json"), "has no effect with --from"),
        ((*GPU, "--arrivals", "poisson:8/s", "--requests", "50"), "50 requests do not show a percentile"),
        (("--check", "plan.json", "--price", "1"), "--price has no effect with --check"),
        (("--check", "nowhere.json"), "nowhere.json cannot be read"),
        (("--check", "plan.json", "--emit", "vllm"), "--emit has no effect with --check"),
        (("--check", "plan.json", "--save", "other.json"), "--save has no effect with --check"),
        ((*GPU, *TRAFFIC, "--network", "1ms"), "--network is not for plans"),
        ((*GPU, *TRAFFIC, "--together", "1.2,1.5"), "--together is not for plans"),
        ((*GPU, *TRAFFIC, "--antiphase"), "--antiphase is not for plans"),
        ((*GPU, *TRAFFIC, "--method", "ar"), "--method ar drafts nothing"),
        ((*GPU, *TRAFFIC, "--method", "none"), "--method none drafts nothing"),
        (("--from", "x.json", *TRAFFIC, "--jitter", "0.1"), "--jitter has no effect with --from"),
        (("--profile", "x.json", *TRAFFIC, "--overhead", "1ms"), "--overhead has no effect with --profile"),
        (("--from", "x.json", *TRAFFIC, "--batches-are-free"), "--batches-are-free has no effect with --from"),
        (("--gpu", "Z9", *GPU[2:], *TRAFFIC), "unknown GPU 'Z9'"),
        (("--gpu", "L4", "--target-config", "llama-3.1-70b", *SIZES[4:], *TRAFFIC, "--max-gpus", "4"), "do not fit"),
        (("--draft-step", "1ms", "--target-step", "5ms", "--acceptance", "0.8", *TRAFFIC), "--batches-are-free"),
    ],
)
def test_bad_and_ignored_options_are_one_line(run: Run, options: tuple[str, ...], culprit: str) -> None:
    assert culprit in refused(run, "plan", *options)


def test_a_head_that_works_in_turn_has_no_gpus_of_its_own(run: Run, profile: Path, tmp_path: Path) -> None:
    in_turn = tmp_path / "in_turn.json"
    in_turn.write_text(json.dumps({**json.loads(profile.read_text()), "together": None}))
    asked = ("plan", "--profile", str(in_turn), *TRAFFIC, "--method", "eagle3", "--draft-gpus", "1")
    assert "--draft-gpus has no effect on eagle3, which is on the target's" in refused(run, *asked)
