"""The chart of tokens per second of a GPU against those of a user. As in `sim.pictures.plan_charts`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from sim.pictures.plan_charts import INK, WIDE, beside, colour, haloed, note, rule, sized
from sim.pictures.plan_colours import LIMIT, colour_of
from sim.planning.curves import Curves, Operating
from sim.planning.frontier import Frontier, FrontierPoint
from specdec.report import milliseconds


def pareto_chart(found: Curves, limit: float | None, width: int) -> Any:
    """Frontiers of methods; points are labelled with draft length and running batch. A diamond: where the plans work."""
    chosen = list(_shown(found.frontiers, found.operating))
    names = {_kind(one): colour_of(one.method, one.strategy) for one in chosen}
    rows: list[dict[str, Any]] = [
        {"kind": _kind(one), "user": point.per_user, "gpu": point.per_gpu} for one in chosen for point in one.points
    ]
    right, top = (1.08 * max(row[axis] for row in rows) for axis in ("user", "gpu"))
    x = alt.X(
        "user:Q",
        title="tok/s of a user",
        scale=alt.Scale(domain=[0, right], nice=False),
        axis=alt.Axis(grid=False, tickCount=6),
    )
    y = alt.Y("gpu:Q", title=None, scale=alt.Scale(domain=[0, top], nice=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, color=colour(names, width, "kind:N"))
    height = 300 if width < WIDE else 380
    labels = list(_labels(chosen, right, top, width - 90, height - 50, 1 if width < WIDE else 2))
    diamonds = [
        {"kind": _kind_of(one), "user": one.per_user, "gpu": one.per_gpu} for one in found.operating if _kind_of(one) in names
    ]
    layers = [
        base.mark_line(strokeWidth=2, order=False),
        base.mark_circle(size=24, opacity=1),
        haloed(alt.Chart(alt.Data(values=labels)).encode(x=x, y=y, text="words:N"), fontSize=10, align="left", dx=5, dy=-5),
        alt.Chart(alt.Data(values=diamonds))
        .mark_point(shape="diamond", size=150, filled=True, opacity=1, stroke=INK, strokeWidth=1.5)
        .encode(x=x, y=y, color=colour(names, width, "kind:N")),
    ]
    if limit is not None and 1 / limit < right:
        layers += [
            rule(LIMIT, x=1 / limit),
            note(1 / limit, 0.03 * top, f"TPOT limit {milliseconds(limit)} →", **beside(1 / limit < 0.3 * right)),
        ]
    return sized(alt.layer(*layers), width, height, "tok/s of a GPU, against tok/s of a user", [*names])


def _kind(one: Frontier) -> str:
    return f"{one.method}{'' if one.strategy in ('speculative', 'autoregressive') else f' {one.strategy}'}" + (
        "" if one.placement == "shared" else f", {one.placement}"
    )


def _kind_of(one: Operating) -> str:
    plan = one.plan
    return _kind(Frontier(plan.method, plan.strategy, plan.placement, ()))


def _shown(frontiers: Sequence[Frontier], operating: Sequence[Operating]) -> Iterator[Frontier]:
    """One frontier of each method and strategy: in the place of its best plan, else in its first one."""
    places = {(one.plan.method, one.plan.strategy): one.plan.placement for one in operating}
    seen: set[tuple[str, str]] = set()
    for one in sorted(frontiers, key=lambda one: places.get((one.method, one.strategy), one.placement) != one.placement):
        if one.points and (one.method, one.strategy) not in seen:
            seen.add((one.method, one.strategy))
            yield one


def _labels(
    frontiers: Sequence[Frontier], right: float, top: float, width: int, height: int, least: int
) -> Iterator[dict[str, Any]]:
    """Labels of points, those of ends and of new draft lengths first; one that would lie on another is left out."""
    taken: list[tuple[float, float, float]] = []
    points = [(_interest(one, index), one.points[index]) for one in frontiers for index in range(len(one.points))]
    for interest, point in sorted(points, key=lambda pair: pair[0]):
        if interest > least:
            break
        words = (f"k={point.draft_length}, " if point.draft_length else "") + f"{point.batch}"
        x, y = point.per_user / right * width, height - point.per_gpu / top * height
        if _free(x, y, 6.0 * len(words) + 6, taken) and x + 6.0 * len(words) < width + 10:
            taken.append((x, y, 6.0 * len(words) + 6))
            yield {"user": point.per_user, "gpu": point.per_gpu, "words": words}


def _interest(one: Frontier, index: int) -> int:
    points: Sequence[FrontierPoint] = one.points
    if index in (0, len(points) - 1):
        return 0
    return 1 if points[index].draft_length != points[index - 1].draft_length else 2


def _free(x: float, y: float, wide: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    return all(abs(y - other) > 14 or x > left + length or x + wide < left for left, other, length in taken)
