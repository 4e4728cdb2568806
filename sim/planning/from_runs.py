"""Methods to plan with, from runs of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.engines.identify import as_profile, identify, pool_of, with_pools
from sim.engines.reading import read_runs
from sim.engines.run import AR, DRAFT_MODEL, EngineRun
from sim.planning.methods import EXCHANGE_SECONDS, Method, methods_of
from sim.setup.gpus import gpu_name
from specdec.acceptance import Tag
from specdec.errors import InputError

LOOKUPS = ("ngram", "suffix")
"""Methods that guess from the text, and need no memory for a model or a head."""


def methods_from_runs(
    paths: Sequence[Path | str],
    *,
    dataset: str | None = None,
    known: Mapping[str, Any] | None = None,
    exchange_seconds: float = EXCHANGE_SECONDS,
    kv_tokens: int | None = None,
) -> tuple[Method, ...]:
    """The methods that were run.

    All runs of the target give the step times; those on `dataset` give acceptance. `known` is what the files do not say, see
    `sim.read_runs`. A cache whose size no file says holds `kv_tokens`; without that, its size is computed from the sizes of
    models and GPU, where their names are known. It decides how many clients of a run decoded at once, too.
    Raises `InputError` for an unknown GPU in `known`, and for runs of several targets, of several drafts of one method, or on
    several data sets of which none is chosen.
    """
    if stated := (known or {}).get("gpu"):
        gpu_name(stated)
    runs = read_runs(paths, **{name: value for name, value in (known or {}).items() if value is not None})
    _one("target", {run.target for run in runs}, "give the files of one")
    _one("machine", {f"{run.gpus} x {run.gpu or 'unknown GPU'}" for run in runs}, "give the files of one")
    chosen = [run for run in runs if dataset is None or run.dataset == dataset or not run.draft_length]
    if not any(run.draft_length for run in chosen) and any(run.draft_length for run in runs):
        there = ", ".join(sorted({run.dataset for run in runs if run.draft_length}))
        raise InputError(f"--dataset {dataset} is in no run that drafts: give one of {there}")
    _one("data set", {run.dataset for run in chosen if run.draft_length}, "choose one with --dataset")
    identified = identify(with_pools(runs, kv_tokens))
    methods: dict[str, list[EngineRun]] = {}
    for run in chosen:
        methods.setdefault(run.method, []).append(run)
    for name, ours in methods.items():
        _one(f"draft of {name}", {run.draft for run in ours if run.draft}, "give the files of one")
    profiles = {name: as_profile(identified, ours) for name, ours in methods.items()}
    tag: Tag = "assumed" if kv_tokens else "table"
    for name, found in profiles.items():
        named = next((run for run in methods[name] if run.draft), methods[name][0])
        if found.kv_tokens is None and (pool := kv_tokens or pool_of(named)):
            profiles[name] = replace(found, kv_tokens=pool, tags={**found.tags, "kv_tokens": tag})
    first = runs[0]
    machine = f"{first.target or 'the target'} on {first.gpus} x {first.gpu or 'unknown GPU'}"
    words = {
        "step times": f"fitted to {len(runs)} runs of {machine} ({100 * identified.misfit:.1f} % off them), measured up to "
        f"{identified.forward.rows:.0f} rows and {identified.forward.sequences:.0f} sequences",
    }
    if identified.doubts:
        words["doubts"] = "; ".join(identified.doubts)
    if drafting := [run for run in chosen if run.draft_length]:
        prompts = next((run.dataset for run in drafting if run.dataset), "its prompts")
        words["acceptance"] = _of_acceptance({run.method: profiles[run.method].acceptance.tag for run in drafting}, prompts)
    if first.gpus == 1 and not first.gpu and not (known or {}).get("gpus"):
        words["GPUs"] = "no file says how many hold the target, so 1 is assumed: give --target-gpus"
    if tables := [name for name, found in profiles.items() if found.tags.get("kv_tokens") == "table"]:
        heads = [name for name in tables if name not in (AR, DRAFT_MODEL, *LOOKUPS)]
        words["KV cache"] = (
            f"computed from sizes of models and GPU for {', '.join(tables)}"
            + (f", where the memory of the head of {', '.join(heads)} is not counted" if heads else "")
            + ": give the engine's own with --kv-tokens"
        )
    return methods_of(profiles, target_gpus=first.gpus, exchange_seconds=exchange_seconds, provenance=words)


def _of_acceptance(tags: Mapping[str, Tag], prompts: str) -> str:
    """Where the acceptance of methods comes from, by how it came about."""
    ways: dict[Tag, str] = {
        "measured": "counted by the engine",
        "fitted": "fitted to mean tokens of a round, or ITL over TPOT,",
    }
    found = {way: [name for name in tags if tags[name] == tag] for tag, way in ways.items()}
    several = len(set(tags.values())) > 1
    return "; ".join(
        f"{way} on {prompts}" + (f" for {', '.join(names)}" if several else "") for way, names in found.items() if names
    )


def _one(what: str, found: set[str], remedy: str) -> None:
    if len(found) > 1:
        raise InputError(f"the runs are of more than one {what} ({', '.join(sorted(found))}): {remedy}")
