"""Methods from runs of an engine: which runs count for what, and how their numbers are tagged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim.cli.question import Question
from sim.engines.run import EngineRun, EngineRuns, Times
from sim.planning.candidates import Candidate, Tier
from sim.planning.from_runs import methods_from_runs
from sim.planning.methods import Method, Place
from sim.planning.study import plan
from sim.setup.acceptance import PerPosition
from sim.setup.latency import Constant
from sim.setup.system import System
from sim.traffic.workload import Arrivals, Lengths, Traffic
from specdec import InputError

CHANCES = {"code": 0.9, "chat": 0.6}


def engine_run(clients: int, dataset: str = "", **more: Any) -> EngineRun:
    """A step of 10 ms, and 3 ms more with a guess."""
    if dataset:
        more |= {"method": "draft_model", "draft": "qwen3-0.6b", "draft_length": 1, "dataset": dataset}
        more |= {"by_position": (CHANCES[dataset],), "acceptance_length": 1 + CHANCES[dataset], "rounds": 1000}
    named: dict[str, Any] = {
        "target": "qwen3-8b",
        "gpu": "H100",
        "clients": clients,
        "requests": 100,
        "input_tokens": 20_000,
    } | more
    seconds = (0.013 if dataset else 0.010) * (1 + clients / 100)
    return EngineRun(f"{dataset} x{clients}", itl=Times(median=seconds), output_tokens=10_000, **named)


def methods(folder: Path, *, plain: dict[str, Any], dataset: str | None = None, sets: tuple[str, ...] = ()) -> list[Method]:
    runs = [engine_run(clients, **plain) for clients in (1, 8, 32)]
    runs += [engine_run(clients, each) for each in sets for clients in (1, 8)]
    path = folder / "runs.json"
    path.write_text(json.dumps(EngineRuns(tuple(runs)).to_dict()))
    return list(methods_from_runs([path], dataset=dataset))


@pytest.mark.parametrize("chosen", list(CHANCES))
def test_acceptance_is_that_of_the_data_set_that_is_chosen(tmp_path: Path, chosen: str) -> None:
    sets = tuple(CHANCES)
    ar, draft = methods(tmp_path, plain={"kv_tokens": 50_000}, sets=sets, dataset=chosen)
    assert isinstance(draft.acceptance, PerPosition)
    assert draft.acceptance.rates == pytest.approx((CHANCES[chosen],))
    assert draft.provenance["acceptance"] == f"counted by the engine on {chosen}"
    assert draft.provenance["step times"].startswith("fitted to 7 runs")  # also those of the other data set
    assert ar.places[0].kv_tokens == 50_000  # a run without a draft counts whatever is chosen
    with pytest.raises(InputError, match=r"more than one data set \(chat, code\): choose one with --dataset"):
        methods(tmp_path, plain={}, sets=sets)
    with pytest.raises(InputError, match="--dataset news is in no run that drafts: give one of chat, code"):
        methods(tmp_path, plain={}, sets=sets, dataset="news")


def test_runs_of_two_drafts_are_not_one_method(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    runs = [engine_run(1), engine_run(1, "chat"), replace(engine_run(8, "chat"), draft="qwen3-1.7b")]
    path.write_text(json.dumps(EngineRuns(tuple(runs)).to_dict()))
    with pytest.raises(InputError, match=r"draft of draft_model \(qwen3-0.6b, qwen3-1.7b\): give the files of one"):
        methods_from_runs([path])


def test_acceptance_from_mean_lengths_is_fitted_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    runs = [engine_run(1, "chat"), replace(engine_run(8, "chat"), by_position=())]
    path.write_text(json.dumps(EngineRuns(tuple(runs)).to_dict()))
    [_, draft] = methods_from_runs([path])
    assert draft.tags["acceptance"] == "fitted"
    fitted = "fitted to mean tokens of a round, or ITL over TPOT, on chat"
    assert draft.provenance["acceptance"] == fitted
    head = replace(engine_run(1, "chat"), method="eagle3", draft="head")
    path.write_text(json.dumps(EngineRuns((*runs, head)).to_dict()))
    both = methods_from_runs([path])[-1].provenance["acceptance"]
    assert both == f"counted by the engine on chat for eagle3; {fitted} for draft_model"


def test_a_draft_that_no_file_names_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(
        json.dumps(EngineRuns((engine_run(1), replace(engine_run(1, "chat"), method="eagle3", draft=""))).to_dict())
    )
    assert [one.draft for one in methods_from_runs([path])] == ["", ""]


def test_acceptance_that_nobody_counted_has_no_source(tmp_path: Path) -> None:
    [ar] = methods(tmp_path, plain={"kv_tokens": 50_000})
    assert ar.provenance.keys() == {"step times"}


@pytest.mark.parametrize(("draft", "label"), [("", "draft model"), ("draft_model", "draft model"), ("a/b", "draft model b")])
def test_a_draft_without_a_name_is_not_called_by_its_method(draft: str, label: str) -> None:
    assert Method("draft_model", (), draft=draft).label == label


def test_a_schedule_says_up_to_which_batch() -> None:
    place = Place("shared", System(Constant(1e-3, 10e-3)))
    tiers = (Tier(16, 5), Tier(64, 2), Tier(None, 0))
    found = Candidate(Method("eagle3", (place,)), place, "speculative", 5, tiers)
    assert found.name == "eagle3 k=5 up to 16 running, 2 up to 64 running, off above"


def test_a_cache_that_no_file_names_is_computed_and_says_so(tmp_path: Path) -> None:
    ar, draft = methods(tmp_path, plain={"kv_tokens": 50_000}, sets=("code",))
    assert (ar.places[0].kv_tokens, ar.tags["kv_tokens"]) == (50_000, "measured")
    assert draft.tags["kv_tokens"] == "table"
    assert (draft.places[0].kv_tokens or 0) > 200_000  # 80 GB less 17 GB of weights, at 150 kB a token and more
    assert "draft_model" in draft.provenance["KV cache"]
    runs = [engine_run(1), *(replace(engine_run(n, "chat"), draft="") for n in (1, 8))]
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(EngineRuns(tuple(runs)).to_dict()))
    ar, unnamed = methods_from_runs([path])
    assert (ar.tags["kv_tokens"], unnamed.places[0].kv_tokens) == ("table", None), (
        "a draft model takes room, and nobody says how much"
    )
    assert "kv_tokens" not in unnamed.tags
    assert "for ar:" in ar.provenance["KV cache"]
    (unknown,) = methods(tmp_path, plain={"gpu": ""})
    assert unknown.places[0].kv_tokens is None
    assert "kv_tokens" not in unknown.tags


def test_a_cache_that_is_computed_says_that_a_head_is_not_counted(tmp_path: Path) -> None:
    """vLLM has 69,232 tokens alone and 47,264 with EAGLE-3 on the GPU for which both are computed alike."""
    path = tmp_path / "runs.json"
    runs = [
        engine_run(1),
        engine_run(1, "chat"),
        replace(engine_run(1, "chat"), method="ngram", draft=""),
        replace(engine_run(1, "chat"), method="eagle3", draft="T/head"),
    ]
    path.write_text(json.dumps(EngineRuns(tuple(runs)).to_dict()))
    found = methods_from_runs([path])
    pools = {one.name: one.places[0].kv_tokens for one in found}
    assert pools["eagle3"] == pools["ar"]
    assert found[0].provenance["KV cache"] == (
        "computed from sizes of models and GPU for ar, draft_model, ngram, eagle3, where the memory of the head of eagle3 is "
        "not counted: give the engine's own with --kv-tokens"
    )
    path.write_text(json.dumps(EngineRuns((*runs[:3], replace(runs[3], kv_tokens=47_264))).to_dict()))
    assert "head" not in methods_from_runs([path])[0].provenance["KV cache"], "its engine counted it"


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ({"target": "Qwen/Qwen3-32B", "draft": "Qwen/Qwen3-1.7B", "gpu": "1x H100 96GB"}, None),
        ({"target": "some/model", "draft": "some/draft", "gpu": ""}, 32_528),
    ],
    ids=["computed", "given"],
)
def test_clients_that_a_cache_of_no_file_does_not_hold_are_not_all_running(
    tmp_path: Path, named: dict[str, str], given: int | None
) -> None:
    """256 clients hold 61,000 tokens, and the pool half of that: 100 ran, each with 2 rows."""
    path = tmp_path / "runs.json"
    runs = [engine_run(1, "chat"), engine_run(256, "chat", requests=512, input_tokens=118_000, running=100.0)]
    path.write_text(json.dumps(EngineRuns(tuple(replace(one, **named) for one in runs)).to_dict()))
    [_, draft] = methods_from_runs([path], kv_tokens=given)
    assert draft.provenance["step times"].endswith("measured up to 200 rows and 100 sequences")
    asked = ("--from", str(path), *(("--kv-tokens", str(given)) if given else ()))
    [_, same] = Question.parsed(asked).methods()
    assert same.provenance == draft.provenance


def test_a_cache_that_is_given_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(EngineRuns((engine_run(1), engine_run(8, "chat", kv_tokens=50_000))).to_dict()))
    [ar, draft] = methods_from_runs([path], kv_tokens=40_000)
    assert (ar.places[0].kv_tokens, ar.tags["kv_tokens"]) == (40_000, "assumed")
    assert (draft.places[0].kv_tokens, draft.tags["kv_tokens"]) == (50_000, "measured"), "as its file says"
    assert "KV cache" not in ar.provenance


def test_a_gpu_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(EngineRuns((engine_run(4, gpu=""),)).to_dict()))
    with pytest.raises(InputError, match="unknown GPU 'H300'"):
        methods_from_runs([path], known={"gpu": "H300"})


def test_a_verdict_says_what_cannot_be_seen_in_the_runs(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(EngineRuns((engine_run(4),)).to_dict()))
    found = plan(methods_from_runs([path]), Traffic(Arrivals(1.0), Lengths(200), Lengths(20), 100), {})
    told = "ll runs of qwen3-8b on H100, tp 1 to calibrate on decode about 4 requests at once: other loads are extrapolated"
    assert f"A{told}" in found.verdict
    assert found.provenance["doubts"].startswith(f"a{told}")
