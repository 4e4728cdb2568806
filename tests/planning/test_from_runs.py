"""Methods from runs of an engine: which runs count for what, and how their numbers are tagged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim.engines.run import EngineRun, EngineRuns, Times
from sim.planning.from_runs import methods_from_runs
from sim.planning.methods import Method
from sim.setup.acceptance import PerPosition
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


def test_a_cache_that_no_file_names_is_computed_and_says_so(tmp_path: Path) -> None:
    ar, draft = methods(tmp_path, plain={"kv_tokens": 50_000}, sets=("code",))
    assert (ar.places[0].kv_tokens, ar.tags["kv_tokens"]) == (50_000, "measured")
    assert draft.tags["kv_tokens"] == "table"
    assert (draft.places[0].kv_tokens or 0) > 200_000  # 80 GB less 17 GB of weights, at 150 kB a token and more
    assert "draft_model" in draft.provenance["KV cache"]
    (unknown,) = methods(tmp_path, plain={"gpu": ""})
    assert unknown.places[0].kv_tokens is None
    assert "kv_tokens" not in unknown.tags
