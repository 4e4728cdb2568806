"""A computed latency, scaled to steps that were measured: its shape is kept, its level is theirs.

A data sheet does not know the board, the engine, or the clock; a single measured step does. Unanchored, tables of hardware are
off by -48 to +3 % against published steps, and scaled to one step by 3 to 17 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from sim.setup.arrays import Floats
from sim.setup.latency import Latency, fork_reach, fork_seconds, forked, parse_seconds
from specdec import InputError
from specdec.acceptance import Tag
from specdec.inputs import at_least_one

Model: TypeAlias = Literal["target", "draft"]
USUAL_CONTEXT = 256


@dataclass(frozen=True)
class Anchor:
    """A step that was measured.

    `seconds`   of a forward of the target, or of one drafted token
    `batch`     sequences
    `width`     positions in each
    `context`   tokens before them
    `model`     `target` or `draft`
    """

    seconds: float
    batch: int = 1
    width: int = 1
    context: int = USUAL_CONTEXT
    model: Model = "target"

    def __post_init__(self) -> None:
        at_least_one(batch=self.batch, width=self.width)
        if not (isfinite(self.seconds) and self.seconds > 0) or self.context < 0:
            raise InputError(f"an anchor of {self.seconds} s at context {self.context} is not possible: give a time above 0")
        if self.model == "draft" and self.width != 1:
            raise InputError(f"an anchor of the draft of width {self.width} is not possible: it writes one token at a time")

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """`batch=1:33.9ms`, `batch=8,width=4,context=1000:40ms`, `draft,batch=1:2.3ms`."""
        where, _, seconds = text.rpartition(":")
        model, sizes = "target", dict[str, int]()
        for part in where.split(","):
            name, equals, value = (word.strip() for word in part.partition("="))
            if name in ("target", "draft") and not equals:
                model = name
            elif name in ("batch", "width", "context") and value.isdecimal() and name not in sizes and len(value) < 10:
                sizes[name] = int(value)
            else:
                raise InputError(f"--anchor {text!r} is not understood: write batch=1:33.9ms, or draft,batch=1:2.3ms")
        return cls(parse_seconds(seconds, "--anchor"), model=model, **sizes)


class Anchored:
    """`latency` multiplied by measured over computed seconds.

    Several anchors of a model have a factor that is linear in the logarithm of rows between them, and level outside. A draft
    without an anchor has the target's factor at equally many rows. Raises `InputError` without an anchor of the target, and for
    two anchors at equally many rows.
    """

    tag: ClassVar[Tag] = "fitted"

    def __init__(self, latency: Latency, anchors: Sequence[Anchor]) -> None:
        if all(anchor.model != "target" for anchor in anchors):
            raise InputError("no anchor is a step of the target: give one, such as batch=1:33.9ms")
        self._latency = latency
        self._target = self._factors([anchor for anchor in anchors if anchor.model == "target"])
        self._draft = self._factors([anchor for anchor in anchors if anchor.model == "draft"]) or self._target

    def _factors(self, anchors: Sequence[Anchor]) -> dict[float, float]:
        """Logarithm of measured over computed seconds, by logarithm of rows."""
        found: dict[float, float] = {}
        for anchor in sorted(anchors, key=lambda anchor: anchor.batch * anchor.width):
            if anchor.model == "target":
                computed = self._latency.target_seconds(anchor.width, anchor.batch, anchor.context)
            else:
                computed = self._latency.draft_seconds(1, anchor.batch, anchor.context)
            rows = float(np.log(anchor.batch * anchor.width))
            if rows in found:
                raise InputError(
                    f"two anchors of the {anchor.model} have {anchor.batch * anchor.width} rows: leave one of them out"
                )
            found[rows] = float(np.log(anchor.seconds / computed))
        return found

    def draft_seconds(self, tokens: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        return self._latency.draft_seconds(tokens, batch, context) * _at(self._draft, batch)

    def fork_seconds(
        self, rows: ArrayLike, branches: ArrayLike, steps: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0
    ) -> Floats:
        """Each forward of a fork has the draft's factor at its rows."""
        inside = partial(fork_seconds, self._latency, batch=batch, context=context)

        def forward(number: ArrayLike) -> Floats:
            factor = _at(self._draft, np.asarray(number, float) * np.asarray(batch, float))
            return (inside(1, number, 2) - inside(1, number, 1)) * factor

        return forked(forward, rows, branches, steps)

    @property
    def fork_reach(self) -> float:
        return fork_reach(self._latency)

    def target_seconds(self, width: ArrayLike, batch: ArrayLike = 1, context: ArrayLike = 0) -> Floats:
        rows = np.asarray(width, float) * np.asarray(batch, float)
        return self._latency.target_seconds(width, batch, context) * _at(self._target, rows)


def _at(factors: dict[float, float], rows: ArrayLike) -> Floats:
    return np.exp(np.interp(np.log(np.maximum(rows, 1)), list(factors), list(factors.values())))
