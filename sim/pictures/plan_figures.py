"""The figures of a plan's report, in their order, each with words. A chart is drawn when its width is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sim.pictures.plan_charts import attainment_chart, goodput_chart, latency_chart, length_chart
from sim.pictures.plan_colours import colour_of
from sim.pictures.plan_inside import cache_chart, rounds_chart, tornado_chart
from sim.pictures.plan_pareto import pareto_chart
from sim.planning.curves import Curves
from sim.planning.report import Plan
from sim.planning.under_load import SEEDS, watched
from specdec.report import share, three_digits


@dataclass(frozen=True)
class Figure:
    """A figure of one or several charts.

    `name`      of files and links
    `title`     what it is about
    `caption`   how to read it, and what is to be seen
    `panels`    charts by the name of their file: functions of a width in pixels
    """

    name: str
    title: str
    caption: str
    panels: Mapping[str, Callable[[int], Any]]


def figures_of(plan: Plan, curves: Curves) -> Iterator[Figure]:
    """All figures for which there is something to draw."""
    if curves.attained:
        yield Figure(
            "attainment",
            "Cost and attainment",
            "Share of requests that meet every limit, by what the replicas cost. Filled: all objectives are met. Hollow: one "
            "is missed. At 0 % more requests arrive than can be finished.",
            {"attainment": lambda width: attainment_chart(curves.attained, plan.price, width)},
        )
    if curves.loads:
        yield _load(plan, curves)
    if curves.frontiers:
        limits = [one.seconds for one in plan.objectives if one.quantity == "tpot"]
        yield Figure(
            "pareto",
            "Speed of a user, throughput of a GPU",
            "By the exact chains, without waiting. Points are labelled k = draft length, then sequences that a replica runs. "
            "Diamonds: where the plans work at the planned load, simulated.",
            {"pareto": lambda width: pareto_chart(curves, min(limits, default=None), width)},
        )
    if curves.lengths is not None and curves.lengths.simulated:
        yield _lengths(plan, curves)
    if curves.timelines:
        yield _rounds(curves)
    if curves.caches:
        yield _caches(plan, curves)
    if plan.sensitivity is not None:
        yield Figure(
            "sensitivity",
            "What the verdict hangs on",
            "One input 20 % less or more, all else as planned: how near the binding objective comes to its limit (1) with the "
            "plan's replicas, and the GPUs that it then needs, not fewer than planned. A bar to the right edge: more arrives "
            "than can be finished."
            + ("" if plan.plans and plan.plans[0].draft_length else " The best plan has no draft, so nothing hangs on one."),
            {"sensitivity": partial(tornado_chart, plan.sensitivity)},
        )


def _load(plan: Plan, curves: Curves) -> Figure:
    panels: dict[str, Callable[[int], Any]] = {}
    for index, (quantity, statistic, limit) in enumerate(watched(plan.objectives)):
        words = f"{statistic if statistic == 'mean' else statistic.upper()} {quantity.upper()}"
        panels[f"{quantity}-{statistic}"] = partial(latency_chart, curves.loads, index, words, limit, plan.rate)
    panels["goodput"] = partial(goodput_chart, curves.loads, plan.rate)
    best = curves.loads[0]
    gpus = ", ".join(f"{one.plan.label}: {one.plan.gpus}" for one in curves.loads)
    return Figure(
        "load",
        "Latency and goodput against load",
        f"Each plan with its own GPUs ({gpus}). Bands: lowest and highest of {SEEDS} runs with other draws; of a trace, "
        f"only acceptance is drawn. {best.plan.label} meets all limits up to {three_digits(best.sustained)} requests/s "
        f"(its knee), and finishes at most {three_digits(best.capacity)}. Curves end where a plan cannot keep up.",
        panels,
    )


def _lengths(plan: Plan, curves: Curves) -> Figure:
    assert curves.lengths is not None
    found, drafting = curves.lengths, next(one for one in plan.plans if one.name == curves.lengths.plan)
    worst = max(found.simulated, key=lambda one: one.regret)
    best = min(found.simulated, key=lambda one: one.regret)
    gap = f"k = {worst.draft_length} serves {share(worst.regret)} less than k = {best.draft_length}"
    return Figure(
        "lengths",
        "Draft length",
        f"What {drafting.replicas} replicas of {drafting.method} serve with all objectives met, by draft length: {gap}. "
        + ("A ring: the plan's length. " if not drafting.schedule else "The plan changes its length with the batch. ")
        + "The chain knows neither waiting nor TTFT, so it is an upper bound.",
        {
            "lengths": lambda width: length_chart(
                found,
                plan.rate,
                0 if drafting.schedule else drafting.draft_length,
                colour_of(drafting.method, drafting.strategy),
                width,
            )
        },
    )


def _rounds(curves: Curves) -> Figure:
    ours, plain = curves.timelines
    tokens, fewer = sum(ours.round_tokens), sum(plain.round_tokens)
    return Figure(
        "rounds",
        "Ten rounds",
        f"One sequence of a batch of {curves.running}, as the plan runs at the planned load: {tokens} tokens in "
        f"{three_digits(1e3 * ours.seconds)} ms, where autoregressive decoding makes {fewer}. Target idle "
        f"{share(ours.target_idle_share)} of the time, draft {share(ours.draft_idle_share)}.",
        {"rounds": partial(rounds_chart, curves.timelines)},
    )


def _caches(plan: Plan, curves: Curves) -> Figure:
    used = [
        f"{one.plan.label} fills {share(max(one.most) / one.pool)} of {one.pool:,} at most"
        if one.pool
        else f"{one.plan.label} holds {max(one.most):,.0f} at most, of a cache of unknown size"
        for one in curves.caches
    ]
    pools = ", ".join(f"{name} {tokens:,}" for name, tokens in plan.kv_pools.items() if tokens is not None)
    return Figure(
        "cache",
        "KV cache over time",
        f"Tokens of a replica's pool: {'; '.join(used)}. Line: mean of the replicas; area: the fullest one."
        + (f" Pools, the draft's cache taken off: {pools}." if pools else ""),
        {"cache": partial(cache_chart, curves.caches)},
    )
