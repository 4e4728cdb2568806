"""The verdict in words, and the gates of what was rejected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.planning.candidates import Candidate
from sim.planning.objectives import statistic_of
from sim.planning.report import PlanFlip, Rejected
from sim.planning.split import Split
from sim.planning.trials import HOPELESS, NEGLIGIBLE, Found, Trial, Trials
from sim.traffic.workload import Traffic
from specdec.report import milliseconds, share, three_digits

SOURCES = {"step": "step times", "kv_tokens": "KV cache"}
UNSETTLED = "These numbers are of a run that has not settled: arrivals span less than ten mean answers. Give more requests."


def gate(trials: Trials, trial: Trial, most_gpus: int) -> str:
    """What rejected a candidate, and by how much."""
    if trial.unheld:
        return trial.unheld
    if trial.load >= HOPELESS:
        return f"load: {share(trial.load)} of what {most_gpus} GPUs finish"
    assert trial.latencies is not None
    missed = [
        f"{one.name} {three_digits(1e3 * one.value(trial.latencies))} of {milliseconds(one.seconds)}"
        for one, pressure in zip(trials.objectives, trial.pressures, strict=True)
        if pressure > 1
    ]
    where = "on an idle replica already" if trial.factor < 1 else f"with {trial.replicas} replicas"
    return f"{', '.join(missed) or 'refuted by more requests'} {where}"


def verdict(
    trials: Trials,
    good: Sequence[Found],
    others: Sequence[Found],
    rejected: Sequence[Rejected],
    price: float | None,
    flips: Sequence[PlanFlip],
    held: float | None,
) -> str:
    """What to deploy, how near its limits it is, what comes next (`others`), and where the answer changes."""
    if not good:
        nearest = rejected[0] if rejected else None
        why = "" if nearest is None else f" Nearest is {nearest.plan}: {nearest.gate}."
        return f"No plan meets the objectives at {three_digits(trials.rate)} requests/s.{why}"
    candidate, trial = good[0]
    gpus = candidate.place.gpus_of(trial.replicas)
    meets = "Meets them up to" if trials.objectives else "Keeps up with at most"
    sentences = [
        f"{_what(candidate)}; {_gpus(gpus, price)}.",
        _objectives(trials, trial),
        *_unsettled(trial),
        *_prompt(trials, candidate, trial),
        *([f"{meets} {three_digits(held)} requests/s; {three_digits(trials.rate)} are planned."] if held else []),
        *_others(good[0], others, price),
        *([f"Flips to {' and to '.join(map(str, flips))}."] if flips else []),
        _sources(trials, candidate, trial),
    ]
    if candidate.strategy == "pearl":
        sentences.append("No production engine serves PEARL yet: nano-PEARL does, and specdec itself.")
    elif candidate.strategy not in ("autoregressive", "speculative"):
        sentences.append(f"No production engine serves {candidate.strategy} yet: specdec itself does.")
    return " ".join(sentences)


def of_split(trials: Trials, split: Split, price: float | None, alone: str) -> str:
    """The verdict where two deployments need fewer GPUs than one; then that of the best single one."""
    parts = [
        f"{_what(one)} on {_gpus(one.place.gpus_of(count), None)} for {share(part)} of the requests"
        for one, count, part in zip(split.candidates, split.replicas, split.shares, strict=True)
    ]
    met = " ".join([_objectives(trials, split.together), *_unsettled(*split.trials)])
    return f"Two deployments, {_gpus(split.gpus, price)}: {'; '.join(parts)}. {met} One alone: {alone}"


def _what(candidate: Candidate) -> str:
    method = candidate.method.label
    if not candidate.draft_length:
        return f"{method}, no speculation{candidate.where}"
    kind = "" if candidate.strategy == "speculative" else f" with {candidate.strategy.upper()}"
    return f"{method}{kind}, k = {candidate.lengths if candidate.schedule else candidate.draft_length}{candidate.where}"


def _gpus(gpus: int, price: float | None) -> str:
    return f"{gpus} GPU{'s' if gpus > 1 else ''}" + ("" if price is None else f" (${three_digits(price * gpus)}/h)")


def _objectives(trials: Trials, trial: Trial) -> str:
    if not trials.objectives or trial.latencies is None:
        return f"Load {share(trial.load)} of what it can finish (no objective was given)."
    binding = int(np.argmax(trial.pressures))
    parts = [one.against(trial.latencies) + (" (binding)" if i == binding else "") for i, one in enumerate(trials.objectives)]
    return ", ".join(parts) + "."


def _unsettled(*served: Trial) -> list[str]:
    """What to say of runs that were too short for their numbers."""
    return [UNSETTLED] if any(one.metrics is not None and one.metrics.short for one in served) else []


def _prompt(trials: Trials, candidate: Candidate, trial: Trial) -> list[str]:
    """Where the first token binds: the part that no further replica takes away."""
    if not trials.objectives or trials.objectives[int(np.argmax(trial.pressures))].quantity != "ttft":
        return []
    tokens = int(np.quantile(trials.workload.input_tokens, 0.99))
    read = max(1, round((1 - trials.server.cached_share) * tokens))
    seconds = float(candidate.place.system.target_seconds(read))
    cached = f", {read:,} of them not cached" if read < tokens else ""
    return [f"To read the P99 prompt ({tokens:,} tokens{cached}) takes {milliseconds(seconds)} on an idle replica."]


def _others(best: Found, others: Sequence[Found], price: float | None) -> list[str]:
    """The best plan of every other method, beside the best of all."""
    mine, chosen = best
    fewest = mine.place.gpus_of(chosen.replicas)
    found: list[str] = []
    for one, trial in others:
        name, gpus, left = _what(one), one.place.gpus_of(trial.replicas), share(1 - trial.pressure)
        if gpus == fewest:
            found.append(f"{name}: as many GPUs, less headroom ({left}){_paces(trial, chosen)}.")
        else:
            found.append(f"{name}: {_gpus(gpus, price)}, headroom {left}.")
    return found


def _paces(one: Trial, other: Trial) -> str:
    """The mean TPOT of both; empty where all answers are one token."""
    paces = [statistic_of(trial.latencies["tpot"], "mean") for trial in (one, other) if trial.latencies is not None]
    return "" if np.isnan(paces).any() else f", mean TPOT {' against '.join(map(milliseconds, paces))}"


def _sources(trials: Trials, candidate: Candidate, trial: Trial) -> str:
    tags = {**candidate.method.tags, **({} if trials.server.kv_tokens is None else {"kv_tokens": "assumed"})}
    tags |= {"foresight": "assumed"} if candidate.assumes_foresight else {}
    parts = [f"{SOURCES.get(what, what)} {tag}" for what, tag in tags.items()]
    if trial.extrapolated > NEGLIGIBLE:
        parts[0] += f" ({share(trial.extrapolated)} of the time beyond what was measured)"
    parts.append("traffic assumed" if isinstance(trials.traffic, Traffic) else "traffic from a trace")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
