"""Acceptance of published models: InferenceX's golden acceptance lengths by draft length, bundled with this package.

A length by k holds rates by position: AL(k) - AL(k - 1) is the share of rounds that accept position k. Every k was a run of its
own, so in places a length falls where k grows. Shares that cannot rise are then fitted to all lengths by least squares. Source:
SemiAnalysisAI/InferenceX, `golden_al_distribution`, Apache-2.0; the file says at which commit. No speeds are in it.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

import numpy as np
from scipy.optimize import nnls

from sim.setup.acceptance import marginal
from specdec.acceptance import MeasuredAcceptance
from specdec.errors import InputError


def golden(model: str, mode: str = "") -> MeasuredAcceptance:
    """Chances by position of a model, with the tag `table`; its last position is the largest k of the table.

    `model` is a name of a model or of a file there, `mode` is `thinking_on` or `thinking_off`. Raises `InputError` that lists
    what there is for a name that is not, and for one that leaves a choice.
    """
    lengths = golden_lengths(model, mode)
    ks = np.array(sorted(lengths))
    gained = np.array([lengths[k] - 1 for k in ks])
    drops, _ = nnls(np.minimum(ks[:, None], ks[None, :]).astype(float), gained)  # share of position i: drops from i on
    shares = np.minimum(1.0, np.cumsum(drops[::-1])[::-1])
    return MeasuredAcceptance(by_position=tuple(float(rate) for rate in marginal(shares.tolist()).rates), tag="table")


def golden_lengths(model: str, mode: str = "") -> dict[int, float]:
    """Acceptance length by draft length of a model in the bundled table, the bonus included."""
    found = {name: lengths for name, lengths in _table().items() if _is(name, model, mode)}
    if len(found) == 1:
        return next(iter(found.values()))
    choices = sorted(f"{file}/{way}" for file, _, way in (found or _table()))
    what = "leaves a choice" if found else "is not in the table of golden acceptance lengths"
    raise InputError(f"{f'{model}/{mode}'.rstrip('/')!r} {what}: give one of {', '.join(choices)}")


def _is(name: tuple[str, str, str], model: str, mode: str) -> bool:
    file, named, way = name
    return model.lower() in (file.lower(), named.lower()) and mode.lower() in ("", way.lower())


@cache
def _table() -> dict[tuple[str, str, str], dict[int, float]]:
    """Lengths by k, by file, model and mode."""
    text = (files("sim") / "data" / "inferencex_golden_acceptance_length.csv").read_text("utf-8")
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        found.setdefault((row["file"], row["model"], row["mode"]), {})[int(row["k"])] = float(row["acceptance_length"])
    return found
